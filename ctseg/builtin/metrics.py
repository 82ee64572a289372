"""The built-in metrics."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from ctseg.extension_specs import MetricSpec
from ctseg.hookspecs import hookimpl


def _measure(name: str) -> Callable[[Any], float | None]:
    def measure(pair: Any) -> float | None:
        function = getattr(importlib.import_module("ctseg.metrics.measures"), name)
        return cast("float | None", function(pair))

    return measure


def _overlap(name: str, title: str, summary: str) -> MetricSpec:
    return MetricSpec(name, title, "overlap", "higher", 0.0, _measure(name), summary)


def _difference(name: str, title: str, summary: str) -> MetricSpec:
    return MetricSpec(name, title, "overlap", None, None, _measure(name), summary)


def _distance(name: str, title: str, summary: str) -> MetricSpec:
    return MetricSpec(name, title, "surface", "lower", "diagonal", _measure(name), summary)


@hookimpl
def ctseg_metrics() -> Sequence[MetricSpec]:
    """Overlap, surfaces, centrelines, instances and errors of a regression."""
    return [
        _overlap("dice", "Dice", "2|A and B| / (|A| + |B|)"),
        _overlap("iou", "IoU", "|A and B| / |A or B|"),
        _overlap("precision", "precision", "fraction of the prediction that is right"),
        _overlap("recall", "recall", "fraction of the reference that was found"),
        _difference(
            "volume_difference_ml", "difference ml", "predicted less reference volume, ml"
        ),
        _difference(
            "volume_difference",
            "difference",
            "the same as a fraction of the reference; none where the reference is empty",
        ),
        _distance(
            "hd95", "HD95 mm", "distance within which 95 % of either surface lies from the other"
        ),
        _distance(
            "hausdorff", "HD mm", "the largest distance from either surface to the other"
        ),
        _distance("surface_distance", "ASD mm", "mean distance between the surfaces, both ways"),
        MetricSpec(
            "surface_dice", "surface Dice", "surface", "higher", 0.0, _measure("surface_dice"),
            "fraction of both surfaces within the tolerance of the other",
        ),
        MetricSpec(
            "centreline_dice", "clDice", "centreline", "higher", 0.0, _measure("centreline_dice"),
            "overlap of each centreline with the other structure",
        ),
        MetricSpec(
            "adapted_rand_error", "ARE", "instances", "lower", 1.0, _measure("adapted_rand_error"),
            "1 - F-score of the pairs of voxels that share an instance",
        ),
        MetricSpec(
            "average_precision", "AP", "instances", "higher", 0.0, _measure("average_precision"),
            "TP / (TP + FP + FN) of instances matched by IoU",
        ),
        MetricSpec(
            "mse", "MSE", "regression", "lower", None, _measure("mse"), "mean squared error"
        ),
        MetricSpec(
            "mae", "MAE", "regression", "lower", None, _measure("mae"), "mean absolute error"
        ),
        MetricSpec(
            "psnr", "PSNR dB", "regression", "higher", None, _measure("psnr"),
            "peak signal-to-noise ratio",
        ),
    ]  # fmt: skip
