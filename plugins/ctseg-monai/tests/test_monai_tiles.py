"""Tiles with the blends `monai_*` are those of MONAI's SlidingWindowInferer."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

import ctseg
from ctseg.engine.inference.tiling import starts


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("shape", [(21, 33, 18), (9, 40, 8), (16, 16, 16)])
def test_logits_are_those_of_the_sliding_window_inferer(mode, overlap, shape):
    torch.manual_seed(0)
    net = nn.Conv3d(2, 3, 5, padding=2)  # feels the end of a tile
    scan = torch.randn(2, *shape)
    tile = (8, 16, 8)
    theirs = SlidingWindowInferer(tile, sw_batch_size=2, overlap=overlap, mode=mode)
    with torch.no_grad():
        expected = theirs(scan[None], net)[0]
    ours = ctseg.predict_tiles(net, scan, tile, overlap, f"monai_{mode}", precision="fp32")
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_only_the_last_tile_is_moved():
    assert starts(110, 64, 0.5, blend="monai_constant") == [0, 32, 46]
    assert starts(128, 64, 0.5, blend="monai_constant") == [0, 32, 64]
    assert starts(60, 64, 0.5, blend="monai_gaussian") == [0]
