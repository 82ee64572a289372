"""Errors of predicted float values: MSE, MAE and PSNR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.distinct_values import slabs


@dataclass(frozen=True)
class Errors:
    """Sums over the voxels of one channel that count.

    Attributes:
        voxels: number of voxels that count.
        squared, absolute: sums of the squared and absolute differences.
        low, high: smallest and largest value of the target.
    """

    voxels: int
    squared: float
    absolute: float
    low: float
    high: float

    @property
    def mse(self) -> float | None:
        """The mean squared error, in the square of the target's unit; None where no voxel counts."""
        return self.squared / self.voxels if self.voxels else None

    @property
    def mae(self) -> float | None:
        """The mean absolute error, in the target's unit; None where no voxel counts."""
        return self.absolute / self.voxels if self.voxels else None

    def psnr(self, data_range: float | None = None) -> float | None:
        """The peak signal-to-noise ratio, 10 log10(range^2 / MSE), in dB.

        Args:
            data_range: width of the range of possible values; None takes that of the target.

        Returns:
            None where it is undefined: no voxel counts, the error is 0 (PSNR is infinite), or the target is constant.
        """
        width = self.high - self.low if data_range is None else float(data_range)
        if not self.voxels or not self.squared or width <= 0:
            return None
        return 10 * math.log10(width**2 / (self.squared / self.voxels))


def errors(
    prediction: NDArray[Any], target: NDArray[Any], mask: NDArray[Any] | None = None
) -> Errors:
    """The errors of one map, in float64, computed slab by slab.

    Args:
        prediction, target: of one shape, any number of axes.
        mask: above 0 where voxels count, broadcast to the target; voxels whose target is NaN never count.

    Raises:
        BadInput: the shapes differ, or the prediction holds NaN or infinity where voxels count.
    """
    if prediction.shape != target.shape:
        raise BadInput(
            f"The prediction has the shape {prediction.shape}, the target {target.shape}: they must be alike."
        )
    valid = None if mask is None else np.broadcast_to(mask > 0, target.shape)
    voxels, squared, absolute, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    for part in slabs(target.shape):
        truth = target[part].astype(np.float64)
        counts = ~np.isnan(truth)
        if valid is not None:
            counts &= valid[part]
        truth, predicted = truth[counts], prediction[part][counts].astype(np.float64)
        if not truth.size:
            continue
        if not np.isfinite(predicted).all():
            raise BadInput("The prediction holds NaN or infinite values.")
        difference = predicted - truth
        voxels += truth.size
        squared += float(np.square(difference).sum())
        absolute += float(np.abs(difference).sum())
        low, high = min(low, float(truth.min())), max(high, float(truth.max()))
    return Errors(voxels, squared, absolute, low, high) if voxels else Errors(0, 0.0, 0.0, 0.0, 0.0)


def mse(
    prediction: NDArray[Any], target: NDArray[Any], mask: NDArray[Any] | None = None
) -> float | None:
    """The mean squared error over the voxels that count; None if none counts. See `errors`."""
    return errors(prediction, target, mask).mse


def mae(
    prediction: NDArray[Any], target: NDArray[Any], mask: NDArray[Any] | None = None
) -> float | None:
    """The mean absolute error over the voxels that count; None if none counts. See `errors`."""
    return errors(prediction, target, mask).mae


def psnr(
    prediction: NDArray[Any],
    target: NDArray[Any],
    mask: NDArray[Any] | None = None,
    *,
    data_range: float | None = None,
) -> float | None:
    """The peak signal-to-noise ratio in dB. See `errors` and `Errors.psnr`."""
    return errors(prediction, target, mask).psnr(data_range)
