"""Scans that are not what a model was trained on: told or refused before anything is allocated."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.card import TrainingScans, parse_card
from ctseg.cli.app import app
from ctseg.config import PreprocessConfig
from ctseg.data.stream import InMemory, intensity_ranges
from ctseg.engine.inference.cascade import Cascade, CoarseModel
from ctseg.engine.inference.check_scan import modality_named
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.training.run import training_scans_of
from ctseg.errors import BadInput, ConfigError, CtsegWarning
from ctseg.volume.geometry import Geometry
from tests.engine import small_model as small
from tests.volume.formats.dicom import dicom_files

SEEN = TrainingScans(
    spacing_min_zyx=(1.0, 0.5, 0.5), spacing_max_zyx=(3.0, 1.0, 1.0),
    intensity_low=(-1000.0,), intensity_high=(1000.0,),
)  # fmt: skip
MR = SEEN.model_copy(update={"intensity_low": (0.0,), "intensity_high": (900.0,)})
CASE_SCALED = PreprocessConfig(steps=({"kind": "normalise_case"},))


def model(**changes: Any) -> Segmenter:
    card = small.card_of(**{"card_version": 2, "training_scans": SEEN, **changes})
    return Segmenter(card, [small.network_of()], choose("cpu", "fp32"))


def at(spacing_zyx: tuple[float, float, float], array: Any = None) -> ctseg.Volume:
    z, y, x = spacing_zyx
    values = np.random.default_rng(0).normal(0, 400, (8, 9, 10)) if array is None else array
    return ctseg.Volume.from_array(values.astype(np.float32), spacing_xyz=(x, y, z))


def quiet(segmenter: Segmenter, scan: ctseg.Volume) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter.predict(scan)


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 0.5), (3.0, 1.0, 1.0), (5.0, 0.8, 0.8), (1, 2, 2)])
def test_a_spacing_like_those_of_training_says_nothing(spacing):
    quiet(model(), at(spacing))


@pytest.mark.parametrize(
    ("spacing", "factor"), [((3.0, 3.0, 1.0), 3), ((0.2, 0.7, 0.7), 5), ((27.0, 0.7, 0.7), 9)]
)
def test_a_moderate_deviation_is_told(spacing, factor):
    with pytest.warns(CtsegWarning, match=rf"1 to 3 x 0\.5 to 1 x 0\.5 to 1 mm .* {factor} times"):
        model().predict(at(spacing))


@pytest.mark.parametrize("spacing", [(0.001, 0.001, 0.001), (1.0, 10.0, 0.7), (1000, 700, 700)])
def test_a_spacing_far_from_all_of_training_is_refused_with_the_option(spacing):
    with pytest.raises(BadInput, match="the model was trained on scans of") as caught:
        model().predict(at(spacing))
    assert "--option spacing=X,Y,Z" in caught.value.hint
    assert "--set force=true" in caught.value.hint
    forced = model()
    forced.model.force = True
    with pytest.warns(CtsegWarning, match="would be refused without --set force=true"):
        forced.predict(at(spacing))


def test_the_axes_are_compared_as_the_patient_lies():
    turned = ctseg.Volume.from_array(
        np.random.default_rng(0).normal(0, 400, (8, 9, 10)).astype(np.float32),
        spacing_xyz=(3.0, 0.6, 0.6), direction=((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    )  # fmt: skip
    quiet(model(), turned)


SAGITTAL = np.array(((0, 0, 1), (1, 0, 0), (0, 1, 0)))
"""Directions of a scan whose slices, the first axis of its array, follow each other from left to right."""


def stored(spacing_zyx: tuple[float, float, float]) -> ctseg.Volume:
    volume = at(spacing_zyx)
    return ctseg.Volume(volume.czyx, replace(volume.geometry, direction=SAGITTAL))


def test_without_orientation_spacings_may_be_along_the_axes_as_they_are_stored():
    """An imported model knows the spacings of its files, but not how they lay."""
    thick = TrainingScans(spacing_min_zyx=(3.5, 0.7, 0.7), spacing_max_zyx=(4.0, 0.7, 0.7))
    quiet(model(training_scans=thick), stored((4.0, 0.7, 0.7)))
    quiet(model(training_scans=thick), at((4.0, 0.7, 0.7)))
    with pytest.warns(CtsegWarning, match=r"up to 5\.71 times apart"):
        model(training_scans=thick).predict(stored((0.7, 0.7, 4.0)))
    turned = PreprocessConfig(steps=({"kind": "orient"},))
    with pytest.warns(CtsegWarning, match=r"up to 5\.71 times apart"):
        model(training_scans=thick, preprocess=turned).predict(stored((4.0, 0.7, 0.7)))


def test_a_target_spacing_is_along_the_axes_after_they_are_moved():
    steps = (
        {"kind": "transpose", "order_zyx": [2, 0, 1]},
        {"kind": "resample", "spacing_xyz": [1.0, 1.0, 5.0]},
    )
    moved = model(training_scans=None, preprocess=PreprocessConfig(steps=steps))
    quiet(moved, at((1.0, 1.0, 5.0)))
    with pytest.warns(CtsegWarning, match=r"the model works at 1 x 1 x 5 mm .* 5 times apart"):
        moved.predict(at((5.0, 1.0, 1.0)))


def test_values_are_compared_with_the_steps_where_only_spacings_are_known():
    steps = PreprocessConfig(steps=({"kind": "clip", "low": [-100], "high": [300]},))
    scans = SEEN.model_copy(update={"intensity_low": (), "intensity_high": ()})
    known = model(training_scans=scans, preprocess=steps)
    quiet(known, at((1.0, 1.0, 1.0)))
    with pytest.warns(CtsegWarning, match="expects from -100 to 300"):
        known.predict(at((1.0, 1.0, 1.0), np.linspace(1000, 3000, 720).reshape(8, 9, 10)))


def test_scans_of_several_trainings_are_joined():
    other = TrainingScans(
        spacing_min_zyx=(0.5, 0.6, 0.6), spacing_max_zyx=(2.0, 1.5, 0.9),
        intensity_low=(-500.0,), intensity_high=(2000.0,), modalities=("CT",),
    )  # fmt: skip
    assert TrainingScans.joined([SEEN, None, other]) == TrainingScans(
        spacing_min_zyx=(0.5, 0.5, 0.5), spacing_max_zyx=(3.0, 1.5, 1.0),
        intensity_low=(-1000.0,), intensity_high=(2000.0,), modalities=("CT",),
    )  # fmt: skip
    spacings = other.model_copy(update={"intensity_low": (), "intensity_high": ()})
    both = TrainingScans.joined([SEEN, spacings])
    assert both is not None
    assert both.intensity_low == ()
    assert TrainingScans.joined([None, None]) is None


def test_a_cards_target_spacing_stands_in_for_what_it_does_not_know():
    steps = PreprocessConfig(steps=({"kind": "resample", "spacing_xyz": [0.002, 0.002, 0.002]},))
    old = model(training_scans=None, preprocess=steps)
    quiet(old, at((0.005, 0.005, 0.005)))
    with pytest.raises(BadInput, match="the model works at 2 x 2 x 2 um"):
        old.predict(at((1.0, 1.0, 1.0)))


def test_a_grid_that_cannot_be_meant_is_refused_before_it_is_made():
    seen = SEEN.model_copy(update={"spacing_min_zyx": (0.001,) * 3})
    steps = PreprocessConfig(steps=({"kind": "resample", "spacing_xyz": [0.001, 0.001, 0.001]},))
    with pytest.raises(BadInput, match="8000 x 9000 x 10000 voxels") as caught:
        model(training_scans=seen, preprocess=steps).predict(at((1.0, 1.0, 1.0)))
    assert "spacing=" in caught.value.hint


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-1000, 1000, False), (-200, 300, False), (-1000, 2800, False),
        (0, 1, True), (1500, 3000, True), (-1000, 9000, True), (-9000, 0, True),
    ],
)  # fmt: skip
def test_values_far_outside_those_of_training_are_told(low, high, told):
    scan = at((2.0, 0.7, 0.7), np.linspace(low, high, 720).reshape(8, 9, 10))
    if told:
        with pytest.warns(CtsegWarning, match="values of the channel CT lie from"):
            model().predict(scan)
    else:
        quiet(model(), scan)


def test_values_below_zero_are_told_where_training_had_none():
    segmenter = model(training_scans=MR, preprocess=CASE_SCALED, channels=("T1",))
    quiet(segmenter, at((2.0, 0.7, 0.7), np.linspace(0, 9e4, 720).reshape(8, 9, 10)))
    with pytest.warns(CtsegWarning, match="channel T1 lie from"):
        segmenter.predict(at((2.0, 0.7, 0.7), np.linspace(-1000, 1500, 720).reshape(8, 9, 10)))


def test_an_old_card_tells_values_by_its_own_steps():
    steps = PreprocessConfig(steps=({"kind": "clip", "low": [-100], "high": [300]},))
    old = model(training_scans=None, preprocess=steps)
    quiet(old, at((1.0, 1.0, 1.0)))
    with pytest.warns(CtsegWarning, match="expects from -100 to 300"):
        old.predict(at((1.0, 1.0, 1.0), np.linspace(1000, 3000, 720).reshape(8, 9, 10)))


@pytest.mark.parametrize(
    ("channel", "modality"),
    [("CT", "CT"), ("T1w", "MR"), ("flair", "MR"), ("MRI", "MR"), ("t2_spir", "MR"), ("PET", "PT"),
     ("CBCT", "CT"), ("image", ""), ("contrast", ""), ("electron", ""), ("raw", "")],
)  # fmt: skip
def test_modalities_by_the_names_of_channels(channel, modality):
    assert modality_named(channel) == modality


@pytest.mark.parametrize(
    ("channels", "seen", "modality", "told"),
    [
        (("T1",), None, "CT", True), (("T1",), None, "MR", False), (("CT",), None, "MR", True),
        (("image",), None, "CT", False), (("image",), ("MR",), "CT", True), (("image",), ("CT",), "", False),
        (("CT",), ("CT", "MR"), "MR", False),
    ],
)  # fmt: skip
def test_another_modality_than_that_of_training_is_told(channels, seen, modality, told):
    scans = None if seen is None else SEEN.model_copy(update={"modalities": seen})
    segmenter = model(training_scans=scans, channels=channels)
    scan = replace(at((2.0, 0.7, 0.7)), metadata={"modality": modality})
    if told:
        with pytest.warns(CtsegWarning, match=f"of the modality {modality}, .* trained on"):
            segmenter.predict(scan)
    else:
        quiet(segmenter, scan)


def test_every_model_of_several_is_asked_and_tells():
    far = at((3.0, 3.0, 1.0))
    one, two = model(), model(training_scans=None)
    for together in (
        Ensemble([two.model, one.model]),
        Cascade(two.model, [CoarseModel(one.model)]),
        Cascade(one.model, region=((0, 5), (0, 5), (0, 5))),
    ):
        segmenter = Segmenter.of(together)
        told: list[str] = []
        segmenter.on_note = told.append
        segmenter.predict(far)
        assert sum("3 times apart" in text for text in told) == 1
        with pytest.raises(BadInput, match="times apart"):
            segmenter.predict(at((1000.0, 1000.0, 1000.0)))


# ---------------------------------------------------------------- from the command line


@pytest.fixture
def micro(tmp_path: Path) -> Path:
    """A model of micrometres, and a scan whose file says millimetres."""
    seen = TrainingScans(spacing_min_zyx=(0.004,) * 3, spacing_max_zyx=(0.006,) * 3)
    steps = PreprocessConfig(steps=({"kind": "resample", "spacing_xyz": [0.005, 0.005, 0.005]},))
    ctseg.engine.model.weights.save_weights(
        tmp_path / "micro.safetensors", small.network_of().state_dict(),
        small.card_of(card_version=2, training_scans=seen, preprocess=steps),
    )  # fmt: skip
    array = np.random.default_rng(0).normal(0, 100, (10, 11, 12)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii.gz")
    ctseg.write(ctseg.Volume.from_array(array), tmp_path / "scan.nrrd")
    return tmp_path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_predict_refuses_and_takes_the_spacing_that_is_given(micro, suffix):
    scan, out = micro / f"scan{suffix}", micro / "out"
    command = ["predict", str(scan), "-m", str(micro / "micro.safetensors"), "-o", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "spacing=X,Y,Z" in " ".join(result.stderr.split())
    assert not list(out.glob(f"*{suffix}"))
    result = CliRunner().invoke(app, [*command, "--option", "spacing=2.5um"])
    assert result.exit_code == 0, result.stderr
    made = ctseg.read(out / scan.name)
    assert made.geometry.spacing_xyz == pytest.approx((0.0025,) * 3)
    assert made.array.shape == ctseg.read(scan).array.shape
    if suffix == ".nii.gz":
        zooms = nib.load(out / scan.name).header.get_zooms()
        assert np.allclose(zooms, 0.0025) or np.allclose(zooms, 2.5)
    said = " ".join(result.stderr.split())
    depth, height, width = (round(n / 2) for n in made.array.shape)
    assert f"planned grid {depth} x {height} x {width} voxels" in said
    assert said.index("planned grid") < said.index("tiles,")
    told = json.loads((out / "predictions.json").read_text())["cases"][0]
    assert told["made_from"][0]["options"] == {"spacing": "2.5um"}
    result = CliRunner().invoke(app, [*command, "--option", "spacing=two"])
    assert result.exit_code == 2
    assert "'two' is not a spacing" in result.stderr


def test_what_is_told_of_a_scan_stays_in_the_record(micro):
    command = ["predict", str(micro / "scan.nrrd"), "-m", str(micro / "micro.safetensors"), "-o"]
    given = ["--option", "spacing=1,1,1um"]
    result = CliRunner().invoke(app, [*command, str(micro / "out"), *given])
    assert result.exit_code == 0, result.stderr
    notes = json.loads((micro / "out" / "predictions.json").read_text())["cases"][0]["notes"]
    assert any("4 times apart" in note for note in notes)
    assert "4 times apart" in " ".join(result.stderr.split())


@pytest.mark.parametrize(("channel", "told"), [("T1", True), ("CT", False)])
def test_the_modality_of_a_dicom_series_is_compared(tmp_path, channel, told):
    array = np.random.default_rng(0).integers(-300, 300, (4, 9, 10)).astype(np.int16)
    for number, plane in enumerate(array):
        made = dicom_files.dataset(plane, position=(0, 0, 2.0 * number), instance=number + 1)
        dicom_files.save(made, tmp_path / "series" / f"{number}.dcm", plane)
    ctseg.engine.model.weights.save_weights(
        tmp_path / "m.safetensors",
        small.network_of().state_dict(),
        small.card_of(channels=(channel,)),
    )
    out = tmp_path / "mask.nii.gz"
    command = [
        "predict",
        str(tmp_path / "series"),
        "-m",
        str(tmp_path / "m.safetensors"),
        "-o",
        str(out),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert (
        "is of the modality CT, the model was trained on MR" in " ".join(result.stderr.split())
    ) is told


# ---------------------------------------------------------------- what training writes down


def test_the_card_of_a_run_holds_what_its_scans_were_like(mini_run):
    card = ctseg.load(mini_run).card
    seen = card.training_scans
    plan = json.loads((mini_run / "plan.json").read_text())
    spacings = np.asarray(plan["fingerprint"]["spacings_zyx"])
    assert seen.spacing_min_zyx == pytest.approx(spacings.min(0))
    assert seen.spacing_max_zyx == pytest.approx(spacings.max(0))
    assert len(seen.intensity_low) == card.in_channels
    assert seen.intensity_low[0] < seen.intensity_high[0]
    assert seen == training_scans_of(mini_run / "plan.json")
    assert training_scans_of(mini_run / "none.json") is None


def test_the_range_of_values_is_that_of_the_slices():
    array = np.random.default_rng(1).normal(50, 20, (2, 40, 60, 70))
    low, high = zip(*intensity_ranges(InMemory(array, Geometry((40, 60, 70)))), strict=True)
    assert low == pytest.approx(np.percentile(array, 0.5, axis=(1, 2, 3)), abs=2)
    assert high == pytest.approx(np.percentile(array, 99.5, axis=(1, 2, 3)), abs=2)


def test_cards_without_ranges_load_and_impossible_ones_are_refused():
    data = json.loads(small.card_of().to_json())
    assert "training_scans" not in data  # so that earlier versions of ctseg read it
    assert parse_card(json.dumps(data), where="here").training_scans is None
    for wrong in (
        {"spacing_min_zyx": [2, 1, 1], "spacing_max_zyx": [1, 1, 1]},
        {"spacing_min_zyx": [0, 1, 1], "spacing_max_zyx": [1, 1, 1]},
        {"spacing_min_zyx": [1, 1, 1], "spacing_max_zyx": [1, 1, 1], "intensity_low": [3]},
    ):
        data |= {"training_scans": wrong, "card_version": 2}
        with pytest.raises(ConfigError, match="training_scans"):
            parse_card(json.dumps(data), where="here")


def test_an_unknown_key_of_another_version_says_how_to_go_on():
    data = {**json.loads(small.card_of(ctseg_version="99.1").to_json()), "novelty": 1}
    with pytest.raises(ConfigError) as caught:
        parse_card(json.dumps(data), where="here")
    assert "novelty" in caught.value.message
    assert "ctseg 99.1" in caught.value.hint
    assert "--upgrade" in caught.value.hint
