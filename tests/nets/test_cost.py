"""Operations and memory of networks, against counts by hand and against real tensors."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ctseg import plugins
from ctseg.cli.app import app
from ctseg.nets import cost

VOXELS = 6 * 8 * 10
ONE = 4 * VOXELS  # bytes of one channel


def two_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv3d(5, 3, 1))


def test_counts_by_hand():
    got = cost.measure(two_convolutions, (6, 8, 10), in_channels=2)
    assert got.parameters == (2 * 5 * 27 + 5) + (5 * 3 + 3)
    assert got.weight_bytes == 4 * got.parameters
    assert got.flops == 2 * VOXELS * (2 * 5 * 27 + 5 * 3)
    # input, first convolution, ReLU; then input, ReLU and logits
    assert got.inference_bytes == ONE * (2 + 5 + 5)
    assert got.training_bytes == ONE * (2 + 5)  # the input and the ReLU's output, shared by two
    gradients = 4 * got.parameters
    assert ONE * (2 + 5 + 3 + 3) < got.step_bytes <= ONE * (2 + 5 + 5 + 3 + 5) + gradients


def test_buffers_are_weights_and_views_are_counted_once():
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(7))
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x.transpose(2, 3).transpose(2, 3).expand(-1, 3, -1, -1, -1) * 1.0

    net = Views()
    got = cost._measure(
        net.requires_grad_(False).eval(), torch.zeros(1, 1, 6, 8, 10).requires_grad_()
    )
    assert got.weight_bytes == 4 * 10
    assert got.inference_bytes == ONE * (1 + 3)


@pytest.mark.parametrize(
    ("name", "options", "patch"),
    [
        ("unet3d", {"features": (4, 6)}, (8, 8, 16)),
        ("unet2d", {"features": (4, 6)}, (3, 16, 16)),
        ("timm_unet", {"encoder": "resnet18", "levels": 2}, (3, 16, 16)),
    ],
)
def test_tensors_without_data_cost_what_real_ones_do(name, options, patch):
    spec = plugins.architecture(name)
    config = plugins.make_config(spec, options)

    def build():
        return spec.build(config, in_channels=1, out_channels=2)

    one = cost.measure(build, patch, in_channels=1)
    two = cost._measure(build(), torch.zeros(1, 1, *patch))
    assert (one.flops, one.parameters, one.weight_bytes) == (
        two.flops,
        two.parameters,
        two.weight_bytes,
    )
    assert one.inference_bytes == pytest.approx(two.inference_bytes, rel=0.05)
    assert one.training_bytes == pytest.approx(two.training_bytes, rel=0.05)
    assert one.training_bytes < one.step_bytes
    assert one.inference_bytes < one.step_bytes


def test_networks_that_look_at_values_are_run_for_real():
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 1)

        def forward(self, x):
            return self.conv(x) if float(x.sum()) < 1 else x

    assert cost.measure(Looks, (4, 4, 4), in_channels=1).flops == 2 * 64 * 2


def shown(*arguments: str, code: int = 0):
    done = CliRunner().invoke(app, ["architectures", "show", *arguments])
    assert done.exit_code == code, done.output
    return done


def test_show_counts_a_patch():
    small = ("--set", "features=[4, 6]", "--set", "model.options.dropout=0.1")
    arguments = ("unet3d", "--patch", "8,8,16", "--in-channels", "2", "--out-channels", "3", *small)
    done = json.loads(shown(*arguments, "--json").stdout)
    assert done["config"]["features"] == [4, 6]
    assert done["config"]["dropout"] == 0.1
    assert done["parameters"] == done["cost"]["parameters"]
    assert done["cost"]["patch_zyx"] == [8, 8, 16]
    assert done["cost"]["flops"] > 2 * 1024 * (2 * 4 + 4 * 4) * 27
    text = shown(*arguments).stdout
    assert "2 image channels, 3 outputs, options as given" in text
    assert "8 x 8 x 16 voxels" in text
    assert "GFLOP" in text
    assert "add --patch" in shown("unet3d", *small).stdout
    flat = shown("timm_unet", "--set", "levels=2", "--set", "context_slices=0").stdout
    assert "neighbouring slices as context: none" in flat


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--patch", "8,8,9"), "--patch 8,8,16"),
        (("--patch", "8,8"), "three numbers"),
        (("--patch", "0,8,8"), "positive"),
        (("--set", "features"), "OPTION=VALUE"),
        (("--set", "fetures=[1, 2]"), "Did you mean 'features'"),
        (("--in-channels", "0"), "in-channels"),
    ],
)
def test_show_refuses_what_does_not_fit(arguments, message):
    assert message in shown("unet3d", *arguments, code=2).output
