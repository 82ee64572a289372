"""What cannot be read is told in one way, whatever the format, and nothing else reaches the terminal."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from ctseg import plugins
from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.volume.formats.raw import Raw
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".h5", ".tif")


@pytest.fixture(scope="module")
def noise() -> Volume:
    array = np.random.default_rng(0).integers(0, 3, (20, 30, 40)).astype(np.uint8)
    return Volume.from_array(array, spacing_xyz=(1, 2, 3))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("labels", [(), (Label("a", (1,), 1),)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated(
    tmp_path: Path,
    noise: Volume,
    suffix: str,
    labels: tuple[Label, ...],
    share: float,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / f"scan{suffix}"
    write(noise, path, labels=labels)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FileProblem) as found:
        read(path)
    assert str(path) in found.value.message
    assert found.value.hint
    assert "\n" not in found.value.message
    assert capfd.readouterr() == ("", "")


def test_a_truncated_gzip_that_lacks_only_its_checksum(tmp_path: Path, noise: Volume) -> None:
    path = tmp_path / "scan.nii.gz"
    write(noise, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FileProblem, match="truncated"):
        read(path)


def test_a_flipped_bit_in_a_gzip(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    array = np.random.default_rng(0).integers(0, 255, (8, 30, 40)).astype(np.uint8)
    write(Volume.from_array(array), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(FileProblem):
        read(path)


def test_a_complete_gzip_of_a_truncated_nifti(tmp_path: Path, noise: Volume) -> None:
    write(noise, tmp_path / "scan.nii")
    content = (tmp_path / "scan.nii").read_bytes()[:-1000]
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(content))
    with pytest.raises(FileProblem, match="truncated: 1000 bytes"):
        read(tmp_path / "cut.nii.gz")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>" * 100, bytes(1000)])
def test_wrong_content(
    tmp_path: Path, suffix: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileProblem) as found:
        read(path)
    assert str(path) in found.value.message
    assert ("empty" in found.value.message) == (content == b"")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder_in_place_of_a_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"scan{suffix}").mkdir()
    with pytest.raises(FileProblem, match="folder"):
        read(tmp_path / f"scan{suffix}")


def test_missing_file_names_the_nearest(tmp_path: Path, noise: Volume) -> None:
    write(noise, tmp_path / "patient_01.nii.gz")
    with pytest.raises(FileProblem, match="does not exist") as found:
        read(tmp_path / "patient_1.nii.gz")
    assert "patient_01.nii.gz" in str(found.value.hint)
    with pytest.raises(FileProblem) as found:
        read(tmp_path / "nowhere" / "deep" / "a.nii.gz")
    assert str(tmp_path / "nowhere") in str(found.value.hint)


def test_unreadable_file(tmp_path: Path, noise: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    write(noise, tmp_path / "a.nii.gz")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    with pytest.raises(FileProblem, match="permission denied"):
        open_volume(tmp_path / "a.nii.gz")


def test_unknown_suffix_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "scan.xyz").write_bytes(b"abc")
    with pytest.raises(FileProblem, match="no known suffix") as found:
        read(tmp_path / "scan.xyz")
    assert ".nii.gz" in str(found.value.hint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileProblem, match="no DICOM"):
        read(tmp_path / "empty")


def test_a_zarr_store_without_its_plugin_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [spec for spec in plugins.formats() if spec.name != "ome_zarr"]
    monkeypatch.setattr(plugins, "formats", lambda: known)
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "zarr.json").write_text("{}")
    (tmp_path / "a.ome.zarr").mkdir()
    for name in ("scan", "a.ome.zarr"):
        with pytest.raises(FileProblem, match=r"no DICOM(.|\n)*ctseg\[zarr\]"):
            read(tmp_path / name)


def test_slices_that_are_not_there(tmp_path: Path, noise: Volume) -> None:
    write(noise, tmp_path / "a.nii.gz")
    with (
        open_volume(tmp_path / "a.nii.gz") as source,
        pytest.raises(BadInput, match="20 slices; 10:21"),
    ):
        source.read((10, 21))


def test_metaimage_without_its_data_file(tmp_path: Path) -> None:
    header = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(header)
    with pytest.raises(FileProblem, match=r"a\.raw"):
        read(tmp_path / "a.mhd")
    (tmp_path / "a.raw").write_bytes(bytes(range(8)))
    assert read(tmp_path / "a.mhd").array.ravel().tolist() == list(range(8))


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_header_that_promises_more_than_the_file_can_hold(
    tmp_path: Path, noise: Volume, suffix: str
) -> None:
    """A byte of a deflated stream stands for 1032 at most: what is asked for beyond that is never allocated."""
    path = tmp_path / f"scan{suffix}"
    write(noise, path, labels=(Label("a", (1,), 1),))
    content = path.read_bytes()
    if suffix == ".nii.gz":
        plain = bytearray(gzip.decompress(content))
        struct.pack_into("<3h", plain, 42, 30000, 30000, 30000)
        content = gzip.compress(bytes(plain))
    else:
        content = content.replace(b" 40 30 20\n", b" 30000 30000 30000\n")
    path.write_bytes(content)
    with pytest.raises(FileProblem, match="truncated: it is too small for 27000000000000 bytes"):
        open_volume(path)


def test_sizes_that_overflow(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(EOFError, match=f"100 of {2**120} bytes"):
        Raw(tmp_path / "a.raw", np.dtype("uint8"), (2**40, 2**40, 2**40)).check_size()


def test_voxels_that_start_nowhere(tmp_path: Path, noise: Volume) -> None:
    write(noise, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", content, 108, float("inf"))
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(FileProblem, match=r"a\.nii cannot be read"):
        open_volume(tmp_path / "a.nii")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"cannot be accessed|does not exist"):
        open_volume(tmp_path / f"{'a' * 300}.nii.gz")
    with pytest.raises(FileProblem, match=r"cannot be accessed|does not exist"):
        open_dataset(tmp_path / ("a" * 300))
