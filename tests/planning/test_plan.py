"""Plans: nnU-Net's rules where they apply, and the device's budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import ctseg
from ctseg.config import RunConfig, override, parse_config
from ctseg.errors import BadInput
from ctseg.planning.choices import usual_budget
from ctseg.planning.fingerprint import Fingerprint, fingerprint
from ctseg.planning.limits import Limits
from ctseg.planning.plan import make_plan
from ctseg.planning.task import find_task
from ctseg.specs import Case, DataSet, ImageRef
from ctseg.task import classes_task
from ctseg.volume.volume import Volume

TASK = classes_task({"organ": 1})


def found(shape=(40, 50, 45), spacing=(1.0, 1.0, 1.0), cases=10, vary=0.0) -> Fingerprint:
    rng = np.random.default_rng(0)
    spacings = tuple(
        tuple(float(s * (1 + vary * rng.uniform(-1, 1))) for s in spacing) for _ in range(cases)
    )
    statistics = {
        "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0,
        "std": 30.0,
    }  # fmt: skip
    return Fingerprint((shape,) * cases, spacings, (statistics,), {"organ": 10.0}, cases)


def plan(config=None, fingerprint=None, channels=("CT",), task=TASK):
    return make_plan(config or RunConfig(), task, channels, fingerprint or found(), Limits("cpu"))


def kinds(config: RunConfig) -> list[str]:
    return [step["kind"] for step in config.preprocess.steps]


def test_ct_is_clipped_and_normalised_by_the_foreground():
    config, made = plan()
    assert kinds(config) == ["orient", "clip", "normalise"]
    assert config.preprocess.steps[1]["low"] == [-80.0]
    assert config.preprocess.steps[2] == {"kind": "normalise", "mean": [45.0], "std": [30.0]}
    assert all(choice["reason"] for choice in made.choices.values())


def test_other_images_are_normalised_case_by_case():
    config, _ = plan(channels=("MRI",))
    assert kinds(config) == ["orient", "normalise_case"]


def test_each_channel_is_normalised_by_its_own_kind():
    """PET beside a CT leaves the Hounsfield units of the CT as they are, as nnU-Net's channel names do."""
    looked = found()
    pet = dict.fromkeys(looked.foreground[0], 2.0)
    looked = dataclasses.replace(looked, foreground=(pet, looked.foreground[0]))
    config, made = plan(fingerprint=looked, channels=("PET", "CT"))
    _, clip, fixed, own = config.preprocess.steps
    assert (clip["kind"], clip["low"], clip["channels"]) == ("clip", [-80.0], [1])
    assert fixed == {"kind": "normalise", "mean": [45.0], "std": [30.0], "channels": [1]}
    assert (own["kind"], own["channels"]) == ("normalise_case", [0])
    assert made.choices["normalisation"]["value"] == "by channel"
    assert "CT: Hounsfield" in made.choices["normalisation"]["reason"]
    assert "PET: " in made.choices["normalisation"]["reason"]


def test_the_channel_whose_grid_counts_stays_in_a_planned_run():
    looked = found()
    looked = dataclasses.replace(looked, foreground=looked.foreground * 2)
    asked = parse_config({"preprocess": {"grid": "PET", "spacing_xyz": [2, 2, 2]}})
    config, _ = plan(asked, looked, ("CT", "PET"))
    assert config.preprocess.grid == "PET"
    assert config.preprocess.steps and config.preprocess.spacing_xyz is None


def test_differing_spacings_are_resampled_to_the_median():
    config, _ = plan(fingerprint=found(spacing=(2.0, 1.0, 1.0), vary=0.2))
    assert kinds(config)[1] == "resample"
    x, y, z = config.preprocess.steps[1]["spacing_xyz"]
    assert z == pytest.approx(2.0, rel=0.2)
    assert x == pytest.approx(1.0, rel=0.2)
    assert y == pytest.approx(1.0, rel=0.2)


def test_a_coarse_axis_gets_its_tenth_percentile():
    """nnU-Net: spacing over 3 x the others and fewer voxels than a third of theirs."""
    fingerprint = found((20, 40, 40), (5.0, 1.0, 1.0), cases=50, vary=0.3)
    _x, _y, z = plan(fingerprint=fingerprint)[0].preprocess.steps[1]["spacing_xyz"]
    spacings = np.asarray(fingerprint.spacings_zyx)
    if 20 * 3 < 40:
        assert z == pytest.approx(np.percentile(spacings[:, 0], 10), rel=1e-4)
    else:
        assert z == pytest.approx(np.median(spacings[:, 0]), rel=1e-4)
    fingerprint = found((12, 40, 40), (5.0, 1.0, 1.0), cases=50, vary=0.3)
    _, _, z = plan(fingerprint=fingerprint)[0].preprocess.steps[1]["spacing_xyz"]
    assert z == pytest.approx(
        np.percentile(np.asarray(fingerprint.spacings_zyx)[:, 0], 10), rel=1e-4
    )


def test_large_scans_are_made_coarser_within_limits():
    config, made = plan(fingerprint=found((400, 512, 512), (1.0, 0.8, 0.8)))
    x, _, z = config.preprocess.steps[1]["spacing_xyz"]
    assert 1.9 < z < 2.6
    assert x == pytest.approx(z, rel=0.05)  # the finest axes gave way first
    assert "coarser" in made.choices["target_spacing_zyx"]["reason"]


def test_a_spacing_can_be_asked_for():
    config = override(RunConfig(), ["preprocess.spacing_xyz=[3, 3, 0]"])
    steps = plan(config)[0].preprocess.steps
    assert steps[1]["spacing_xyz"] == [3.0, 3.0, 0.0]


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((40, 50, 45), (1, 1, 1)),
        ((60, 512, 512), (5, 0.8, 0.8)),
        ((1000, 1000, 1000), (0.01, 0.01, 0.01)),
        ((1, 512, 512), (5, 0.8, 0.8)),
        ((9, 33, 21), (1, 1, 1)),
        ((3, 4, 5), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("architecture", ["unet3d", "residual_unet3d"])
def test_the_patch_suits_the_network_and_the_budget(shape, spacing, architecture):
    config = parse_config({"model": {"architecture": architecture}})
    config, _ = plan(config, found(shape, spacing))
    patch = config.train.patch_zyx
    assert patch is not None
    assert np.prod(patch) <= 1.6 * usual_budget("cpu").patch_voxels
    assert config.train.batch_size is not None
    assert config.train.batch_size >= 2
    net = ctseg.create_model(architecture, in_channels=1, out_channels=2, **config.model.options)
    with torch.inference_mode():
        assert net.eval()(torch.zeros(1, 1, *patch)).shape == (1, 2, *patch)


def test_what_the_user_set_is_kept():
    config = parse_config(
        {
            "train": {"patch_zyx": [16, 32, 32], "batch_size": 3, "lr": 0.5, "weight_decay": 0.25},
            "model": {"options": {"features": [6, 12, 24]}},
            "predict": {
                "tile_zyx": [32, 32, 32],
                "overlap": 0.25,
                "postprocess": [{"label": "organ", "keep_largest": 1}],
            },
            "loss": {"name": "ce"},
        }
    )
    made, _ = plan(config)
    assert made.train == config.train
    assert made.model.options["features"] == [6, 12, 24]
    assert made.predict.tile_zyx == (32, 32, 32)
    assert made.predict.overlap == 0.25
    assert made.predict.postprocess == config.predict.postprocess != ()
    assert made.loss.name == "ce"


def test_a_loss_must_serve_the_task():
    with pytest.raises(BadInput, match="does not serve"):
        plan(parse_config({"loss": {"name": "bce"}}))


def test_sgd_has_its_own_rates():
    config, _ = plan(parse_config({"train": {"optimizer": "sgd"}}))
    assert config.train.lr == 0.01
    assert config.train.weight_decay == 3e-5


def labelled(tmp_path: Path, values: np.ndarray) -> Case:
    image = Volume.from_array(values.astype(np.float32) * 10, spacing_xyz=(1.0, 1.0, 2.0))
    ctseg.write(image, tmp_path / "i.nii.gz")
    ctseg.write(
        Volume.from_array(values.astype(np.uint8), spacing_xyz=(1.0, 1.0, 2.0)),
        tmp_path / "l.nii.gz",
    )
    return Case("a", (ImageRef(tmp_path / "i.nii.gz"),), ImageRef(tmp_path / "l.nii.gz"))


def test_a_fingerprint_by_hand(tmp_path):
    values = np.zeros((4, 5, 6), np.uint8)
    values[1, 1, :5] = 1
    case = labelled(tmp_path, values)
    made = fingerprint([case], TASK)
    assert made.shapes_zyx == ((4, 5, 6),)
    assert made.median_spacing_zyx == (2.0, 1.0, 1.0)
    assert made.volumes_ml == {"organ": pytest.approx(5 * 2 / 1000)}
    assert made.foreground[0]["mean"] == 10
    assert made.median_shape_at((1.0, 1.0, 1.0)) == (8, 5, 6)


def test_labels_are_found_by_looking(tmp_path):
    values = np.zeros((4, 5, 6), np.uint8)
    values[1], values[2] = 3, 7
    case = labelled(tmp_path, values)
    dataset = DataSet("set", tmp_path, "test", (case,))
    task = find_task(dataset, [case])
    assert [(label.name, label.value) for label in task.labels] == [
        ("background", 0), ("class_3", 3), ("class_7", 7)
    ]  # fmt: skip


def test_nothing_to_learn(tmp_path):
    case = labelled(tmp_path, np.zeros((4, 5, 6)))
    with pytest.raises(BadInput, match="foreground"):
        fingerprint([case], TASK)
    with pytest.raises(BadInput, match="No label value"):
        find_task(DataSet("set", tmp_path, "test", (case,)), [case])
