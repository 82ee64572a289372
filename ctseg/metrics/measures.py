"""The built-in metrics: each takes its value from what the metrics of a label share."""

from __future__ import annotations

import math

from ctseg.metrics.centreline import centreline_dice as _centreline_dice
from ctseg.metrics.instances import adapted_rand
from ctseg.metrics.instances import average_precision as _average_precision
from ctseg.metrics.pairs import LabelPair, ValuePair


def dice(pair: LabelPair) -> float | None:
    return pair.counts.dice


def iou(pair: LabelPair) -> float | None:
    return pair.counts.iou


def precision(pair: LabelPair) -> float | None:
    return pair.counts.precision


def recall(pair: LabelPair) -> float | None:
    return pair.counts.recall


def volume_difference_ml(pair: LabelPair) -> float | None:
    voxels = pair.counts.predicted - pair.counts.reference
    return voxels * (math.prod(pair.spacing_zyx) / 1000)


def volume_difference(pair: LabelPair) -> float | None:
    counts = pair.counts
    return (counts.predicted - counts.reference) / counts.reference if counts.reference else None


def hd95(pair: LabelPair) -> float | None:
    return None if pair.distances is None else pair.distances.hausdorff(95)


def hausdorff(pair: LabelPair) -> float | None:
    return None if pair.distances is None else pair.distances.hausdorff()


def surface_distance(pair: LabelPair) -> float | None:
    return None if pair.distances is None else pair.distances.mean


def surface_dice(pair: LabelPair) -> float | None:
    return None if pair.distances is None else pair.distances.dice(pair.tolerance_mm)


def centreline_dice(pair: LabelPair) -> float | None:
    return _centreline_dice(pair.predicted, pair.reference)


def adapted_rand_error(pair: LabelPair) -> float | None:
    rand = adapted_rand(pair.contingency)
    return None if rand is None else rand.error


def average_precision(pair: LabelPair) -> float | None:
    return _average_precision(pair.contingency, pair.iou_thresholds)


def mse(pair: ValuePair) -> float | None:
    return pair.errors.mse


def mae(pair: ValuePair) -> float | None:
    return pair.errors.mae


def psnr(pair: ValuePair) -> float | None:
    return pair.errors.psnr(pair.data_range)
