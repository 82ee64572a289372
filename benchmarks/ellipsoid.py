"""Dice of the image-blind ellipsoid on scans cropped around an object: a model below it has learnt nothing.

The sarcoma scans were cropped 50 mm around the tumour's contour, the lung nodules 15 voxels in plane, so the ellipsoid
inscribed in the scan less that margin is a guess that never looks at a voxel.

    python benchmarks/ellipsoid.py DATA [--fold 0]
    python benchmarks/ellipsoid.py NODULES --plane 15     as they are; cut by up to 10 voxels at each side: --plane 10
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

import ctseg
from ctseg.data.readers.find import open_dataset
from ctseg.data.splits import all_folds, fold_cases
from ctseg.engine.evaluation.evaluate import read_map

MARGIN_MM = 50.0


def ellipsoid(
    shape_zyx: tuple[int, ...], spacing_zyx: tuple[float, ...], plane: int | None = None
) -> np.ndarray:
    """The ellipsoid inscribed in the scan less its margin, bool [Z, Y, X].

    Args:
        plane: the margin in voxels in plane, with none along z; MARGIN_MM on all sides if None.
    """
    terms = []
    for axis, (size, spacing) in enumerate(zip(shape_zyx, spacing_zyx, strict=True)):
        margin = MARGIN_MM if plane is None else plane * spacing * (axis > 0)
        offset = (np.arange(size) - (size - 1) / 2) * spacing
        half = max(size * spacing / 2 - margin, spacing)
        terms.append((offset / half) ** 2)
    z, y, x = terms
    return z[:, None, None] + y[:, None] + x <= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--fold", type=int, help="only its validation cases; else those of all folds"
    )
    parser.add_argument("--plane", type=int, help="margin in voxels in plane; 50 mm if left out")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    dataset = open_dataset(args.data)
    folds = all_folds(dataset) if args.fold is None else [fold_cases(dataset, args.fold)]
    ids = {case for _, validate in folds for case in validate}
    dice = {}
    for case in dataset.cases:
        if case.id in ids and case.label is not None:
            label = read_map(case.label)
            guess = ellipsoid(label.geometry.shape_zyx, label.geometry.spacing_zyx, args.plane)
            truth = label.array > 0
            dice[case.id] = float(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))
            print(f"{case.id}  {dice[case.id]:.4f}")
    mean = statistics.fmean(dice.values())
    print(f"mean Dice of {len(dice)} cases: {mean:.4f}")
    if args.json:
        out = {"ctseg": ctseg.__version__, "fold": args.fold, "mean_dice": mean, "dice": dice}
        args.json.write_text(json.dumps(out, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
