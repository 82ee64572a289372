"""Models that name a coarse model on their card."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import ctseg
from ctseg.card import CoarseStage
from ctseg.engine.evaluation.evaluate import evaluate
from ctseg.engine.inference.cascade import Cascade
from ctseg.errors import BadInput, ConfigError, UnknownName
from ctseg.zoo.publish import publish


def test_a_published_model_brings_its_first_stage(make_run, dataset: Path, tmp_path: Path) -> None:
    run = make_run()
    publish(run, tag="where_v1", measure=False)
    stage = CoarseStage(model="unet3d.where_v1", margin_mm=6.0)
    entry = publish(run, tag="what_v1", stages=[stage])
    assert entry.card().stages == (stage,)
    model = ctseg.load("unet3d.what_v1", device="cpu", precision="fp32")
    assert isinstance(model.model, Cascade)
    assert model.model.stages[0].margin_mm == 6.0
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
    assert isinstance(wider.model, Cascade)
    assert wider.model.stages[0].margin_mm == 33.0
    other = ctseg.load(
        "unet3d.what_v1", device="cpu", coarse="unet3d.where_v1", coarse_labels=["ball"]
    )
    assert isinstance(other.model, Cascade)
    assert other.model.stages[0].labels == ("ball",)


def test_the_name_of_a_stage_is_a_zoo_name() -> None:
    from ctseg.config.checking import validate

    with pytest.raises(ConfigError, match="model"):
        validate(CoarseStage, {"model": "../../weights"}, where="the card")


def test_stages_that_lead_in_a_circle_are_refused(make_run) -> None:
    run = make_run()
    publish(run, tag="a", measure=False)
    publish(run, tag="b", stages=[CoarseStage(model="unet3d.a")], measure=False)
    for stage in (
        "unet3d.a",
        "unet3d.b",
    ):  # itself, and the one that looks where it finds something
        with pytest.raises(BadInput, match="circle"):
            publish(run, tag="a", stages=[CoarseStage(model=stage)], measure=False, overwrite=True)
    assert isinstance(ctseg.load("unet3d.b", device="cpu").model, Cascade)


def test_a_circle_that_was_made_by_hand_is_refused_when_it_is_loaded(
    make_run, own_zoo: Path
) -> None:
    run = make_run()
    publish(run, tag="a", measure=False)
    publish(run, tag="b", stages=[CoarseStage(model="unet3d.a")], measure=False)
    other = own_zoo.parent / "other"
    publish(run, tag="b", measure=False, zoo=other)
    publish(run, tag="a", stages=[CoarseStage(model="unet3d.b")], measure=False, zoo=other)
    shutil.rmtree(own_zoo / "unet3d.a")
    (other / "unet3d.a").rename(own_zoo / "unet3d.a")
    with pytest.raises(BadInput, match=r"unet3d\.a looks where unet3d\.b looks where unet3d\.a"):
        ctseg.load("unet3d.a", device="cpu")


def test_models_that_look_in_one_place_are_averaged_there(make_run) -> None:
    run = make_run()
    publish(run, tag="where", measure=False)
    publish(run, tag="whole", measure=False)
    stage = CoarseStage(model="unet3d.where", margin_mm=6.0)
    for tag in ("a", "b"):
        publish(make_run(tag, seed=3), tag=tag, stages=[stage], measure=False)
    both = ctseg.load(["unet3d.a", "unet3d.b"], device="cpu")
    assert isinstance(both.model, Cascade)
    assert both.model.stages[0].margin_mm == 6.0
    with pytest.raises(BadInput, match="different coarse models"):
        ctseg.load(["unet3d.a", "unet3d.whole"], device="cpu")
    named = ctseg.load(["unet3d.a", "unet3d.whole"], device="cpu", coarse="unet3d.where")
    assert isinstance(named.model, Cascade)


def test_what_would_have_no_effect_is_refused(make_run) -> None:
    publish(make_run(), tag="v1", measure=False)
    with pytest.raises(BadInput, match="--coarse"):
        ctseg.load("unet3d.v1", device="cpu", margin_mm=5.0)
    with pytest.raises(BadInput, match="--coarse"):
        ctseg.load("unet3d.v1", device="cpu", coarse_labels=["ball"])
    for margin in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="margin"):
            ctseg.load("unet3d.v1", device="cpu", coarse="unet3d.v1", margin_mm=margin)
    with pytest.raises(BadInput, match="No model"):
        ctseg.load([])


def test_a_folder_at_hand_does_not_stand_in_for_a_published_stage(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(make_run(), tag="where", measure=False)
    stage = CoarseStage(model="unet3d.where")
    publish(make_run("what"), tag="what", stages=[stage], measure=False)
    make_run("unet3d.where", seed=9)  # a run of that name
    monkeypatch.chdir(tmp_path)
    model = ctseg.load("unet3d.what", device="cpu")
    assert isinstance(model.model, Cascade)
    assert model.model.stages[0].model.card.name == "unet3d.where"
