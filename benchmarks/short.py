"""What a training of some minutes gains from: changes of one plan, each with the same time on one core.

    python -m benchmarks short
    python -m benchmarks.short --data lidc_nodules --time 3m --only adamw muon --seeds 0 1 2

The plan is that of `ctseg plan DATA --fold 0 --time T` on one core. Each run is a whole `ctseg train --time T` of it
with some settings changed, pinned to one core, as many side by side as there are cores; the figure is its best mean
Dice on the validation scans. All variants but those of muon and sgd have AdamW. A variant of two stages trains the
first for half of the time and begins the second with its weights (`--init`): the same plan again is a warm restart.
Data: the folder that CTSEG_TEST_DATA names.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ctseg
from benchmarks.precision import FOLD, data_folder
from ctseg.config.run import parse_duration
from ctseg.data.readers.find import open_dataset

ROOT = Path(__file__).resolve().parent
ZOO = ROOT.parent / "zoo"
SETS = ("Dataset004_Hippocampus", "lidc_nodules")
ADAMW = "train.optimizer=adamw"
VARIANTS: dict[str, tuple[str, ...]] = {
    "adamw": (ADAMW,),
    "muon": (),
    "muon, lr 2e-3": ("train.lr=2e-3",),
    "muon, lr 4e-3": ("train.lr=4e-3",),
    "sgd": ("train.optimizer=sgd", "train.lr=0.01", "train.weight_decay=3e-5"),
    "lr 4e-3": (ADAMW, "train.lr=4e-3"),
    "ema": (ADAMW, "train.ema=0.98"),
    "batch x 2": (ADAMW, "train.batch_size=4"),
    "residual": (ADAMW, "model.architecture=residual_unet3d"),
    "deep supervision": (ADAMW, "model.options.deep_supervision=true"),
    "nnunet augmentation": (ADAMW, "augment.preset=nnunet"),
    "no augmentation": (ADAMW, "augment.preset=none"),
    "warm restart": (ADAMW,),
    "coarse first": (ADAMW,),
    "zoo weights": (ADAMW,),
}
"""Settings of each."""
STAGED = ("warm restart", "coarse first")
FEWER = ("adamw", "muon", "muon, lr 4e-3", "muon, lr 2e-3", "zoo weights")
"""Those that are tried on nodules."""
INIT = {"lidc_nodules": "residual_unet3d.sts_tumour_v0"}
"""Weights of the zoo from other data; for hippocampus, `benchmarks.finetune` measures them."""
SHAPE = ("features", "kernels_zyx", "strides_zyx")
"""Options of the network that follow from the size."""
COARSER = 1.5
"""Factor of the spacing."""


def measure(
    names: Sequence[str] = SETS,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    budget: str = "2m",
) -> dict[str, Any]:
    """The best mean Dice of each run, by data set and variant.

    Args:
        names: data sets.
        only: variants; those of the data set if empty.
        budget: time of each run.
    """
    out: dict[str, Any] = {
        "what": f"best mean Dice on fold {FOLD} after {budget} on one core, seeds {list(seeds)}"
    }
    for name in names:
        source = data_folder() / name
        if not source.is_dir():
            return {"what": f"no data at {source}"}
        usual = FEWER if name in INIT else [v for v in VARIANTS if v != "zoo weights"]
        with tempfile.TemporaryDirectory() as scratch:
            out[name] = _runs(source, budget, only or usual, seeds, Path(scratch))
    return out


def _runs(
    source: Path, minutes: str, variants: Sequence[str], seeds: Sequence[int], scratch: Path
) -> dict[str, Any]:
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    count = cores.qsize()

    def job(variant: str, seed: int) -> float:
        core = cores.get()
        try:
            dice = _Run(source, scratch / f"{variant}-{seed}".replace(" ", "-"), core)(
                variant, seed, minutes
            )
        finally:
            cores.put(core)
        print(f"{source.name}: {variant}, seed {seed}: {dice:.4f}", flush=True)
        return dice

    # the first prepares the scans, which the others find in the cache
    _Run(source, scratch / "first", min(os.sched_getaffinity(0))).plan(minutes)
    with ThreadPoolExecutor(count) as pool:
        waiting = {v: [pool.submit(job, v, seed) for seed in seeds] for v in variants}
        found = {v: [round(each.result(), 4) for each in jobs] for v, jobs in waiting.items()}
    plain = found.get("adamw")
    return {
        v: {
            "dice": dice,
            "mean": round(statistics.mean(dice), 4),
            **({"over_adamw": [round(a - b, 4) for a, b in zip(dice, plain, strict=True)]} if plain else {}),
        }
        for v, dice in found.items()
    }  # fmt: skip


def _settings(values: dict[str, Any]) -> list[str]:
    return [part for key, v in values.items() for part in ("--set", f"{key}={json.dumps(v)}")]


def _coarse(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan at a coarser spacing, in plane where slices are far apart, with a patch of about the same millimetres."""
    z, y, x = plan["spacing_zyx"]
    thick = z >= COARSER * x
    patch = [8 * math.ceil(p / COARSER / 8) for p in plan["train.patch_zyx"]]
    if thick:
        patch[0] = plan["train.patch_zyx"][0]
    spacing = [x * COARSER, y * COARSER, z if thick else z * COARSER]
    return {"train.patch_zyx": patch, "preprocess.spacing_xyz": spacing}


class _Run:
    """A training on one core.

    Args:
        folder: for its plan, run and prepared scans.
    """

    def __init__(self, source: Path, folder: Path, core: int) -> None:
        self.source, self.folder, self.core = source, folder, core
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, variant: str, seed: int, minutes: str) -> float:
        settings = [part for s in VARIANTS[variant] for part in ("--set", s)]
        if variant == "zoo weights":
            model = str(ZOO / f"{INIT[self.source.name]}")
            return self.train({}, seed, minutes, [*settings, "--init", model])
        plan = self.plan(minutes)
        if variant not in STAGED:
            return self.train(plan, seed, minutes, settings)
        half = f"{parse_duration(minutes) / 2:.0f}s"
        self.train(
            plan | (_coarse(plan) if variant == "coarse first" else {}), seed, half, [], "one"
        )
        again = [*settings, "--init", str(self.folder / "one"), "--set", "train.init_lr_scale=1"]
        at = {"preprocess.spacing_xyz": plan["spacing_zyx"][::-1]}
        return self.train(plan | at, seed, half, again)

    def plan(self, minutes: str) -> dict[str, Any]:
        """Size and network that `ctseg plan` chooses; the first call of all decides for all."""
        file = self.folder.parent / "plan.toml"
        if not file.exists():
            fold = f"data.fold={FOLD}"
            self.command("plan", self.source, "--set", fold, "--time", minutes, "-o", file)
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        found = [
            s["spacing_xyz"] for s in content["preprocess"]["steps"] if s["kind"] == "resample"
        ]
        if not found:  # every scan has the target spacing
            image = open_dataset(self.source).cases[0].images[0]
            found = [list(ctseg.read(image.path).spacing_xyz)]
        return {
            "train.patch_zyx": content["train"]["patch_zyx"],
            "train.batch_size": content["train"]["batch_size"],
            **{f"model.options.{key}": content["model"]["options"][key] for key in SHAPE},
            "spacing_zyx": found[0][::-1],
        }

    def train(
        self, plan: dict[str, Any], seed: int, minutes: str, options: Sequence[str], name: str = "run"
    ) -> float:  # fmt: skip
        run = self.folder / name
        planned = _settings({key: value for key, value in plan.items() if "." in key})
        done = self.command(
            "train", self.source, "--fold", FOLD, "--seed", seed, "--time", minutes, "-o", run,
            "--json", *planned, *options,
        )  # fmt: skip
        return float(json.loads(done)["mean_dice"])

    def command(self, *words: object) -> str:
        done = subprocess.run(
            ["taskset", "-c", str(self.core), sys.executable, "-m", "ctseg", *map(str, words)],
            capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CTSEG_CACHE": str(self.folder.parent / "cache")},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"ctseg {' '.join(map(str, words))} failed:\n{done.stderr}")
        return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.short", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--time", default="2m", help="of each run")
    given = parser.parse_args()
    print(json.dumps(measure(given.data, given.only, given.seeds, given.time), indent=2))


if __name__ == "__main__":
    main()
