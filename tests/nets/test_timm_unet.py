"""`timm_unet`: neighbours as channels, timm's encoders, pretrained weights from a file."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

import ctseg
from ctseg import plugins
from ctseg.errors import ConfigError, CtsegError, FileProblem, UnknownName
from ctseg.nets.slicewise import with_neighbours
from ctseg.nets.slicewise_config import TimmUNetConfig
from ctseg.nets.timm_encoder import describe, make_encoder
from ctseg.nets.timm_import import timm
from ctseg.nets.timm_unet import timm_unet_constraints
from ctseg.specs import training_only

LIGHT = {"encoder": "resnet18", "levels": 2}


def test_neighbours_become_channels_in_order_and_ends_repeat():
    x = torch.arange(2 * 4.0).reshape(1, 2, 4, 1, 1)
    got = with_neighbours(x, 1)[0, :, :, 0, 0]
    expected = [[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 3], [4, 4, 5, 6], [4, 5, 6, 7], [5, 6, 7, 7]]
    assert got.tolist() == expected
    wide = torch.randn(1, 2, 3, 4, 5)
    padded = np.pad(wide.numpy(), ((0, 0), (0, 0), (2, 2), (0, 0), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=2)
    expected = np.moveaxis(windows, -1, 2).reshape(1, 10, 3, 4, 5)
    np.testing.assert_array_equal(with_neighbours(wide, 2).numpy(), expected)
    layout = torch.channels_last_3d
    same = with_neighbours(wide.contiguous(memory_format=layout), 2)
    assert same.is_contiguous(memory_format=layout)
    np.testing.assert_array_equal(same.numpy(), expected)


def test_the_encoder_is_timms():
    """The same weights give the same feature maps, and the decoder sees them and the image."""
    net = ctseg.create_model("timm_unet", in_channels=1, out_channels=2).eval()
    theirs = timm().create_model("resnet18", features_only=True, in_chans=3).eval()
    theirs.load_state_dict(net.encoder.state_dict())
    x = torch.randn(1, 1, 3, 64, 64)
    with torch.no_grad():
        for one, two in zip(net.encoder(x[:, 0]), theirs(x[:, 0]), strict=True):
            assert torch.equal(one, two)
        middle = net(x)[:, :, 1]
        assert torch.equal(net(torch.cat((x, x), 0))[1, :, 1], net(x)[0, :, 1])
        maps = [x[:, 0], *theirs(x[:, 0])]
        y = maps.pop()
        for up in net.decoder:
            y = up(y, maps.pop())
        torch.testing.assert_close(middle, net.heads[-1](y))


@pytest.mark.parametrize(
    ("encoder", "stride", "levels"),
    [("resnet18", 32, 0), ("convnext_atto", 32, 0), ("dla34", 4, 3), ("regnetx_002", 4, 2)],
)
def test_constraints_are_the_encoders(encoder, stride, levels):
    config = TimmUNetConfig(encoder=encoder, levels=levels, context_slices=2)
    demands = timm_unet_constraints(config)
    assert demands.stride_zyx == (1, stride, stride)
    assert demands.min_tile_zyx == (5, 2 * stride, 2 * stride)
    assert demands.context_slices == 2
    assert demands.dims == 2


def test_deep_supervision_is_finest_first():
    options = LIGHT | {"deep_supervision": True, "features": (8, 12)}
    net = ctseg.create_model("timm_unet", in_channels=1, out_channels=2, **options)
    shapes = [tuple(y.shape[2:]) for y in net.train()(torch.randn(1, 1, 3, 16, 16))]
    assert shapes == [(3, 16, 16), (3, 8, 8)]


def test_looking_at_an_encoder_draws_no_random_number():
    describe.cache_clear()
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    describe("resnet18", 2)
    assert torch.equal(torch.rand(1), before)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"encoder": "resnt18"}, UnknownName, "Did you mean 'resnet18'"),
        ({"encoder": "hf-hub:timm/resnet18"}, UnknownName, "encoder"),
        ({"encoder": "local-dir:/tmp/x"}, UnknownName, "encoder"),
        ({"encoder": "vit_tiny_patch16_224"}, ConfigError, "no pyramid"),
        ({"encoder": "hrnet_w18_small", "levels": 3}, ConfigError, "cannot be used"),
        ({"levels": 9}, ConfigError, "has 5 levels"),
        ({"levels": 1}, ConfigError, "needs two"),
        ({"features": (8, 8)}, ConfigError, "5 levels"),
        ({"features": (8, 0)}, ConfigError, "features"),
        ({"norm": "layer"}, ConfigError, "norm"),
        ({"upsampling": "trilinear"}, ConfigError, "upsampling"),
        ({"context_slices": -1}, ConfigError, "context_slices"),
        ({"dropout": 1.0}, ConfigError, "dropout"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        ctseg.create_model("timm_unet", in_channels=1, out_channels=2, **options)


# ---------------------------------------------------------------- pretrained weights


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Weights as timm publishes them: the whole network with its classifier."""
    torch.manual_seed(3)
    net = timm().create_model("resnet18", num_classes=1000)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    return path, net.state_dict()


@pytest.mark.parametrize("levels", [0, 2])
def test_pretrained_weights_are_loaded_as_published(published, levels):
    path, state = published
    encoder = make_encoder("resnet18", levels, in_channels=3, weights=str(path))
    own = {k.removeprefix("model."): v for k, v in encoder.state_dict().items()}
    assert len(own) > 5
    assert all(torch.equal(value, state[key]) for key, value in own.items())


@pytest.mark.parametrize("channels", [1, 3, 5, 6])
def test_the_first_convolution_is_fitted_as_timm_does(published, channels):
    from timm.models import adapt_input_conv

    path, state = published
    encoder = make_encoder("resnet18", 0, in_channels=channels, weights=str(path))
    expected = adapt_input_conv(channels, state["conv1.weight"].clone())
    assert torch.equal(encoder.conv1.weight, expected)


def test_a_file_without_classifier_or_in_half_precision_serves_too(published, tmp_path):
    _, state = published
    bare = {k: v.half() if v.is_floating_point() else v for k, v in state.items() if "fc" not in k}
    path = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(bare, path)
    encoder = make_encoder("resnet18", 0, in_channels=3, weights=str(path))
    assert encoder.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(encoder.conv1.weight, state["conv1.weight"], atol=1e-3, rtol=1e-3)


def test_weights_that_do_not_serve_are_refused(published, tmp_path):
    path, state = published

    def refused(weights, match, kind=CtsegError, encoder="resnet18"):
        with pytest.raises(kind, match=match) as caught:
            make_encoder(encoder, 0, in_channels=3, weights=str(weights))
        assert caught.value.hint or kind is FileProblem

    refused(path, "not those of the encoder 'resnet34'", ConfigError, "resnet34")
    refused(path, "not those of the encoder 'efficientnet_b0'", ConfigError, "efficientnet_b0")
    gap = tmp_path / "gap.safetensors"
    safetensors.torch.save_file({k: v for k, v in state.items() if "layer3.0" not in k}, gap)
    refused(gap, "not those of the encoder", ConfigError)
    refused(tmp_path / "none.safetensors", "no file", FileProblem)
    pickled = tmp_path / "model.pth"
    pickled.write_bytes(pickle.dumps({}))
    refused(pickled, r"no \.safetensors file", ConfigError)
    pickled = pickled.rename(tmp_path / "pickled.safetensors")
    refused(pickled, "no whole safetensors file", FileProblem)
    empty = tmp_path / "empty.safetensors"
    safetensors.torch.save_file({}, empty)
    with pytest.raises(CtsegError, match="no tensors"):
        make_encoder("resnet18", 0, in_channels=3, weights=str(empty))


def test_a_missing_file_is_said_before_data_are_read(tmp_path):
    spec = plugins.architecture("timm_unet")
    config = plugins.make_config(spec, {"encoder_weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(FileProblem, match="never downloaded"):
        spec.constraints_for(config)
    assert training_only(spec.config) == {"encoder_weights"}
