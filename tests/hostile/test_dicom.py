"""DICOM files that claim more than they hold: refused with an error of ctseg, before much memory is taken."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

import ctseg
from ctseg.errors import CtsegError
from ctseg.volume.formats.dicom import header
from tests.hostile import dicom_objects as objects

pytest.importorskip("ctseg_dicom")

MEMORY = 64 * 2**20


def refused(opened: Path, what: str, **options: Any) -> None:
    """The object is refused in plain words, and little memory was claimed until then."""
    tracemalloc.start()
    try:
        with pytest.raises(CtsegError, match=what):
            ctseg.read(opened, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


def changed(path: Path, **values: object) -> None:
    data = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(data, keyword, value)
    data.save_as(path)


@pytest.mark.parametrize("kind", ["BINARY", "structures", f"series {objects.BASE}.1"])
def test_a_length_beyond_the_file_claims_no_memory(tmp_path: Path, kind: str) -> None:
    opened, file = objects.make_all(tmp_path)[kind]
    content = file.read_bytes()
    at = content.index(b"\x08\0\x60\0CS")
    long = b"\x09\0\x10\x10UN\0\0" + (0x7FFFFFF0).to_bytes(4, "little")
    file.write_bytes(content[:at] + long + content[at:])
    refused(opened, "truncated|damaged|lacks")


@pytest.mark.parametrize(
    ("kind", "keyword"), [("BINARY", b"\x62\0\x04\0US"), ("structures", b"\x06\x30\x22\0IS")]
)
def test_numbers_of_half_their_bytes(tmp_path: Path, kind: str, keyword: bytes) -> None:
    """What pydicom raises for such a value is no error of Python's own."""
    opened, file = objects.make_all(tmp_path)[kind]
    content = file.read_bytes()
    at = content.index(keyword)
    file.write_bytes(content[: at + 4] + b"UL\x02\0" + content[at + 8 :])
    refused(opened, "damaged|truncated|cannot be read")


def test_slices_that_lie_kilometres_apart(tmp_path: Path) -> None:
    made = objects.make_all(tmp_path)
    opened, file = made["BINARY"]
    data = pydicom.dcmread(file)
    place = data.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    place.ImagePositionPatient = [0, 0, 3.0e9]
    data.save_as(file)
    refused(opened, "which would be 1e\\+09 slices", grid="own")
    for index, z in enumerate((0, 0.5, 1, 1.5, 1.0e7)):
        plane = objects.planes()[0]
        out = objects.files.dataset(plane, position=(0, 0, z), instance=index + 1)
        objects.files.save(out, tmp_path / "far" / f"{index}.dcm", plane)
    refused(tmp_path / "far", "0.5 mm apart, but 1e\\+07 mm")
    refused(tmp_path / "far", "an even grid would have", straighten="yes")


def test_large_planes_in_few_bytes(tmp_path: Path) -> None:
    made = objects.make_all(tmp_path)
    for syntax in (f"{objects.BASE}.4.90", f"{objects.BASE}.5", f"{objects.BASE}.4.80"):
        folder, _ = made[f"series {syntax}"]
        for file in folder.iterdir():
            changed(file, Rows=65535, Columns=65535)
        refused(folder, "bytes a plane and has")
    _, file = made[f"series {objects.BASE}.1"]
    for other in file.parent.iterdir():
        changed(other, Rows=65535, Columns=65535)
    refused(file.parent, "too short")
    opened, file = made["BINARY"]
    changed(file, Rows=65535, Columns=65535)
    refused(opened, "bytes of pixels", grid="own")


@pytest.mark.parametrize("end", [".4.90", ".4.80", ".4.70"])
def test_a_codestream_that_says_another_size_than_the_header(tmp_path: Path, end: str) -> None:
    folder, file = objects.make_all(tmp_path)[f"series {objects.BASE}{end}"]
    content = bytearray(file.read_bytes())
    if end == ".4.90":
        at = content.index(b"\xff\x4f\xff\x51") + 8
        content[at : at + 8] = (60_000).to_bytes(4, "big") * 2
    else:
        at = content.index(b"\xff\xf7" if end == ".4.80" else b"\xff\xc3") + 5
        content[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    file.write_bytes(content)
    refused(folder, r"\(60000, 60000\) voxels")


def test_a_deflated_file_is_not_unpacked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = objects.make_all(tmp_path)[f"series {objects.BASE}.1.99"]
    monkeypatch.setattr(header, "_MOST_INFLATED", 2**20)
    assert ctseg.read(folder).array.shape == (3, 9, 10)
    content = file.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(zlib.decompress(content[start:], -zlib.MAX_WBITS) + bytes(2**22))
    file.write_bytes(content[:start] + bomb + packer.flush())
    refused(folder, "unpacks to more than 1 MiB")


def test_thousands_of_contours_on_one_slice_and_points_in_one_contour(tmp_path: Path) -> None:
    opened, file = objects.make_all(tmp_path)["structures"]
    data = pydicom.dcmread(file)
    drawn = data.ROIContourSequence[0].ContourSequence
    data.ROIContourSequence[0].ContourSequence = [drawn[0]] * 1500
    zigzag = np.zeros((20_000, 3))
    zigzag[:, 0] = np.linspace(0, 9, 20_000)
    zigzag[::2, 1] = 8
    data.ROIContourSequence[1].ContourSequence[0].ContourData = [f"{v:.5g}" for v in zigzag.ravel()]
    del data.ROIContourSequence[1].ContourSequence[1:]
    data.file_meta.TransferSyntaxUID = objects.BASE  # in which values may be long
    pydicom.dcmwrite(file, data, implicit_vr=True, little_endian=True)
    read = ctseg.read(opened, overlaps="last")
    assert "repeated contours count once: 1499" in " ".join(read.metadata["notes"])
    once = ctseg.read(opened, roi="roi 1")
    assert once.array[0].any() and once.array[0].sum() < 9 * 10


def test_text_of_a_header_cannot_break_a_message(tmp_path: Path) -> None:
    folder, file = objects.make_all(tmp_path)[f"series {objects.BASE}.1"]
    content = file.read_bytes()
    uid = pydicom.dcmread(file).file_meta.TransferSyntaxUID.encode()
    file.write_bytes(content.replace(uid, b"1\n" + uid[2:]))
    with pytest.raises(CtsegError) as caught:
        ctseg.read(folder)
    assert "\n" not in caught.value.message


def test_directions_of_any_size_are_listed(tmp_path: Path) -> None:
    folder, file = objects.make_all(tmp_path)[f"series {objects.BASE}.1"]
    changed(file, ImageOrientationPatient=[1e300, 1e300, 0, 1e300, 0, 0], SeriesInstanceUID="1.2.3")
    with np.errstate(all="raise"), pytest.raises(CtsegError):
        ctseg.read(folder)
