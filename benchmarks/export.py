"""Logits of many classes brought back to the grid of the scan: `argmax_at` against nnU-Net's export.

Both get the same float16 logits, which is how nnU-Net's predictor hands them over, of 117 classes on a grid of 1.5 mm,
and find the labels on 512 x 512 slices of 0.8 mm, 2 mm apart. nnU-Net runs as it is, with the resampling that its plans
name. Each runs in a process of its own; memory is the peak over what is there once the logits are loaded. The bar:
at least 10 times less time and memory.

    python -m benchmarks export
    python -m benchmarks.export --slices 4 8 --size 96 --classes 12 --no-picture
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.organs import organs
from ctseg.machine import free_memory

SLICES, SIZE, CLASSES = (25, 50, 100), 512, 117
SPACING_ZYX, MODEL_MM = (2.0, 0.8, 0.8), 1.5
LONGEST = 600
"""To how many slices the lines are drawn."""
REPEATS = 3
SPARE = 2**30
"""Bytes that must stay free: a process that would take them is not started, or ended."""
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "assets" / "export.png"
NAMES = {"ctseg": "ctseg", "nnunet": "nnU-Net's export"}


def measure(
    slices: Sequence[int] = SLICES,
    size: int = SIZE,
    classes: int = CLASSES,
    limit_gib: float | None = None,
    picture: Path | None = PICTURE,
) -> dict[str, Any]:
    """Seconds and GiB of both for each number of slices, and the lines through them.

    Args:
        limit_gib: how much nnU-Net may take over its baseline; None for what the machine has free.
        picture: where to draw the lines.
    """
    out: dict[str, Any] = {
        "what": f"{classes} classes from {MODEL_MM} mm to {size} x {size} slices of {SPACING_ZYX} mm: seconds, and "
        "peak GiB over the loaded float16 logits",
        "slices": {str(count): _compare(count, size, classes, limit_gib) for count in slices},
    }
    out["extrapolated"] = _extrapolated(out["slices"])
    if picture is not None:
        draw(out, picture)
    return out


def _compare(count: int, size: int, classes: int, limit_gib: float | None) -> dict[str, Any]:
    shape, target = _shapes(count, size)
    gib = classes * float(np.prod(shape)) * 2 / 2**30
    found: dict[str, Any] = {"low_shape_zyx": shape, "logits_gib": round(gib, 3)}
    with tempfile.TemporaryDirectory() as folder:
        job = [folder, str(count), str(size), str(classes)]
        _child("make", job, None)
        found["ctseg"] = _child("ctseg", job, None)
        if "seconds" not in found["ctseg"]:  # the logits alone are too much
            return found
        needs = nnunet_gib(shape, target, classes)
        # nnU-Net keeps the logits beside what it makes of them
        room = (free_memory() - SPARE) / 2**30 - gib if limit_gib is None else limit_gib
        if needs > room:
            found["nnunet"] = {
                "fits": False,
                "gib_by_its_code": round(needs, 2),
                "room_gib": round(room, 2),
            }
            return found
        bound = None if limit_gib is None else limit_gib + gib + 1  # one more for Python and torch
        found["nnunet"] = {"gib_by_its_code": round(needs, 2)} | _child("nnunet", job, bound)
        if "seconds" in found["nnunet"]:
            for what in ("seconds", "gib"):
                ours = max(found["ctseg"][what], 1e-3)
                found[f"times_less_{what}"] = round(found["nnunet"][what] / ours, 1)
            ours, theirs = (np.load(Path(folder) / f"{n}.npy") for n in ("ctseg", "nnunet"))
            found["equal_voxels"] = round(float((ours == theirs).mean()), 6)
    return found


def nnunet_gib(
    shape_zyx: tuple[int, int, int], target_zyx: tuple[int, int, int], classes: int
) -> float:
    """What nnU-Net's export (2.7) holds at its peak besides the float16 logits, read from its code.

    All logits as float64 and all results as float16, while one class is resampled: its result in float64.
    """
    low, high = float(np.prod(shape_zyx)), float(np.prod(target_zyx))
    return (classes * (8 * low + 2 * high) + 8 * high) / 2**30


def _extrapolated(found: dict[str, Any]) -> dict[str, Any]:
    """Straight lines through what was measured, at the longest scan."""
    lines: dict[str, Any] = {"slices": LONGEST}
    for name in NAMES:
        known = {int(n): e[name] for n, e in found.items() if "seconds" in e[name]}
        if len(known) < 2:
            continue
        lines[name] = {}
        for what in ("seconds", "gib"):
            slope, start = np.polyfit(list(known), [e[what] for e in known.values()], 1)
            lines[name][what] = round(float(slope * LONGEST + start), 3)
    return lines


# ---------------------------------------------------------------- one process each


def _child(what: str, job: list[str], bound_gib: float | None) -> dict[str, Any]:
    """Run a part in a process of its own; it ends where memory runs out or passes a bound."""
    command = [sys.executable, "-m", "benchmarks.export", "--part", what, *job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(0.05)
            taken = _status("VmRSS", process.pid) / 2**20
            short = free_memory() < SPARE // 2
            if short or (bound_gib is not None and taken > bound_gib):
                process.kill()
                process.wait()
                return {"fits": False, "ended_at_gib": round(taken, 2)}
        printed = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"The part '{what}' of the benchmark ended with {process.returncode}.")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def _part(what: str, folder: Path, count: int, size: int, classes: int) -> dict[str, Any]:
    shape, target = _shapes(count, size)
    if what == "make":
        _write_logits(folder / "logits.npy", shape, classes)
        return {}
    ready = {"ctseg": _ours, "nnunet": _nnunet}[what](shape, target, classes)
    logits = np.load(folder / "logits.npy")
    before = _status("VmRSS")
    _forget_peak()
    times = []
    for _ in range(REPEATS if what == "ctseg" else 1):
        begun = time.perf_counter()
        labels = ready(logits)
        times.append(time.perf_counter() - begun)
    peak = (_status("VmHWM") - before) / 2**20
    np.save(folder / f"{what}.npy", labels)
    return {
        "seconds": round(statistics.median(times), 3),
        "gib": round(peak, 4),
        "first_seconds": round(times[0], 3),
    }


def _ours(
    shape: tuple[int, int, int], target: tuple[int, int, int], classes: int
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    from ctseg.engine.inference.resample_logits import argmax_at
    from ctseg.volume.resample import centres

    z, y, x = (centres(n, m) for n, m in zip(shape, target, strict=True))
    return lambda logits: argmax_at(torch.from_numpy(logits), (z, y, x)).numpy()


def _nnunet(
    shape: tuple[int, int, int], target: tuple[int, int, int], classes: int
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """With what its plans say of the resampling of logits; the objects hold just what the function reads."""
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    names = {"background": 0} | {f"organ {k}": k for k in range(1, classes)}
    plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    configuration = SimpleNamespace(
        spacing=[MODEL_MM] * 3,
        resampling_fn_probabilities=partial(
            resample_data_or_seg_to_shape, is_seg=False, order=1, order_z=0, force_separate_z=None
        ),
    )
    properties = {
        "spacing": list(SPACING_ZYX),
        "shape_after_cropping_and_before_resampling": target,
        "shape_before_cropping": target,
        "bbox_used_for_cropping": [[0, n] for n in target],
    }
    labels = LabelManager(names, None)
    return lambda logits: np.asarray(
        convert(torch.from_numpy(logits), plans, configuration, labels, properties)
    )


def _shapes(count: int, size: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The model's grid, and the scan's."""
    target = (count, size, size)
    z, y, x = (max(1, round(n * s / MODEL_MM)) for n, s in zip(target, SPACING_ZYX, strict=True))
    return (z, y, x), target


def _write_logits(path: Path, shape: tuple[int, int, int], classes: int) -> None:
    """Logits of about +-10 as a network makes them: smooth at the borders of organs, noise (deviation 1) everywhere."""
    from scipy.ndimage import gaussian_filter

    scale = min(1.0, min(shape) * MODEL_MM / 250)
    made = organs(shape, (MODEL_MM,) * 3, classes - 1, scale=scale).reference
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    logits = np.lib.format.open_memmap(path, "w+", np.float16, (classes, *shape))
    for k in range(classes):
        smooth = gaussian_filter((made == k).astype(np.float32), 1.0)
        logits[k] = 20 * smooth - 10 + np.roll(noise, (7 * k, 13 * k, 29 * k), (0, 1, 2))


def _status(key: str, process: int | str = "self") -> int:
    """A figure of a process in KiB from the kernel; 0 where it has ended or the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# ---------------------------------------------------------------- the picture


def draw(result: dict[str, Any], png: Path) -> None:
    """Seconds and GiB against slices: measured as points, the line on to the longest scan dashed. Logarithmic."""
    from ctseg.report.figure import GREY, INK, new_figure, plain_axes, save_png

    figure = new_figure(9, 3.8)
    titles = {"seconds": "seconds", "gib": "peak memory over the logits, GiB"}
    for axes, (what, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        plain_axes(axes)
        for (name, label), colour in zip(NAMES.items(), ("#00a087", "#e64b35"), strict=True):
            entries = {int(n): e[name] for n, e in result["slices"].items()}
            known = {n: e[what] for n, e in entries.items() if what in e}
            axes.plot(list(known), list(known.values()), "o-", color=colour, label=label)
            if name in result["extrapolated"]:
                last, end = max(known), result["extrapolated"][name][what]
                x = np.linspace(last, LONGEST, 100)  # a straight line, which is bent on this scale
                y = known[last] + (x - last) * (end - known[last]) / (LONGEST - last)
                axes.plot(x, y, "--", color=colour, label=f"{label}, extrapolated")
                axes.annotate(
                    f"{float(f'{end:.2g}'):,g}", (LONGEST, end), (-4, 6),
                    ha="right", color=colour, textcoords="offset points",
                )  # fmt: skip
            if what == "gib" and any("fits" in e for e in entries.values()):
                short = {n: e["gib_by_its_code"] for n, e in entries.items() if "fits" in e}
                axes.plot(list(short), list(short.values()), "x", color=colour,
                          label=f"{label}, did not fit (by its code)")  # fmt: skip
        axes.set_title(title, color=INK, fontsize=10)
        axes.set_xlabel("slices", color=GREY)
        axes.set_xlim(0, LONGEST * 1.04)
        axes.set_yscale("log")
        axes.margins(y=0.15)
    handles = figure.axes[1].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize=8, ncols=3, loc="lower center")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    save_png(figure, png)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=list(SLICES))
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--limit-gib", type=float)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--no-picture", action="store_true")
    parser.add_argument("--part", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.part:
        what, folder, *numbers = args.part
        print(json.dumps(_part(what, Path(folder), *map(int, numbers))))
        return
    picture = None if args.no_picture else args.picture
    found = measure(args.slices, args.size, args.classes, args.limit_gib, picture)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
