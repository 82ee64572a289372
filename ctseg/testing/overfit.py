"""Check that a network can overfit one patch."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from ctseg.specs import Constraints, Zyx
from ctseg.testing.options import require

DICE = 0.9
STEPS = 200
LOOK_EVERY = 10
SIDE = 16
"""Shortest side of the patch, unless the network fixes it."""
BLOCK = 4
"""Size of the blocks that labels are made of, so that a network at a coarser grid can draw them."""


def check_overfits(
    name: str,
    net: torch.nn.Module,
    constraints: Constraints,
    sides_zyx: Zyx,
    in_channels: int,
    out_channels: int,
) -> None:
    """Train on one patch until its mean foreground Dice is 0.9 in evaluation.

    The patch holds a bar for each class, distinguished by its intensity in noise.

    Args:
        sides_zyx: a tile that the network accepts; short sides are enlarged unless they are fixed.
    """
    classes = max(out_channels, 2)
    image, target = bars(_sides(sides_zyx, constraints, classes), in_channels, classes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.0)
    shares = torch.bincount(target.flatten(), minlength=classes).float()
    weight = shares.sum() / (classes * shares.clamp_min(1))
    best = 0.0
    for step in range(1, STEPS + 1):
        output = net.train()(image)
        logits = output if isinstance(output, torch.Tensor) else output[0]
        loss = functional.cross_entropy(_as_classes(logits), target, weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % LOOK_EVERY == 0:
            with torch.no_grad():
                labels = _as_classes(net.eval()(image)).argmax(1)
            best = max(best, mean_dice(labels, target, classes))
            if best >= DICE:
                return
    require(
        False,
        f"{name}: {STEPS} steps on one patch take its Dice to {best:.2f}; {DICE} is expected "
        "(overfit=False leaves this out)",
    )


def _sides(sides_zyx: Zyx, constraints: Constraints, classes: int) -> Zyx:
    if constraints.fixed_tile_zyx is not None:
        return constraints.fixed_tile_zyx
    rows = BLOCK * (classes + 1)  # a row of blocks per class, and background on either side
    target = (sides_zyx[0] if constraints.dims == 2 else SIDE, max(SIDE, rows), SIDE)
    z, y, x = (
        math.ceil(max(have, want) / stride) * stride
        for have, want, stride in zip(sides_zyx, target, constraints.stride_zyx, strict=True)
    )
    return z, y, x


def bars(sides_zyx: Zyx, in_channels: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image [1, C, Z, Y, X] whose first channel distinguishes its labels int64 [1, Z, Y, X]."""
    z, y, x = sides_zyx
    target = torch.zeros(1, z, y, x, dtype=torch.int64)
    depth = slice(BLOCK, -BLOCK) if z >= 3 * BLOCK else slice(None)
    width = slice(BLOCK, x - BLOCK) if x >= 3 * BLOCK else slice(None)
    rows = max(y // BLOCK - 1, 1)
    for label in range(1, classes):
        first = 1 + (label - 1) % rows
        target[:, depth, BLOCK * first : BLOCK * (first + 1), width] = label
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, in_channels, z, y, x, generator=generator)
    image[:, 0] = 0.1 * image[:, 0] + 2 * target / (classes - 1) - 1
    return image, target


def _as_classes(logits: torch.Tensor) -> torch.Tensor:
    """Logits of at least two classes; a single channel becomes the foreground's, against 0."""
    if logits.shape[1] > 1:
        return logits
    return torch.cat((torch.zeros_like(logits), logits), 1)


def mean_dice(labels: torch.Tensor, target: torch.Tensor, classes: int) -> float:
    """The mean Dice of the foreground labels."""
    scores = []
    for label in range(1, classes):
        one, two = labels == label, target == label
        scores.append(float(2 * (one & two).sum()) / max(float(one.sum() + two.sum()), 1.0))
    return sum(scores) / len(scores)
