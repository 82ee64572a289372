"""A data set cut anew at random positions, so that the box around an object does not give the object away.

    python -m benchmarks.recut ../shared/data/lidc_nodules nodules --sides 10 --copies 3 --patient 'lidc_[0-9]+'
    python -m benchmarks.recut ../shared/data/sts_ct shifted --shift 40
    python -m benchmarks.recut ../shared/data/sts_ct petct --channel PET=petTr

Writes a data set in the layout of the Medical Segmentation Decathlon, with the folds of the source. The first copy of a
case keeps its name and validates; further ones, cut elsewhere, only train, in the folds in which their case does. A
further channel stays as it is, on its own grid. Cases of one patient form a group; `--patient` is the part of a case's
name that says whose it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import ctseg
from ctseg.data.readers.find import open_dataset
from ctseg.planning.task import task_of
from ctseg.specs import Case
from ctseg.volume.volume import Volume

Box = tuple[slice, slice, slice]


class Cut(NamedTuple):
    """How a case is cut.

    Attributes:
        sides: voxels that go at most from each side in plane.
        shift: millimetres that go at most along each axis, from one of its sides, as where the box had been moved.
        copies: of each case.
    """

    sides: int = 0
    shift: float = 0.0
    copies: int = 1
    seed: int = 0

    def box(self, case: int, copy: int, volume: Volume) -> Box:
        """The part of a case that stays."""
        rng = np.random.default_rng([self.seed, case, copy])
        low, high = np.zeros(3, int), np.zeros(3, int)
        low[1:], high[1:] = rng.integers(0, self.sides + 1, (2, 2))
        for axis, spacing in enumerate(volume.geometry.spacing_zyx):
            moved = rng.uniform(-self.shift, self.shift) / spacing
            side = low if moved > 0 else high
            side[axis] += int(abs(moved))
        shape = volume.geometry.shape_zyx
        z, y, x = (slice(int(a), int(n - b)) for a, b, n in zip(low, high, shape, strict=True))
        return z, y, x


def recut(
    source: Path,
    target: Path,
    cut: Cut,
    channels: dict[str, str] | None = None,
    patient: str | None = None,
) -> None:
    """Write a data set cut anew.

    Args:
        channels: names of further channels, each with its folder within the source.
        patient: regular expression of the part of a case's name that names the patient; where it is None, the group
            that the source names, or else every case is a patient's only one.

    Raises:
        FileExistsError: the target is there.
        ValueError: a cut would take all labelled voxels of a case, or `patient` is not found in its name.
    """
    dataset = open_dataset(source)
    target.mkdir(parents=True)
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir()
    names: dict[str, list[str]] = {}
    entries = []
    for number, case in enumerate(dataset.cases):
        names[case.id] = []
        group = _group(case, patient)
        for name, image, label in _copies(case, number, cut):
            names[case.id].append(name)
            images = [f"imagesTr/{name}_0000.nii.gz"]
            label_path = f"labelsTr/{name}.nii.gz"
            ctseg.write(image, target / images[0])
            ctseg.write(label, target / label_path)
            for channel, folder in enumerate((channels or {}).values(), start=1):
                images.append(f"imagesTr/{name}_{channel:04}.nii.gz")
                shutil.copyfile(source / folder / f"{case.id}.nii.gz", target / images[-1])
            entries.append({"image": images, "label": label_path, "group": group})
    labels = {label.name: label.value for label in task_of(None, dataset).foreground}
    all_channels = [*dataset.channels, *(channels or {})]
    about = {
        "name": f"{dataset.name} cut anew",
        "licence": dataset.licence,
        "reference": dataset.reference,
        "modality": {str(n): name for n, name in enumerate(all_channels)},
        "labels": {"0": "background"} | {str(value): name for name, value in labels.items()},
        "numTraining": len(entries),
        "training": entries,
    }
    splits = [
        {"train": [each for case in train for each in names[case]], "val": list(validate)}
        for train, validate in dataset.splits
    ]
    (target / "dataset.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    (target / "splits.json").write_text(json.dumps(splits), encoding="utf-8")


def _group(case: Case, patient: str | None) -> str:
    if patient is None:
        return case.group or case.id
    found = re.search(patient, case.id)
    if found is None:
        raise ValueError(f"{patient!r} is not found in the name {case.id}")
    return found.group()


def _copies(case: Case, number: int, cut: Cut) -> Iterator[tuple[str, Volume, Volume]]:
    assert case.label is not None
    image, label = ctseg.read(case.images[0].path), ctseg.read(case.label.path)
    for copy in range(cut.copies):
        box = cut.box(number, copy, label)
        name = f"{case.id}_{copy}" if copy else case.id
        left, whole = np.count_nonzero(label.array[box]), np.count_nonzero(label.array)
        if not left:
            raise ValueError(f"the cut {box} takes all labelled voxels of {case.id}")
        if left < whole:
            print(f"{name}: {1 - left / whole:.1%} of the labelled voxels lie beyond the cut")
        yield name, _part(image, box), _part(label, box)


def _part(volume: Volume, box: Box) -> Volume:
    z, y, x = (side.start for side in box)
    array = np.ascontiguousarray(volume.array[box])
    depth, height, width = array.shape
    geometry = volume.geometry.sub((z, y, x), (depth, height, width))
    return dataclasses.replace(volume, array=array, geometry=geometry)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recut", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--sides", type=int, default=0, help="voxels at most from each, in plane")
    parser.add_argument("--shift", type=float, default=0.0, help="mm at most")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channel", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--patient", help="regular expression within a case's name")
    given = parser.parse_args()
    cut = Cut(given.sides, given.shift, given.copies, given.seed)
    channels = dict(each.split("=") for each in given.channel)
    recut(given.source, given.target, cut, channels, given.patient)


if __name__ == "__main__":
    main()
