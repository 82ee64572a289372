"""One tile of a network by PyTorch and by OpenVINO: seconds, and how far the logits are from PyTorch's in fp32.

    python -m benchmarks backends
    python -m benchmarks.backends --rounds 2 --only "unet3d, 32 x 56 x 56"

Measured as the processor is, and, in a process of its own, held to AVX2: `ONEDNN_MAX_CPU_ISA` and
`ATEN_CPU_CAPABILITY` stand in for a processor without AVX-512. OpenVINO obeys the first in convolutions, which take
most of its time; its instance norm still uses AVX-512. With one thread (`OMP_NUM_THREADS=1`) the processor's
seconds can be compared although other work runs beside, since no thread waits for another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

import ctseg
from ctseg import machine
from ctseg.engine.inference.backends import int8, openvino
from ctseg.engine.inference.forward import Compute, by_torch
from ctseg.engine.model.runtime import Precision, Runtime, cpu_bf16
from ctseg.nets.cpu import autocast

FEATURES = (24, 48, 96, 192)
CLASSES, ROUNDS, WARM = 3, 7, 2
STAND_IN = {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


class Tile(NamedTuple):
    """A network and its tile."""

    network: str
    zyx: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.network}, {' x '.join(map(str, self.zyx))}"


TILES = (
    Tile("unet3d", (32, 56, 56)),
    Tile("unet3d", (64, 64, 64)),
    Tile("residual_unet3d", (64, 64, 64)),
)


class Way(NamedTuple):
    """Who computes, in which precision; in PyTorch also in which memory layout, and with our kernels or without."""

    by: str
    precision: Precision
    channels_last: bool = False
    kernels: bool = True


WAYS = {
    "PyTorch, fp32": Way("torch", "fp32"),
    "PyTorch, fp32, channels-last": Way("torch", "fp32", channels_last=True, kernels=False),
    "ctseg's kernels, fp32": Way("torch", "fp32", channels_last=True),
    "OpenVINO, fp32": Way("openvino", "fp32"),
    "PyTorch, bf16, channels-last": Way("torch", "bf16", channels_last=True, kernels=False),
    "ctseg's kernels, bf16": Way("torch", "bf16", channels_last=True),
    "OpenVINO, bf16": Way("openvino", "bf16"),
    "OpenVINO, int8": Way("openvino", "int8"),
}


def measure(rounds: int = ROUNDS, only: Sequence[str] = ()) -> dict[str, Any]:
    """All tiles, as the processor is and held to AVX2."""
    arguments = ["--rounds", str(rounds), *(f"--only={name}" for name in only), "--here"]
    command = [sys.executable, "-m", "benchmarks.backends", *arguments]
    held = subprocess.run(
        command, env={**os.environ, **STAND_IN}, check=True, stdout=subprocess.PIPE
    )
    return {
        "processor": machine.processor(),
        "openvino": openvino.version(),
        "features": list(FEATURES),
        "as it is": measure_here(rounds, only),
        "held to AVX2": json.loads(held.stdout),
    }


def measure_here(rounds: int, only: Sequence[str]) -> dict[str, Any]:
    ways = {name: way for name, way in WAYS.items() if way.precision != "bf16" or cpu_bf16()}
    return {
        str(tile): measure_tile(tile, ways, rounds)
        for tile in TILES
        if not only or str(tile) in only
    }


def measure_tile(tile: Tile, ways: dict[str, Way], rounds: int) -> dict[str, Any]:
    """Rounds in which every way has a turn."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, *tile.zyx)
    computes = {name: compute_of(tile, way, x) for name, way in ways.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with torch.inference_mode():
        expected = computes["PyTorch, fp32"](x).float()
        differ = {
            name: float((compute(x).float() - expected).abs().max() / expected.abs().max())
            for name, compute in computes.items()
        }
        for _ in range(rounds):
            for name, compute in computes.items():
                for _ in range(WARM - 1):
                    compute(x)
                begun, before = time.perf_counter(), time.process_time()
                compute(x)
                found[name].append((time.perf_counter() - begun, time.process_time() - before))
    return {
        name: {
            "seconds": round(statistics.median(clock for clock, _ in times), 4),
            "processor_seconds": round(statistics.median(used for _, used in times), 4),
            "difference": differ[name],
        }
        for name, times in found.items()
    }


def compute_of(tile: Tile, way: Way, x: torch.Tensor) -> Compute:
    torch.manual_seed(1)
    net: nn.Module = ctseg.create_model(
        tile.network, in_channels=1, out_channels=CLASSES, features=FEATURES
    ).eval()
    if way.by == "openvino":
        model = openvino.convert(net, x)
        if way.precision == "int8":
            int8.round_convolutions(model, net, int8.ranges_on(net, x))
        return openvino.Program(model, way.precision, torch.get_num_threads()).run()
    runtime = Runtime(torch.device("cpu"), way.precision, way.channels_last, "benchmark")
    compute = by_torch(runtime.place(net), runtime)
    return compute if way.kernels else without_kernels(compute)


def without_kernels(compute: Compute) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        autocast.ENABLED = False
        try:
            return compute(x)
        finally:
            autocast.ENABLED = True

    return run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--only", action="append", default=[], help=f"of: {'; '.join(map(str, TILES))}"
    )
    parser.add_argument("--here", action="store_true", help="in this process only")
    args = parser.parse_args()
    found = (measure_here if args.here else measure)(args.rounds, args.only)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
