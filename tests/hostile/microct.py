"""Small valid AmiraMesh files and raw voxels with a description beside them."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.hostile.mutate import scramble, text
from tests.hostile.target import Seed, look

ARRAY = np.arange(5 * 6 * 7, dtype="<i2").reshape(5, 6, 7)
AMIRA = """# AmiraMesh {kind} 2.1

define Lattice 7 6 5

Parameters {{
    Units {{ Coordinates "mm" }}
    Materials {{
        Exterior {{ Id 0 }}
        Inside {{ Color "0.64 0 0.8", Id 1 }}
    }}
    BoundingBox 0 6 0 5 0 4,
    CoordType "uniform"
}}

Lattice {{ {type} Labels }} @1{encoding}

# Data section follows
@1
"""
VGI = """{volume1}
[representation]
size = 7 6 5
datatype = signed integer
bitsperelement = 16
[file1]
SkipHeader = 0
Name = x.vol
[geometry]
resolution = 0.01 0.01 0.02
unit = mm
"""
INFO = "NUM_X = 7\nNUM_Y = 6\nNUM_Z = 5\nvoxelSize = 5.0\nBYTEORDER = LOWBYTEFIRST\n"


def files(folder: Path) -> Sequence[Seed]:
    packed, runs = zlib.compress(ARRAY.tobytes()), bytes([127, 1, 83, 0])
    meshes = {
        "plain": ("BINARY-LITTLE-ENDIAN", "short", "", ARRAY.tobytes()),
        "text": ("ASCII", "short", "", " ".join(map(str, ARRAY.ravel())).encode()),
        "zip": ("BINARY-LITTLE-ENDIAN", "short", f"(HxZip,{len(packed)})", packed),
        "runs": ("BINARY-LITTLE-ENDIAN", "byte", f"(HxByteRLE,{len(runs)})", runs),
    }
    seeds = []
    for name, (kind, number, encoding, data) in meshes.items():
        file = folder / f"{name}.am"
        header = AMIRA.format(kind=kind, type=number, encoding=encoding).encode()
        file.write_bytes(header + data)
        ways = (scramble(len(header)), *text(len(header)))
        seeds.append(Seed(name, file, [file], ways, functools.partial(look, format="amira")))
    for name, suffix, content in (("x", ".vgi", VGI), ("y", ".info", INFO)):
        file = folder / f"{name}.vol"
        file.write_bytes(ARRAY.tobytes())
        beside = file.with_suffix(suffix)
        beside.write_text(content)
        seeds.append(Seed(name, file, [beside, file], (scramble(), *text()), look))
    return seeds
