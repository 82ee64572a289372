"""Small valid data sets: description, folds and lists of cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import ctseg
from ctseg.config import RunConfig
from ctseg.data.readers.find import open_dataset
from ctseg.data.splits import split
from ctseg.planning.task import task_of
from tests.hostile.mutate import document, text
from tests.hostile.target import Seed

CASES = 4


def dataset(folder: Path) -> list[Seed]:
    file = _dataset(folder)
    return [Seed("dataset", folder, [file], document(), _split)]


def splits(folder: Path) -> list[Seed]:
    _dataset(folder)
    names = [f"case{i}" for i in range(CASES)]
    file = folder / "splits.json"
    file.write_text(
        json.dumps([{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}])
    )
    return [Seed("splits", folder, [file], document(), _split)]


def case_list(folder: Path) -> list[Seed]:
    _dataset(folder)
    rows = [
        {"id": f"case{i}", "image": f"imagesTr/case{i}.nii.gz", "label": f"labelsTr/case{i}.nii.gz",
         "group": f"p{i // 2}", "fold": str(i // 2)} for i in range(CASES)
    ]  # fmt: skip
    table = folder / "cases.csv"
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    table.write_text("".join(f"{line}\n" for line in lines))
    listed = folder / "cases.json"
    about = {
        "name": "Boxes",
        "channels": ["CT"],
        "labels": {"box": 1},
        "ignore": 255,
        "licence": "CC0",
    }
    listed.write_text(json.dumps({**about, "cases": rows}))
    return [
        Seed("csv", table, [table], text(), _split),
        Seed("json", listed, [listed], document(), _split),
    ]


def _dataset(folder: Path) -> Path:
    """Scans and labels in Decathlon layout; its description."""
    rows = []
    for i in range(CASES):
        array = np.zeros((4, 5, 6), np.uint8)
        array[1:3, 1:3, 1:3] = 1
        for kind in ("imagesTr", "labelsTr"):
            ctseg.write(ctseg.Volume.from_array(array), folder / kind / f"case{i}.nii.gz")
        rows.append({"image": f"./imagesTr/case{i}.nii.gz", "label": f"./labelsTr/case{i}.nii.gz"})
    about = {
        "name": "Boxes", "licence": "CC0", "reference": "none", "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "box"}, "numTraining": CASES, "training": rows, "test": [],
    }  # fmt: skip
    file = folder / "dataset.json"
    file.write_text(json.dumps(about))
    return file


def _split(path: Path) -> None:
    """As training begins: cases, task, and which of them validate."""
    found = open_dataset(path)
    config = RunConfig()
    split(found, config.data, {case.id: 4 for case in found.cases})
    task_of(config.task, found)
