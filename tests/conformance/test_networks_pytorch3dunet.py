"""pytorch-3dunet's networks against ours: settings as options, weights under our names, the same logits."""

from __future__ import annotations

import re

import pytest
import torch

from ctseg import plugins
from ctseg.errors import BadInput
from ctseg.nets import se
from ctseg.nets.foreign import pytorch3dunet
from ctseg.nets.foreign.network import ForeignNetwork

model = pytest.importorskip("pytorch3dunet.unet3d.model")

# pytorch-3dunet drops channels of volumes with a layer made for images, which torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore:dropout2d")

CLOSE = 1e-5
UNETS = [
    {"name": "UNet3D"},
    {"name": "UNet3D", "f_maps": [8, 12, 24], "layer_order": "crg", "num_groups": 2},
    {"name": "UNet3D", "layer_order": "cbr", "upsample": "trilinear"},
    {"name": "UNet3D", "layer_order": "cl", "upsample": "deconv"},
    {"name": "UNet3D", "layer_order": "bce", "conv_upscale": 1, "upsample": "area"},
    {"name": "UNet3D", "layer_order": "gcrd", "dropout_prob": [0.2, 0.4], "final_sigmoid": False},
    {"name": "UNet3D", "layer_order": "cDgl", "num_levels": 2, "is_segmentation": False},
    {"name": "UNet3D", "layer_order": "gcrD", "dropout_prob": 0.0, "upsample": "nearest"},
]
RESIDUAL = [
    {"name": "ResidualUNet3D"},
    {"name": "ResidualUNet3D", "layer_order": "cge", "num_levels": 3},
    {"name": "ResidualUNet3D", "layer_order": "gcl", "f_maps": [8, 8, 24]},
    {"name": "ResidualUNet3D", "layer_order": "crd", "upsample": "deconv", "num_levels": 3},
    {"name": "ResidualUNetSE3D"},
    {"name": "ResidualUNetSE3D", "layer_order": "bcl", "num_levels": 3},
    {"name": "ResidualUNetSE3D", "layer_order": "cgrD", "upsample": "deconv", "num_levels": 3},
]


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Norms, running statistics and biases away from their neutral start, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                scale = name.endswith(("norm.weight", "var"))
                tensor.copy_((1 + 0.2 * noise).abs() if scale else 0.2 * noise)
    return net


def described(settings: dict) -> ForeignNetwork:
    return pytorch3dunet.read_config(complete(settings))


def complete(settings: dict) -> dict:
    return {"in_channels": 2, "out_channels": 3, "f_maps": 8, "num_groups": 4, **settings}


def both(settings: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Their network and ours, with the same weights, in evaluation."""
    torch.manual_seed(0)
    reference = randomised(model.get_model(complete(settings))).eval()
    network = described(settings)
    spec = plugins.architecture(network.architecture)
    net = spec.build(
        network.config, in_channels=network.in_channels, out_channels=network.out_channels
    )
    net.load_state_dict(pytorch3dunet.map_state(reference.state_dict(), network), strict=True)
    return reference, net.eval()


def difference(settings: dict, shape: tuple[int, ...]) -> float:
    reference, net = both(settings)
    x = torch.randn(1, 2, *shape)
    with torch.no_grad():
        _, logits = reference(x, return_logits=True)
        found = net(x)
    assert found.shape == logits.shape
    return float((found - logits).abs().max())


@pytest.mark.parametrize("settings", UNETS + RESIDUAL, ids=str)
def test_logits_are_those_of_pytorch_3dunet(settings):
    assert difference(settings, (16, 16, 32)) < CLOSE


@pytest.mark.parametrize("name", ["UNet3D", "ResidualUNet3D", "ResidualUNetSE3D"])
def test_the_real_widths_on_a_small_patch(name):
    settings = {"name": name, "f_maps": 64, "num_groups": 8, "num_levels": 3}
    assert difference(settings, (8, 8, 8)) < CLOSE


def test_gradients_are_theirs():
    """In-place sums and activations, pooling and interpolation under autograd."""
    for settings in (UNETS[0], UNETS[3], RESIDUAL[0], RESIDUAL[4]):
        settings = {**settings, "num_levels": 2}
        reference, net = both(settings)
        x = torch.randn(1, 2, 8, 8, 8)
        reference(x, return_logits=True)[1].square().mean().backward()
        net(x).square().mean().backward()
        theirs = {key: p.grad for key, p in reference.named_parameters()}
        gradients = pytorch3dunet.map_state(theirs, described(settings))
        for key, parameter in net.named_parameters():
            if not re.search(r"upsamplers.*bias", key):  # a bias that theirs does not have
                torch.testing.assert_close(parameter.grad, gradients[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "UNet2D"},
        {"name": "ResidualUNet2D"},
        {"name": "ResidualUNet2D", "upsample": "deconv", "layer_order": "cbr"},
    ],
    ids=str,
)
def test_slices_of_2d_networks(settings):
    reference, net = both({**settings, "num_levels": 3})
    x = torch.randn(1, 2, 3, 16, 24)
    with torch.no_grad():
        _, logits = reference(x[0].transpose(0, 1), return_logits=True)
        assert float((net(x)[0].transpose(0, 1) - logits).abs().max()) < CLOSE


@pytest.mark.parametrize("kind", ["channel", "spatial", "concurrent"])
@pytest.mark.parametrize("reduction", [1, 2])
def test_every_excitation_is_theirs(kind, reduction):
    layers = pytest.importorskip("pytorch3dunet.unet3d.se")
    torch.manual_seed(0)
    reference = {
        "channel": lambda: layers.ChannelSELayer3D(6, reduction),
        "spatial": lambda: layers.SpatialSELayer3D(6),
        "concurrent": lambda: layers.ChannelSpatialSELayer3D(6, reduction),
    }[kind]()
    ours = se.make_excitation(kind, 6, reduction=reduction)
    state = reference.state_dict()
    ours.load_state_dict({pytorch3dunet._excitation(key): state[key] for key in state})
    x = torch.randn(2, 6, 3, 4, 5)
    with torch.no_grad():
        assert float((ours(x) - reference(x)).abs().max()) < 1e-6


def test_settings_say_channels_and_activation():
    base = {"in_channels": 1, "out_channels": 2}
    network = pytorch3dunet.read_config(base)
    assert (network.in_channels, network.out_channels, network.activation) == (1, 2, "sigmoid")
    assert network.config.features == (64, 128, 256, 512)
    assert pytorch3dunet.read_config({**base, "final_sigmoid": False}).activation == "softmax"
    assert pytorch3dunet.read_config({**base, "is_segmentation": False}).activation == "none"
    deep = pytorch3dunet.read_config({**base, "name": "ResidualUNetSE3D", "f_maps": 32})
    assert deep.config.features == (32, 64, 128, 256, 512)
    assert deep.config.excitation == "concurrent"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"name": "UNet4D"}, "UNet4D"),
        ({"conv_padding": 0}, "conv_padding"),
        ({"upsample": None}, "upsample"),
        ({"upsample": "deconv", "f_maps": [8, 24]}, "double"),
        ({"conv_upscale": 1, "f_maps": [8, 4]}, "narrow"),
        ({"name": "ResidualUNet3D", "upsample": "nearest"}, "upsample"),
        ({"layer_order": "gr"}, "no layer of conv"),
    ],
)
def test_settings_without_a_counterpart_are_refused(settings, found):
    with pytest.raises(BadInput, match=found):
        pytorch3dunet.read_config({"in_channels": 1, "out_channels": 1, **settings})


def test_weights_of_another_network_are_refused():
    network = pytorch3dunet.read_config({"in_channels": 1, "out_channels": 1, "f_maps": 8})
    old = {"encoders.0.basic_module.conv1.conv.weight": torch.zeros(1)}
    with pytest.raises(BadInput, match=r"conv1\.conv\.weight"):
        pytorch3dunet.map_state(old, network)
