"""Voxels in files beside their header: pairs, lists, and names that lead elsewhere."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import ctseg
from ctseg.data.readers.scans import find_scans
from ctseg.engine.evaluation.matching import find_pairs
from ctseg.engine.prediction.inputs import find_items
from ctseg.errors import FileProblem
from ctseg.volume.convert import find_jobs
from ctseg.volume.formats.companion_files import files_of, without_companions

ARRAY = np.random.default_rng(0).integers(-1000, 1500, (6, 7, 8)).astype("<i2")
MHD = "NDims = 3\nDimSize = 8 7 6\nElementType = MET_SHORT\n{more}ElementDataFile = {name}\n"
NHDR = (
    "NRRD0004\ntype: short\ndimension: 3\nsizes: 8 7 6\nspacings: 1 1 2\nendian: little\nencoding: raw\n"
    "data file: {name}\n"
)


def header(folder: Path, suffix: str, name: str) -> Path:
    path = folder / f"scan{suffix}"
    path.write_text((MHD if suffix == ".mhd" else NHDR).format(name=name, more=""))
    return path


# ---------------------------------------------------------------- NIfTI pairs


@pytest.mark.parametrize(
    "endings", [(".hdr", ".img"), (".hdr.gz", ".img.gz"), (".hdr", ".img.gz"), (".HDR", ".IMG")]
)
@pytest.mark.parametrize("version", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_is_read_by_either_name(
    tmp_path: Path, endings: tuple[str, str], version: type
) -> None:
    affine = np.diag([-0.8, 0.9, 2.5, 1.0])
    nibabel.save(version(ARRAY.T, affine), tmp_path / "made.img")
    files = []
    for made, ending in zip((".hdr", ".img"), endings, strict=True):
        content = (tmp_path / f"made{made}").read_bytes()
        files.append(tmp_path / f"scan{ending}")
        files[-1].write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    wanted = nibabel.load(tmp_path / "made.img")
    for file in files:
        volume = ctseg.read(file)
        np.testing.assert_array_equal(volume.array, np.asarray(wanted.dataobj).T)
        there = np.diag([-1.0, -1, 1, 1]) @ volume.geometry.affine
        np.testing.assert_allclose(there, wanted.affine, atol=1e-6)
    if version is nibabel.Nifti1Pair:  # SimpleITK reads no other pairs
        oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "made.hdr")))
        np.testing.assert_array_equal(oracle, ARRAY)


def test_a_pair_cut_short_or_torn_apart(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(ARRAY.T, np.eye(4)), tmp_path / "a.img")
    content = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(content[:-1])
    with pytest.raises(FileProblem, match=r"a\.img is truncated"):
        ctseg.read(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(FileProblem):
        ctseg.read(tmp_path / "a.hdr")


def test_analyze_is_refused_by_its_name(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(ARRAY.T, np.eye(4)), tmp_path / "a.img")
    with pytest.raises(FileProblem, match=r"Analyze 7\.5") as found:
        ctseg.read(tmp_path / "a.hdr")
    assert "NIfTI" in str(found.value.hint)


def test_a_folder_counts_a_pair_once(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Pair((ARRAY > 0).astype("u1").T, np.eye(4)), folder / "a.img")
    ctseg.write(ctseg.Volume.from_array(ARRAY), folder / "b.nii.gz")
    (folder / "c.img").write_bytes(b"another format's")
    wanted = [folder / "a.hdr", folder / "b.nii.gz"]
    assert find_scans(folder) == wanted
    assert [item.images[0].path for item in find_items([str(folder)], channels=1)] == wanted
    assert [job.source for job in find_jobs(folder, tmp_path / "out", ".nii.gz", {})] == wanted
    both = [str(folder / "a.hdr"), str(folder / "a.img")]
    assert [item.id for item in find_items(both, channels=1)] == ["a"]
    (folder / "c.img").unlink()
    assert [pair.case for pair in find_pairs(folder, folder).pairs] == ["a", "b"]


# ---------------------------------------------------------------- lists of files


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("form", ["list", "numbers"])
def test_slices_in_files_of_their_own(tmp_path: Path, suffix: str, form: str) -> None:
    names = [f"slice{index:02d}.raw" for index in range(6)]
    for name, plane in zip(names, ARRAY, strict=True):
        (tmp_path / name).write_bytes(plane.tobytes())
    named = "slice%02d.raw 0 5 1" if form == "numbers" else "LIST\n" + "\n".join(names)
    path = header(tmp_path, suffix, named)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), ARRAY)
    with ctseg.open(path) as source:
        np.testing.assert_array_equal(source.read()[0], ARRAY)
        np.testing.assert_array_equal(source.read((2, 5))[0], ARRAY[2:5])
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (5, 6, 7))[0], ARRAY[1:5, 2:6, 3:7]
        )
    assert files_of(path) == [path, *(tmp_path / name for name in names)]
    assert without_companions([*files_of(path)]) == [path]
    (tmp_path / names[3]).write_bytes(ARRAY[3].tobytes()[:-1])
    with pytest.raises(FileProblem, match="truncated"):
        ctseg.open(path)
    (tmp_path / names[3]).unlink()
    with pytest.raises(FileProblem, match=names[3]):
        ctseg.open(path)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_list_that_is_too_short(tmp_path: Path, suffix: str) -> None:
    for index in range(5):
        (tmp_path / f"s{index}.raw").write_bytes(ARRAY[index].tobytes())
    path = header(tmp_path, suffix, "LIST\n" + "\n".join(f"s{index}.raw" for index in range(5)))
    with pytest.raises(FileProblem, match="6 slices in 5 files"):
        ctseg.open(path)


@pytest.mark.parametrize("numbers", ["0 1000000000000 1", "0 5 0", "5 0 1", "0 5 x"])
def test_numbers_that_name_no_files(tmp_path: Path, numbers: str) -> None:
    for suffix in (".mhd", ".nhdr"):
        with pytest.raises(FileProblem):
            ctseg.open(header(tmp_path, suffix, f"slice%02d.raw {numbers}"))


# ---------------------------------------------------------------- elsewhere


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.raw").write_bytes(ARRAY.tobytes())
    (tmp_path / "given").mkdir()
    return tmp_path / "secret" / "a.raw"


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("way", ["absolute", "relative", "link", "folder link", "listed"])
def test_names_that_lead_elsewhere_are_refused(
    tmp_path: Path, elsewhere: Path, suffix: str, way: str
) -> None:
    folder = tmp_path / "given"
    name = {"absolute": str(elsewhere), "relative": "../secret/a.raw"}.get(way, "inside.raw")
    if way == "link":
        (folder / name).symlink_to(elsewhere)
    elif way == "folder link":
        (folder / "sub").symlink_to(elsewhere.parent)
        name = "sub/a.raw"
    elif way == "listed":
        name = f"LIST\n{elsewhere}"
    path = header(folder, suffix, name)
    with pytest.raises(FileProblem, match="neither beside nor below") as found:
        ctseg.read(path)
    assert f"--option data_folder={elsewhere.parent}" in str(found.value.hint)
    np.testing.assert_array_equal(ctseg.read(path, data_folder=str(elsewhere.parent)).array, ARRAY)
    with pytest.raises(FileProblem, match="neither beside nor below"):
        ctseg.read(path, data_folder=str(folder))


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_names_beside_and_below_are_followed(tmp_path: Path, elsewhere: Path, suffix: str) -> None:
    folder = tmp_path / "given"
    (folder / "voxels").mkdir()
    (folder / "voxels" / "a.raw").write_bytes(ARRAY.tobytes())
    for name in ("voxels/a.raw", "voxels/../voxels/a.raw", str(folder / "voxels" / "a.raw")):
        np.testing.assert_array_equal(ctseg.read(header(folder, suffix, name)).array, ARRAY)


def test_a_linked_header_takes_what_lies_beside_its_file(tmp_path: Path, elsewhere: Path) -> None:
    """Stores of links, as of git-annex and shared data sets."""
    path = header(elsewhere.parent, ".mhd", "a.raw")
    for link, file in (("scan.mhd", path), ("a.raw", elsewhere)):
        (tmp_path / "given" / link).symlink_to(file)
    np.testing.assert_array_equal(ctseg.read(tmp_path / "given" / "scan.mhd").array, ARRAY)


def test_the_voxels_of_a_pair_do_not_lie_elsewhere(tmp_path: Path) -> None:
    for folder in ("secret", "given"):
        (tmp_path / folder).mkdir()
    nibabel.save(nibabel.Nifti1Pair(ARRAY.T, np.eye(4)), tmp_path / "secret" / "a.img")
    (tmp_path / "secret" / "a.hdr").rename(tmp_path / "given" / "a.hdr")
    (tmp_path / "given" / "a.img").symlink_to(tmp_path / "secret" / "a.img")
    with pytest.raises(FileProblem, match="neither beside nor below"):
        ctseg.read(tmp_path / "given" / "a.hdr")


@pytest.mark.parametrize("name", ["/dev/zero", "", "a\0b", "x" * 5000])
def test_names_of_no_files(tmp_path: Path, name: str) -> None:
    for suffix in (".mhd", ".nhdr"):
        with pytest.raises(FileProblem):
            ctseg.read(header(tmp_path, suffix, name))
