"""HD95, mean surface distance and surface Dice of every label, against surface-distance and MONAI on the same cores.

    python -m benchmarks metrics               512 x 512 x 300 voxels, 40 organs: the peers take many minutes
    python -m benchmarks.metrics --small       160 x 160 x 100 voxels, 8 organs, under a minute

All get the same two maps in memory, after a first call on a small one that imports what they need. The peers are called
a label at a time on boolean maps, as their manuals say; `in_box` gives them each label's bounding box, which is kinder.
MONAI on whole scans is timed with two labels and multiplied, since it takes about a minute a label.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import ctseg
from benchmarks.organs import Organs, organs
from ctseg.machine import cores
from ctseg.metrics.boxes import label_boxes
from ctseg.task import classes_task

TOLERANCE_MM = 2.0
FULL = {"shape_zyx": (300, 512, 512), "spacing_zyx": (1.5, 0.8, 0.8), "labels": 40, "scale": 1.0}
SMALL = {"shape_zyx": (100, 160, 160), "spacing_zyx": (2.5, 2.0, 2.0), "labels": 8, "scale": 0.8}
WANTED = ("hd95", "surface_distance", "surface_dice")
Values = dict[str, tuple[float, float, float]]


def measure(settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Seconds of each, how often faster ctseg is, and the largest relative difference from surface-distance."""
    tiny = organs((24, 24, 24), (2.0, 2.0, 2.0), 2, scale=0.15)
    _run_all(tiny)
    scan = organs(**(settings or FULL))
    seconds, ours, theirs = _run_all(scan)
    difference = max(
        abs(a - b) / max(abs(b), 1e-12) if b else abs(a)
        for name, values in theirs.items()
        for a, b in zip(ours[name], values, strict=True)
    )
    return {
        "what": f"{scan.reference.shape} voxels, {len(theirs)} labels, tolerance {TOLERANCE_MM} mm, seconds",
        "cores": cores(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "times_faster": {
            name: round(value / seconds["ctseg"], 1)
            for name, value in seconds.items()
            if name != "ctseg"
        },
        "largest_relative_difference": difference,
        "mean_hd95": round(float(np.mean([v[0] for v in ours.values()])), 3),
        "mean_surface_dice": round(float(np.mean([v[2] for v in ours.values()])), 4),
    }


def _run_all(scan: Organs) -> tuple[dict[str, float], Values, Values]:
    labels = range(1, scan.labels + 1)
    two = [labels[0], labels[-1]]
    seconds: dict[str, float] = {}
    ours = _timed(seconds, "ctseg", lambda: _ours(scan))
    theirs = _timed(seconds, "surface_distance", lambda: _each(scan, labels, _deepmind))
    _timed(seconds, "surface_distance_in_box", lambda: _each(scan, labels, _deepmind, in_box=True))
    _timed(seconds, "monai_in_box", lambda: _each(scan, labels, _monai, in_box=True))
    _timed(seconds, "monai_estimated", lambda: _each(scan, two, _monai))
    seconds["monai_estimated"] *= len(labels) / len(two)
    return seconds, ours, theirs


def _timed(seconds: dict[str, float], name: str, call: Callable[[], Values]) -> Values:
    begun = time.perf_counter()
    found = call()
    seconds[name] = time.perf_counter() - begun
    return found


def _ours(scan: Organs) -> Values:
    spacing_xyz = tuple(reversed(scan.spacing_zyx))
    made, truth = (
        ctseg.Volume.from_array(array, spacing_xyz=spacing_xyz)
        for array in (scan.prediction, scan.reference)
    )
    task = classes_task({str(label): label for label in range(1, scan.labels + 1)})
    report = ctseg.evaluate(made, truth, task=task, metrics=WANTED, tolerance_mm=TOLERANCE_MM)
    (case,) = report.cases
    return {
        item.label: tuple(item.values[name] for name in WANTED)  # type: ignore[misc]
        for item in case.labels
        if item.state == "both"
    }


def _each(
    scan: Organs,
    labels: Sequence[int],
    call: Callable[[np.ndarray, np.ndarray, tuple[float, ...]], tuple[float, float, float]],
    *,
    in_box: bool = False,
) -> Values:
    task = classes_task({str(label): label for label in range(1, scan.labels + 1)})
    boxes = label_boxes(task, scan.prediction, scan.reference, range(scan.labels))
    out = {}
    for label in labels:
        box = boxes[label - 1]
        part = box if in_box and box is not None else (slice(None),) * 3
        one, two = scan.prediction[part] == label, scan.reference[part] == label
        if one.any() and two.any():
            out[str(label)] = call(one, two, scan.spacing_zyx)
    return out


def _deepmind(
    one: np.ndarray, two: np.ndarray, spacing: tuple[float, ...]
) -> tuple[float, float, float]:
    from surface_distance import metrics as peer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = peer.compute_surface_distances(two, one, spacing)
        distances = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
        areas = np.concatenate([found["surfel_areas_gt"], found["surfel_areas_pred"]])
        return (
            float(peer.compute_robust_hausdorff(found, 95)),
            float(distances @ areas / areas.sum()),
            float(peer.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)),
        )


def _monai(
    one: np.ndarray, two: np.ndarray, spacing: tuple[float, ...]
) -> tuple[float, float, float]:
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    made, truth = (torch.from_numpy(mask)[None, None] for mask in (one, two))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        common = {"include_background": True, "spacing": spacing}
        return (
            float(compute_hausdorff_distance(made, truth, percentile=95, **common)),
            float(compute_average_surface_distance(made, truth, symmetric=True, **common)),
            float(compute_surface_dice(made, truth, [TOLERANCE_MM], use_subvoxels=True, **common)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a small scan of 8 organs")
    found = measure(SMALL if parser.parse_args().small else FULL)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
