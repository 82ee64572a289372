"""Tiled prediction against the network alone: the same tiles through it, and nothing else. The bar is 1.1."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

import ctseg
from ctseg.engine.runtime import choose
from ctseg.engine.tiling import starts

SHAPE_ZYX = (96, 160, 160)
TILE_ZYX = (64, 64, 64)
OVERLAP = 0.5
CLASSES = 3


def measure() -> dict[str, Any]:
    """Seconds of `predict_tiles`, of the bare network over as many tiles, and their ratio; the best of two runs."""
    torch.manual_seed(0)
    runtime = choose()
    net = ctseg.create_model("unet3d", in_channels=1, out_channels=CLASSES).eval()
    image = np.random.default_rng(0).standard_normal((1, *SHAPE_ZYX), np.float32)
    count = math.prod(len(starts(n, t, OVERLAP)) for n, t in zip(SHAPE_ZYX, TILE_ZYX, strict=True))
    alone = count * _forward_seconds(runtime.place(net), runtime)
    tiled = []
    for _ in range(2):
        begun = time.perf_counter()
        ctseg.predict_tiles(net, image, TILE_ZYX, overlap=OVERLAP)
        tiled.append(time.perf_counter() - begun)
    return {
        "what": f"{SHAPE_ZYX} voxels, tile {TILE_ZYX}, overlap {OVERLAP}, {CLASSES} classes, seconds",
        "tiles": count,
        "network_alone": round(alone, 2),
        "predict_tiles": round(min(tiled), 2),
        "ratio": round(min(tiled) / alone, 3),
    }


def _forward_seconds(net: torch.nn.Module, runtime: Any) -> float:
    tile = runtime.tensor(torch.randn(1, 1, *TILE_ZYX))
    times = []
    with torch.inference_mode(), runtime.autocast():
        for _ in range(8):
            begun = time.perf_counter()
            net(tile)
            if runtime.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    return min(times[2:])
