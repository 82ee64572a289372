"""Dice of a guess that never looks at the image, on scans cropped around an object: a model below it learnt nothing.

The sarcoma scans were cropped 50 mm around the tumour's contour, the lung nodules 15 voxels in plane, so the ellipsoid
inscribed in the scan less that margin is a guess that never looks at a voxel.

    python benchmarks/ellipsoid.py DATA [--fold 0]
    python benchmarks/ellipsoid.py NODULES --plane 15     as they are; cut by up to 10 voxels at each side: --plane 10

Where crops follow the organ, the average of the label maps of the cases that train, stretched to the scan, is the
better guess; a voxel gets the label that most of them have there:

    python benchmarks/ellipsoid.py Dataset004_Hippocampus --average
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

import ctseg
from ctseg.data.readers.find import open_dataset
from ctseg.data.readers.layout import Splits
from ctseg.data.splits import all_folds, fold_cases
from ctseg.engine.evaluation.read_maps import read_map
from ctseg.volume.volume import Volume

MARGIN_MM = 50.0
GRID = (40, 56, 40)
"""Voxels z, y, x that label maps are averaged on."""
ANY = "any"
"""All labels as one."""


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


def stretched(array: np.ndarray, shape_zyx: tuple[int, ...]) -> np.ndarray:
    """A label map on another grid over the same box, by the nearest voxel."""
    index = (
        ((np.arange(size) + 0.5) * own / size).astype(int)
        for own, size in zip(array.shape, shape_zyx, strict=True)
    )
    return array[np.ix_(*index)]


def average_map(maps: Sequence[np.ndarray], values: Sequence[int]) -> np.ndarray:
    """At each voxel of GRID the label that most maps have there; `values` are the labels with the background."""
    count = np.zeros((len(values), *GRID), np.int32)
    for own in maps:
        count += np.stack([stretched(own, GRID) == value for value in values])
    return np.asarray(values)[count.argmax(0)]


def guesses(
    labels: Mapping[str, Volume], folds: Splits, plane: int | None, average: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """A guess for each validation case."""
    values = sorted({int(v) for label in labels.values() for v in np.unique(label.array)})
    for train, validate in folds:
        mean = (
            average_map([labels[case].array for case in train if case in labels], values)
            if average
            else None
        )
        for case in (one for one in validate if one in labels):
            geometry = labels[case].geometry
            if mean is None:
                yield case, ellipsoid(geometry.shape_zyx, geometry.spacing_zyx, plane)
            else:
                yield case, stretched(mean, geometry.shape_zyx)


def dice(guess: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (guess & truth).sum() / max(int(guess.sum() + truth.sum()), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--fold", type=int, help="only its validation cases; else those of all folds"
    )
    parser.add_argument("--plane", type=int, help="margin in voxels in plane; 50 mm if left out")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--average", action="store_true", help="guess the average label map of the cases that train"
    )
    args = parser.parse_args()
    dataset = open_dataset(args.data)
    folds = all_folds(dataset) if args.fold is None else [fold_cases(dataset, args.fold)]
    labels = {case.id: read_map(case.label) for case in dataset.cases if case.label is not None}
    found: dict[str, dict[str, float]] = {}
    for case, guess in guesses(labels, folds, args.plane, args.average):
        truth = labels[case].array
        drawn = np.unique(truth[truth > 0]) if args.average else []
        found[case] = {str(int(v)): dice(guess == v, truth == v) for v in drawn} or {
            ANY: dice(guess > 0, truth > 0)
        }
        print(f"{case}  {'  '.join(f'{value:.4f}' for value in found[case].values())}")
    mean = statistics.fmean(value for own in found.values() for value in own.values())
    for label in sorted({key for own in found.values() for key in own} - {ANY}):
        one = statistics.fmean(own[label] for own in found.values() if label in own)
        print(f"label {label}: {one:.4f}")
    print(f"mean Dice of {len(found)} cases: {mean:.4f}")
    if args.json:
        out = {"ctseg": ctseg.__version__, "fold": args.fold, "mean_dice": mean, "dice": found}
        args.json.write_text(json.dumps(out, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
