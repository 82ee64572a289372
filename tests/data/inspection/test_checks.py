"""What an inspection tells of CT that is none, headers without a voxel size, and labels that no fold can learn."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.data.inspection.dataset import inspect_dataset
from ctseg.data.inspection.hounsfield import impossible_ct, looks_like_ct, unshifted_ct
from ctseg.data.readers.find import open_dataset

NAMES = ("a", "b", "c", "d", "e", "f")


def scan(seed: int) -> np.ndarray:
    """Hounsfield units [8, 8, 8]: air, soft tissue, bone."""
    rng = np.random.default_rng(seed)
    out = rng.normal(40, 20, (8, 8, 8)).round().astype(np.int16)
    out[:, :3], out[:, 7] = -1024, 700
    return out


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -2.0, 5.0, 1.0]), dtype=array.dtype), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six good cases of an organ, in an nnU-Net folder."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / "imagesTr" / f"{name}_0000.nii", scan(seed))
        label = np.zeros((8, 8, 8), np.uint8)
        label[2:5] = 1
        save(tmp_path / "labelsTr" / f"{name}.nii", label)
    describe(tmp_path, {"background": 0, "organ": 1})
    return tmp_path


def describe(folder: Path, labels: dict[str, int], channel: str = "CT") -> None:
    content = {"channel_names": {"0": channel}, "labels": labels, "file_ending": ".nii"}
    (folder / "dataset.json").write_text(json.dumps(content))


def problems(folder: Path) -> list[str]:
    return inspect_dataset(open_dataset(folder)).all_problems


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda hu: hu.astype(np.uint16), "read without a sign (64512 is -1024)"),
        (lambda hu: hu + 1024, "about 1024 above them"),
        (lambda hu: ((hu + 1024) / 7).astype(np.uint8), "picture of 8 bits"),
        (lambda hu: ((hu + 1024) / 2000).astype(np.float32), "only"),
    ],
)
def test_ct_that_cannot_be(folder: Path, change: Any, says: str) -> None:
    assert problems(folder) == []
    save(folder / "imagesTr" / "c_0000.nii", change(scan(2)))
    (found,) = problems(folder)
    assert found.startswith("c: ")
    assert says in found


def test_an_intercept_that_all_scans_lack(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        save(folder / "imagesTr" / f"{name}_0000.nii", scan(seed) + 1024)
    found = problems(folder)
    assert len(found) == 6
    assert all("rescale intercept" in text for text in found)
    describe(folder, {"background": 0, "organ": 1}, "MR")
    assert problems(folder) == []


def test_headers_without_a_voxel_size(folder: Path) -> None:
    for name in ("b", "e"):
        path = folder / "imagesTr" / f"{name}_0000.nii"
        raw = bytearray(path.read_bytes())
        raw[80:92] = struct.pack("<3f", 0, 0, 0)  # pixdim, and the codes of both forms
        raw[252:256] = bytes(4)
        path.write_bytes(raw)
        label = folder / "labelsTr" / f"{name}.nii"
        label.write_bytes(raw[:352] + label.read_bytes()[352:])
    found = problems(folder)
    assert any("2 of 6 scans have no voxel size" in text and "b, e" in text for text in found)
    result = CliRunner().invoke(app, ["data", "inspect", str(folder / "imagesTr" / "b_0000.nii")])
    assert result.exit_code == 1
    assert "no voxel size" in result.output


def test_a_label_that_a_fold_cannot_learn(folder: Path) -> None:
    label = np.zeros((8, 8, 8), np.uint8)
    label[1:3], label[5] = 1, 2
    save(folder / "labelsTr" / "d.nii", label)
    describe(folder, {"background": 0, "organ": 1, "tumour": 2})
    folds = [
        {"train": ["a", "b", "d", "e"], "val": ["c", "f"]},
        {"train": ["a", "b", "c"], "val": ["d", "e", "f"]},
    ]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    assert problems(folder) == ["In fold 1 no training case holds 'tumour'."]


def test_a_case_that_nobody_labelled(folder: Path) -> None:
    save(folder / "labelsTr" / "d.nii", np.full((8, 8, 8), 2, np.uint8))
    describe(folder, {"background": 0, "organ": 1, "ignore": 2})
    (found,) = problems(folder)
    assert found.startswith("d: ")
    assert "the ignore value" in found


@pytest.fixture
def pairs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as image and label pairs, which name no channel."""
    out = tmp_path_factory.mktemp("pairs")
    for name in NAMES:
        for part, file in (
            ("images", f"imagesTr/{name}_0000.nii"),
            ("labels", f"labelsTr/{name}.nii"),
        ):
            (out / part).mkdir(exist_ok=True)
            (out / part / f"{name}.nii").write_bytes((folder / file).read_bytes())
    return out


def test_ct_pairs_are_told_how_to_say_so(pairs: Path) -> None:
    report = inspect_dataset(open_dataset(pairs))
    assert report.all_problems == []
    (note,) = report.notes
    assert "-1024 to 700" in note
    assert note.endswith("--option channels=CT")
    command = ["data", "inspect", str(pairs)]
    assert "Note: The values of 'image' look like" in CliRunner().invoke(app, command).output
    named = inspect_dataset(open_dataset(pairs, channels="CT"))
    assert (named.all_problems, named.notes) == ([], [])


def test_training_says_so_too_and_names_labels_that_it_cannot_learn(pairs, mini_options, tmp_path):
    def train(*more: str) -> tuple[str, Any]:
        folder = tmp_path / str(len(more))
        result = CliRunner().invoke(
            app, ["train", str(pairs), "-o", str(folder), "--steps", "1", *mini_options, *more]
        )
        assert result.exit_code == 0, result.output
        plan = json.loads((folder / "plan.json").read_text())
        return result.output, plan["choices"]["normalisation"]["value"]

    output, scheme = train()
    assert "--option channels=CT" in output
    assert scheme == "per case"
    assert "spacing 1 x 2 x 5 mm as stored" in output
    more = ("--option", "channels=CT", "--option", "names=organ=1,tumour=2", "--spacing", "2,2,0")
    output, scheme = train(*more)
    assert "look like Hounsfield" not in output
    assert scheme == "foreground"
    assert "no training case holds 'tumour'" in output
    assert "spacing 2 x 2 x as stored mm (x, y, z)" in output


@pytest.mark.parametrize(
    ("low", "high", "p005", "p995", "wrong"),
    [
        (-1024, 3071, -1000, 1200, False),
        (-3024, 32000, -1024, 1500, False),
        (-200, 300, -150, 280, False),
        (100, 2500, 150, 2000, True),
        (250, 2500, 300, 2000, False),  # a box of bone
        (0, 65535, 10, 65000, True),
    ],
)
def test_ranges_of_ct(low, high, p005, p995, wrong):
    assert bool(impossible_ct(low, high) or unshifted_ct(low, p005, p995)) is wrong
    assert looks_like_ct([(-1024, 1500), (-1000, 900)])
    assert not looks_like_ct([(-1024, 1500), (0, 900)])
    assert not looks_like_ct([])
