"""Folders of pairs, by the names of folders and by patterns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, FileProblem

Save = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, save: Save) -> Path:
    for name in ("b", "a"):
        save(tmp_path / "Images" / f"{name}.nii.gz")
        save(tmp_path / "masks" / f"{name}_seg.nrrd")
    save(tmp_path / "Images" / "c.nii.gz")
    return tmp_path


def test_two_folders(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset.reader == "pairs"
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert [case.id for case in dataset.unlabelled] == ["c"]
    assert dataset.cases[0].label is not None
    assert dataset.cases[0].label.path.name == "a_seg.nrrd"
    assert dataset.channels == ("image",)
    assert dataset.task is None


def test_channels_by_number(tmp_path: Path, save: Save) -> None:
    for channel in (0, 1):
        save(tmp_path / "images" / f"a_{channel:04d}.nii.gz")
    save(tmp_path / "labels" / "a.nii.gz")
    dataset = open_dataset(tmp_path, channels="CT, PET", names="liver=2,spleen=1", ignore="255")
    assert [ref.path.name for ref in dataset.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert dataset.channels == ("CT", "PET")
    assert dataset.task is not None
    assert [label.name for label in dataset.task.labels] == ["background", "spleen", "liver"]
    assert dataset.task.ignore == 255
    save(tmp_path / "images" / "b_0000.nii.gz")
    with pytest.raises(FileProblem, match="'b' has 1 of 2 channels"):
        open_dataset(tmp_path)


def test_patterns(tmp_path: Path, save: Save) -> None:
    for patient in ("p1", "p2"):
        for part in ("ct", "pet", "w"):
            save(tmp_path / patient / f"{part}.nii.gz")
    save(tmp_path / "p1" / "tumour.nii.gz")
    dataset = open_dataset(
        tmp_path,
        reader="pairs",
        images="*/ct.nii.gz, */pet.nii.gz",
        labels="*/tumour.nii.gz",
        weights="*/w.nii.gz",
    )
    (case,) = dataset.cases
    assert case.id == "p1"
    assert [ref.path.name for ref in case.images] == ["ct.nii.gz", "pet.nii.gz"]
    assert case.weight is not None
    assert [c.id for c in dataset.unlabelled] == ["p2"]


def test_one_pair_by_name(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "raw.tif")
    save(tmp_path / "label.tif")
    dataset = open_dataset(tmp_path, reader="pairs", images="raw.tif", labels="label.tif")
    assert [case.id for case in dataset.cases] == [tmp_path.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "Images/*.mha"}, "Nothing in"),
        ({"images": "../*.nii.gz"}, "leads out"),
        ({"images": "Images/*.nii.gz", "labels": "masks/*.nrrd"}, "belongs to an image"),
        ({"channels": "CT,PET"}, "names 2 channels"),
        ({"names": "liver"}, "names no label"),
        ({"names": "liver=1,tumour=1"}, "same value"),
        ({"ignore": "x"}, "whole number"),
        ({"lables": "x"}, "no option"),
    ],
)
def test_options_that_do_not_fit(folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises((BadInput, FileProblem), match=message):
        open_dataset(folder, reader="pairs", **options)


def test_labels_without_an_image_and_doubles(folder: Path, save: Save) -> None:
    extra = save(folder / "masks" / "z.nrrd")
    with pytest.raises(FileProblem, match="1 labels without an image"):
        open_dataset(folder)
    extra.unlink()
    save(folder / "masks" / "a.nii.gz")
    with pytest.raises(BadInput, match="two labels of the case 'a'"):
        open_dataset(folder)


def test_one_of_each_belong_together(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "image" / "scan.nii.gz")
    save(tmp_path / "mask" / "drawn.nii.gz")
    (case,) = open_dataset(tmp_path).cases
    assert case.id == "scan"


def test_weights_that_belong_to_no_image_are_refused(tmp_path: Path, save: Save) -> None:
    """A misspelt pattern would train without them, and say nothing."""
    for name in ("a", "b"):
        save(tmp_path / "scans" / f"{name}.nii.gz")
        save(tmp_path / "drawn" / f"{name}.nii.gz")
    save(tmp_path / "weights" / "w_a.nii.gz")
    patterns = {"images": "scans/*.nii.gz", "labels": "drawn/*.nii.gz"}
    with pytest.raises(FileProblem, match=r"1 weight maps .* belong to no image .*w_a"):
        open_dataset(tmp_path, weights="weights/*.nii.gz", **patterns)
    dataset = open_dataset(tmp_path, weights="weights/w_*.nii.gz", **patterns)
    assert dataset.reader == "pairs"  # the options say so: no other layout has them
    assert [case.weight is not None for case in dataset.cases] == [True, False]


@pytest.mark.parametrize(("first", "label"), [(0, "{}"), (1, "{}_seg"), (1, "{}")])
def test_numbers_of_cases_are_no_channels(
    tmp_path: Path, save: Save, first: int, label: str
) -> None:
    names = [f"case_{number:04d}" for number in range(first, first + 3)]
    for name in names:
        save(tmp_path / "images" / f"{name}.nii.gz")
    for name in names[:2]:
        save(tmp_path / "labels" / f"{label.format(name)}.nii.gz")
    dataset = open_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == names[:2]
    assert [case.id for case in dataset.unlabelled] == names[2:]
    assert dataset.channels == ("image",)


def test_a_number_and_a_label_of_another_name(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "images" / "scan_0012.nii.gz")
    save(tmp_path / "labels" / "drawn.nii.gz")
    (case,) = open_dataset(tmp_path).cases
    assert case.id == "scan_0012"


@pytest.mark.parametrize("option", ["labels", "weights", "masks"])
def test_patterns_without_one_for_the_images(folder: Path, option: str) -> None:
    """They would be left out, and nothing said."""
    with pytest.raises(BadInput, match=f"option {option} is a pattern"):
        open_dataset(folder, reader="pairs", **{option: "masks/*.nrrd"})


def test_two_stars(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"holds '\*\*'"):
        open_dataset(folder, reader="pairs", images="**/*.nii.gz")
