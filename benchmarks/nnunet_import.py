"""Models that nnU-Net's own tools trained, imported: labels, time and memory beside `nnUNetv2_predict`.

    python -m benchmarks nnunet_import                            trains first, which takes half an hour
    python benchmarks/nnunet_train.py FOLDER --data DATA
    python -m benchmarks.nnunet_import FOLDER [--python PYTHON]

Each model is imported by one command and predicts 20 scans that it was not trained on, by `ctseg predict --tta`
as it comes and with `--precision fp32`, and by `nnUNetv2_predict` with its default of three processes to prepare and
three to export and, but for cascades, which that mode does not support, with none. Same folds, mirroring and cores, one
run after the other. Seconds are from the start of the process to the last file; memory is the largest sum over all
processes of a run of what they hold, each shared page counted once.

Bars: the same label in at least 99.95 % of the voxels; at least 3 x as fast as nnU-Net's default, in less memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.precision import agreement, data_folder
from ctseg.machine import cores

DATASET = "Dataset004_Hippocampus"
TRAINER = "nnUNetTrainer__nnUNetPlans__"
LEAST_EQUAL, LEAST_TIMES = 0.9995, 3.0
SAMPLE = 0.25
"""Seconds between two looks at the memory of a run."""


def measure(folder: Path | None = None, python: str = sys.executable) -> dict[str, Any]:
    """Agreement, seconds and memory of each model.

    Args:
        folder: made by `nnunet_train.py`; made anew by default.
        python: an interpreter with nnunetv2.
    """
    if folder is None:
        data = data_folder() / DATASET
        if not data.is_dir():
            return {"what": f"no data at {data}"}
        with tempfile.TemporaryDirectory() as scratch:
            script = Path(__file__).with_name("nnunet_train.py")
            subprocess.run([python, str(script), scratch, "--data", str(data)], check=True)
            return measure(Path(scratch), python)
    version = "import importlib.metadata as m; print(m.version('nnunetv2'))"
    asked = subprocess.run([python, "-c", version], capture_output=True, text=True, check=True)
    models: dict[str, Any] = {}
    for model in json.loads((folder / "models.json").read_text()):
        for configuration in model["configurations"]:
            if configuration != "3d_lowres":  # the cascade runs it
                with tempfile.TemporaryDirectory() as scratch:
                    run = _Run(folder, model, configuration, python, Path(scratch))
                    name = f"{model['name']}, {configuration}"
                    models[name] = run.compared()
                    print(f"{name}: {json.dumps(models[name])}", file=sys.stderr, flush=True)
    return {
        "what": "an imported model of nnU-Net, from start of the process to the last file",
        "cores": cores(),
        "processor": _processor(),
        "nnunetv2": asked.stdout.strip(),
        "models": models,
    }


class _Run:
    """One model, predicted by both."""

    def __init__(
        self, folder: Path, model: Mapping[str, Any], configuration: str, python: str, scratch: Path
    ) -> None:
        self.folder, self.model, self.configuration = folder, model, configuration
        self.python, self.scratch = python, scratch
        self.scans = folder / "scans" / model["name"]
        self.count = len(list(self.scans.iterdir()))

    @property
    def dataset(self) -> str:
        return f"Dataset{self.model['number']:03d}_{self.model['name']}"

    def compared(self) -> dict[str, Any]:
        results = self.folder / "nnUNet_results" / self.dataset / f"{TRAINER}{self.configuration}"
        imported = _watched(
            [sys.executable, "-m", "ctseg", "zoo", "import", "nnunet", str(results), "--tag", "made"],
            self._variables(),
        )  # fmt: skip
        ours = self._ours("ours", [])
        theirs = self._theirs("theirs", 3)
        exact = self._ours("exact", ["--precision", "fp32"])
        found: dict[str, Any] = {
            "scans": self.count,
            "import_seconds": imported["seconds"],
            "ctseg": ours,
            "ctseg_fp32": exact,
            "nnunet": theirs,
        }
        if "cascade" not in self.configuration:
            found["nnunet_sequential"] = self._theirs("alone", 0)
        for key, name in (("ctseg", "ours"), ("ctseg_fp32", "exact")):
            same = agreement(self.scratch / "theirs", self.scratch / name)
            found[key] |= {"equal_voxels": same["equal_voxels"], "dice": same["dice"]}
        found["reached"] = {
            "99.95 % of the voxels": found["ctseg"]["equal_voxels"] >= LEAST_EQUAL,
            "3 x as fast": theirs["seconds"] >= LEAST_TIMES * ours["seconds"],
            "in less memory": ours["gib"] < theirs["gib"],
        }
        return found

    def _ours(self, name: str, options: Sequence[str]) -> dict[str, Any]:
        (model,) = [
            place.name for place in (self.scratch / "zoo").iterdir() if place.name.endswith(".made")
        ]
        command = [
            sys.executable, "-m", "ctseg", "predict", str(self.scans), "-m", model, "--tta",
            "-o", str(self.scratch / name), "--device", "cpu", *options,
        ]  # fmt: skip
        found = _watched(command, self._variables())
        self._check(name)
        return found

    def _theirs(self, name: str, processes: int) -> dict[str, Any]:
        runs: list[dict[str, float]] = []
        earlier: list[str] = []
        stages = ["3d_lowres"] if "cascade" in self.configuration else []
        for stage in [*stages, self.configuration]:
            out = self.scratch / (name if stage == self.configuration else f"{name}_{stage}")
            command = [
                str(Path(self.python).parent / "nnUNetv2_predict"), "-i", str(self.scans),
                "-o", str(out), "-d", self.dataset, "-c", stage, "-f", *map(str, self.model["folds"]),
                "-device", "cpu", "-npp", str(processes), "-nps", str(processes),
                "--disable_progress_bar", *earlier,
            ]  # fmt: skip
            runs.append(_watched(command, self._variables()))
            earlier = ["-prev_stage_predictions", str(out)]
        self._check(name)
        return {
            "seconds": round(sum(run["seconds"] for run in runs), 2),
            "cpu_seconds": round(sum(run["cpu_seconds"] for run in runs), 2),
            "gib": max(run["gib"] for run in runs),
        }

    def _check(self, name: str) -> None:
        written = list((self.scratch / name).glob("*.nii.gz"))
        if len(written) != self.count:
            raise RuntimeError(f"{name}: {len(written)} of {self.count} scans")
        for other in (self.scratch / name).glob("*.json"):
            other.unlink()  # settings that stand beside the scans

    def _variables(self) -> dict[str, str]:
        places = {
            f"nnUNet_{kind}": str(self.folder / f"nnUNet_{kind}")
            for kind in ("raw", "preprocessed", "results")
        }
        own = {"CTSEG_ZOO": str(self.scratch / "zoo"), "CTSEG_CACHE": str(self.scratch / "cache")}
        return places | own


# ---------------------------------------------------------------- a run and its memory


def _watched(command: Sequence[str], variables: Mapping[str, str]) -> dict[str, float]:
    """Seconds of a run and of the cores that it used, and the most GiB that it and its children held together."""
    most, over = 0, threading.Event()
    with tempfile.TemporaryFile("w+") as told:
        used = _cores_used()
        begun = time.perf_counter()
        process = subprocess.Popen(
            list(command), env={**os.environ, **variables}, stdout=told, stderr=told
        )

        def watch() -> None:
            nonlocal most
            while not over.wait(SAMPLE):
                most = max(most, sum(map(_held, _family(process.pid))))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - begun
        over.set()
        watcher.join()
        if code:
            told.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{told.read()[-3000:]}")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(_cores_used() - used, 2),
        "gib": round(most / 2**30, 3),
    }


def _cores_used() -> float:
    """Seconds of processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # has ended
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += below.get(one, [])
    return found


def _held(pid: int) -> int:
    """Bytes that a process holds, pages that it shares with others by its part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _processor() -> str:
    """Its kind, and whether it multiplies bfloat16 by itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    has = "with" if any("avx512_bf16" in line for line in lines) else "without"
    return f"{name}, {has} avx512_bf16"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nnunet_import", description=__doc__)
    parser.add_argument("folder", type=Path, help="made by benchmarks/nnunet_train.py")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with nnunetv2")
    args = parser.parse_args()
    print(json.dumps(measure(args.folder, args.python), indent=2))


if __name__ == "__main__":
    main()
