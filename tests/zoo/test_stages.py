"""Models that name a first stage on their card."""

from __future__ import annotations

from pathlib import Path

import pytest

import ctseg
from ctseg.card import CoarseStage
from ctseg.engine.evaluate import evaluate
from ctseg.engine.stages import Staged
from ctseg.errors import ConfigError, UnknownName
from ctseg.zoo.publish import publish


def test_a_published_model_brings_its_first_stage(make_run, dataset: Path, tmp_path: Path) -> None:
    run = make_run()
    publish(run, tag="where_v1", measure=False)
    stage = CoarseStage(model="unet3d.where_v1", margin_mm=6.0)
    entry = publish(run, tag="what_v1", stages=[stage])
    assert entry.card().stages == (stage,)
    model = ctseg.load("unet3d.what_v1", device="cpu", precision="fp32")
    assert isinstance(model, Staged)
    assert model.stages[0].margin_mm == 6.0
    for name in ("ball_0", "ball_1"):
        model.predict_file(dataset / "imagesTr" / f"{name}.nii.gz", tmp_path / f"{name}.nii.gz")
    report = evaluate(tmp_path, dataset, cases=["ball_0", "ball_1"])
    # the card's figures are those of both stages together
    assert entry.card().metrics.dice == pytest.approx(report.dice, abs=0)


def test_a_stage_that_nobody_published_is_refused(make_run) -> None:
    with pytest.raises(UnknownName, match=r"unet3d\.nowhere_v1"):
        publish(make_run(), tag="what_v1", stages=[CoarseStage(model="unet3d.nowhere_v1")])


def test_another_stage_or_margin_than_the_cards(make_run) -> None:
    run = make_run()
    publish(run, tag="where_v1", measure=False)
    publish(run, tag="what_v1", stages=[CoarseStage(model="unet3d.where_v1")], measure=False)
    wider = ctseg.load("unet3d.what_v1", device="cpu", margin_mm=33.0)
    assert isinstance(wider, Staged)
    assert wider.stages[0].margin_mm == 33.0
    other = ctseg.load(
        "unet3d.what_v1", device="cpu", coarse="unet3d.where_v1", coarse_labels=["ball"]
    )
    assert isinstance(other, Staged)
    assert other.stages[0].labels == ("ball",)


def test_the_name_of_a_stage_is_a_zoo_name() -> None:
    from ctseg.checking import validate

    with pytest.raises(ConfigError, match="model"):
        validate(CoarseStage, {"model": "../../weights"}, where="the card")
