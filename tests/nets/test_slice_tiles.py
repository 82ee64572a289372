"""Slice-wise networks under the tile engine: the result does not depend on how z is tiled."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctseg
from ctseg import plugins
from ctseg.engine.inference import tiling
from ctseg.engine.inference.predict_tiles import predict_tiles
from ctseg.engine.model.runtime import Runtime
from ctseg.errors import BadInput
from ctseg.specs import Constraints

CPU = {"device": "cpu", "precision": "fp32"}


class Slices(torch.nn.Module):
    """Looks `context` slices to either side and repeats the end ones, as 2.5D networks do; counts slices."""

    def __init__(self, context: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.context, self.slices = context, 0
        self.conv = torch.nn.Conv3d(1, 2, (2 * context + 1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.slices += x.shape[0] * x.shape[2]
        ends = (0, 0, 0, 0, self.context, self.context)
        return self.conv(torch.nn.functional.pad(x, ends, mode="replicate")).sin()


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(depth=st.integers(1, 23), tile=st.integers(1, 12), context=st.integers(0, 2))
def test_any_tiling_gives_the_logits_of_the_whole_scan(depth, tile, context):
    tile = max(tile, 2 * context + 1)
    net, scan = Slices(context), image(depth, 7, 9)
    with torch.inference_mode():
        whole = net(torch.from_numpy(scan)[None])[0].numpy()
    demands = Constraints((1, 1, 1), (2 * context + 1, 1, 1), None, context, 2)
    got = predict_tiles(net, scan, (tile, 7, 9), 0.5, constraints=demands, **CPU)
    np.testing.assert_allclose(got, whole, atol=1e-5)


def test_slices_are_computed_once_but_for_their_context():
    for context, tile, expected in ((0, 8, 32), (1, 8, 8 * 5), (0, 64, 30)):
        net = Slices(context)
        demands = Constraints(context_slices=context, dims=2)
        predict_tiles(net, image(30, 4, 4), (tile, 4, 4), 0.5, constraints=demands, **CPU)
        assert net.slices == expected


@given(
    size=st.integers(1, 60), tile=st.integers(1, 20), overlap=st.floats(0, 0.9),
    context=st.integers(0, 4),
)  # fmt: skip
def test_every_voxel_has_a_tile_that_sees_its_neighbours(size, tile, overlap, context):
    tile = max(tile, 2 * context + 1)
    weights = tiling.windows(size, tile, overlap, "gaussian", context)
    starts = tiling.starts(size, tile, overlap, context)
    seen = np.zeros(size, bool)
    for start, window in zip(starts, weights, strict=True):
        for place in np.flatnonzero(window[: size - start]) + start:
            low, high = max(place - context, 0), min(place + context, size - 1)
            assert start <= low
            assert high < start + tile
            seen[place] = True
    assert seen.all()
    assert all(b - a <= max(tile - 2 * context, 1) for a, b in itertools.pairwise(starts))


def test_a_3d_network_with_context_keeps_its_overlap():
    """The window loses its margin, everything else stays."""
    scan, net = image(20, 8, 8), Slices(1)
    with torch.inference_mode():
        whole = net(torch.from_numpy(scan)[None])[0].numpy()
    got = predict_tiles(net, scan, (8, 8, 8), 0.5, constraints=Constraints(context_slices=1), **CPU)
    np.testing.assert_allclose(got, whole, atol=1e-5)
    assert net.slices == 20 + 4 * 8  # half overlap, though a 2D network would do with less


def test_a_tile_thinner_than_the_context_is_refused():
    demands = Constraints(context_slices=2, dims=2)
    with pytest.raises(BadInput, match="Use 5 slices"):
        predict_tiles(Slices(2), image(9, 4, 4), (4, 4, 4), constraints=demands, **CPU)


def test_slices_of_a_short_scan():
    flat = Constraints((1, 8, 8), (3, 8, 8), None, 1, 2)
    assert tiling.slices_of(30, (16, 8, 8), flat) == (16, 8, 8)
    assert tiling.slices_of(10, (16, 8, 8), flat) == (10, 8, 8)
    assert tiling.slices_of(1, (16, 8, 8), flat) == (3, 8, 8)
    assert tiling.slices_of(1, (16, 8, 8), Constraints()) == (16, 8, 8)
    fixed = Constraints(fixed_tile_zyx=(16, 8, 8), dims=2)
    assert tiling.slices_of(1, (16, 8, 8), fixed) == (16, 8, 8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("unet2d", {"features": (4, 6)}), ("timm_unet", {"encoder": "resnet18", "levels": 2})],
)
def test_the_networks_give_a_slice_the_same_logits_in_any_tile(name, options, precision):
    torch.manual_seed(0)
    net = ctseg.create_model(name, in_channels=1, out_channels=2, **options).eval()
    spec = plugins.architecture(name)
    demands = spec.constraints_for(plugins.make_config(spec, options))
    outs = [
        torch.from_numpy(
            predict_tiles(
                net,
                image(11, 16, 24),
                (z, 16, 16),
                device="cpu",
                precision=precision,
                constraints=demands,
            )
        )
        for z in (3, 5, 16)
    ]
    scale = float(outs[0].abs().max())
    for out in outs[1:]:
        torch.testing.assert_close(
            out, outs[0], atol=scale * (1e-5 if precision == "fp32" else 1e-2), rtol=0
        )


def test_weights_of_2d_and_3d_kernels_lie_channels_last():
    runtime = Runtime(torch.device("cpu"), "bf16", True, "test")
    net = torch.nn.ModuleDict({"flat": torch.nn.Conv2d(3, 4, 3), "deep": torch.nn.Conv3d(3, 4, 3)})
    placed = runtime.place(net)
    assert placed["flat"].weight.is_contiguous(memory_format=torch.channels_last)
    assert placed["deep"].weight.is_contiguous(memory_format=torch.channels_last_3d)
