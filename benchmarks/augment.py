"""Milliseconds to augment a batch, against batchgeneratorsv2 with nnU-Net's own pipeline.

The same transforms with the same probabilities and ranges; both start from the crop that nnU-Net's loader hands over.
Differences, all in favour of the peer: nnU-Net blurs and coarsens only half of the
single-channel samples that it chooses to; its label maps are interpolated label by label, which the second figure of
the peer replaces by nearest neighbours, as here. The peer runs both as it does on its own (a process a core, one
thread each) and in one process with all threads; the faster counts.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ctseg.config import AugmentConfig
from ctseg.config.augment import PROBABILITIES
from ctseg.data.loading import Recipe, augment

SHAPES = {"128^3": (128, 128, 128), "hippocampus": (40, 56, 40)}
BATCH = 2
BATCHES = 60
WARM = 8
Zyx = tuple[int, int, int]


def measure(batches: int = BATCHES, shapes: dict[str, Zyx] | None = None) -> dict[str, Any]:
    """Milliseconds a batch on the CPU, on an accelerator where there is one, and of each transform alone."""
    warnings.filterwarnings("ignore", module="nnunetv2|batchgenerators")
    out: dict[str, Any] = {
        "what": f"milliseconds to augment a batch of {BATCH}, the mean of {batches} batches"
    }
    for name, patch in (SHAPES if shapes is None else shapes).items():
        wide = _initial_shape(patch)
        count = batches if math.prod(patch) > 10**6 else 3 * batches
        ours = _ours(patch, wide, count, "cpu")
        found: dict[str, Any] = {"patch_zyx": patch, "crop_zyx": wide, "ctseg": round(ours, 2)}
        for nearest in (False, True):
            times = {
                "one process": _peer_in_one_process(patch, wide, nearest, count),
                "a process a core": _peer_in_processes(patch, wide, nearest, count),
            }
            key = "batchgeneratorsv2, nearest labels" if nearest else "batchgeneratorsv2"
            found[key] = {k: round(v, 2) for k, v in times.items()}
            found[f"{key}: times slower"] = round(min(times.values()) / ours, 2)
        if torch.cuda.is_available():
            found["ctseg on cuda"] = round(_ours(patch, wide, count, "cuda"), 2)
        found["one sample, each transform alone"] = _each(patch, wide)
        out[name] = found
    return out


def _ours(patch: Zyx, wide: Zyx, count: int, device: str) -> float:
    config = AugmentConfig(preset="nnunet").resolved(patch)
    image, label = (x.to(device) for x in _scan(wide))

    def once(step: int) -> None:
        augment(image, label, Recipe(patch, BATCH, 0, config), step)
        if device == "cuda":
            torch.cuda.synchronize()

    return _mean_ms(once, count)


def _each(patch: Zyx, wide: Zyx) -> dict[str, float]:
    """Milliseconds of one sample with one transform, less those of one without any."""
    image, label = (x[:1] for x in _scan(wide))
    nothing = dict.fromkeys(PROBABILITIES, 0.0) | {"mirror_axes": ()}

    def median(config: AugmentConfig) -> float:
        times = []
        for step in range(9):
            begun = time.perf_counter()
            augment(image, label, Recipe(patch, 1, 0, config.resolved(patch)), step)
            times.append(time.perf_counter() - begun)
        return 1000 * statistics.median(times[2:])

    bare = median(AugmentConfig(preset="nnunet", **nothing))
    changes: dict[str, dict[str, Any]] = {name: {name: 1.0} for name in PROBABILITIES}
    changes["mirroring"] = {"mirror_axes": ("z", "y", "x")}
    out = {"nothing": round(bare, 2)}
    for name, change in changes.items():
        whole = median(AugmentConfig(preset="nnunet", **{**nothing, **change}))
        out[name] = round(whole - bare, 2)
    return out


# ---------------------------------------------------------------- nnU-Net


def _initial_shape(patch: Zyx) -> Zyx:
    """The crop that nnU-Net's loader hands to its transforms."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

    largest = math.radians(30)
    ends = (-largest, largest)
    z, y, x = (int(n) for n in get_patch_size(patch, ends, ends, ends, (0.85, 1.25)))
    return z, y, x


def _pipeline(patch: Zyx, nearest: bool) -> Callable[..., Any]:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    largest = math.radians(30)
    transforms = nnUNetTrainer.get_training_transforms(
        patch, (-largest, largest), None, (0, 1, 2), False
    )
    if nearest:
        transforms.transforms[0].mode_seg = "nearest"
    return transforms


def _peer_in_one_process(patch: Zyx, wide: Zyx, nearest: bool, count: int) -> float:
    _seed_peer(0)
    transforms, (image, label) = _pipeline(patch, nearest), _scan(wide)

    def once(_: int) -> None:
        made = [transforms(image=i, segmentation=s) for i, s in zip(image, label, strict=True)]
        torch.stack([m["image"] for m in made])
        torch.stack([m["segmentation"] for m in made])

    return _mean_ms(once, count)


def _peer_in_processes(patch: Zyx, wide: Zyx, nearest: bool, count: int) -> float:
    """As many processes as samples in a batch, each making one of them."""
    job = functools.partial(_peer_samples, patch, wide, nearest, count)
    with multiprocessing.get_context("spawn").Pool(BATCH) as pool:
        return statistics.fmean(pool.map(job, range(BATCH), chunksize=1))


def _peer_samples(patch: Zyx, wide: Zyx, nearest: bool, count: int, seed: int) -> float:
    torch.set_num_threads(1)
    _seed_peer(seed)
    transforms, (image, label) = _pipeline(patch, nearest), _scan(wide)
    return _mean_ms(lambda _: transforms(image=image[0], segmentation=label[0]), count)


def _seed_peer(seed: int) -> None:
    """The same draws in each run: how many samples turn decides what a batch costs."""
    np.random.seed(seed)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- both


def _scan(wide: Zyx) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of noise with a label in its middle."""
    g = torch.Generator().manual_seed(0)
    image = torch.randn((BATCH, 1, *wide), generator=g)
    label = torch.zeros((BATCH, 1, *wide), dtype=torch.int16)
    z, y, x = (slice(n // 3, 2 * n // 3) for n in wide)
    label[:, :, z, y, x] = 1
    label[:, :, z, y, : wide[2] // 3] = 2
    return image, label


def _mean_ms(call: Callable[[int], Any], count: int) -> float:
    for step in range(min(WARM, count)):  # the peer tries out its ways to blur meanwhile
        call(step)
    begun = time.perf_counter()
    for step in range(count):
        call(step)
    return 1000 * (time.perf_counter() - begun) / count
