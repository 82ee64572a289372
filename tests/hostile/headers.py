"""Small valid NIfTI, NRRD and MetaImage files, and where their headers keep what."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from ctseg.specs import Label
from ctseg.volume.formats.nifti.label_table import label_extension
from tests.hostile.mutate import Mutator, field, packed, scramble, text
from tests.hostile.target import Seed, look

ARRAY = np.arange(5 * 6 * 7, dtype="<i2").reshape(5, 6, 7)
TEXT = " ".join(map(str, ARRAY.ravel())).encode()
NIFTI_1 = (
    (0, "<i"), *((40 + 2 * i, "<h") for i in range(8)), (70, "<h"), (72, "<h"), (108, "<f"), (112, "<f"), (116, "<f"),
    *((76 + 4 * i, "<f") for i in range(8)), (123, "<B"), (252, "<h"), (254, "<h"), (344, "<I"),
    *((256 + 4 * i, "<f") for i in range(18)),
)  # fmt: skip
NIFTI_2 = (
    (0, "<i"), (4, "<q"), (12, "<h"), *((16 + 8 * i, "<q") for i in range(8)), (168, "<q"), (176, "<d"), (184, "<d"),
    *((104 + 8 * i, "<d") for i in range(8)), (344, "<i"), (348, "<i"), (500, "<i"),
    *((352 + 8 * i, "<d") for i in range(18)),
)  # fmt: skip
NRRD = """NRRD0005
# a comment
type: {type}
dimension: {dims}
space: left-posterior-superior
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
endian: little
encoding: {encoding}
space units: "mm" "mm" "mm"
space origin: (1,-2,3.5)
{more}"""
THREE = {"type": "short", "dims": 3, "sizes": "7 6 5", "directions": "(.8,.1,0) (-.1,.8,0) (0,0,2)",
         "kinds": "domain domain domain", "encoding": "raw", "more": "key:=value\n\n"}  # fmt: skip
META = """ObjectType = Image
NDims = {dims}
BinaryData = {binary}
BinaryDataByteOrderMSB = False
CompressedData = {compressed}
TransformMatrix = {matrix}
Offset = {offset}
ElementSpacing = {spacing}
DimSize = {sizes}
ElementType = MET_SHORT
ElementDataFile = {file}
"""
FLAT = {"dims": 3, "binary": True, "compressed": False, "matrix": "1 0 0 0 1 0 0 0 1", "offset": "0 1 2",
        "spacing": "1 1 2", "sizes": "7 6 5", "file": "LOCAL"}  # fmt: skip
BARE = """NRRD0004
type: short
dimension: 3
sizes: 7 6 5
spacings: 1 -1 2
axis mins: 0 1 2
centers: cell node cell
endian: big
encoding: raw
byte skip: -1

"""


LABELS = (Label("liver", (1,), 1), Label("a tumour", (2,), 2))


def nifti(folder: Path) -> list[Seed]:
    one = (scramble(348), *(field(NIFTI_1),) * 3)
    two = (scramble(540), *(field(NIFTI_2),) * 3)
    matrix = np.diag([-0.8, 0.9, 2.5, 1])
    for suffix, kind in ((".nii", nibabel.Nifti1Image), (".nii.gz", nibabel.Nifti1Image),
                         (".2.nii", nibabel.Nifti2Image), (".hdr", nibabel.Nifti1Pair)):  # fmt: skip
        nibabel.save(kind(ARRAY.T.copy(), matrix), folder / f"x{suffix}")
    plain = folder / "x.nii"
    named = nibabel.Nifti1Image(ARRAY.T.copy(), matrix)
    named.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, label_extension(LABELS)[8:]))
    nibabel.save(named, folder / "names.nii")
    return [
        _seed(plain, one),
        _seed(folder / "names.nii", (scramble(352 + len(label_extension(LABELS))), *one)),
        _seed(plain, one, straighten="yes"),
        _seed(plain, one, channels="last"),
        _seed(folder / "x.2.nii", two),
        _seed(
            folder / "x.nii.gz",
            [packed(one, gzip.decompress, lambda _, whole: gzip.compress(whole))],
        ),
        _seed(folder / "x.hdr", one),
    ]


def nrrd(folder: Path) -> list[Seed]:
    raw, names = ARRAY.tobytes(), _slices(folder)
    segments = "".join(
        f"Segment{i}_Name:={n}\nSegment{i}_Layer:={i}\nSegment{i}_LabelValue:=1\n"
        for i, n in enumerate("AB")
    )
    layered = {"type": "uchar", "dims": 4, "sizes": "2 7 6 5", "kinds": "list domain domain domain",
               "directions": "none (1,0,0) (0,1,0) (0,0,2)", "more": f"{segments}\n"}  # fmt: skip
    last = {"dims": 4, "sizes": "7 6 5 1", "directions": "(1,0,0) (0,1,.3) (0,0,2) none",
            "kinds": "domain domain domain list"}  # fmt: skip

    def made(name: str, fields: dict[str, object], data: bytes = b"", **options: str) -> Seed:
        return _written(folder / name, NRRD.format(**{**THREE, **fields}), data, **options)

    return [
        made("raw.nrrd", {}, raw),
        made("last.nrrd", last, raw, straighten="yes"),
        made("gzip.nrrd", {"encoding": "gzip"}, gzip.compress(raw)),
        made("text.nrrd", {"encoding": "ascii"}, TEXT),
        made("hex.nrrd", {"encoding": "hex"}, raw.hex().encode()),
        _written(folder / "bare.nrrd", BARE, raw),
        made("layers.seg.nrrd", layered, bytes(420)),
        made("list.nhdr", {"more": f"data file: LIST\n{names}"}),
        made("numbers.nhdr", {"more": "data file: slice%d.raw 0 4 1\n"}),
    ]


def metaimage(folder: Path) -> list[Seed]:
    raw, names = ARRAY.tobytes(), _slices(folder)
    sheared = {"dims": 4, "sizes": "7 6 5 1", "matrix": "1 0 0 0 .2 1 0 0 0 0 1 0 0 0 0 1", "offset": "0 0 0 0",
               "spacing": "1 1 2 1"}  # fmt: skip

    def made(name: str, fields: dict[str, object], data: bytes = b"", **options: str) -> Seed:
        return _written(folder / name, META.format(**{**FLAT, **fields}), data, **options)

    listed = META.format(**{**FLAT, "file": "LIST"}) + names
    return [
        made("raw.mha", {}, raw),
        made("sheared.mha", sheared, raw, straighten="yes"),
        made("zlib.mha", {"compressed": True}, zlib.compress(raw)),
        made("text.mha", {"binary": False}, TEXT),
        _written(folder / "list.mhd", listed, b""),
        made("numbers.mhd", {"file": "slice%d.raw 0 4 1"}),
    ]


def _slices(folder: Path) -> str:
    """Files of raw slices; their names, one a line."""
    for index, plane in enumerate(ARRAY):
        (folder / f"slice{index}.raw").write_bytes(plane.tobytes())
    return "".join(f"slice{index}.raw\n" for index in range(len(ARRAY)))


def _written(path: Path, header: str, data: bytes, **options: str) -> Seed:
    path.write_bytes(header.encode() + data)
    return _seed(path, text(len(header)), **options)


def _seed(path: Path, ways: Sequence[Mutator], **options: str) -> Seed:
    name = " ".join([path.name, *(f"{key}={value}" for key, value in options.items())])
    return Seed(name, path, [path], ways, functools.partial(look, **options))
