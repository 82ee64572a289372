"""Slice-wise networks from the command line: planned, trained, resumed and predicted with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import load_config, parse_config
from ctseg.engine.model.weights_header import read_card
from ctseg.nets.timm_import import timm
from ctseg.planning.choices import usual_budget
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.limits import Limits
from ctseg.planning.plan import make_plan
from ctseg.task import classes_task

STATISTICS = {
    "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0, "std": 30.0,
}  # fmt: skip


def plan(shape, spacing, architecture="unet2d", options=None, vary=0.0, **more):
    cases = 9
    spacings = tuple((spacing[0] * (1 + vary * (i - 4) / 4), *spacing[1:]) for i in range(cases))
    found = Fingerprint((shape,) * cases, spacings, (STATISTICS,), {"organ": 10.0}, cases)
    config = parse_config(
        {"model": {"architecture": architecture, "options": options or {}}} | more
    )
    return make_plan(config, classes_task({"organ": 1}), ("CT",), found, Limits("cpu"))


@pytest.mark.parametrize(
    ("architecture", "options", "least"),
    [("unet2d", {}, 1), ("timm_unet", {}, 3), ("timm_unet", {"context_slices": 3}, 7)],
)
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((20, 320, 320), (5.0, 0.6, 0.6)),
        ((2, 512, 512), (8.0, 0.8, 0.8)),
        ((36, 50, 35), (1, 1, 1)),
    ],
)
def test_patches_are_large_in_the_plane_and_few_slices_deep(
    architecture, options, least, shape, spacing
):
    config, made = plan(shape, spacing, architecture, options)
    z, y, x = config.train.patch_zyx
    assert least <= z <= max(shape[0], least)
    assert y * x >= min(64 * 64, shape[1] * shape[2])
    assert z * y * x <= 2.5 * usual_budget("cpu").patch_voxels
    assert 2 <= config.train.batch_size <= 16
    assert config.predict.tile_zyx[0] >= z
    assert config.predict.tile_zyx[1:] == (y, x)
    assert all(choice["reason"] for choice in made.choices.values())
    if architecture == "unet2d":
        assert {stride[0] for stride in config.model.options["strides_zyx"]} == {1}
    net = ctseg.create_model(architecture, in_channels=1, out_channels=2, **config.model.options)
    with torch.inference_mode():
        assert net.eval()(torch.zeros(1, 1, z, y, x)).shape == (1, 2, z, y, x)


def test_slices_stay_where_they_are():
    config, _ = plan((20, 64, 64), (5.0, 0.8, 0.8), vary=0.3)
    assert [step["kind"] for step in config.preprocess.steps] == ["orient", "clip", "normalise"]
    config, made = plan((30, 512, 512), (5.0, 0.6, 0.6), vary=0.3)
    x, y, z = config.preprocess.steps[1]["spacing_xyz"]
    assert z == 0  # as stored
    assert x == y > 0.6
    assert "sees more than" in made.choices["target_spacing_zyx"]["reason"]
    config, _ = plan((30, 512, 512), (5.0, 0.6, 0.6), preprocess={"spacing_xyz": [1.0, 1.0, 3.0]})
    assert config.preprocess.steps[1]["spacing_xyz"] == [1.0, 1.0, 3.0]


def run(*command: str) -> str:
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("unet2d", ["model.options.features=[8, 16]"]),
        ("timm_unet", ["model.options.levels=2", "model.options.features=[8, 16]"]),
        ("timm_unet", ["model.options.levels=2", "model.options.encoder=efficientnet_b0"]),
    ],
    ids=["unet2d", "resnet18", "efficientnet_b0"],
)
def test_from_data_to_prediction(architecture, options, mini_set, tmp_path):
    folder = tmp_path / "flat"
    settings = [part for option in options for part in ("--set", option)]
    run(
        "train", mini_set, "-o", folder, "-a", architecture, "--steps", "45", "--batch-size", "4",
        "--patch", "5,16,16", "--lr", "0.02", "--device", "cpu", "--precision", "fp32",
        "--set", "augment.preset=none", *settings,
    )  # fmt: skip
    assert load_config(folder / "config.toml").train.patch_zyx == (5, 16, 16)
    scan, truth = (mini_set / kind / "mini_0.nii.gz" for kind in ("imagesTr", "labelsTr"))
    run("predict", scan, "-m", folder, "-o", tmp_path / "out.nii.gz", "--device", "cpu")
    assert ctseg.evaluate(tmp_path / "out.nii.gz", truth).mean_dice > 0.7


def test_pretrained_weights_start_a_run_and_are_not_needed_again(mini_set, tmp_path):
    torch.manual_seed(3)
    weights = tmp_path / "model.safetensors"
    safetensors.torch.save_file(timm().create_model("resnet18").state_dict(), weights)
    folder = tmp_path / "pretrained"
    options = [
        "-a", "timm_unet", "--set", "model.options.levels=2", "--set", "model.options.features=[4, 8]",
        "--set", f"model.options.encoder_weights={weights}", "--patch", "3,16,16", "--batch-size", "2",
        "--lr", "1e-9", "--set", "train.weight_decay=0", "--set", "train.ema=0", "--device", "cpu",
        "--precision", "fp32",
    ]  # fmt: skip
    run("train", mini_set, "-o", folder, "--steps", "2", *options)
    card = read_card(folder / "best.safetensors")
    assert "encoder_weights" not in card.options
    kept = safetensors.torch.load_file(folder / "best.safetensors")
    theirs = safetensors.torch.load_file(weights)["layer1.0.conv1.weight"]
    own = next(v for k, v in kept.items() if k.endswith("layer1.0.conv1.weight"))
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)

    weights.unlink()
    run("train", "--resume", "-o", folder)
    scan = mini_set / "imagesTr" / "mini_1.nii.gz"
    run("predict", scan, "-m", folder, "-o", tmp_path / "out.nii.gz", "--device", "cpu")
    assert set(np.unique(ctseg.read(tmp_path / "out.nii.gz").array)) <= {0, 1, 2}
    again = CliRunner().invoke(
        app, ["train", str(mini_set), "-o", str(tmp_path / "x"), "--steps", "2", *options]
    )
    assert again.exit_code == 2
    assert "never downloaded" in again.output
    assert not (tmp_path / "x").exists()
    assert json.loads((folder / "plan.json").read_text())["choices"]
