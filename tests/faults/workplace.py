"""A small user's world: scans, a trained run, a published model; made once, and copied for each trial."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np

import ctseg
from tests.faults.child import run

SMALL = [
    "--set", "model.options.features=[4, 8]", "--patch", "8,16,16", "--batch-size", "2", "--device", "cpu",
    "--precision", "fp32", "--set", "train.steps_per_epoch=2", "--set", "train.checkpoint_every=0",
]  # fmt: skip
CASES, SCANS = 5, 3


class Workplace:
    """Folders of one user.

    Attributes:
        data: a data set in Decathlon layout.
        scans: scans to predict or convert.
        zoo: a zoo with `unet3d.first` and `unet3d.other`.
        cache: of prepared cases.
        half: a run that was stopped half-way.
        done: a run of other weights that is done.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data, self.scans, self.zoo = root / "data", root / "scans", root / "zoo"
        self.cache, self.half, self.done = root / "cache", root / "half", root / "done"

    def command(self, *arguments: object) -> None:
        """Run a command that must succeed."""
        self.enter()
        ended = run(arguments)
        assert ended.code == 0, ended.said

    def enter(self) -> None:
        """Have this world's cache and zoo used from now on."""
        os.environ["CTSEG_CACHE"], os.environ["CTSEG_ZOO"] = str(self.cache), str(self.zoo)

    def copy(self, root: Path) -> Workplace:
        """The same world elsewhere, with files of the same times. Nothing writes to the data set, which is shared."""
        new = Workplace(root)
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("data"))
        new.data = self.data
        new.enter()
        return new

    def age_leftovers(self) -> None:
        """Make what a killed command left some seconds older, as it is when somebody starts the next one."""
        for path in self.root.rglob("*"):
            if path.name.startswith("."):
                then = time.time() - 60
                os.utime(path, (then, then), follow_symlinks=False)

    def leftovers(self) -> list[str]:
        """Temporary files and folders, relative."""
        return sorted(
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.name.startswith(".") or path.name.endswith((".new", ".old", ".tmp", ".part"))
        )


def make(root: Path) -> Workplace:
    """Make data, train twice, publish two models."""
    root.mkdir(parents=True, exist_ok=True)
    place = Workplace(root)
    _data_set(place)
    train = ["train", place.data, *SMALL, "--seed", 1]
    place.command(*train, "-o", place.done, "--steps", 2)
    place.command(*train, "-o", place.half, "--steps", 2, "--seed", 2)
    publish = ["zoo", "publish", "--no-measure", "--zoo", place.zoo]
    place.command(*publish, place.half, "--tag", "first")
    place.command(*publish, place.half, "--tag", "other")
    return place


def _data_set(place: Workplace) -> None:
    rows = []
    for index in range(CASES + SCANS):
        rng = np.random.default_rng(index)
        label = np.zeros((10, 18, 20), np.uint8)
        z, y, x = rng.integers(1, 3, 3)
        label[z : z + 6, y : y + 7, x : x + 8] = 1
        label[z + 1 : z + 5, y + 8 : y + 14, x + 9 : x + 15] = 2
        values = np.array([-80, 120, 40])[label] + rng.normal(0, 15, label.shape)
        image = ctseg.Volume.from_array(values.astype(np.int16), spacing_xyz=(1.0, 1.1, 2.0))
        if index >= CASES:
            ctseg.write(image, place.scans / f"scan{index}.nii.gz")
            continue
        name = f"case{index}.nii.gz"
        ctseg.write(image, place.data / "imagesTr" / name)
        mask = ctseg.Volume.from_array(label, spacing_xyz=(1.0, 1.1, 2.0))
        ctseg.write(mask, place.data / "labelsTr" / name)
        rows.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    document = {
        "name": "Boxes", "licence": "CC0", "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "box", "2": "brick"}, "training": rows,
    }  # fmt: skip
    (place.data / "dataset.json").write_text(json.dumps(document))
