"""Labels with a channel each may overlap: each is scored as a whole wherever its mask is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ctseg
from ctseg.card import Card, Provider, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.data.pipeline import AppliedPipeline
from ctseg.data.prepared_case import Prepared
from ctseg.engine.evaluation.evaluate import CaseMaps, evaluate, evaluate_case
from ctseg.engine.evaluation.overlapping import NOTE, as_one_map_shows
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.folder import predict_folder
from ctseg.engine.prediction.inputs import find_items
from ctseg.engine.prediction.request import Request
from ctseg.engine.training.validate import score_files, validate
from ctseg.metrics.case import MetricSettings
from ctseg.specs import Case, ImageRef, Label, Task
from ctseg.volume.volume import Volume

TASK = Task("channels", (Label("whole", (1,), 1), Label("core", (2,), 2)), stacked=True)
RULE = PostprocessRule(label="whole", keep_largest=1)


class Levels(torch.nn.Module):
    """Above 20 a voxel is in `whole`, above 40 in `core` too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x - 20, x - 40], 1)


def masks() -> np.ndarray:
    """36 voxels of `whole` and within them 16 of `core` in each of four slices."""
    out = np.zeros((2, 4, 10, 12), np.uint8)
    out[0, :, 1:7, 1:7] = 1
    out[1, :, 2:6, 2:6] = 1
    return out


def as_map(whole_and_core: np.ndarray) -> np.ndarray:
    whole, core = whole_and_core
    return np.where(core > 0, 2, whole).astype(np.uint8)


def perfect_model(*rules: PostprocessRule) -> NetworkModel:
    labels = [{"name": n, "values": [v], "value": v} for n, v in (("whole", 1), ("core", 2))]
    card = Card(
        name="levels.v1", architecture="unet3d", provider=Provider(package="ctseg"), in_channels=1,
        out_channels=2, channels=("CT",), preprocess=PreprocessConfig(steps=()),
        task=TaskConfig.model_validate({"kind": "channels", "labels": labels, "stacked": True}),
        predict=PredictConfig(tile_zyx=(8, 8, 8), postprocess=rules),
        training_data=TrainingData(name="x"),
    )  # fmt: skip
    return NetworkModel(card, [Levels()], choose("cpu", "fp32"))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A scan of 30 in `whole` and 50 in `core`, and its masks as the channels of one file."""
    whole, core = masks().astype(np.float32)
    ctseg.write(Volume.from_array(30 * whole + 20 * core), tmp_path / "scans" / "a.nii.gz")
    ctseg.write(Volume.from_array(masks()), tmp_path / "truth" / "a.nrrd")
    paths = tmp_path / "scans" / "a.nii.gz", tmp_path / "truth" / "a.nrrd"
    scan, truth = (ImageRef(path) for path in paths)
    return Case("a", (scan,), label=truth)


def scores(predicted: np.ndarray, reference: np.ndarray) -> tuple[dict[str, float | None], bool]:
    maps = CaseMaps(Volume.from_array(predicted), Volume.from_array(reference), "a")
    result = evaluate_case(TASK, maps)
    return {label.label: label.dice for label in result.labels}, result.notes == (NOTE,)


def test_a_perfect_prediction_scores_one_as_masks_and_as_map() -> None:
    assert scores(masks(), masks()) == ({"whole": 1.0, "core": 1.0}, False)
    assert scores(as_map(masks()), masks()) == ({"whole": 1.0, "core": 1.0}, True)


def test_a_faulty_map_is_compared_with_what_a_map_can_show() -> None:
    made = masks()
    made[0, :, 1] = 0  # 6 of the 20 voxels around the core
    made[1, :, 2] = 0  # 4 of the 16 voxels of the core, which the map shows as whole
    found, noted = scores(as_map(made), masks())
    assert found == pytest.approx({"whole": 2 * 14 / (18 + 20), "core": 2 * 12 / (12 + 16)})
    assert noted
    found, noted = scores(made, masks())
    assert found == pytest.approx({"whole": 2 * 30 / (30 + 36), "core": 2 * 12 / (12 + 16)})
    assert not noted


def test_labels_that_were_not_asked_for_cover_nothing() -> None:
    made, truth = Volume.from_array(masks()[0]), Volume.from_array(masks())
    maps = CaseMaps(made, truth, "a", shown=("whole",))
    result = evaluate_case(TASK, maps, MetricSettings(labels=("whole",)))
    assert (result.labels[0].dice, result.notes) == (1.0, ())


def test_where_a_later_label_is_ignored_the_map_may_show_either() -> None:
    task = Task(TASK.kind, TASK.labels, ignore=255, stacked=True)
    stored = np.array([[1, 1, 1, 0, 255], [1, 0, 255, 255, 1]], np.uint8)[:, None, None]
    shown, notes = as_one_map_shows(task, stored)
    assert shown[0].ravel().tolist() == [0, 1, 255, 0, 255]
    np.testing.assert_array_equal(shown[1], stored[1])
    assert notes == (NOTE,)
    apart = np.array([[1, 0], [0, 1]], np.uint8)[:, None, None]
    assert as_one_map_shows(task, apart) == (apart, ())


def test_the_validation_of_a_run_scores_each_label_as_a_whole(case: Case) -> None:
    scan = ctseg.read(case.images[0].path)
    applied = AppliedPipeline((), scan.geometry, scan.geometry)
    ready = Prepared("a", scan.czyx.astype(np.float32), None, np.zeros((0, 4), np.int32), applied)
    assert validate(perfect_model(), [case], [ready]).dice == {"whole": 1.0, "core": 1.0}
    whole, core = masks()
    assert case.label is not None
    ctseg.write(Volume.from_array(np.stack([whole - core, core])), case.label.path)
    found = validate(perfect_model(), [case], [ready]).dice  # a map would hide what is too much
    assert found == {"whole": pytest.approx(2 * 20 / (20 + 36)), "core": 1.0}


def test_the_rules_of_the_card_apply_to_the_masks_that_are_scored(case: Case) -> None:
    file = case.images[0].path
    array = ctseg.read(file).array.copy()
    array[0, 8:, 9:] = 30  # a second part of `whole`
    ctseg.write(Volume.from_array(array), file)
    plain, cleaned = (score_files(perfect_model(*rules), case) for rules in ((), (RULE,)))
    assert [label.dice for label in plain.labels] == [pytest.approx(288 / (288 + 6)), 1.0]
    assert [label.dice for label in cleaned.labels] == [1.0, 1.0]


@pytest.mark.parametrize("rules", [(), (RULE,)])
def test_volumes_are_those_of_the_masks(case: Case, tmp_path: Path, rules) -> None:
    request = Request(tmp_path / "out", rules=rules)
    made = predict_folder(
        perfect_model(), find_items([str(tmp_path / "scans")], channels=1), request
    )
    assert made.done[0]["volumes_ml"] == pytest.approx({"whole": 0.144, "core": 0.064})
    map_zyx = ctseg.read(tmp_path / "out" / "a.nii.gz").array
    np.testing.assert_array_equal(map_zyx, as_map(masks()))


def test_masks_beside_the_maps_are_scored_instead_of_them(case: Case, tmp_path: Path) -> None:
    items, out = find_items([str(tmp_path / "scans")], channels=1), tmp_path / "out"
    predict_folder(perfect_model(), items, Request(out, masks=True))
    shutil.copytree(out, tmp_path / "elsewhere")
    mask = tmp_path / "elsewhere" / "masks" / "a" / "whole.nii.gz"
    made = ctseg.read(mask).array.copy()
    made[:, 2] = 0  # hidden beneath the core in the map, but for 2 voxels at its sides
    ctseg.write(Volume.from_array(made), mask)
    shutil.rmtree(out)
    report = evaluate(tmp_path / "elsewhere", tmp_path / "truth")
    assert report.dice == {"whole": pytest.approx(60 / 66), "core": 1.0}
    assert report.cases[0].notes == ()
    mask.unlink()
    report = evaluate(tmp_path / "elsewhere", tmp_path / "truth")
    assert report.dice == {"whole": 1.0, "core": 1.0}
    assert report.cases[0].notes == (NOTE,)


def test_a_map_of_one_of_the_labels_is_compared_with_its_channel(
    case: Case, tmp_path: Path
) -> None:
    request = Request(tmp_path / "out", labels=("whole",), masks=True)
    predict_folder(perfect_model(), find_items([str(tmp_path / "scans")], channels=1), request)
    report = evaluate(tmp_path / "out", tmp_path / "truth")
    assert report.dice == {"whole": 1.0}
    assert report.cases[0].notes == ()
