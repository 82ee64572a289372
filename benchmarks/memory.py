"""Peak memory of predicting long scans, HDF5 to HDF5, beside nnU-Net's and MONAI's sliding windows.

    python -m benchmarks memory                      minutes; up to 1024 x 1024 x 2048 voxels, 5 GB of disk at a time
    python -m benchmarks.memory --sizes 128x128x64 --sizes 128x128x256
    python -m benchmarks.memory --afresh             peers too, whom else the last result stands for

A tiny network, so that it ends in minutes: `unet3d` of widths 2 and 4, tiles of 64 x 128 x 128 with an overlap of 1/8.
Each run has a process of its own. What counts is the peak over what the process held after its imports and with the
model loaded: `anonymous` is memory that nothing but RAM can hold (sampled), `resident` also counts pages of files that
the system may drop at any time (the kernel's own high-water mark).

The peers read the scan into memory, predict, and take the largest logit slice by slice, which is kinder than what
their own tools do; the network runs in bfloat16 for all, since that changes time and not memory. A peer that would
pass the limit is stopped there.

Bars for ctseg: with 3 classes under 2 GiB, and constant in length (the longest at most 1.1 x the shortest, or 64 MiB
more); with 40 classes constant in length.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import ctseg
from benchmarks.sliding import PEERS, ByHand, Setting, quiet
from ctseg.card import Card
from ctseg.engine.model.weights import save_weights

GIB = 2**30
IDLE_SECONDS = 60
"""A process that computes nothing for so long waits for something that will not come."""
TILE_ZYX = (64, 128, 128)
OVERLAP = 0.125
OPTIONS: dict[str, Any] = {"features": [2, 4], "convs_per_level": 1}
STD = 300.0
"""By which the scan is divided."""
LIMIT_GIB = 18.0
RESULT = Path(__file__).resolve().parent / "results" / "memory.json"
PLOT = Path(__file__).resolve().parents[1] / "docs" / "assets" / "memory.png"
SAMPLE = 0.01


@dataclass(frozen=True)
class Size:
    """Of a scan, y by x by slices, and how many classes the network tells apart."""

    side: int
    slices: int
    classes: int = 3

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        return self.slices, self.side, self.side


SIZES = (
    Size(512, 128), Size(512, 512), Size(512, 2048), Size(1024, 2048), Size(512, 128, 40), Size(512, 512, 40),
)  # fmt: skip
WHO = ("ctseg", "nnunet", "monai")


def measure(
    sizes: Sequence[Size] = SIZES, who: Sequence[str] = WHO, limit_gib: float = LIMIT_GIB,
    seconds: float = 900, plot: Path | None = PLOT, earlier: Path | None = RESULT,
) -> dict[str, Any]:  # fmt: skip
    """Peaks of each at every size, and a plot of them.

    Args:
        earlier: a result whose peers are not measured again; a peak does not depend on what else the machine does.
        limit_gib: who needs more is stopped.
        seconds: who takes longer is stopped.
        plot: where the picture goes; None for none.
    """
    known = {} if earlier is None else _peers_of(earlier, limit_gib)
    runs = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            _write_scan(folder / "scan.h5", size.shape_zyx)
            _write_model(folder / "model.safetensors", size.classes)
            for name in who:
                if (name, size) in known:
                    runs.append(known[name, size])
                    continue
                found = _apart(name, size, folder, limit_gib, seconds)
                runs.append(
                    {"who": name, "shape_zyx": size.shape_zyx, "classes": size.classes, **found}
                )
                print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    if plot is not None:
        _plot(runs, limit_gib, plot)
    return {
        "what": "peak GiB over the process after its imports, HDF5 to HDF5",
        "network": _network(),
        "limit_gib": limit_gib,
        "runs": runs,
        "reached": _reached([run for run in runs if run["who"] == "ctseg"]),
    }


def _peers_of(earlier: Path, limit_gib: float) -> dict[tuple[str, Size], dict[str, Any]]:
    """What an earlier run found of the peers under the same limit, with the same tiles."""
    if not earlier.is_file():
        return {}
    document = json.loads(earlier.read_text())
    document = document.get("result", document)
    if document["limit_gib"] != limit_gib or document["network"] != _network():
        return {}
    out = {}
    for run in document["runs"]:
        slices, side, _ = run["shape_zyx"] = tuple(run["shape_zyx"])
        if run["who"] != "ctseg" and ("anonymous_gib" in run or run.get("exceeded")):
            run.pop("seconds", None)  # of another hour
            out[run["who"], Size(side, slices, run["classes"])] = run
    return out


def _network() -> str:
    return f"unet3d {OPTIONS}, tile {TILE_ZYX}, overlap {OVERLAP}"


def _reached(ours: list[dict[str, Any]]) -> dict[str, bool]:
    out = {}
    for classes in sorted({run["classes"] for run in ours}):
        same = [run for run in ours if run["classes"] == classes]
        peaks = {run["shape_zyx"]: run.get("anonymous_gib", np.inf) for run in same}
        if classes == 3:
            out["3 classes under 2 GiB"] = max(peaks.values()) < 2
        for side in sorted({shape[1] for shape in peaks}):
            line = [peaks[shape] for shape in sorted(peaks) if shape[1] == side]
            if len(line) > 1:
                name = f"{classes} classes, {side} x {side}: constant in length"
                bound = max(1.1 * line[0], line[0] + 1 / 16)
                out[name] = bool(np.isfinite(line).all()) and max(line) <= bound
    return out


# ---------------------------------------------------------------- what they are given


def _write_scan(path: Path, shape_zyx: tuple[int, int, int]) -> None:
    """Smooth waves and a little noise, int16 in chunks, written slab by slab."""
    z, y, x = shape_zyx
    rows, columns = (np.sin(np.arange(n) / 9).astype(np.float32) for n in (y, x))
    plane = 300 * rows[:, None] * columns
    noise = np.random.default_rng(0).normal(0, 10, (y, x)).astype(np.float32)
    with h5py.File(path, "w") as file:
        chunk = tuple(min(n, c) for n, c in zip(shape_zyx, (16, 128, 128), strict=True))
        stored = file.create_dataset("raw", shape_zyx, "int16", chunks=chunk)
        stored.attrs["spacing_xyz"] = (1.0, 1.0, 1.0)
        for start in range(0, z, 16):
            slices = np.arange(start, min(start + 16, z))
            waves = np.sin(slices / 11).astype(np.float32)[:, None, None]
            stored[start : start + len(slices)] = (waves * plane + noise).astype(np.int16)


def _write_model(path: Path, classes: int) -> None:
    torch.manual_seed(0)
    net = ctseg.create_model("unet3d", in_channels=1, out_channels=classes, **OPTIONS)
    labels = [{"name": f"label {n}", "values": [n], "value": n} for n in range(classes)]
    card = {
        "architecture": "unet3d", "options": OPTIONS, "provider": {"package": "ctseg"},
        "in_channels": 1, "out_channels": classes, "channels": ["CT"],
        "task": {"kind": "classes", "labels": labels},
        "preprocess": {"steps": [{"kind": "normalise", "mean": [0.0], "std": [STD]}]},
        "predict": {"tile_zyx": TILE_ZYX, "overlap": OVERLAP},
        "training_data": {"name": "none: random weights"},
    }  # fmt: skip
    save_weights(path, net.state_dict(), Card.model_validate(card))


# ---------------------------------------------------------------- in a process of its own


def _apart(who: str, size: Size, folder: Path, limit_gib: float, seconds: float) -> dict[str, Any]:
    """Run one of them, and stop it where it takes too much memory or time."""
    command = [
        sys.executable, "-m", "benchmarks.memory", "--inside", who, str(folder),
        *map(str, (size.side, size.slices, size.classes, limit_gib)),
    ]  # fmt: skip
    begun = time.perf_counter()
    with (folder / "out.txt").open("w+") as out, (folder / "err.txt").open("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        working, since = -1.0, begun
        try:
            while process.poll() is None:
                # an allocation that fails in a thread of nnU-Net's leaves the others waiting for ever
                if (ticks := _processor_seconds(process.pid)) != working:
                    working, since = ticks, time.perf_counter()
                elif time.perf_counter() - since > IDLE_SECONDS:
                    return {"state": f"stood still under {limit_gib} GiB", "exceeded": True}
                if (now := _held(process.pid)) is not None and now["anonymous"] > limit_gib * GIB:
                    return {"state": f"exceeded {limit_gib} GiB", "exceeded": True}
                if time.perf_counter() - begun > seconds:
                    return {"state": f"stopped after {seconds:.0f} s"}
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        if process.returncode == -signal.SIGKILL:
            return {"state": "killed for memory", "exceeded": True}
        if process.returncode:
            return {"state": f"failed: {err.read()[-1500:]}"}
        found: dict[str, Any] = json.loads(out.read().splitlines()[-1])
        return found


def _processor_seconds(pid: int) -> float:
    """What a process has computed by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1.0
    return float(int(fields[11]) + int(fields[12]))


def _inside(who: str, folder: Path, size: Size, limit_gib: float) -> dict[str, Any]:
    """What one run needs: measured within its own process."""
    warnings.simplefilter("ignore")
    scan, made = folder / "scan.h5", folder / "made.h5"
    setting = Setting(size.shape_zyx, TILE_ZYX, size.classes, OVERLAP)
    segmenter = ctseg.load(folder / "model.safetensors", device="cpu")
    if who == "ctseg":
        with _peak() as found:
            segmenter.predict_file(scan, made)
    else:
        net = ByHand(segmenter.networks[0], "cpu")
        with quiet():  # what it imports belongs to the interpreter, not to the prediction
            PEERS[who](net, np.zeros((1, 1, 1, 1), np.float32), setting, folder)
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this one goes
        found = {}
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gib * GIB), resource.RLIM_INFINITY))
            with quiet(), _peak() as found:
                _whole(who, net, setting, scan, made)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "alloc" not in str(error):
                raise
            return {"state": f"exceeded {limit_gib} GiB", "exceeded": True}
    with h5py.File(made) as file:
        (written,) = (item.shape for item in file.values())
    if written != size.shape_zyx:
        raise AssertionError(f"{who} wrote {written}")
    return {"state": "done", **found}


def _whole(who: str, net: torch.nn.Module, setting: Setting, scan: Path, made: Path) -> None:
    """The scan in memory, a peer's sliding window over it, labels into a file."""
    with h5py.File(scan) as file:
        image = np.empty((1, *setting.shape_zyx), np.float32)
        file["raw"].read_direct(image[0])
    image /= STD
    logits = PEERS[who](net, image, setting, scan.parent)()
    with h5py.File(made, "w") as file:
        chunk = tuple(min(n, c) for n, c in zip(setting.shape_zyx, (32, 128, 128), strict=True))
        stored = file.create_dataset(
            "label",
            setting.shape_zyx,
            "uint8",
            chunks=chunk,
            compression="gzip",
            compression_opts=1,
        )
        for start in range(0, len(stored), 32):
            slab = logits[:, start : start + 32]
            stored[start : start + 32] = slab.argmax(0).to(torch.uint8).numpy()


@contextlib.contextmanager
def _peak() -> Iterator[dict[str, Any]]:
    """Fills in the peaks over what is held now, and the seconds."""
    found: dict[str, Any] = {}
    before, most, over = _held("self"), 0, threading.Event()
    assert before is not None
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark so far

    def watch() -> None:
        nonlocal most
        while not over.wait(SAMPLE):
            now = _held("self")
            most = max(most, now["anonymous"] if now else 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begun = time.perf_counter()
    try:
        yield found
    finally:
        found["seconds"] = round(time.perf_counter() - begun, 1)
        over.set()
        watcher.join()
        after = _held("self")
        assert after is not None
        found["anonymous_gib"] = round((most - before["anonymous"]) / GIB, 3)
        found["resident_gib"] = round((after["highest"] - before["resident"]) / GIB, 3)


def _held(process: int | str) -> dict[str, int] | None:
    """Bytes that a process holds; None where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if line.startswith(("Rss", "VmRSS", "VmHWM")))
    sizes = {name: int(text.split()[0]) * 1024 for name, text in known.items()}
    if "VmRSS" not in sizes:
        return None
    return {
        "anonymous": sizes["RssAnon"] + sizes["RssShmem"],
        "resident": sizes["VmRSS"],
        "highest": sizes["VmHWM"],
    }


# ---------------------------------------------------------------- the picture


def _plot(runs: list[dict[str, Any]], limit_gib: float, png: Path) -> None:
    """Peak against length, on logarithmic scales; what was stopped stands on the line of the limit."""
    from ctseg.report.figure import GREY, INK, new_figure, plain_axes, save_png

    colours = {"ctseg": "#0b7285", "nnunet": "#c2410c", "monai": "#6d28d9"}
    titles = {"ctseg": "ctseg", "nnunet": "nnU-Net", "monai": "MONAI"}
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    plain_axes(axes)
    lines = {(r["who"], r["shape_zyx"][1], r["classes"]): None for r in runs}
    for who, side, classes in lines:
        points = sorted(
            (r["shape_zyx"][0], r.get("anonymous_gib", limit_gib), "anonymous_gib" in r)
            for r in runs
            if (r["who"], r["shape_zyx"][1], r["classes"]) == (who, side, classes)
        )
        dashes = {3: "-", 40: "--"}.get(classes, ":")
        axes.plot(
            [p[0] for p in points], [p[1] for p in points], dashes, color=colours[who],
            label=f"{titles[who]}, {side} x {side}, {classes} classes", zorder=3 if who == "ctseg" else 2,
        )  # fmt: skip
        for slices, peak, done in points:
            axes.plot(
                slices, peak, ("s" if side > 512 else "o") if done else "^", color=colours[who]
            )
    axes.axhline(limit_gib, color=GREY, linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    lengths = sorted({run["shape_zyx"][0] for run in runs})
    axes.set_xticks(lengths, [str(n) for n in lengths])
    heights = [0.125, 0.25, 0.5, 1, 2, 4, 8, 16]
    axes.set_ylim(heights[0], 1.3 * max(limit_gib, heights[-1]))
    axes.set_yticks(heights, [f"{h:g}" for h in heights])
    axes.set_xlabel("slices", color=INK)
    axes.set_ylabel("peak memory, GiB", color=INK)
    axes.set_title(f"triangles: stopped at {limit_gib:g} GiB", color=GREY, fontsize=9, loc="right")
    axes.legend(
        frameon=False, fontsize=7.5, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    figure.tight_layout()
    save_png(figure, png)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--sizes", action="append", metavar="YxXxSLICES[xCLASSES]", default=[])
    parser.add_argument("--only", default=",".join(WHO), help=f"of: {', '.join(WHO)}")
    parser.add_argument("--limit", type=float, default=LIMIT_GIB, help="GiB")
    parser.add_argument("--seconds", type=float, default=900, help="for each run")
    parser.add_argument("--afresh", action="store_true", help="measure the peers again")
    parser.add_argument("--plot", type=Path, help="where the picture goes; nowhere by default")
    parser.add_argument("--inside", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        who, folder, side, slices, classes, limit = args.inside
        size = Size(int(side), int(slices), int(classes))
        print(json.dumps(_inside(who, Path(folder), size, float(limit))))
        return
    sizes = [_size(text) for text in args.sizes] or SIZES
    earlier = None if args.afresh else RESULT
    found = measure(sizes, args.only.split(","), args.limit, args.seconds, args.plot, earlier)
    print(json.dumps(found, indent=2))


def _size(text: str) -> Size:
    y, x, slices, *classes = (int(n) for n in text.split("x"))
    if y != x:
        raise SystemExit("the sides of a slice must be equal")
    return Size(y, slices, *classes)


if __name__ == "__main__":
    main()
