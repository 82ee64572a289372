"""`publish --int8`: ranges of scans that trained, kept or left out by the Dice of those that did not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import ModelConfig, RunConfig, dump_config, load_config
from ctseg.engine.model.create import create_model
from ctseg.engine.model.runtime import has_openvino
from ctseg.engine.model.weights import read_card, read_weights, save_weights
from ctseg.errors import BadInput
from ctseg.zoo import publish_int8
from ctseg.zoo.publish import publish
from ctseg.zoo.verify import verify

OPTIONS = {"features": [8, 8]}


@pytest.fixture
def wide_run(make_run, monkeypatch, tmp_path) -> Path:
    """A run whose network has convolutions that are worth it."""
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))
    run = make_run()
    torch.manual_seed(0)
    net = create_model("unet3d", in_channels=1, out_channels=3, features=(8, 8))
    _, card = read_weights(run / "best.safetensors")
    save_weights(
        run / "best.safetensors", net.state_dict(), card.model_copy(update={"options": OPTIONS})
    )
    config: RunConfig = load_config(run / "config.toml")
    changed = config.model_copy(update={"model": ModelConfig(options=OPTIONS)})
    (run / "config.toml").write_text(dump_config(changed))
    return run


@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
def test_published_ranges_are_those_of_the_training_scans(
    wide_run, dataset, own_zoo, monkeypatch, tmp_path
):
    monkeypatch.setattr(publish_int8, "LOSS", 1.0)
    result = CliRunner().invoke(app, ["zoo", "publish", str(wide_run), "--tag", "v1", "--int8"])
    assert result.exit_code == 0, result.output
    folder = own_zoo / "unet3d.v1"
    card = read_card(folder / "weights.safetensors")
    assert card.int8 is not None and card.card_version == 2
    assert f"int8: mean Dice {card.int8.mean_dice:.4f}" in result.stderr
    assert (
        f"With `--precision int8` the mean Dice is {card.int8.mean_dice:.4f}"
        in (folder / "README.md").read_text()
    )
    assert all(check.sound for check in verify(["unet3d.v1"], own_zoo))

    # the same by a hook of our own: the largest input of one layer in the two scans that train
    segmenter = ctseg.load("unet3d.v1", device="cpu", precision="fp32")
    network, seen = segmenter.networks[0], []
    name = next(iter(card.int8.inputs["weights.safetensors"]))
    layer = network.get_submodule(name)
    handle = layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].clone()))
    for scan in ("ball_2", "ball_3"):
        segmenter.predict(ctseg.read(dataset / "imagesTr" / f"{scan}.nii.gz"))
    handle.remove()
    values = torch.cat([x.flatten() for x in seen])
    expected = (float(values.min()), float(values.max()))
    assert card.int8.inputs["weights.safetensors"][name] == pytest.approx(expected, rel=1e-5)

    # and a prediction uses them
    scan = dataset / "imagesTr" / "ball_0.nii.gz"
    out = tmp_path / "out"
    command = ["predict", str(scan), "-m", "unet3d.v1", "-o", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert result.exit_code == 0, result.output
    record = json.loads((out / "predictions.json").read_text())
    assert (record["settings"]["precision"], record["settings"]["backend"]) == ("int8", "openvino")
    assert record["cases"][0]["computed_by"][0].startswith("openvino ")
    found = ctseg.read(next(out.glob("*.nii.gz"))).array
    assert (found == segmenter.predict(ctseg.read(scan)).array).mean() > 0.9


@pytest.mark.slow
@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
def test_ranges_are_left_out_where_dice_is_lost(wide_run, monkeypatch):
    monkeypatch.setattr(publish_int8, "LOSS", -2.0)  # int8 would have to be better by 2
    result = CliRunner().invoke(app, ["zoo", "publish", str(wide_run), "--tag", "v1", "--int8"])
    assert result.exit_code == 0 and "int8 left out: mean Dice" in result.stderr
    with pytest.raises(BadInput, match="lost too much Dice"):
        ctseg.load("unet3d.v1", device="cpu", precision="int8")
    shown = CliRunner().invoke(app, ["zoo", "show", "unet3d.v1"])
    assert "int8 left out" in shown.stdout


@pytest.mark.parametrize(
    ("with_it", "kept"), [(0.8, True), (0.7991, True), (0.7989, False), (None, False)]
)
def test_a_thousandth_of_dice_may_be_lost(with_it, kept):
    from ctseg.card import Metrics
    from ctseg.card_int8 import Int8
    from tests.engine.small_model import card_of

    ranges = {"w": {"conv": (0.0, 1.0)}}
    card = card_of(card_version=2, int8=Int8(inputs=ranges), metrics=Metrics(mean_dice=0.8))
    found = publish_int8.judged(card, Metrics(dice={"bright": 0.5}, mean_dice=with_it)).int8
    assert found.inputs == (ranges if kept else {})
    assert (found.mean_dice, found.dice) == (with_it, {"bright": 0.5})


def test_what_cannot_be_decided_is_refused_beforehand(make_run, own_zoo, monkeypatch):
    run = make_run()
    with pytest.raises(BadInput, match="must be measured"):
        publish(run, tag="v1", int8=True, measure=False)
    monkeypatch.setattr("ctseg.engine.model.runtime.has_openvino", lambda: False)
    with pytest.raises(BadInput, match="openvino is not installed"):
        publish(run, tag="v1", int8=True)
    monkeypatch.setattr("ctseg.engine.model.runtime.has_openvino", lambda: True)
    with pytest.raises(BadInput, match="no convolutions that int8 makes faster"):
        publish(run, tag="v1", int8=True)
    assert not list(own_zoo.glob("unet3d*"))


def test_a_regression_is_refused():
    from ctseg.config import TaskConfig
    from tests.engine.small_model import card_of

    task = TaskConfig.model_validate(
        {"kind": "regression", "labels": [{"name": "dose", "values": [], "value": 0}]}
    )
    with pytest.raises(BadInput, match="judged by Dice"):
        publish_int8.check_int8(card_of(task=task, out_channels=1), measure=True)


@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
def test_verify_finds_ranges_of_another_network(make_run, own_zoo):
    entry = publish(make_run(), tag="v1", measure=False)
    file = entry.folder / "weights.safetensors"
    tensors, card = read_weights(file)
    from ctseg.card_int8 import Int8

    wrong = card.model_copy(
        update={"card_version": 2, "int8": Int8(inputs={file.name: {"nowhere": (0.0, 1.0)}})}
    )
    save_weights(file, tensors, wrong)
    (entry.folder / "card.json").write_text(wrong.to_json() + "\n")
    (check,) = verify(["unet3d.v1"], own_zoo)
    assert any("'nowhere', which is no convolution" in text for text in check.problems)
