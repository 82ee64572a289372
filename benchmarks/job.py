"""The whole job: from the start of the process to the last file, against nnU-Net with the same network.

    python -m benchmarks job
    python -m benchmarks.job --scans 4 --processes 1

`ctseg predict` with a zoo model on the validation scans of fold 0, and `nnUNetv2_predict --disable_tta -device cpu`
on the same files with the same weights in its PlainConvUNet: with its default of three processes to prepare and three
to export, with one of each, and with none, when it does all in one process. Bar: its default takes at least 4 x as long
as ours; the fastest of its ways stands beside it.

Both blend tiles by a Gaussian at half a tile's distance. ctseg turns scans to LPS and clips their intensities before it
normalises them, as the model was trained; nnU-Net would not, so the scans are stored that way for both. Labels still
differ a little, mostly where scans are smaller than a tile: they are padded by reflection here and by zeros there.
Data: the folder that CTSEG_TEST_DATA names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks.nnunet_model import CONFIGURATION, write_results
from benchmarks.precision import FOLD, agreement, data_folder
from ctseg.machine import cores

MODEL = "unet3d.hippocampus_v1"
DATASET = "Dataset004_Hippocampus"
PROCESSES = (3, 1, 0)
"""For preparing and as many for exporting; the first is nnU-Net's default."""
PERCENTILES = (0.5, 99.5)
"""At which the zoo model clips."""


def measure(
    data: Path | None = None, processes: Sequence[int] = PROCESSES, repeats: int = 2, scans: int = 0
) -> dict[str, Any]:
    """Seconds of each from start to end.

    Args:
        data: the data set; that of CTSEG_TEST_DATA where it is not given.
        repeats: of ctseg; nnU-Net runs once for each number of processes.
        scans: how many; 0 for all.
    """
    data = data or data_folder() / DATASET
    if not data.is_dir():
        return {"what": f"no data at {data}"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = _inputs(data, folder / "scans", scans)
        about = json.loads((data / "dataset.json").read_text())
        network = write_results(MODEL, DATASET, about, folder / "nnUNet_results")
        ours, theirs = [], {}
        for number, wanted in enumerate(processes):
            if number < repeats:
                ours.append(_ours(folder / "scans", folder / f"ours{number}", count))
            theirs[str(wanted)] = _theirs(folder, folder / f"theirs{number}", wanted, count)
        ours += [
            _ours(folder / "scans", folder / f"ours{number}", count)
            for number in range(len(processes), repeats)
        ]
        own, default = statistics.median(ours), theirs.get(str(PROCESSES[0]), 0.0)
        return {
            "what": f"{count} scans, from start of the process to the last file, seconds",
            "cores": cores(),
            "ctseg": round(own, 2),
            "ctseg_runs": [round(s, 2) for s in ours],
            "nnunet_by_processes": {k: round(v, 2) for k, v in theirs.items()},
            "nnunet_default_over_ours": round(default / own, 2),
            "nnunet_best_over_ours": round(min(theirs.values()) / own, 2),
            "same_network": network,
            "labels_between_both": {
                k: v
                for k, v in agreement(folder / "ours0", folder / "theirs0").items()
                if k != "reached"
            },
            "reached": {"at least 4 x faster than nnU-Net's default": default >= 4 * own},
        }


def _inputs(data: Path, folder: Path, scans: int) -> int:
    """The validation scans under the names that both read, ID_0000.nii.gz, turned and clipped; how many."""
    names = json.loads((data / "splits.json").read_text())[FOLD]["val"][: scans or None]
    folder.mkdir()
    for name in names:
        image = sitk.ReadImage(str(data / "imagesTr" / f"{name}_0000.nii.gz"), sitk.sitkFloat32)
        image = sitk.DICOMOrient(image, "LPS")
        low, high = np.percentile(sitk.GetArrayViewFromImage(image), PERCENTILES)
        image = sitk.Clamp(image, sitk.sitkFloat32, float(low), float(high))
        sitk.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    return len(names)


def _ours(scans: Path, out: Path, count: int) -> float:
    command = [sys.executable, "-m", "ctseg", "predict", str(scans), "-m", MODEL, "-o", str(out)]
    return _timed([*command, "--device", "cpu"], out, count, {})


def _theirs(folder: Path, out: Path, processes: int, count: int) -> float:
    program = Path(sysconfig.get_path("scripts")) / "nnUNetv2_predict"
    command = [
        str(program), "-i", str(folder / "scans"), "-o", str(out), "-d", DATASET,
        "-c", CONFIGURATION, "-f", "0", "--disable_tta", "-device", "cpu",
        "-npp", str(processes), "-nps", str(processes), "--disable_progress_bar",
    ]  # fmt: skip
    places = {
        f"nnUNet_{name}": str(folder / f"nnUNet_{name}")
        for name in ("raw", "preprocessed", "results")
    }
    return _timed(command, out, count, places)


def _timed(command: list[str], out: Path, count: int, variables: dict[str, str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    written = len(list(out.glob("*.nii.gz"))) if out.is_dir() else 0
    if done.returncode or written != count:
        raise RuntimeError(f"{command[0]} wrote {written} of {count} scans:\n{done.stderr[-3000:]}")
    for other in out.glob("*.json"):
        other.unlink()  # settings that stand beside the scans
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job", description=__doc__)
    parser.add_argument("--data", type=Path, help=f"the folder {DATASET}")
    parser.add_argument("--processes", type=int, nargs="*", default=PROCESSES)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--scans", type=int, default=0, help="how many; all by default")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(json.dumps(measure(args.data, args.processes, args.repeats, args.scans), indent=2))


if __name__ == "__main__":
    main()
