"""MedNeXt against MONAI's, which follows the authors' code. What every network must do is in test_registry_networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctseg.errors import ConfigError
from ctseg.nets.config import unet_constraints
from ctseg.nets.mednext import mednext
from ctseg.nets.mednext_config import MedNeXtConfig, mednext_from_plan
from ctseg.specs import NetworkPlan

SIDE = 32
PARTS = {"depthwise": "conv1", "norm": "norm", "widen": "conv2", "narrow": "conv3"}


def fill(ours: nn.Module, theirs: nn.Module) -> None:
    """Give our block the weights of theirs."""
    for mine, yours in PARTS.items():
        getattr(ours, mine).load_state_dict(getattr(theirs, yours).state_dict())
    if hasattr(theirs, "res_conv"):
        ours.shortcut.load_state_dict(theirs.res_conv.state_dict())


def fill_level(ours: nn.Sequential, theirs: nn.Sequential) -> None:
    for one, two in zip(ours, theirs, strict=True):
        fill(one, two)


@pytest.mark.parametrize(
    "size",
    ["small", "base", *(pytest.param(s, marks=pytest.mark.slow) for s in ("medium", "large"))],
)
def test_the_same_logits_as_monai(size):
    peer = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    variants = {"small": "S", "base": "B", "medium": "M", "large": "L"}
    theirs = peer.mednext.create_mednext(
        variants[size], in_channels=2, out_channels=3, deep_supervision=True
    )
    config = MedNeXtConfig(features=(32, 64, 128, 256, 512), size=size, deep_supervision=True)
    ours = mednext(config, in_channels=2, out_channels=3)
    ours.stem.load_state_dict(theirs.stem.state_dict())
    for number in range(4):
        fill_level(ours.encoder[number], theirs.enc_stages[number])
        fill(ours.down[number], theirs.down_blocks[number])
        fill(ours.up[number], theirs.up_blocks[3 - number])
        fill_level(ours.decoder[number], theirs.dec_stages[3 - number])
    fill_level(ours.encoder[4], theirs.bottleneck)
    outs = [theirs.out_0, *reversed(theirs.out_blocks)]
    for head, out in zip(ours.heads, outs, strict=True):
        head.weight.data = out.conv_out.weight.data.transpose(0, 1)
        head.bias.data = out.conv_out.bias.data
    count = [sum(p.numel() for p in net.parameters()) for net in (ours, theirs)]
    assert count[0] == count[1]
    x = torch.randn(1, 2, SIDE, SIDE, SIDE)
    with torch.no_grad():
        for mine, yours in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_plan_of_thick_slices_gives_flat_kernels_and_strides():
    config = mednext_from_plan(NetworkPlan((12, 64, 64), (4.0, 1.0, 1.0), 1, 2))
    assert config.kernels_zyx[0] == (1, 3, 3) and config.strides_zyx[0] == (1, 2, 2)
    net = mednext(config, in_channels=1, out_channels=2).eval()
    z, y, x = unet_constraints(config).stride_zyx
    scan = torch.zeros(1, 1, 3 * z, y, 2 * x)
    with torch.no_grad():
        assert net(scan).shape == (1, 2, 3 * z, y, 2 * x)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"size": "huge"}, "size"),
        ({"blocks_per_level": (1, 2)}, "blocks_per_level"),
        ({"expansions": (0, 2, 2)}, "expansions"),
        ({"kernels_zyx": ((2, 3, 3),) * 3}, "kernels_zyx"),
    ],
)
def test_wrong_options_are_refused_by_name(options, name):
    with pytest.raises(ConfigError, match=name):
        MedNeXtConfig(features=(4, 8, 8), **options)
