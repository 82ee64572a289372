"""Fine-tuning against training from scratch: few cases, the same minutes, labels that the old model does not have.

    python -m benchmarks.finetune
    python -m benchmarks.finetune --seeds 0 --time 1m --tasks one

The old model is `unet3d.hippocampus_v1`, which knows anterior and posterior hippocampus. The new tasks have one label,
the whole hippocampus, and four, each of the two cut in half at its median along x. Both begin with the 44 scans of
fold 0, which the old model has not seen: 20 train, 24 validate. Each run is a whole `ctseg train --time`; the figure is
its best mean Dice on the 24 scans. Bar: with `--init` it is higher, with one label and with four, for every seed.
Data: the folder that CTSEG_TEST_DATA names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ctseg
from benchmarks.precision import FOLD, data_folder
from ctseg.data.readers.find import open_dataset

ROOT = Path(__file__).resolve().parent
MODEL = ROOT.parent / "zoo" / "unet3d.hippocampus_v1"
DATASET = "Dataset004_Hippocampus"
TRAIN = 20
TASKS = {
    "one": ("hippocampus",),
    "four": ("anterior low", "anterior high", "posterior low", "posterior high"),
}


def measure(
    seeds: Sequence[int] = (0, 1, 2),
    budget: str = "3m",
    tasks: Sequence[str] = tuple(TASKS),
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """The best mean Dice of each run, by task and start.

    Args:
        budget: time of each run.
        settings: further `--set` settings of the tuned runs.
    """
    source = data_folder() / DATASET
    if not source.is_dir():
        return {"what": f"no data at {source}"}
    out: dict[str, Any] = {
        "what": f"best mean Dice on 24 scans after {budget} of training on {TRAIN}, seeds {list(seeds)}",
        "model": MODEL.name,
        "settings": list(settings),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for task in tasks:
            data = write_task(source, Path(scratch, task), task)
            runs: dict[str, list[float]] = {"scratch": [], "init": []}
            for seed in seeds:
                for start, found in runs.items():
                    extra = ["--init", str(MODEL), *settings] if start == "init" else []
                    begun = time.perf_counter()
                    dice = train(
                        data, Path(scratch, f"{task}-{start}-{seed}"), seed, [budget, *extra]
                    )
                    seconds = time.perf_counter() - begun
                    print(f"{task} {start} seed {seed}: {dice:.4f} in {seconds:.0f} s", flush=True)
                    found.append(round(dice, 4))
            pairs = list(zip(runs["init"], runs["scratch"], strict=True))
            out[task] = {
                **runs,
                "mean_scratch": round(statistics.mean(runs["scratch"]), 4),
                "mean_init": round(statistics.mean(runs["init"]), 4),
                "better_in_every_seed": all(tuned > scratch for tuned, scratch in pairs),
            }
    return out


def train(data: Path, run: Path, seed: int, options: Sequence[str]) -> float:
    """The best mean Dice of a run."""
    command = [
        sys.executable, "-m", "ctseg", "train", str(data), "--fold", "0", "--seed", str(seed),
        "-o", str(run), "--json", "--time", *options,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "CTSEG_CACHE": str(data.parent / "cache")},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(json.loads(done.stdout)["mean_dice"])


def write_task(source: Path, folder: Path, task: str) -> Path:
    """A data set of the scans of fold 0 with other labels; 20 of them train."""
    dataset = open_dataset(source)
    ids = dataset.splits[FOLD][1]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    entries = []
    for case in dataset.cases:
        if case.id not in ids or case.label is None:
            continue
        name = f"{case.id}.nii.gz"
        label = ctseg.read(case.label.path)
        array = one_label(label.array) if task == "one" else four_labels(label.array)
        ctseg.write(dataclasses.replace(label, array=array), folder / "labels" / name)
        (folder / "images" / name).symlink_to(case.images[0].path.resolve())
        entries.append({"image": f"./images/{name}", "label": f"./labels/{name}"})
    content = {
        "name": f"{dataset.name} {task}",
        "licence": dataset.licence,
        "modality": {str(n): name for n, name in enumerate(dataset.channels)},
        "labels": {"0": "background"} | {str(n): v for n, v in enumerate(TASKS[task], start=1)},
        "training": entries,
    }
    splits = [{"train": ids[:TRAIN], "val": ids[TRAIN:]}]
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    return folder


def one_label(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Both labels as one."""
    return (array > 0).astype(np.uint8)


def four_labels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Each label as two, cut at the median of its x."""
    out = np.zeros(array.shape, np.uint8)
    for value in (1, 2):
        inside = array == value
        x = np.nonzero(inside)[-1]
        if len(x):
            high = np.arange(array.shape[-1]) > np.median(x)
            out[inside] = 2 * value - 1
            out[inside & high] = 2 * value
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--time", default="3m", help="of each run")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--set", nargs="*", default=[], help="settings of the tuned runs")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "finetune.json")
    given = parser.parse_args()
    from benchmarks.__main__ import machine

    settings = [part for setting in given.set for part in ("--set", setting)]
    result = {
        "machine": machine(),
        "result": measure(given.seeds, given.time, given.tasks, settings),
    }
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["result"], indent=2))


if __name__ == "__main__":
    main()
