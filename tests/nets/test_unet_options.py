"""What the options of the 3D U-Nets build, and which are refused. Peers' networks are in tests/conformance."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from ctseg import plugins, testing
from ctseg.errors import ConfigError
from ctseg.nets.blocks import ConvNormAct, Pool, Upsample
from ctseg.nets.config import (
    ResidualUNet3DConfig,
    ResidualUNetSE3DConfig,
    UNet3DConfig,
    unet_constraints,
)
from ctseg.nets.layer_order import parse_layer_order
from ctseg.nets.norm import make_norm
from ctseg.nets.unet import residual_unet3d, unet3d

SMALL = {"features": (4, 6, 8)}


def layers(order: str, **options) -> list[str]:
    config = UNet3DConfig(layer_order=order, **options)
    block = ConvNormAct(3, 5, config, kernel=(3, 3, 3))
    return [type(getattr(block, role)).__name__ for role in block.order]


def test_layers_stand_in_the_order_of_the_letters():
    assert layers("") == ["Conv3d", "InstanceNorm", "LeakyReLU"]
    assert layers("gcr") == ["GroupNorm", "Conv3d", "ReLU"]
    assert layers("cbe") == ["Conv3d", "BatchNorm3d", "ELU"]
    assert layers("icl") == ["InstanceNorm", "Conv3d", "LeakyReLU"]
    assert layers("crgD", dropout=0.1) == ["Conv3d", "ReLU", "GroupNorm", "Dropout3d"]
    assert layers("cdr", dropout=0.1) == ["Conv3d", "Dropout", "ReLU"]


def test_a_norm_before_the_convolution_sees_its_input():
    config = UNet3DConfig(layer_order="gcr", norm_groups=2)
    block = ConvNormAct(4, 6, config, kernel=(1, 3, 3))
    assert block.norm.num_channels == 4
    x = torch.randn(2, 4, 3, 4, 5)
    with torch.no_grad():
        expected = block.conv(block.norm(x)).relu()
        assert torch.equal(block(x), expected)


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("gcx", "'x' stands for no layer"),
        ("gr", "no layer of conv"),
        ("gc", "no layer of activation"),
        ("cgbr", "more than one layer of norm"),
        ("ccr", "more than one layer of conv"),
        ("crl", "more than one layer of activation"),
        ("cdDr", "more than one layer of dropout"),
        ("rcg", "before convolution"),
        ("Drc", "before convolution"),
    ],
)
def test_impossible_orders_are_refused_with_their_mend(order, found):
    with pytest.raises(ConfigError, match=found) as caught:
        parse_layer_order(order)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"layer_order": "gcr", "norm": "batch"}, "norm"),
        ({"layer_order": "gcr", "activation": "elu"}, "activation"),
        ({"layer_order": "gcr", "dropout": 0.1}, "no dropout"),
        ({"layer_order": "gcr "}, "' ' stands for no layer"),
        ({"leaky_slope": -0.1}, "leaky_slope"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"downsampling": "min"}, "downsampling"),
        ({"widen": "never"}, "widen"),
        ({"skip": "sum", "upsampling_keeps_width": True}, "different widths"),
        ({"encoder_convs": (2, 2)}, "4 levels"),
        ({"decoder_convs": (2, 0, 2)}, "3 levels"),
        ({"dropouts": (0.1,)}, "2 probabilities"),
        ({"dropouts": (0.1, 1.0)}, "2 probabilities"),
    ],
)
def test_impossible_options_are_refused_with_their_mend(options, found):
    with pytest.raises(ConfigError, match=found) as caught:
        UNet3DConfig(**options)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"block": "projected"}, "no stride"),
        ({"block": "bottleneck"}, "block"),
        ({"decoder_block": "none"}, "decoder_block"),
        ({"decoder_convs": (1,)}, "3 levels"),
        ({"stem_features": -1}, "stem_features"),
        ({"excitation": "both"}, "excitation"),
        ({"excitation_place": "stem"}, "excitation_place"),
        ({"excitation_reduction": 0}, "excitation_reduction"),
    ],
)
def test_impossible_residual_options_are_refused_with_their_mend(options, found):
    with pytest.raises(ConfigError, match=found) as caught:
        ResidualUNetSE3DConfig(**options)
    assert caught.value.hint


COMMON = [
    {"layer_order": "gcr"},
    {"layer_order": "crgd", "dropout": 0.2},
    {"downsampling": "max"},
    {"downsampling": "avg", "strides_zyx": ((1, 2, 2), (2, 2, 2))},
    {"upsampling": "transposed_overlap", "strides_zyx": ((1, 2, 2), (3, 2, 2))},
    {"upsampling": "nearest"},
    {"upsampling": "nearest", "upsampling_keeps_width": True, "skip": "concat_skip_first"},
    {"upsampling": "trilinear", "upsampling_keeps_width": True},
    {"upsampling_keeps_width": True, "decoder_convs": (1, 3), "deep_supervision": True},
]
PLAIN = [
    {"widen": "gradual", "encoder_convs": (1, 2, 3)},
    {"dropouts": (0.0, 0.3)},
]
RESIDUAL = [
    {"block": "projected", "downsampling": "max"},
    {"decoder_block": "residual", "stem": False},
    {"stem_features": 5, "blocks_per_level": (1, 2, 1)},
]


@pytest.mark.parametrize("options", COMMON + PLAIN, ids=str)
def test_plain_networks_keep_the_contract(options):
    config = UNet3DConfig(**SMALL, **options)
    testing.check_architecture(plugins.architecture("unet3d"), config=config, overfit=False)


@pytest.mark.parametrize("options", COMMON + RESIDUAL, ids=str)
def test_residual_networks_learn(options):
    torch.manual_seed(0)
    config = ResidualUNet3DConfig(**{"blocks_per_level": (1, 1, 1), **SMALL, **options})
    net = residual_unet3d(config, in_channels=2, out_channels=3)
    shape = [2 * s for s in unet_constraints(config).stride_zyx]
    outputs = net(torch.randn(2, 2, *shape))
    finest = outputs[0] if isinstance(outputs, tuple) else outputs
    assert finest.shape == (2, 3, *shape)
    torch.stack(
        [y.square().mean() for y in (outputs if config.deep_supervision else [outputs])]
    ).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("excitation", ["channel", "spatial", "concurrent"])
@pytest.mark.parametrize("place", ["branch", "output"])
def test_excited_networks_keep_the_contract(excitation, place):
    block = {"block": "projected", "downsampling": "max"} if place == "output" else {}
    config = ResidualUNetSE3DConfig(
        features=(4, 6, 8), blocks_per_level=(1, 1, 1), excitation=excitation, excitation_place=place,
        decoder_block="residual", **block,
    )  # fmt: skip
    spec = plugins.architecture("residual_unet_se3d")
    testing.check_architecture(spec, config=config, overfit=False)


def test_convolutions_of_each_level():
    config = UNet3DConfig(**SMALL, encoder_convs=(1, 2, 3), decoder_convs=(4, 5))
    net = unet3d(config, in_channels=1, out_channels=2)
    assert [len(level) for level in net.encoder] == [1, 2, 3]
    assert [len(level) for level in net.decoder] == [5, 4]  # the decoder goes up


def test_dropout_of_each_convolution():
    net = unet3d(UNet3DConfig(**SMALL, dropouts=(0.0, 0.3)), in_channels=1, out_channels=2)
    assert all(isinstance(level[0].dropout, nn.Identity) for level in net.encoder)
    assert all(level[1].dropout.p == 0.3 for level in net.encoder)


def test_the_network_of_cicek_has_the_parameters_of_its_paper():
    """19,069,955: "in total 19069955 parameters" (arXiv:1606.06650, section 2).

    The paper's number counts the weights and biases of convolutions and the weights of up-convolutions.
    """
    config = UNet3DConfig(
        features=(64, 128, 256, 512),
        widen="gradual",
        layer_order="cbr",
        downsampling="max",
        upsampling_keeps_width=True,
        skip="concat_skip_first",
    )
    net = unet3d(config, in_channels=3, out_channels=3)
    counted = [
        p.numel()
        for name, p in net.named_parameters()
        if ".norm." not in name and not (name.startswith("upsamplers") and name.endswith("bias"))
    ]
    assert sum(counted) == 19_069_955


def test_group_norm_has_one_group_where_channels_are_few():
    assert make_norm("group", 4, groups=8).num_groups == 1
    assert make_norm("group", 12, groups=8).num_groups == 4
    assert make_norm("group", 16, groups=8, eps=1e-3).eps == 1e-3


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_keeps_the_type(kind):
    x = torch.randn(1, 3, 4, 4, 6)
    assert Pool(kind, (1, 2, 2))(x.bfloat16()).dtype == torch.bfloat16
    assert Pool(kind, (2, 2, 3))(x).shape == (1, 3, 2, 2, 2)


def test_every_upsampling_multiplies_the_size():
    x = torch.randn(1, 4, 2, 3, 5)
    for mode in ("transposed", "transposed_overlap", "trilinear", "nearest"):
        for keep in (False, True):
            config = UNet3DConfig(upsampling=mode, upsampling_keeps_width=keep)
            y = Upsample(4, 4 if keep else 2, config, stride=(1, 2, 3))(x)
            assert y.shape == (1, 4 if keep else 2, 2, 6, 15)


def test_overlapping_upsampling_with_and_without_gradients_agree():
    config = UNet3DConfig(upsampling="transposed_overlap")
    upsample = Upsample(3, 2, config, stride=(1, 2, 2))
    nn.init.normal_(upsample.conv.bias)
    x = torch.randn(1, 3, 2, 3, 4)
    with torch.no_grad():
        plain = upsample(x)
    assert torch.allclose(upsample(x), plain, atol=1e-6)


def test_options_survive_replacement():
    config = ResidualUNetSE3DConfig(**SMALL, excitation="channel")
    assert dataclasses.replace(config, deep_supervision=True).excitation == "channel"


@pytest.mark.parametrize(
    "options",
    [
        {"decoder_convs": (65535, 2)},
        {"encoder_convs": (2, 2, 101)},
        {"convs_per_level": 10**9},
        {"features": (4,) * 33},
        {"features": (4, 2**63 - 1, 4)},
        {"kernels_zyx": ((3, 3, 2**64 + 1),) * 3},
        {"strides_zyx": ((1, 10**30, 1),) * 2},
    ],
)
def test_more_layers_than_any_network_has_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        UNet3DConfig(**{**SMALL, **options})
    with pytest.raises(ConfigError, match="blocks_per_level"):
        ResidualUNet3DConfig(**SMALL, blocks_per_level=(1, 1, 10**6))
