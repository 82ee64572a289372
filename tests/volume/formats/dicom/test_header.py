"""Headers of DICOM files that are odd, old or damaged: read without warnings, or refused with a reason."""

from __future__ import annotations

import importlib.util
import os
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ctseg.errors import FileProblem
from ctseg.volume.formats.dicom.first_bytes import is_dicom_file
from ctseg.volume.formats.dicom.header import read_dicom_header
from ctseg.volume.formats.dicom.series import list_series
from ctseg.volume.io import read

_spec = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).with_name("dicom_files.py")
)
assert _spec is not None and _spec.loader is not None
files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)
BASE = files.BASE


@pytest.fixture
def plane() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4096, (9, 10)).astype(np.uint16)


@pytest.mark.parametrize("syntax", [BASE, f"{BASE}.1"])
def test_a_file_without_preamble(tmp_path: Path, plane: np.ndarray, syntax: str) -> None:
    path = files.save(files.dataset(plane, rescale=(1, -1024)), tmp_path / "a.dcm", plane, syntax)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x20\0\x0d\0") :])
    with pytest.raises(
        FileProblem, match=r"a\.dcm is not a DICOM file"
    ):  # it starts with no known mark
        read(path)
    path.write_bytes(content[content.index(b"\x08\0\x16\0") :])
    np.testing.assert_array_equal(read(path).array[0], plane.astype(int) - 1024)
    path.write_bytes(b"\x08\0\x05\0" + (b"" if syntax == BASE else b"CS") + bytes(2 + 2 * (syntax == BASE))
                     + content[content.index(b"\x08\0\x16\0") :])  # fmt: skip
    np.testing.assert_array_equal(read(path).array[0], plane.astype(int) - 1024)
    assert read_dicom_header(path).syntax == syntax


def test_odd_values_do_not_warn(tmp_path: Path, plane: np.ndarray) -> None:
    path = files.save(files.dataset(plane), tmp_path / "a.dcm", plane)
    data = pydicom.dcmread(path)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
        data.SpecificCharacterSet = "ISO_IR 999"
        data.PatientID = "more than the sixty-four letters that an identifier may have: " * 2
        data.add_new("SliceThickness", "DS", "2.50000000000000000000000000")
        data.SeriesInstanceUID = "1.2.no.uid"
        data.save_as(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:  # warnings are errors in these tests
        headers = list(pool.map(read_dicom_header, [path] * 40))
    assert list(warnings.filters) == before
    assert headers[0].numbers(0x00180050) == [2.5]
    assert headers[0].text(0x0020000E) == "1.2.no.uid"
    assert headers[0].text(0x00100020).startswith("more than")
    np.testing.assert_array_equal(read(path).array[0], plane)


def test_implicit_elements_in_a_file_that_says_explicit(tmp_path: Path, plane: np.ndarray) -> None:
    path = files.save(files.dataset(plane), tmp_path / "a.dcm", plane, BASE)
    old, new = f"UI\x12\0{BASE}\0".encode(), f"UI\x14\0{BASE}.1\0".encode()
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    np.testing.assert_array_equal(read(path).array[0], plane)


def test_names_in_other_alphabets(tmp_path: Path, plane: np.ndarray) -> None:
    out = files.dataset(plane, SpecificCharacterSet="ISO_IR 144", SeriesDescription="Лёгкие")
    path = files.save(out, tmp_path / "a.dcm", plane)
    assert list_series(path)[0].description == "Лёгкие"


def test_damaged_values(tmp_path: Path, plane: np.ndarray) -> None:
    path = files.save(files.dataset(plane, rescale=(1, -1024)), tmp_path / "a.dcm", plane)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"7.5 ", b"7,5 "))
    assert read(path).spacing_xyz[2] == 1.0  # no thickness
    path.write_bytes(content.replace(b"-1024", b"-1O24"))
    with pytest.raises(FileProblem, match="00281052"):  # else the voxels were no Hounsfield units
        read(path)
    path.write_bytes(content)
    header = read_dicom_header(path)
    with pytest.raises(KeyError, match="00101030"):
        header.text(0x00101030)


def test_a_damaged_length_claims_no_memory(tmp_path: Path, plane: np.ndarray) -> None:
    item = pydicom.Dataset()
    item.add_new(0x00091010, "OB", b"0123456789")
    out = files.dataset(plane)
    out.add_new(0x00090010, "LO", "SOMEONE")
    out.add_new(0x00091011, "SQ", [item])
    out[0x00091011].is_undefined_length = True
    path = files.save(out, tmp_path / "a.dcm", plane)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"OB\0\0\x0a\0\0\0", b"OB\0\0\xf0\xff\xff\x7f"))
    assert path.read_bytes() != content
    tracemalloc.start()
    with pytest.raises(FileProblem, match="truncated"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_damaged_run_lengths_are_told(tmp_path: Path, plane: np.ndarray) -> None:
    path = files.save(files.dataset(plane), tmp_path / "a.dcm", plane, f"{BASE}.5")
    content = path.read_bytes()
    start = read_dicom_header(path).pixel_start
    told = 0
    for at in range(start, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x83]) + content[at + 1 :])
        try:
            read(path)
        except FileProblem:
            told += 1
    assert told > 5


@pytest.mark.parametrize("lost", [1, 8, 9, 60])
def test_compressed_voxels_that_end_too_early(tmp_path: Path, plane: np.ndarray, lost: int) -> None:
    path = files.save(files.dataset(plane), tmp_path / "a.dcm", plane, f"{BASE}.4.80")
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(FileProblem, match="truncated: its compressed voxels end too early"):
        read(path)


def test_pieces_that_belong_to_no_frame(tmp_path: Path, plane: np.ndarray) -> None:
    planes = np.stack([plane, plane + 1, plane + 2])
    out = files.enhanced(planes, np.arange(3))
    path = files.save(out, tmp_path / "a.dcm", planes, f"{BASE}.4.80", 2)
    content = path.read_bytes()
    start = read_dicom_header(path).pixel_start
    path.write_bytes(content[:start] + b"\xfe\xff\0\xe0" + bytes(4) + content[start + 20 :])
    with pytest.raises(FileProblem, match="3 frames in 6 compressed pieces"):
        read(path)
    path.write_bytes(content[: start + 12] + b"\x02" + content[start + 13 :])
    with pytest.raises(FileProblem, match="table of compressed frames is damaged"):
        read(path)


@pytest.mark.parametrize("keep_meta", [False, True])
@pytest.mark.parametrize("syntax", [BASE, f"{BASE}.1"])
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_a_folder_of_files_without_preamble(
    tmp_path: Path, syntax: str, suffix: str, keep_meta: bool
) -> None:
    planes = np.random.default_rng(5).integers(0, 4096, (4, 9, 10)).astype(np.uint16)
    for index, plane in enumerate(planes):
        out = files.dataset(plane, position=(0, 0, 3.0 * index), instance=index + 1)
        path = files.save(out, tmp_path / "ct" / f"IM{index}{suffix}", plane, syntax)
        content = path.read_bytes()[132:]
        meta = 12 + int.from_bytes(content[8:12], "little")
        path.write_bytes(content if keep_meta else content[meta:])
    volume = read(tmp_path / "ct")
    np.testing.assert_array_equal(volume.array, planes)
    assert volume.spacing_xyz == (0.8, 1.2, 3.0)
    (series,) = list_series(tmp_path / "ct")
    assert series.slices == 4 and series.modality == "CT"


@pytest.mark.parametrize(
    "start", [b"\x08\0\x05\0", b"\x08\0\0\0", b"\x02\0\0\0", b"\x08\0\x08\0CS"]
)
def test_raw_numbers_are_no_dicom(tmp_path: Path, start: bytes) -> None:
    """Voxels of 16 bits may start with the numbers 8 and 5."""
    (tmp_path / "a.raw").write_bytes(start + np.arange(2000, dtype="<u2").tobytes())
    assert not is_dicom_file(tmp_path / "a.raw")


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "has a RescaleSlope of 0"),
        ({"FrameOfReferenceUID": "1.2.3"}, "differ in frame of reference"),
        ({"Modality": "MR"}, "differ in modality"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "differ in rescaling"),
        ({"NumberOfFrames": 3}, "too short for 3 frames"),
    ],
)
def test_a_slice_that_is_unlike_the_others_is_told(
    tmp_path: Path, plane: np.ndarray, number: int, tags: dict[str, object], what: str
) -> None:
    for index in range(5):
        out = files.dataset(
            plane, position=(0, 0, 3.0 * index), instance=index + 1, rescale=(1, -1024)
        )
        for name, value in tags.items() if index == number else ():
            if value is None:
                delattr(out, name)
            else:
                setattr(out, name, value)
        files.save(out, tmp_path / "ct" / f"{index}.dcm", plane)
    with pytest.raises(FileProblem, match=what):
        read(tmp_path / "ct")


def test_a_table_of_values_is_not_ignored(tmp_path: Path, plane: np.ndarray) -> None:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType, item.LUTData = [2, 0, 16], "HU", [0, 1000]
    out = files.dataset(plane, ModalityLUTSequence=pydicom.Sequence([item]))
    out["ModalityLUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    out["ModalityLUTSequence"].value[0]["LUTData"].VR = "US"
    path = files.save(out, tmp_path / "a.dcm", plane)
    with pytest.raises(FileProblem, match="Modality LUT"):
        read(path)


def test_frames_that_are_more_than_the_header_says_are_told(tmp_path: Path) -> None:
    planes = np.random.default_rng(1).integers(0, 4096, (5, 9, 10)).astype(np.uint16)
    for syntax in (f"{BASE}.1", f"{BASE}.4.90"):
        out = files.enhanced(planes, np.arange(5))
        out.NumberOfFrames = 3
        path = files.save(out, tmp_path / "e.dcm", planes, syntax)
        with pytest.raises(FileProblem, match="says 3 frames and describes 5"):
            read(path)
        del out.PerFrameFunctionalGroupsSequence[3:]
        path = files.save(out, tmp_path / "e.dcm", planes, syntax, pieces=2)
        with pytest.raises(FileProblem, match="says 3 frames and has"):
            read(path)


def test_a_study_is_listed_whatever_one_of_its_series_has(
    tmp_path: Path, plane: np.ndarray
) -> None:
    """A colour picture, a map of floating-point values and a damaged slope beside a scan."""
    files.save(files.dataset(plane), tmp_path / "a" / "0.dcm", plane)
    colour = np.zeros((3, 9, 10), np.uint8)
    out = files.dataset(colour[0], uid=f"{files.ROOT}.2", SamplesPerPixel=3, PlanarConfiguration=1)
    out.PixelData, out.PhotometricInterpretation = colour.tobytes(), "RGB"
    files.save(out, tmp_path / "b" / "0.dcm", colour[0])
    out = files.dataset(plane, uid=f"{files.ROOT}.3")
    del out.PixelData, out.BitsAllocated, out.BitsStored, out.HighBit
    out.FloatPixelData = plane.astype("<f4").tobytes()
    out.file_meta = pydicom.dataset.FileMetaDataset()
    out.file_meta.TransferSyntaxUID = f"{BASE}.1"
    (tmp_path / "c").mkdir()
    out.save_as(tmp_path / "c" / "0.dcm", enforce_file_format=True)
    out = files.dataset(plane, uid=f"{files.ROOT}.4", rescale=(0, 1))
    files.save(out, tmp_path / "d" / "0.dcm", plane)
    assert len(list_series(tmp_path)) == 4
    np.testing.assert_array_equal(read(tmp_path, series=f"{files.ROOT}.1").array[0], plane)
    np.testing.assert_array_equal(read(tmp_path, series=f"{files.ROOT}.3").array[0], plane)
    with pytest.raises(FileProblem, match="is a colour picture"):
        read(tmp_path, series=f"{files.ROOT}.2")
    with pytest.raises(FileProblem, match="RescaleSlope of 0"):
        read(tmp_path, series=f"{files.ROOT}.4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_no_dicom_file_and_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.dcm")  # opening it would wait for a writer
    assert not is_dicom_file(tmp_path / "a.dcm")
