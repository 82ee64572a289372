"""Cases that nobody labelled, and data sets of one patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.engine.model.weights import read_weights


def train(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def write(folder: Path, ignored: set[str], groups: bool) -> Path:
    """A list of six cases of 16^3 voxels; those ignored have no labelled voxel."""
    rows = ["id,image_CT,label,group"]
    for number in range(6):
        name = f"c{number}"
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:10, 5:11, 6:12] = 1
        scan = (np.random.default_rng(number).normal(-50, 20, label.shape) + 130 * label).astype(
            np.int16
        )
        label = np.full_like(label, 2) if name in ignored else label
        nib.save(nib.Nifti1Image(scan, np.eye(4)), folder / f"{name}.nii")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{name}_seg.nii")
        rows.append(f"{name},{name}.nii,{name}_seg.nii,{'p0' if groups else ''}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder / "list.csv"


OPTIONS = (
    "--steps", 1, "--option", "names=a=1", "--option", "ignore=2", "--set", "model.options.features=[4, 8]",
    "--patch", "8,8,8", "--device", "cpu", "--precision", "fp32",
)  # fmt: skip
FOLD = ("--set", "data.val=['c4', 'c5']")


def test_a_case_that_nobody_labelled_is_left_out(tmp_path):
    data = write(tmp_path, {"c0", "c5"}, groups=False)
    result = train(data, "-o", tmp_path / "run", *FOLD, *OPTIONS)
    assert result.exit_code == 0, result.output
    assert "every voxel of c0 is ignored; 3 cases are left to train" in result.output
    assert "every voxel of c5 is ignored; 1 cases are left to validate" in result.output
    _, card = read_weights(tmp_path / "run" / "best.safetensors")
    assert (card.training_data.cases, card.metrics.cases) == (3, 1)
    assert train("--resume", "-o", tmp_path / "run").exit_code == 0


@pytest.mark.parametrize(
    ("ignored", "what"), [({"c0", "c1", "c2", "c3"}, "train"), ({"c4", "c5"}, "validate")]
)
def test_where_all_are_so_it_is_refused(tmp_path, ignored, what):
    data = write(tmp_path, ignored, groups=False)
    result = train(data, "-o", tmp_path / "run", *FOLD, *OPTIONS)
    assert result.exit_code == 2, result.output
    assert (
        "there is nothing to learn" in result.output or f"that {what} is labelled" in result.output
    )
    assert not (tmp_path / "run").exists()


def test_the_advice_for_one_patient_works(tmp_path):
    data = write(tmp_path, set(), groups=True)
    result = train(data, "-o", tmp_path / "run", *OPTIONS)
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert "6 cases of list all belong to 'p0'" in output
    advice = output.partition("--set '")[2].partition("'")[0]
    assert advice == 'data.val=["c5"]'
    again = train(data, "-o", tmp_path / "run", *OPTIONS, "--set", advice)
    assert again.exit_code == 0, again.output
    assert "5 cases train, 1 validate" in again.output
