"""Cases that nobody labelled, scans of too many channels, and data sets of one patient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import parse_config
from ctseg.engine.model.weights import read_weights
from ctseg.engine.training.prepare import prepare
from ctseg.errors import BadInput
from ctseg.volume.volume import Volume


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


# ---------------------------------------------------------------- channels


def write_pairs(folder: Path, counts: list[int]) -> Path:
    """Pairs of scans with so many channels and labels."""
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:6, 2:6, 2:6] = 1
    scan = np.random.default_rng(0).normal(size=(3, 8, 8, 8)).astype(np.float32)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, count in enumerate(counts):
        volume = Volume.from_array(scan[0] if count == 1 else scan[:count])
        ctseg.write(volume, folder / "images" / f"c{number}.mha")
        ctseg.write(Volume.from_array(label), folder / "labels" / f"c{number}.mha")
    return folder


@pytest.mark.parametrize("counts", [[2, 2], [1, 2], [1, 1, 3]])
@pytest.mark.parametrize("steps", [(), ({"kind": "orient"},)])
def test_more_channels_than_the_data_set_names_are_refused(tmp_path, counts, steps):
    data = write_pairs(tmp_path / "data", counts)
    settings = {"data": {"path": str(data)}, "preprocess": {"steps": steps}}
    told = rf"case (c\d) \(.*\1\.mha\) has {max(counts)} channels; .* names 1 channel \(image\)"
    with pytest.raises(BadInput, match=told) as caught:
        prepare(parse_config(settings | {"train": {"device": "cpu"}}))
    assert caught.value.hint
    result = train(data, "-o", tmp_path / "run", *OPTIONS[:2], *OPTIONS[6:])
    assert result.exit_code == 2
    assert "names 1 channel" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_fewer_channels_than_the_data_set_names_are_refused(tmp_path):
    data = write_pairs(tmp_path, [1, 1])
    entries = [{"image": f"images/c{n}.mha", "label": f"labels/c{n}.mha"} for n in (0, 1)]
    about = {
        "modality": {"0": "PET", "1": "CT"},
        "labels": {"0": "background", "1": "a"},
        "training": entries,
    }
    (data / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(BadInput, match=r"has 1 channel; the data set names 2 channels \(PET, CT\)"):
        prepare(parse_config({"data": {"path": str(data)}, "train": {"device": "cpu"}}))
