"""Plans for data that are not as they usually are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from ctseg import plugins
from ctseg.config import RunConfig, override
from ctseg.data.pipeline import Pipeline
from ctseg.planning.choices import usual_budget
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.limits import Limits
from ctseg.planning.plan import make_plan
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry

TASK = classes_task({"organ": 1})


def looked(values: np.ndarray, shape=(40, 50, 45), spacings=((1.0, 1.0, 1.0),)) -> Fingerprint:
    low, median, high = np.percentile(values, (0.5, 50, 99.5)).tolist()
    statistics = {
        "percentile_00_5": low, "median": median, "percentile_99_5": high,
        "mean": float(values.mean()), "std": float(values.std()),
    }  # fmt: skip
    count = len(spacings)
    return Fingerprint((shape,) * count, tuple(spacings), (statistics,), {"organ": 10.0}, count)


NOISE = np.random.default_rng(0).normal(40, 30, 10_000)


def plan(found: Fingerprint, *settings: str, channels=("CT",), one_volume=False) -> RunConfig:
    config = override(RunConfig(), settings)
    return make_plan(config, TASK, channels, found, Limits("cpu"), one_volume=one_volume)[0]


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((20, 400, 400), (50.0, 0.1, 0.1)),
        ((20, 400, 400), (30.0, 0.1, 0.1)),
        ((40, 2000, 2000), (5.0, 0.02, 0.02)),
        ((400, 400, 30), (0.01, 0.01, 2.0)),
        ((30, 60, 4000), (50.0, 1.0, 0.05)),
    ],
)
def test_very_thick_slices_do_not_break_the_budget(shape, spacing):
    patch = plan(looked(NOISE, shape, (spacing,) * 3)).train.patch_zyx
    assert patch is not None and min(patch) >= 8
    assert np.prod(patch) <= 1.6 * usual_budget("cpu").patch_voxels


def test_an_axis_that_is_kept_is_kept_in_every_scan():
    spacings = ((1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (5.0, 0.5, 0.5))
    kept = plan(looked(NOISE, spacings=spacings), "preprocess.spacing_xyz=[3, 3, 0]")
    for z, y, x in spacings:
        grid = Pipeline.of(kept.preprocess).typical_grid(Geometry((30, 30, 30), (x, y, z)))
        assert grid.spacing_zyx == pytest.approx((z, 3.0, 3.0))
    all_kept = plan(looked(NOISE, spacings=spacings), "preprocess.spacing_xyz=[0, 0, 0]")
    assert "resample" not in [step["kind"] for step in all_kept.preprocess.steps]


def test_voxels_of_nanometres_are_resampled_to_the_median():
    nanometres = [(z * 1e-6,) * 3 for z in (3.0, 4.5, 4.5)]
    found = looked(NOISE, spacings=tuple(nanometres))
    config, why = make_plan(RunConfig(), TASK, ("CT",), found, Limits("cpu"))
    assert config.preprocess.steps[1]["spacing_xyz"] == pytest.approx([4.5e-6] * 3, rel=1e-5)
    assert why.choices["target_spacing_zyx"]["value"] == pytest.approx([4.5e-6] * 3, rel=1e-3)


# ---------------------------------------------------------------- intensities


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("one_volume", [False, True])
def test_small_numbers_are_normalised_too(scale, one_volume):
    """Attenuation in 1/mm or 1/um, as micro-CT gives it, rather than Hounsfield units."""
    values = NOISE * scale
    steps = Pipeline.of(plan(looked(values), one_volume=one_volume).preprocess).steps
    scan, geometry = values.reshape(1, 20, 20, 25), Geometry((20, 20, 25))
    for step in steps:
        scan = step.image(scan, geometry, {}) if step.kind in ("clip", "normalise") else scan
    assert scan.mean() == pytest.approx(0, abs=0.02)
    assert scan.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("one_volume", [False, True])
def test_a_foreground_of_one_value_is_no_scale(one_volume):
    """A phantom: clipped to the foreground's range every voxel would be the same."""
    config = plan(looked(np.full(100, 1000.0)), one_volume=one_volume)
    assert [step["kind"] for step in config.preprocess.steps] == ["orient", "normalise_case"]


def test_rare_bright_grains_are_not_clipped_away():
    """0.2 % of the voxels: the 99.5th percentile of the scan is noise, and they would be cut off at it."""
    rng = np.random.default_rng(1)
    scan, geometry = rng.normal(0, 1, (1, 40, 50, 50)), Geometry((40, 50, 50))
    grains = rng.random(scan.shape) < 0.002
    scan[grains] += 12
    found = dataclasses.replace(
        looked(scan[grains], (40, 50, 50), ((1.0,) * 3,) * 2), volumes_ml={"organ": 0.2}
    )
    step = Pipeline.of(plan(found, channels=("raw",)).preprocess).steps[1]
    made = step.image(scan, geometry, step.fit(scan, geometry))
    assert made[grains].min() > made[~grains].max()
    usual = dataclasses.replace(found, volumes_ml={"organ": 5.0})
    assert plan(usual, channels=("raw",)).preprocess.steps[1]["percentiles"] == [0.5, 99.5]


# ---------------------------------------------------------------- networks


@dataclass(frozen=True)
class OneNumber:
    """Options of a plugin's network that means something else by `features`."""

    features: int = 4


def test_a_network_may_mean_a_number_by_features(monkeypatch):
    spec = dataclasses.replace(
        plugins.architecture("unet3d"), config=OneNumber, constraints=plugins.architecture("unet3d")
        .constraints_for(plugins.architecture("unet3d").config()), from_plan=lambda _: OneNumber(),
    )  # fmt: skip
    monkeypatch.setattr(plugins, "architecture", lambda name: spec)
    assert plan(looked(NOISE)).model.options == {"features": 4}
    assert plan(looked(NOISE), "model.options.features=8").model.options == {"features": 8}
