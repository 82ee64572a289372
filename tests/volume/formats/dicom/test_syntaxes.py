"""Transfer syntaxes, bit depths and frames of DICOM files: written by pydicom and GDCM, compared with GDCM."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats.dicom.header import read_dicom_header
from ctseg.volume.io import open_volume, read
from tests.global_state import kept_locale

pytest.importorskip("pydicom")
_spec = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).with_name("dicom_files.py")
)
assert _spec is not None and _spec.loader is not None
files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)
BASE = files.BASE
NATIVE = (BASE, f"{BASE}.1", f"{BASE}.2", f"{BASE}.1.99")


@pytest.fixture
def planes() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4096, (3, 9, 10)).astype(np.uint16)


def stack(folder: Path, planes: Any, syntax: str, **options: Any) -> Path:
    for index, plane in enumerate(planes):
        out = files.dataset(
            plane, position=(-10, 20, 30 + 2.5 * index), instance=index + 1, **options
        )
        files.save(out, folder / f"{index}.dcm", plane, syntax)
    return folder


def gdcm(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    return sitk.GetArrayFromImage(image)


@pytest.mark.parametrize(
    "syntax", [*NATIVE, f"{BASE}.5", f"{BASE}.4.70", f"{BASE}.4.80", f"{BASE}.4.90"]
)
@pytest.mark.parametrize("kind", ["12 bits", "signed", "bytes"])
def test_every_syntax_gives_what_gdcm_gives(
    tmp_path: Path, planes: np.ndarray, syntax: str, kind: str
) -> None:
    array, options = {
        "12 bits": (planes, {"bits": 12, "rescale": (1, -1024)}),
        "signed": ((planes.astype(np.int16) - 2000), {"rescale": (2, 5)}),
        "bytes": ((planes // 16).astype(np.uint8), {}),
    }[kind]
    folder = stack(tmp_path / "ct", array, syntax, **options)
    slope, intercept = options.get("rescale", (1, 0))
    source = open_volume(folder)
    got = source.read()[0]
    np.testing.assert_array_equal(got, array.astype(int) * slope + intercept)
    for index in range(3):
        np.testing.assert_array_equal(got[index], gdcm(folder / f"{index}.dcm").reshape(9, 10))
    np.testing.assert_array_equal(source.read_box((1, 2, 3), (3, 5, 9))[0], got[1:3, 2:5, 3:9])
    assert source.by_region
    assert source.dtype == {"12 bits": "int16", "signed": "int32", "bytes": "uint8"}[kind]


@pytest.mark.parametrize("codec", ["HTJ2K", "JPEG XL"])
def test_syntaxes_that_gdcm_has_not(
    tmp_path: Path, planes: np.ndarray, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if codec == "JPEG XL":  # which pydicom does not know either
        monkeypatch.setitem(files.ENCODERS, f"{BASE}.4.201", files.jpegxl)
    folder = stack(tmp_path / "ct", planes, f"{BASE}.4.201", bits=16)
    if codec == "JPEG XL":
        for path in folder.iterdir():
            content = path.read_bytes()
            assert content.count(f"{BASE}.4.201".encode()) == 1
            path.write_bytes(content.replace(f"{BASE}.4.201".encode(), f"{BASE}.4.110".encode()))
    np.testing.assert_array_equal(read(folder).array, planes)


def test_lossy_jpeg_is_near(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
    folder = stack(tmp_path / "ct", [smooth] * 2, f"{BASE}.4.50")
    got = read(folder).array
    assert np.abs(got.astype(int) - smooth).max() <= 3
    np.testing.assert_array_equal(got[0], gdcm(folder / "0.dcm").reshape(32, 40))


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_what_gdcm_compresses(tmp_path: Path, compressor: str) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (1, 16, 18)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    for tag, value in {
        "0008|0060": "CT", "0020|0032": "0\\0\\0", "0020|0037": "1\\0\\0\\0\\1\\0",
        "0020|000e": f"{files.ROOT}.3", "0028|1052": "0", "0028|1053": "1",
    }.items():  # fmt: skip
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    with kept_locale():
        writer.Execute(image)
    assert ".4." in read_dicom_header(tmp_path / "a.dcm").syntax
    np.testing.assert_array_equal(read(tmp_path / "a.dcm").array, array)


def test_signed_numbers_in_an_unsigned_codestream(tmp_path: Path, planes: np.ndarray) -> None:
    signed = planes.astype(np.int16) - 2048
    out = files.dataset(signed[0], bits=12)
    stored = (signed[0] & 0xFFF).astype(np.uint16)
    files.save(out, tmp_path / "a.dcm", stored, f"{BASE}.4.80")
    np.testing.assert_array_equal(read(tmp_path / "a.dcm").array[0], signed[0])


def test_bits_above_the_stored_ones_do_not_count(tmp_path: Path, planes: np.ndarray) -> None:
    dirty = planes[0] | np.uint16(0x3000)
    files.save(files.dataset(dirty, bits=12), tmp_path / "a.dcm", dirty)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm").array[0], planes[0])


def test_slope_of_each_slice(tmp_path: Path, planes: np.ndarray) -> None:
    for index, plane in enumerate(planes):  # as PET is stored
        out = files.dataset(
            plane, bits=12, position=(0, 0, 3.0 * index), instance=index + 1,
            rescale=(0.5 + index, -3.25 * index),
        )  # fmt: skip
        files.save(out, tmp_path / "pt" / f"{index}.dcm", plane)
    volume = read(tmp_path / "pt")
    assert volume.array.dtype == np.float32
    for index, plane in enumerate(planes):
        np.testing.assert_allclose(volume.array[index], plane * (0.5 + index) - 3.25 * index)
        oracle = gdcm(tmp_path / "pt" / f"{index}.dcm").reshape(9, 10)
        np.testing.assert_allclose(volume.array[index], oracle, rtol=1e-6)


@pytest.mark.parametrize(
    ("syntax", "pieces"),
    [(f"{BASE}.1", 1), (BASE, 1), (f"{BASE}.1.99", 1), (f"{BASE}.4.90", 1), (f"{BASE}.4.80", 2)],
)
def test_enhanced_ct_in_any_order_of_frames(
    tmp_path: Path, planes: np.ndarray, syntax: str, pieces: int
) -> None:
    order = np.array([2, 0, 1])
    rescales = [(1, -1024), (1, -1000), (2, 0)]
    out = files.enhanced(planes, order, rescales=rescales)
    path = files.save(out, tmp_path / "e.dcm", planes[order], syntax, pieces)
    source = open_volume(path)
    assert source.geometry.shape_zyx == (3, 9, 10)
    np.testing.assert_allclose(source.geometry.spacing_xyz, (0.8, 1.2, 2.5))
    np.testing.assert_allclose(source.geometry.origin_xyz, (-10, 20, 30))
    expected = np.stack([p.astype(int) * s + i for p, (s, i) in zip(planes, rescales, strict=True)])
    np.testing.assert_array_equal(source.read()[0], expected)
    np.testing.assert_array_equal(source.read((2, 3))[0], expected[2:])
    assert source.by_region == (syntax != f"{BASE}.1.99")


def test_enhanced_ct_is_placed_as_gdcm_places_it(tmp_path: Path, planes: np.ndarray) -> None:
    path = files.save(files.enhanced(planes, np.arange(3)), tmp_path / "e.dcm", planes)
    volume, oracle = read(path), sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    np.testing.assert_allclose(volume.origin_xyz, oracle.GetOrigin())
    np.testing.assert_allclose(volume.spacing_xyz, oracle.GetSpacing())
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(oracle))


def test_frames_without_places_are_refused(tmp_path: Path, planes: np.ndarray) -> None:
    path = files.save(files.dataset(planes), tmp_path / "a.dcm", planes)
    with pytest.raises(FileProblem, match="lacks the DICOM tag"):
        read(path)


def test_an_icon_in_front_of_the_voxels(tmp_path: Path, planes: np.ndarray) -> None:
    icon = files.dataset((planes[0] // 16).astype(np.uint8))
    icon.PixelData = files.encapsulate_extended([b"\0" * 40])[0]
    icon["PixelData"].is_undefined_length = True
    out = files.dataset(planes[0], IconImageSequence=[icon])
    path = files.save(out, tmp_path / "a.dcm", planes[0], f"{BASE}.4.90")
    np.testing.assert_array_equal(read(path).array[0], planes[0])


def test_unknown_syntaxes_and_colour_are_refused(tmp_path: Path, planes: np.ndarray) -> None:
    plane = planes[0]
    path = files.save(files.dataset(plane), tmp_path / "a.dcm", plane)
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", 1)
    (tmp_path / "b.dcm").write_bytes(content)
    with pytest.raises(FileProblem, match=r"transfer syntax 1\.2\.840\.10008\.1\.2\.9"):
        read(tmp_path / "b.dcm", format="dicom")
    colour = files.dataset(plane, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    with pytest.raises(FileProblem, match="colour"):
        read(files.save(colour, tmp_path / "rgb" / "c.dcm", plane))


@pytest.mark.parametrize("syntax", [f"{BASE}.1", f"{BASE}.5", f"{BASE}.4.90", f"{BASE}.1.99"])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
def test_truncated(tmp_path: Path, planes: np.ndarray, syntax: str, share: float) -> None:
    path = files.save(files.dataset(planes[0]), tmp_path / "a.dcm", planes[0], syntax)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FileProblem, match=r"a\.dcm"):
        read(path)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    planes = np.arange(3 * 9 * 10).reshape(3, 9, 10).astype(np.uint16)
    folder = tmp_path_factory.mktemp("whole")
    one = files.save(files.dataset(planes[0]), folder / "a.dcm", planes[0])
    two = files.save(files.enhanced(planes, np.arange(3)), folder / "b.dcm", planes, BASE)
    return [one.read_bytes(), two.read_bytes()]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_headers_are_told(
    whole_files: list[bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(whole_files[data.draw(st.integers(0, 1))])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 541))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged" / "a.dcm"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    message = ""
    try:
        assert read(path, format="dicom").array.ndim == 3
    except BadInput as error:
        message = error.message
    assert not message or "a.dcm" in message
