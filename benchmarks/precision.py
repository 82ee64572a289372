"""Published models in bfloat16 against float32 on real scans: how many voxels agree, and Dice between the two.

    python -m benchmarks precision
    python -m benchmarks.precision --models residual_unet3d.sts_tumour_v0

Both are whole runs of `ctseg predict` on the validation scans of fold 0. Bars: 0.999 of all voxels equal, and a Dice
between the two of 0.995 for every label, as the mean over the scans; the lowest of a scan stands beside it.
Data: the folder that CTSEG_TEST_DATA names.
"""

from __future__ import annotations

import argparse
import json
import os
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

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS = {
    "unet3d.hippocampus_v1": "Dataset004_Hippocampus",
    "residual_unet3d.sts_tumour_v0": "sts_ct",
}
FOLD = 0


def data_folder() -> Path:
    return Path(os.environ.get("CTSEG_TEST_DATA", DATA))


def measure(models: Sequence[str] = tuple(MODELS), device: str = "auto") -> dict[str, Any]:
    """Agreement and seconds of each model whose data are there."""
    out: dict[str, Any] = {
        "what": "bf16 against fp32, whole runs on the validation scans of fold 0"
    }
    for model in models:
        data = data_folder() / MODELS[model]
        out[model] = one_model(model, data, device) if data.is_dir() else f"no data at {data}"
    return out


def one_model(model: str, data: Path, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        seconds = {}
        for precision in ("fp32", "bf16"):
            begun = time.perf_counter()
            command = [
                sys.executable, "-m", "ctseg", "predict", str(data), "--fold", str(FOLD), "-m", model,
                "-o", f"{scratch}/{precision}", "--precision", precision, "--device", device,
            ]  # fmt: skip
            subprocess.run(command, check=True, capture_output=True)
            seconds[precision] = round(time.perf_counter() - begun, 2)
        return {**agreement(Path(scratch) / "fp32", Path(scratch) / "bf16"), "seconds": seconds}


def agreement(exact: Path, quick: Path) -> dict[str, Any]:
    """Share of equal voxels and Dice of each label over two folders of predictions with the same names."""
    files = sorted(p.name for p in exact.iterdir() if p.suffix != ".json")
    equal = voxels = 0
    dice: dict[int, list[float]] = {}
    for name in files:
        one, two = (np.asarray(ctseg.read(folder / name).array) for folder in (exact, quick))
        equal += int((one == two).sum())
        voxels += one.size
        for label in set(np.unique(one)) | set(np.unique(two)):
            if label:
                dice.setdefault(int(label), []).append(overlap(one == label, two == label))
    means = {label: float(np.mean(values)) for label, values in sorted(dice.items())}
    share = equal / max(voxels, 1)
    return {
        "scans": len(files),
        "equal_voxels": round(share, 6),
        "dice": {label: round(value, 5) for label, value in means.items()},
        "lowest_dice_of_a_scan": {k: round(min(v), 5) for k, v in sorted(dice.items())},
        "reached": {
            "0.999 of voxels": share >= 0.999,
            "Dice 0.995 for every label": bool(means) and min(means.values()) >= 0.995,
        },
    }


def overlap(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    """Dice of two masks, at least one of which holds something."""
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    print(json.dumps(measure(args.models, args.device), indent=2))


if __name__ == "__main__":
    main()
