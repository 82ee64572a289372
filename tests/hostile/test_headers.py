"""NIfTI, NRRD and MetaImage files with damaged headers: read, or refused with a `CtsegError`; never a crash or a hang.

`CTSEG_FUZZ=5000 pytest tests/hostile` draws more copies of each file.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from mutate import Layout, mutations, only_ctseg_errors

from ctseg.volume.io import open_volume

COUNT = int(os.environ.get("CTSEG_FUZZ", "60"))
ARRAY = np.arange(5 * 6 * 7, dtype="<i2").reshape(5, 6, 7)
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


def nifti(folder: Path, suffix: str, version: type = nibabel.Nifti1Image) -> bytes:
    path = folder / f"made{suffix}"
    nibabel.save(version(ARRAY.T.copy(), np.diag([-0.8, 0.9, 2.5, 1])), path)
    return path.read_bytes()


def targets(folder: Path) -> dict[str, tuple[str, bytes, Layout, dict[str, str]]]:
    """By name: the suffix of the file, its bytes, its layout, and the options to open it with."""
    raw = ARRAY.tobytes()
    text = " ".join(map(str, ARRAY.ravel())).encode()
    for index, part in enumerate(ARRAY):
        (folder / f"slice{index}.raw").write_bytes(part.tobytes())
    names = "".join(f"slice{index}.raw\n" for index in range(5))
    nibabel.save(nibabel.Nifti1Pair(ARRAY.T.copy(), np.eye(4)), folder / "x.img")
    pair = (folder / "x.hdr").read_bytes()
    segments = "".join(
        f"Segment{i}_Name:={n}\nSegment{i}_Layer:={i}\nSegment{i}_LabelValue:=1\n"
        for i, n in enumerate("AB")
    )
    layered = {**THREE, "type": "uchar", "dims": 4, "sizes": "2 7 6 5", "kinds": "list domain domain domain",
               "directions": "none (1,0,0) (0,1,0) (0,0,2)", "more": f"{segments}\n"}  # fmt: skip
    last = {**THREE, "dims": 4, "sizes": "7 6 5 1", "directions": "(1,0,0) (0,1,.3) (0,0,2) none",
            "kinds": "domain domain domain list"}  # fmt: skip
    meta4 = {**FLAT, "dims": 4, "sizes": "7 6 5 1", "matrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "offset": "0 0 0 0",
             "spacing": "1 1 2 1"}  # fmt: skip

    def nrrd(fields: dict[str, object], data: bytes) -> tuple[bytes, Layout]:
        header = NRRD.format(**fields).encode()
        return header + data, Layout(len(header), text=True)

    def meta(fields: dict[str, object], data: bytes = b"", tail: str = "") -> tuple[bytes, Layout]:
        header = (META.format(**fields) + tail).encode()
        return header + data, Layout(len(header), text=True)

    straight = {"straighten": "yes"}
    one, two = nifti(folder, ".nii"), nifti(folder, ".2.nii", nibabel.Nifti2Image)
    return {
        "nii": (".nii", one, Layout(348, NIFTI_1), {}),
        "nii straight": (".nii", one, Layout(348, NIFTI_1), straight),
        "nii channels": (".nii", one, Layout(348, NIFTI_1), {"channels": "last"}),
        "nii2": (".nii", two, Layout(540, NIFTI_2), {}),
        "nii.gz": (".nii.gz", one, Layout(348, NIFTI_1, pack=gzip.compress), {}),
        "hdr": (".hdr", pair, Layout(348, NIFTI_1), {}),
        "nrrd": (".nrrd", *nrrd(THREE, raw), {}),
        "nrrd straight": (".nrrd", *nrrd(last, raw), straight),
        "nrrd gzip": (".nrrd", *nrrd({**THREE, "encoding": "gzip"}, gzip.compress(raw)), {}),
        "nrrd text": (".nrrd", *nrrd({**THREE, "encoding": "ascii"}, text), {}),
        "nrrd hex": (".nrrd", *nrrd({**THREE, "encoding": "hex"}, raw.hex().encode()), {}),
        "nrrd bare": (".nrrd", BARE.encode() + raw, Layout(len(BARE), text=True), {}),
        "nrrd layers": (".seg.nrrd", *nrrd(layered, bytes(420)), {}),
        "nhdr": (".nhdr", *nrrd({**THREE, "more": f"data file: LIST\n{names}"}, b""), {}),
        "nhdr numbers": (".nhdr", *nrrd({**THREE, "more": "data file: slice%d.raw 0 4 1\n"}, b""), {}),
        "mha": (".mha", *meta(FLAT, raw), {}),
        "mha straight": (".mha", *meta({**meta4, "matrix": "1 0 0 0 .2 1 0 0 0 0 1 0 0 0 0 1"}, raw), straight),
        "mha zlib": (".mha", *meta({**FLAT, "compressed": True}, zlib.compress(raw)), {}),
        "mha text": (".mha", *meta({**FLAT, "binary": False}, text), {}),
        "mhd": (".mhd", *meta({**FLAT, "file": "LIST"}, tail=names), {}),
        "mhd numbers": (".mhd", *meta({**FLAT, "file": "slice%d.raw 0 4 1"}), {}),
    }  # fmt: skip


NAMES = (
    "nii", "nii straight", "nii channels", "nii2", "nii.gz", "hdr", "nrrd", "nrrd straight", "nrrd gzip", "nrrd text",
    "nrrd hex", "nrrd bare", "nrrd layers", "nhdr", "nhdr numbers", "mha", "mha straight", "mha zlib", "mha text",
    "mhd", "mhd numbers",
)  # fmt: skip


def look(path: Path, options: dict[str, str]) -> None:
    with open_volume(path, **options) as source:
        z, y, x = source.geometry.shape_zyx
        source.read()
        source.read((z - 1, z))
        source.read_box((0, y // 2, x // 2), (1, y, x))


@pytest.mark.parametrize("name", NAMES)
def test_damaged_headers(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    suffix, content, layout, options = targets(tmp_path)[name]
    path = tmp_path / f"x{suffix}"
    whole = content if layout.pack is None else layout.pack(content)
    path.write_bytes(whole)
    look(path, options)  # the file as it was is read
    refused = 0
    for number, damaged in enumerate(mutations(content, layout, COUNT)):
        path.write_bytes(damaged)
        try:
            refused += only_ctseg_errors(lambda: look(path, options)) is not None
        except BaseException as error:
            error.add_note(f"{name}, copy {number}: {damaged[:600]!r}")
            raise
    assert refused > COUNT // 5
    assert capfd.readouterr() == ("", "")
