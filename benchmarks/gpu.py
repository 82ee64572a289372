"""What a card does with ctseg, in one call of nine minutes on a machine that has torch and nothing else.

    python -m benchmarks.gpu pack wheels                 here: downloads what that machine lacks, for its Python
    python -m benchmarks.gpu run --wheels wheels -o out  there: installs it in a temporary folder, offline
    python -m benchmarks.gpu run --device cpu --tiny     tries the script itself

Stages, each in a process of its own with its share of the time, so that one that fails or hangs costs itself alone:

- `networks`: forward and step of ctseg, and of nnU-Net's and MONAI's networks where they are installed;
- `predict`: a whole prediction beside their sliding windows;
- `profile`: the operations of a step and of a prediction that take the most time, and the share of time that the card
  is busy;
- `train`: `ctseg train` on hippocampus (`--data`), or on phantoms, with what `log.jsonl` says of it.

`gpu.json` is written anew after each stage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON, PLATFORM = "3.12", "manylinux_2_28_x86_64"
PACKED = (
    "h5py", "imagecodecs", "matplotlib", "numpy", "packaging", "platformdirs", "pluggy", "pydantic", "pydicom",
    "pyyaml", "rich", "safetensors", "scipy", "SimpleITK", "tifffile", "tomli-w", "typer",
)  # fmt: skip
"""Dependencies with all of theirs, none of which is torch."""
ALONE = ("timm", "dynamic-network-architectures", "monai")
"""Packages that would bring torch along, without their dependencies."""
SHARES = {"networks": 0.3, "predict": 0.3, "profile": 0.1, "train": 0.3}
"""Of the time; what a stage leaves over goes to the next ones."""


def pack(folder: Path) -> int:
    """Download wheels; returns their size in bytes, since the way to the machine may be narrow."""
    folder.mkdir(parents=True, exist_ok=True)
    base = [
        sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--python-version", PYTHON,
        "--platform", PLATFORM, "--platform", "manylinux2014_x86_64", "-d", str(folder),
    ]  # fmt: skip
    subprocess.run([*base, *PACKED], check=True)
    subprocess.run([*base, "--no-deps", *ALONE], check=True)
    return sum(file.stat().st_size for file in folder.iterdir())


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All stages."""
    end = time.monotonic() + 60 * arguments.minutes
    out = Path(arguments.output)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CTSEG_CACHE": f"{folder}/cache"}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        if arguments.wheels:
            paths.append(_install(Path(arguments.wheels), Path(folder) / "packages"))
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        found: dict[str, Any] = {"machine": _machine(), "stages": {}}
        left = dict(SHARES)
        for name in SHARES:
            seconds = (end - time.monotonic()) * left[name] / sum(left.values())
            del left[name]
            found["stages"][name] = _stage(name, arguments, environment, seconds)
            (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
            print(f"{name}: {json.dumps(found['stages'][name])[:2000]}", flush=True)
    return found


def _install(wheels: Path, target: Path) -> str:
    command = [
        sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(target),
        *map(str, sorted(wheels.glob("*.whl"))),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return str(target)


def _machine() -> dict[str, Any]:
    import torch

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"torch": torch.__version__, "python": sys.version.split()[0], "card": card}


def _stage(
    name: str, arguments: argparse.Namespace, environment: dict[str, str], seconds: float
) -> dict[str, Any]:
    """What a stage found, or why it did not."""
    command = [
        sys.executable, "-m", "benchmarks.gpu", "stage", name, "--device", arguments.device,
        "--seconds", f"{seconds:.0f}", *(["--tiny"] if arguments.tiny else []),
        *(["--data", arguments.data] if arguments.data else []),
    ]  # fmt: skip
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=seconds + 5
        )
        lines = done.stdout.strip().splitlines()
        found = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
        if done.returncode:
            found = {"failed": done.stderr[-3000:]}
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode(errors="replace")
        found = {"failed": f"took longer than {seconds:.0f} s", "so_far": text[-2000:]}
    return {**found, "took_s": round(time.monotonic() - begun, 1)}


# ---------------------------------------------------------------- the stages


def _peers() -> list[str]:
    known = {"nnunet": "dynamic_network_architectures", "monai": "monai"}
    return [name for name, module in known.items() if importlib.util.find_spec(module)]


def networks(device: str, seconds: float, data: str, *, tiny: bool) -> dict[str, Any]:
    """Median milliseconds of forward and step, in turns until the time is over."""
    import statistics

    from benchmarks.networks import PLANS, Entry

    end, found = time.monotonic() + 0.9 * seconds, {}
    for plan in ("tiny",) if tiny else ("hippocampus", "cube_128"):
        entries = {
            f"{name}, {mode}": Entry(name, mode, PLANS[plan], device)  # type: ignore[arg-type]
            for name in ("ctseg", *_peers()) for mode in ("default", "by_hand")
        }  # fmt: skip
        times: dict[str, dict[str, list[float]]] = {
            name: {"forward": [], "step": []} for name in entries
        }
        while time.monotonic() < end:
            for name, entry in entries.items():
                for what, values in times[name].items():
                    values += entry.seconds(what)
            if tiny or min(len(v["step"]) for v in times.values()) >= 20:
                break
        found[plan] = {
            name: {what: round(1000 * statistics.median(v), 3) for what, v in values.items() if v}
            for name, values in times.items()
        }
    return found


def predict(device: str, seconds: float, data: str, *, tiny: bool) -> dict[str, Any]:
    """Seconds of a whole prediction by everyone who is installed."""
    from benchmarks import predict as benchmark

    only = [
        "ctseg",
        *(peer for peer in _peers() if peer != "nnunet" or importlib.util.find_spec("nnunetv2")),
    ]
    with benchmark.quiet():
        nets = (
            benchmark.networks((8, 16) if tiny else (32, 64, 128, 256))
            if "nnunet" in _peers()
            else _ours(tiny)
        )
    setting = benchmark.replace(
        benchmark.VOLUMES["tiny" if tiny else "256"], device=device, batch=2
    )
    with tempfile.TemporaryDirectory() as folder:
        return benchmark.measure_volume(
            nets, setting, dict.fromkeys(benchmark.TURNS, 1 if tiny else 3), only, Path(folder)
        )


def _ours(tiny: bool) -> Any:
    import ctseg
    from benchmarks.predict import CLASSES, Nets

    net = ctseg.create_model(
        "unet3d",
        in_channels=1,
        out_channels=CLASSES,
        features=(8, 16) if tiny else (32, 64, 128, 256),
    ).eval()
    return Nets(net, net)


def profile(device: str, seconds: float, data: str, *, tiny: bool) -> dict[str, Any]:
    """The operations that take the most time."""
    import numpy as np
    import torch

    import ctseg
    from benchmarks.networks import PLANS, Entry

    def profiled(call: Callable[[], Any]) -> dict[str, Any]:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if device == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        call()
        with torch.profiler.profile(activities=kinds) as profiler:
            begun = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            whole = time.perf_counter() - begun
        by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
        averages = sorted(profiler.key_averages(), key=lambda e: -getattr(e, by))
        total = sum(getattr(event, by) for event in averages) / 1e6
        return {
            "seconds": round(whole, 4),
            "busy": round(total / whole, 3),
            "operations": {
                e.key[:80]: [round(getattr(e, by) / 1000, 2), e.count] for e in averages[:20]
            },
        }

    entry = Entry("ctseg", "default", PLANS["tiny" if tiny else "cube_128"], device)
    side, tile = (32, 16) if tiny else (256, 128)
    image = np.random.default_rng(0).standard_normal((1, side, side, side), np.float32)
    net = ctseg.create_model(
        "unet3d",
        in_channels=1,
        out_channels=3,
        features=PLANS["tiny" if tiny else "cube_96"].features,
    )

    def whole() -> None:
        ctseg.predict_tiles(
            net,
            image,
            (tile,) * 3,
            output="labels",
            activation="softmax",
            device=device,
            batch_size=2,
        )

    return {"step": profiled(entry.step), "prediction": profiled(whole)}


def train(device: str, seconds: float, data: str, *, tiny: bool) -> dict[str, Any]:
    """A short training from the command line, with its log."""
    from ctseg.data.phantom import write_phantom_dataset

    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        scans = data or str(write_phantom_dataset(Path(folder) / "phantoms", unseen=0))
        length = ["--steps", "4", "--patch", "16,16,16", "--batch-size", "1"] if tiny else [
            "--time", f"{0.85 * seconds:.0f}s"
        ]  # fmt: skip
        if tiny:
            length += ["--set", "model.options.features=[4, 8]"]
        command = [
            sys.executable, "-m", "ctseg", "train", scans, "-o", str(run_folder),
            "--device", device, *length,
        ]  # fmt: skip
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout[-1000:] + done.stderr[-2000:])
        lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
        return {
            "seconds": round(time.monotonic() - begun, 1),
            "said": done.stderr.splitlines()[:4],
            "log": [line for line in lines if line["kind"] == "epoch"],
        }


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "networks": networks, "predict": predict, "profile": profile, "train": train,
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("folder", type=Path)
    running, stage = commands.add_parser("run"), commands.add_parser("stage")
    for one in (running, stage):
        one.add_argument("--device", default="cuda")
        one.add_argument("--tiny", action="store_true", help="networks and volumes of seconds")
        one.add_argument("--data", default="", help="Dataset004_Hippocampus")
    running.add_argument("--minutes", type=float, default=8.5)
    running.add_argument("--wheels", default="", help="folder that `pack` filled")
    running.add_argument("-o", "--output", default=os.environ.get("OUT", "gpu"))
    stage.add_argument("name", choices=list(STAGES))
    stage.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args(words)
    if arguments.command == "pack":
        print(f"{pack(arguments.folder) / 2**20:.0f} MiB")
    elif arguments.command == "run":
        run(arguments)
    else:
        found = STAGES[arguments.name](
            arguments.device, arguments.seconds, arguments.data, tiny=arguments.tiny
        )
        print(json.dumps(found))


if __name__ == "__main__":
    main()
