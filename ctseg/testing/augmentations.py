"""The check of an augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ctseg.extension_specs import AugmentationSpec
from ctseg.testing.options import check_options, require

SPACING = (2.0, 1.0, 1.0)


def check_augmentation(spec: AugmentationSpec, *, config: Any = None, draws: int = 5) -> None:
    """Check that an augmentation fulfils the contract of `ctseg.extension_specs.AugmentationSpec`.

    Shapes and types stay; values are finite; equal generators give equal results and others do not; the target gets no
    values that it did not have; and one slice or one channel is no problem.

    Args:
        config: options to check with; the defaults if omitted.
        draws: how often it is drawn.
    """
    check_options(spec.name, spec.config)
    augment = spec.build(spec.config() if config is None else config)
    changed = set()
    for shape in ((2, 8, 10, 12), (1, 1, 6, 6)):
        for seed in range(draws):
            results = [_apply(spec.name, augment, shape, seed) for _ in range(2)]
            for one, two in zip(*results, strict=True):
                require(
                    torch.equal(one, two),
                    f"{spec.name}: equal generators give different results; take random numbers from rng alone",
                )
            changed.add(results[0][0].sum().item())
    require(len(changed) > 2, f"{spec.name}: gives the same for every generator")


def _apply(
    name: str, augment: Any, shape: tuple[int, ...], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    image, target = torch.randn(shape), torch.randint(-1, 3, (1, *shape[1:]))
    before = set(target.flatten().tolist())
    result = augment(image, target, rng=np.random.default_rng(seed), spacing_zyx=SPACING)
    require(
        isinstance(result, tuple) and len(result) == 2,
        f"{name}: returns {type(result).__name__}, image and target are expected",
    )
    for new, size, dtype in (
        (result[0], shape, torch.float32),
        (result[1], target.shape, torch.int64),
    ):
        require(
            tuple(new.shape) == tuple(size) and new.dtype == dtype,
            f"{name}: returns {tuple(new.shape)} of {new.dtype} for {tuple(size)} of {dtype}",
        )
    require(result[0].isfinite().all(), f"{name}: gives values that are not finite")
    values = set(result[1].flatten().tolist())
    require(values <= before, f"{name}: puts {sorted(values - before)} into the target")
    return result[0], result[1]
