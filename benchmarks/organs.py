"""A label map of many organs and a prediction of it that errs as networks do, for the metrics to be measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RADII_MM = (
    (75, 70, 100), (45, 35, 55), (50, 28, 26), (50, 28, 26), (55, 50, 55), (120, 60, 65), (120, 60, 65),
    (35, 20, 60), (40, 12, 12), (100, 12, 12), (100, 11, 11), (35, 35, 35), (22, 18, 14), (20, 25, 45),
)  # fmt: skip
"""Half axes z, y, x of the larger organs (liver, spleen, kidneys, heart, lungs, pancreas, ...); others are small."""
SMALL_MM = (9, 26)
"""Half axes of the others: vertebrae, ribs in section, glands, vessels."""


@dataclass(frozen=True)
class Organs:
    """A reference and a prediction, uint8 [Z, Y, X], 0 is background."""

    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    spacing_zyx: tuple[float, float, float]
    labels: int


def organs(
    shape_zyx: tuple[int, int, int],
    spacing_zyx: tuple[float, float, float],
    labels: int,
    *,
    scale: float = 1.0,
    seed: int = 0,
) -> Organs:
    """Bumpy ellipsoids of the sizes of organs; the prediction moves each surface by some millimetres, smoothly.

    Args:
        scale: shrinks all organs, to fit a small volume.
    """
    rng = np.random.default_rng(seed)
    reference, prediction = np.zeros((2, *shape_zyx), np.uint8)
    for label in range(1, labels + 1):
        known = RADII_MM[label - 1 : label]
        radii = np.array(known[0], float) if known else rng.uniform(*SMALL_MM, 3)
        radii = np.maximum(radii * scale, 2.5 * max(spacing_zyx))
        extent = np.array(shape_zyx) * spacing_zyx
        room = np.maximum(extent - 2.4 * radii, 0.0)
        centre = 1.2 * radii + rng.random(3) * room
        _draw(reference, prediction, label, centre, radii, spacing_zyx, rng)
    return Organs(reference, prediction, spacing_zyx, labels)


def _draw(
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    label: int,
    centre: NDArray[np.float64],
    radii: NDArray[np.float64],
    spacing_zyx: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    low = np.maximum(((centre - 1.35 * radii) / spacing_zyx).astype(int), 0)
    high = np.minimum(((centre + 1.35 * radii) / spacing_zyx).astype(int) + 1, reference.shape)
    part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    mm = [
        ((np.arange(a, b) + 0.5) * s).astype(np.float32)
        for a, b, s in zip(low, high, spacing_zyx, strict=True)
    ]
    z, y, x = np.ix_(*mm)
    away = np.sqrt(
        sum(((m - c) / r) ** 2 for m, c, r in zip((z, y, x), centre, radii, strict=True))
    )
    shape = away + _waves((z, y, x), rng, lengths_mm=(30, 90), size=0.12)
    error_mm = _waves((z, y, x), rng, lengths_mm=(10, 60), size=4.0) + rng.normal(0, 0.7)
    made = shape + error_mm / float(np.cbrt(np.prod(radii)))
    reference[part][shape < 1] = label
    prediction[part][made < 1] = label


def _waves(
    grid: tuple[Any, ...], rng: np.random.Generator, *, lengths_mm: tuple[float, float], size: float
) -> NDArray[np.float32]:
    """A sum of a few products of sines along the axes, of about the given size."""
    total: Any = 0.0
    for _ in range(3):
        factors = [
            np.sin(2 * np.pi * axis / rng.uniform(*lengths_mm) + rng.uniform(0, 2 * np.pi))
            for axis in grid
        ]
        total = total + np.float32(size) * factors[0] * factors[1] * factors[2]
    return np.asarray(total, np.float32)
