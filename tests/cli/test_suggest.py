"""`ctseg evaluate --suggest-cleanup`."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import PredictConfig
from ctseg.volume.volume import Volume


@pytest.fixture
def folders(tmp_path):
    """Predictions with a speck far from the ball of label 1; two true parts of label 2."""
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
    for case in range(2):
        reference = np.zeros((12, 16, 16), np.uint8)
        reference[3:8, 3:8, 3 + case : 8] = 1
        reference[2:4, 12:14, 2:4] = reference[9:11, 12:15, 9:12] = 2
        predicted = reference.copy()
        predicted[10:12, 0:2, 0:2] = 1
        ctseg.write(Volume.from_array(reference), tmp_path / "references" / f"case_{case}.nii.gz")
        ctseg.write(Volume.from_array(predicted), tmp_path / "predictions" / f"case_{case}.nii.gz")
    labels = {"background": 0, "ball": 1, "spots": 2}
    data = tmp_path / "Data"
    (data / "imagesTr").mkdir(parents=True)
    (tmp_path / "references").rename(data / "labelsTr")
    for file in (data / "labelsTr").iterdir():
        scan = ctseg.read(file)
        ctseg.write(scan, data / "imagesTr" / file.name.replace(".nii.gz", "_0000.nii.gz"))
    document = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (data / "dataset.json").write_text(json.dumps(document))
    return tmp_path / "predictions", data


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def test_what_helps_is_printed_as_lines_for_the_run_file(folders):
    predictions, data = folders
    found = run("evaluate", predictions, data, "--suggest-cleanup")
    assert found.exit_code == 0, found.output
    text = found.stdout[found.stdout.index("[predict]") :]
    config = PredictConfig.model_validate(tomllib.loads(text)["predict"])
    assert [(rule.label, rule.keep_largest) for rule in config.postprocess] == [("ball", 1)]
    found = run("evaluate", predictions, data, "--suggest-cleanup", "--json")
    told = json.loads(found.stdout)
    assert told["cases"] == 2
    assert told["after"]["ball"] == 1.0 > told["before"]["ball"]
    assert told["after"]["spots"] == told["before"]["spots"] == 1.0


def test_nothing_to_mend(folders):
    _, data = folders
    found = run("evaluate", data / "labelsTr", data, "--suggest-cleanup")
    assert found.exit_code == 0, found.output
    assert "helps nowhere" in found.output


def test_it_needs_a_reference(folders):
    predictions, _ = folders
    assert run("evaluate", predictions, "--suggest-cleanup").exit_code == 2
