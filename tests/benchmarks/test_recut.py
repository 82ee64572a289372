"""Data sets cut anew at random positions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.recut import Cut, recut
from ctseg.data.readers.find import open_dataset


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of 12 x 20 x 20 voxels with a block in the middle, and a second channel on another grid."""
    folder = tmp_path_factory.mktemp("cut") / "source"
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "petTr"):
        (folder / name).mkdir(parents=True)
    for case in ("a", "b"):
        label = np.zeros((12, 20, 20), np.uint8)
        label[5:7, 8:12, 8:12] = 1
        scan = rng.integers(-1000, 1000, label.shape, dtype=np.int16)
        for kind, array in (
            ("imagesTr", scan),
            ("labelsTr", label),
            ("petTr", scan[::2, ::2, ::2]),
        ):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((0.5, 0.5, 2.0) if kind != "petTr" else (1.0, 1.0, 4.0))
            image.SetOrigin((10.0, -20.0, 30.0))
            sitk.WriteImage(image, str(folder / kind / f"{case}.nii.gz"))
    entries = [{"image": f"imagesTr/{c}.nii.gz", "label": f"labelsTr/{c}.nii.gz"} for c in "ab"]
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "block"}}
    (folder / "dataset.json").write_text(json.dumps(content | {"training": entries}))
    (folder / "splits.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    return folder


def test_cuts_keep_every_voxel_where_it_was(source, tmp_path):
    recut(source, tmp_path / "cut", Cut(sides=6, copies=3, seed=1))
    sizes = set()
    for name in ("a", "a_1", "a_2", "b", "b_1", "b_2"):
        whole = sitk.ReadImage(str(source / "imagesTr" / f"{name[0]}.nii.gz"))
        part = sitk.ReadImage(str(tmp_path / "cut" / "imagesTr" / f"{name}_0000.nii.gz"))
        label = sitk.ReadImage(str(tmp_path / "cut" / "labelsTr" / f"{name}.nii.gz"))
        # SimpleITK resamples the whole scan onto the part's grid: the same values lie at the same places
        again = sitk.Resample(whole, part, sitk.Transform(), sitk.sitkNearestNeighbor)
        assert np.array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(part))
        assert np.count_nonzero(sitk.GetArrayFromImage(label)) == 2 * 4 * 4
        assert label.GetOrigin() == part.GetOrigin()
        assert part.GetSize()[2] == 12  # none along z
        assert 8 <= part.GetSize()[0] <= 20
        sizes.add((part.GetSize(), part.GetOrigin()))
    assert len(sizes) == 6


def test_further_copies_only_train(source, tmp_path):
    recut(source, tmp_path / "cut", Cut(sides=2, copies=2))
    ((train, validate),) = open_dataset(tmp_path / "cut").splits
    assert (train, validate) == (("a", "a_1"), ("b",))


def test_further_channels_stay_on_their_grid(source, tmp_path):
    recut(source, tmp_path / "cut", Cut(shift=2.0), {"PET": "petTr"})
    dataset = open_dataset(tmp_path / "cut")
    assert dataset.channels == ("CT", "PET")
    stored = tmp_path / "cut" / "imagesTr" / "a_0001.nii.gz"
    assert stored.read_bytes() == (source / "petTr" / "a.nii.gz").read_bytes()
    size = sitk.ReadImage(str(tmp_path / "cut" / "imagesTr" / "a_0000.nii.gz")).GetSize()
    assert all(
        whole - 2.0 / mm <= left <= whole
        for left, whole, mm in zip(size, (20, 20, 12), (0.5, 0.5, 2.0), strict=True)
    )


def test_a_cut_that_takes_a_whole_label_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="takes all labelled voxels"):
        recut(source, tmp_path / "cut", Cut(shift=100.0))


def test_cases_of_a_patient_form_a_group(source, tmp_path):
    recut(source, tmp_path / "alone", Cut(sides=2, copies=2))
    groups = {case.id: case.group for case in open_dataset(tmp_path / "alone").cases}
    assert groups == {"a": "a", "a_1": "a", "b": "b", "b_1": "b"}
    recut(source, tmp_path / "letters", Cut(), patient="[ab]")
    assert [case.group for case in open_dataset(tmp_path / "letters").cases] == ["a", "b"]
    with pytest.raises(ValueError, match="'lidc' is not found in the name a"):
        recut(source, tmp_path / "none", Cut(), patient="lidc")
