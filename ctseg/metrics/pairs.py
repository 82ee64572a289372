"""What a metric measures: one label, or one value of a regression, in the predicted and the reference map of a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.metrics.instances import Contingency, components, contingency
from ctseg.metrics.overlap import Histogram, OverlapCounts
from ctseg.metrics.regression import Errors, errors
from ctseg.metrics.surface import SurfaceDistances, surface_distances

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MapPair:
    """The two maps of a case.

    Attributes:
        predicted, reference: label values [Z, Y, X], or one map per label [C, Z, Y, X].
        spacing_zyx: spacing in mm.
        valid: [Z, Y, X], the voxels that count; voxels that the reference ignores never count.
        instances: instance ids of both maps; without them the connected components of a label are its instances.
        histogram: the joint histogram of the voxels that count, if it is known already.
    """

    predicted: NDArray[Any]
    reference: NDArray[Any]
    spacing_zyx: Sequence[float]
    valid: Mask | None = None
    instances: tuple[NDArray[Any], NDArray[Any]] | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Cut:
    """The box around one label in both maps.

    Attributes:
        predicted, reference: the label in either map, [Z, Y, X].
        valid: voxels that count; None for all.
        instances: ids of instances in both maps, 0 for none; None takes connected components.
    """

    predicted: Mask
    reference: Mask
    valid: Mask | None = None
    instances: tuple[NDArray[Any], NDArray[Any]] | None = None


@dataclass(frozen=True)
class LabelPair:
    """One label of one case in two maps. Metrics share what they compute from it.

    Attributes:
        label: its name.
        counts: voxels of the label in the whole maps.
        spacing_zyx: mm.
        tolerance_mm: of the surface Dice.
        iou_thresholds: IoU from which two instances match.
        cut: cuts out the box around the label.
    """

    label: str
    counts: OverlapCounts
    spacing_zyx: Sequence[float]
    tolerance_mm: float
    iou_thresholds: tuple[float, ...]
    cut: Callable[[], Cut]

    @cached_property
    def whole(self) -> Cut:
        """The box, with voxels that do not count."""
        return self.cut()

    @cached_property
    def predicted(self) -> Mask:
        """The predicted label in its box, bool [Z, Y, X]; voxels that do not count are False."""
        return _counted(self.whole.predicted, self.whole.valid)

    @cached_property
    def reference(self) -> Mask:
        """The label of the reference in the same box."""
        return _counted(self.whole.reference, self.whole.valid)

    @cached_property
    def distances(self) -> SurfaceDistances | None:
        """Distances between the two surfaces, in mm; None where one of them has no surface that counts."""
        cut = self.whole
        return surface_distances(cut.predicted, cut.reference, self.spacing_zyx, cut.valid)

    @cached_property
    def contingency(self) -> Contingency:
        """Voxels that each instance of one map shares with each of the other."""
        ids = self.whole.instances
        if ids is None:
            return contingency(components(self.predicted), components(self.reference))
        return contingency(ids[0] * self.predicted, ids[1] * self.reference)


@dataclass(frozen=True)
class ValuePair:
    """One value of a regression.

    Attributes:
        label: its name.
        predicted, reference: float [Z, Y, X]; voxels whose reference is NaN do not count.
        valid: voxels that count; None for all.
        data_range: width of the range of possible values, for the PSNR; None takes that of the reference.
    """

    label: str
    predicted: NDArray[Any]
    reference: NDArray[Any]
    valid: Mask | None = None
    data_range: float | None = None

    @cached_property
    def errors(self) -> Errors:
        """Sums of the errors over the voxels that count."""
        return errors(self.predicted, self.reference, self.valid)


def _counted(mask: Mask, valid: Mask | None) -> Mask:
    return mask if valid is None else mask & valid
