"""The temperature that makes probabilities honest, fitted to cases that did not train (Guo et al., ICML 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.steps.base import Box

LEAST, MOST = 0.05, 20.0
"""Temperatures are sought between these."""
_HASH = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature.

    Attributes:
        temperature: divisor of the logits.
        before, after: mean negative log-likelihood of the reference with a temperature of 1, and with this one.
        voxels: number of voxels that it was fitted to.
    """

    temperature: float
    before: float
    after: float
    voxels: int


class LogitSample:
    """A sink that keeps the logits of some voxels, chosen by their position, and their reference classes.

    Args:
        target: as `ctseg.task.encode` returns it, on the grid of the scan.
        box: the predicted box of the scan.
        share: of the voxels that are kept.
    """

    def __init__(self, target: NDArray[Any], box: Box, share: float) -> None:
        self._target, self._box = target, box
        self._limit = np.uint64(min(share, 1.0) * (2**53 - 1)) << np.uint64(11)
        self._logits: list[NDArray[np.float32]] = []
        self._known: list[NDArray[Any]] = []

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        """Take a piece [C, Z, Y, X] that begins at slice `start` of the box."""
        spans: list[Any] = [
            slice(a, a + n) for (a, _), n in zip(self._box, part.shape[-3:], strict=True)
        ]
        first = self._box[axis][0] + start
        spans[axis] = slice(first, first + part.shape[axis + 1])
        shape = self._target.shape[-3:]
        z, y, x = (np.arange(s.start, s.stop, dtype=np.uint64) for s in spans)
        number = (z[:, None, None] * np.uint64(shape[1]) + y[:, None]) * np.uint64(shape[2]) + x
        target = self._target[(..., *spans)]
        lowest = target if target.ndim == 3 else target.min(0)
        chosen = (number * _HASH <= self._limit) & (lowest >= 0)
        self._logits.append(part[:, chosen].T.astype(np.float32))
        self._known.append(target[..., chosen].T)

    def taken(self) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Logits [N, C], and the classes [N] or, for independent labels, [N, C] of 0 and 1."""
        return np.concatenate(self._logits), np.concatenate(self._known)


def fit_temperature(
    samples: Sequence[tuple[NDArray[np.float32], NDArray[Any]]],
) -> Calibration | None:
    """The temperature with the smallest negative log-likelihood; None without voxels.

    Args:
        samples: logits and reference classes of each case; see `LogitSample.taken`.
    """
    from scipy.optimize import minimize_scalar

    pairs = [(logits, known) for logits, known in samples if len(logits)]
    if not pairs:
        return None
    logits: NDArray[np.float32] = np.concatenate([one for one, _ in pairs])
    known = np.concatenate([one for _, one in pairs])

    def loss(log_temperature: float) -> float:
        scaled: NDArray[np.float32] = logits / np.float32(math.exp(log_temperature))
        return log_loss(scaled, known)

    bounds = (math.log(LEAST), math.log(MOST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return Calibration(math.exp(float(found.x)), loss(0.0), float(found.fun), len(logits))


def log_loss(logits: NDArray[np.float32], known: NDArray[Any]) -> float:
    """The mean negative log-likelihood of classes [N] under a softmax, or of 0 and 1 [N, C] under sigmoids."""
    if known.ndim == 2:
        return float(np.logaddexp(0, np.where(known > 0, -logits, logits)).mean())
    top = logits.max(1)
    spread = np.log(np.exp(logits - top[:, None]).sum(1))
    picked = np.take_along_axis(logits, known[:, None].astype(np.int64), 1)[:, 0]
    return float((top + spread - picked).mean())
