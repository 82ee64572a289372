"""`ctseg.predict_tiles` against the network alone, and against the sliding windows of other projects.

    python -m benchmarks predict                                      160^3 and 256^3: long, the peers take most of it
    python -m benchmarks.predict --volumes tiny                       half a minute
    python -m benchmarks.predict --volumes 160 --only ctseg,monai

All get one U-Net with the same weights and the same scan, in one process and in turns: we run ours, the others run it
as nnU-Net builds it (PlainConvUNet; both give the same logits). `as they come` is float32 in PyTorch's layout on a CPU;
on a GPU nnU-Net takes float16 by itself. `by hand` wraps the network so that it runs channels-last, and in bfloat16
where the device multiplies it (the bar takes the faster of both, since a careful user would try);
`with our network` is the same around ours, so that one sees what the network and what the window is worth. The network
alone, with the engine's kernels, is what ours needs in its fastest precision and layout for as many tiles, one by one,
by PyTorch or, where it is installed, by OpenVINO. `ctseg logits` chooses between these two by itself (its first run
includes the conversion, if there is one), `ctseg torch` is PyTorch, `ctseg int8` is OpenVINO with 8-bit integers,
whose ranges are those of a tile of noise, as the scan is.
pytorch-3dunet goes from file to file, since its predictors do nothing else.

Bars on a CPU: ours takes at most 1.1 x the network alone; the best peer as it comes at least 2.8 x, by hand at least
1.15 x ours. On a GPU: nnU-Net and MONAI as they come at least 2 x ours, the network busy for 0.9 of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import ctseg
from benchmarks.nnunet_model import as_theirs
from benchmarks.sliding import PEERS, ByHand, Run, Setting, quiet
from ctseg.engine.inference.backends import openvino
from ctseg.engine.inference.backends.choice import use_ranges, used
from ctseg.engine.inference.backends.int8 import ranges_on
from ctseg.engine.model.runtime import Precision, Runtime, choose, cpu_bf16, has_openvino
from ctseg.machine import cores

FEATURES = (32, 64, 128)
"""Of `unet3d` with one convolution a level: 64^3 voxels take about 0.1 s in bfloat16 on two cores of 2024."""
CLASSES = 3
FORWARDS = 5
"""Of the network alone, before each run of somebody."""
SMALL = Setting((64, 80, 48), (32, 32, 32))
"""On which logits are compared; all place the same tiles there."""


VOLUMES = {
    "tiny": Setting((64, 64, 64), (32, 32, 32)),
    "160": Setting((160, 160, 160), (64, 64, 64)),
    "256": Setting((256, 256, 256), (96, 96, 96)),
}
REPEATS: dict[str, dict[str, int]] = {
    "tiny": {},
    "160": {"logits": 3, "labels": 3, "torch": 3, "int8": 3, "by hand": 2},
    "256": {"logits": 2, "labels": 2, "torch": 2, "int8": 2},
}
"""Repetitions of each way; ways that take minutes run once."""
USUAL = ("160", "256")
WITH_OURS = "by hand with our network"
TURNS = ("logits", "labels", "torch", "int8", "by hand", WITH_OURS, "as it comes")
WAYS: dict[str, tuple[Precision, bool]] = {
    "fp32": ("fp32", False),
    "fp32 channels-last": ("fp32", True),
    "bf16": ("bf16", False),
    "bf16 channels-last": ("bf16", True),
    "fp16 channels-last": ("fp16", True),
}
"""In which the network alone is tried; fp16 on a GPU only."""


class Meter:
    """Counts what goes through a network and for how long, on the clock of the device that computes it."""

    def __init__(self, net: nn.Module, device: str) -> None:
        self.device = device
        self.calls = self.tiles = 0
        self.marks: list[tuple[Any, Any]] = []
        self._begun: Any = None
        net.register_forward_pre_hook(self._before)
        net.register_forward_hook(self._after)

    def reset(self) -> None:
        self.calls = self.tiles = 0
        self.marks.clear()

    @property
    def seconds(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return float(sum(one.elapsed_time(two) for one, two in self.marks)) / 1000
        return float(sum(two - one for one, two in self.marks))

    def _now(self) -> Any:
        if self.device != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _before(self, net: nn.Module, args: tuple[torch.Tensor]) -> None:
        self._begun = self._now()

    def _after(self, net: nn.Module, args: tuple[torch.Tensor], out: Any) -> None:
        self.marks.append((self._begun, self._now()))
        self.calls += 1
        self.tiles += len(args[0])


class Nets(NamedTuple):
    """One U-Net, as we and as nnU-Net build it."""

    ours: nn.Module
    theirs: nn.Module


class Contender:
    """Someone who predicts a whole scan with a copy of the network."""

    def __init__(
        self, name: str, nets: Nets, image: NDArray[np.float32], setting: Setting, folder: Path
    ) -> None:
        self.name, self.setting = name, setting
        self.peer, _, self.way = name.partition(" ")
        with_ours = self.peer == "ctseg" or self.way == WITH_OURS
        own = copy.deepcopy(nets.ours if with_ours else nets.theirs).to(setting.device)
        self.net = own
        # hooks would keep OpenVINO from computing the network
        unseen = self.peer == "ctseg" and setting.device == "cpu"
        self.meter = None if unseen else Meter(own, setting.device)
        self.found: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.run: Run
        if self.peer == "ctseg":
            output = "labels" if self.way == "labels" else "logits"
            backend = "torch" if self.way == "torch" else "auto"
            precision = "int8" if self.way == "int8" else "auto"
            if self.way == "int8":
                use_ranges(own, ranges_on(own, torch.randn(1, 1, *setting.tile_zyx)))
            self.run = lambda: ctseg.predict_tiles(
                own, image, setting.tile_zyx, setting.overlap, "gaussian", output,
                activation="softmax", device=setting.device, precision=precision, batch_size=setting.batch,
                backend=backend,
            )  # fmt: skip
        else:
            given = own if self.way == "as it comes" else ByHand(own, setting.device)
            self.run = PEERS[self.peer](given, image, setting, folder)

    def once(self) -> None:
        if self.meter is not None:
            self.meter.reset()
        with quiet():
            begun = time.perf_counter()
            out = self.run()
            _wait(self.setting.device)
            seconds = time.perf_counter() - begun
        voxels = out.shape[-3:]
        if tuple(voxels) != self.setting.shape_zyx:
            raise AssertionError(f"{self.name} gave {tuple(voxels)} voxels")
        network = math.nan if self.meter is None else self.meter.seconds
        self.found.append({"seconds": seconds, "network": network})

    def result(self) -> dict[str, Any]:
        seconds = statistics.median(run["seconds"] for run in self.found)
        told = {"seconds": round(seconds, 3), "runs": len(self.found)}
        if self.meter is None:
            return {**told, "computed_by": used([self.net]) or ["torch"]}
        network = statistics.median(run["network"] for run in self.found)
        return {
            **told,
            "network_calls": self.meter.calls,
            "tiles": self.meter.tiles,
            "ms_per_tile": round(1000 * seconds / self.meter.tiles, 2),
            "share_in_network": round(network / seconds, 3),
        }


# ---------------------------------------------------------------- the network alone


class Bare:
    """The network alone on one tile, in every precision and layout; the fastest counts."""

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        self.device, self.times = setting.device, dict[str, list[float]]()
        self.ways: dict[str, tuple[nn.Module, torch.Tensor, Runtime]] = {}
        self.programs: dict[str, tuple[openvino.Run, torch.Tensor]] = {}
        tile = torch.randn(1, 1, *setting.tile_zyx)
        for name, (precision, last) in WAYS.items():
            if self.device == "cpu" and (
                precision == "fp16" or (precision == "bf16" and not cpu_bf16())
            ):
                continue
            layout = torch.channels_last_3d if last else torch.contiguous_format
            own: nn.Module = copy.deepcopy(net).to(self.device).to(memory_format=layout)
            image = tile.to(self.device).contiguous(memory_format=layout)
            self.ways[name] = (
                own,
                image,
                Runtime(torch.device(self.device), precision, last, name),
            )
            self.forwards(name, 2)
            self.times[name] = self.forwards(name, 3)
        if self.device == "cpu" and has_openvino():
            for precision in ("fp32", "bf16")[: 1 + cpu_bf16()]:
                program = openvino.Program(
                    openvino.convert(net, tile), precision, torch.get_num_threads()
                )
                name = f"openvino {precision}"
                self.programs[name] = program.run(), tile
                self.forwards(name, 2)
                self.times[name] = self.forwards(name, 3)
        self.fastest = min(self.times, key=lambda name: statistics.median(self.times[name]))
        self.times[self.fastest].clear()  # measured between the others from here on

    def forwards(self, name: str, count: int) -> list[float]:
        compute: Callable[[torch.Tensor], Any]
        if name in self.programs:
            compute, image = self.programs[name]
            context: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        else:
            compute, image, runtime = self.ways[name]
            context = runtime.autocast()
        out = []
        with torch.inference_mode(), context:
            for _ in range(count):
                begun = time.perf_counter()
                compute(image)
                _wait(self.device)
                out.append(time.perf_counter() - begun)
        return out

    def again(self) -> None:
        self.times[self.fastest] += self.forwards(self.fastest, FORWARDS)

    @property
    def seconds(self) -> float:
        """Of one tile."""
        return statistics.median(self.times[self.fastest])


# ---------------------------------------------------------------- measuring


def measure(
    volumes: Sequence[str] = USUAL,
    repeats: int | None = None,
    only: Sequence[str] = (),
    features: Sequence[int] = FEATURES,
    device: str = "",
    batch: int = 1,
) -> dict[str, Any]:
    """Every volume with every contender."""
    warnings.simplefilter("ignore")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    nets = networks(features)
    with tempfile.TemporaryDirectory() as scratch:
        return {
            "what": "median seconds for a whole scan, in turns; a Gaussian of 1/8 tile, overlap 0.5",
            "network": f"PlainConvUNet and the same as unet3d: features {tuple(features)}, one convolution a level, "
            f"{CLASSES} classes",
            "device": torch.cuda.get_device_name() if device == "cuda" else f"{cores()} CPU cores",
            "runtime": choose(device).describe(),
            "agreement": agreement(nets, only, Path(scratch)),
            "volumes": {
                name: measure_volume(
                    nets, replace(VOLUMES[name], device=device, batch=batch),
                    dict.fromkeys(TURNS, repeats) if repeats else REPEATS[name],
                    only, Path(scratch),
                )
                for name in volumes
            },
        }  # fmt: skip


def networks(features: Sequence[int]) -> Nets:
    """One convolution a level, two where a level is gone up to."""
    levels = len(features)
    options = {
        "features": tuple(features), "convs_per_level": 1, "bias": True,
        "kernels_zyx": ((3, 3, 3),) * levels, "strides_zyx": ((2, 2, 2),) * (levels - 1),
    }  # fmt: skip
    ours = ctseg.create_model("unet3d", in_channels=1, out_channels=CLASSES, **options).eval()
    return Nets(ours, as_theirs(ours, options, (1, CLASSES)))


def measure_volume(
    nets: Nets, setting: Setting, repeats: dict[str, int], only: Sequence[str], scratch: Path
) -> dict[str, Any]:
    """Rounds in which everyone has a turn, the network alone before each."""
    image = np.random.default_rng(0).standard_normal((1, *setting.shape_zyx), np.float32)
    contenders = []
    with quiet():
        for number, name in enumerate(names(only, setting.device)):
            contender = Contender(name, nets, image, setting, scratch / f"{number}")
            _warm(contender, nets, scratch / f"warm{number}")
            contenders.append(contender)
    bare = Bare(nets.ours, setting)
    for number in range(max(repeats.values(), default=1)):
        for contender in _rotated(contenders, number):
            if number < repeats.get(contender.way, 1):
                bare.again()
                contender.once()
                seconds = contender.found[-1]["seconds"]
                print(f"{contender.name}: {seconds:.2f} s", file=sys.stderr, flush=True)
    bare.again()
    runs = {contender.name: contender.result() for contender in contenders}
    alone = setting.tiles * bare.seconds
    return {
        "setting": asdict(setting),
        "tiles": setting.tiles,
        "network_alone": {
            "fastest": bare.fastest,
            "seconds": round(alone, 3),
            "ms_per_tile": {
                k: round(1000 * statistics.median(v), 2) for k, v in bare.times.items()
            },
        },
        "runs": runs,
        **ratios(runs, alone, setting.device),
    }


def names(only: Sequence[str], device: str) -> list[str]:
    """Who takes part, in which way."""
    peers = [peer for peer in PEERS if not only or peer in only]
    ours = ["ctseg logits", "ctseg labels", "ctseg torch"]
    if only and "ctseg" not in only:
        ours = []
    if ours and device == "cpu" and has_openvino():
        ours.append("ctseg int8")
    return [
        *ours,
        *(f"{p} by hand" for p in peers),
        *(f"{p} {WITH_OURS}" for p in peers if p in ("nnunet", "monai")),
        *(f"{p} as it comes" for p in peers),
    ]


def ratios(runs: dict[str, dict[str, Any]], alone: float, device: str) -> dict[str, Any]:
    """Ours over the network alone, everyone over ours, and whether the bars are reached."""
    if "ctseg logits" not in runs:
        return {}
    ours = runs["ctseg logits"]["seconds"]
    over = {
        name: round(run["seconds"] / ours, 3)
        for name, run in runs.items()
        if not name.startswith("ctseg")
    }
    out = {
        "ours_over_network_alone": round(ours / alone, 3),
        "labels_over_network_alone": round(runs["ctseg labels"]["seconds"] / alone, 3),
        "others_over_ours": over,
    }
    if "ctseg int8" in runs:
        out["others_over_int8"] = {
            name: round(runs[name]["seconds"] / runs["ctseg int8"]["seconds"], 3) for name in over
        }
    come = [v for n, v in over.items() if n.endswith("as it comes")]
    hand = [v for n, v in over.items() if n.endswith(("by hand", "as it comes"))]
    rivals = [v for n, v in over.items() if n in ("nnunet as it comes", "monai as it comes")]
    if device == "cuda":
        bars = {
            "rivals as they come at least 2 x ours": min(rivals, default=math.inf) >= 2,
            "network busy at least 0.9": runs["ctseg logits"]["share_in_network"] >= 0.9,
        }
    else:
        bars = {
            "at most 1.1 x network alone": ours / alone <= 1.1,
            "best as it comes at least 2.8 x ours": min(come, default=math.inf) >= 2.8,
            "best by hand at least 1.15 x ours": min(hand, default=math.inf) >= 1.15,
        }
    return {**out, "reached": bars}


def agreement(nets: Nets, only: Sequence[str], scratch: Path) -> dict[str, Any]:
    """Largest and mean difference of fp32 logits from ours, for those that blend by a Gaussian as we do.

    nnU-Net centres its Gaussian half a voxel aside and sums in float16; MONAI cuts the product of its weights off at
    0.001 where ours are cut off along each axis.
    """
    image = np.random.default_rng(1).standard_normal((1, *SMALL.shape_zyx), np.float32)
    ours = ctseg.predict_tiles(
        copy.deepcopy(nets.ours),
        image,
        SMALL.tile_zyx,
        overlap=SMALL.overlap,
        device="cpu",
        precision="fp32",
    )
    out: dict[str, Any] = {"logits_reach": round(float(np.abs(ours).max()), 3)}
    for peer in ("nnunet", "monai"):
        if only and peer not in only:
            continue
        with quiet():
            run = PEERS[peer](copy.deepcopy(nets.theirs), image, SMALL, scratch)
            theirs = run().float().numpy()
        out[peer] = {
            "largest_difference": float(np.abs(ours - theirs).max()),
            "mean_difference": float(np.abs(ours - theirs).mean()),
            "equal_labels": float((ours.argmax(0) == theirs.argmax(0)).mean()),
        }
    return out


def _warm(contender: Contender, nets: Nets, folder: Path) -> None:
    """One or two tiles first: imports, kernels chosen, weights of the window."""
    setting = contender.setting
    small = replace(setting, shape_zyx=setting.tile_zyx)
    image = np.zeros((1, *small.shape_zyx), np.float32)
    Contender(contender.name, nets, image, small, folder).once()


def _rotated(contenders: list[Contender], by: int) -> Iterator[Contender]:
    """Nobody always follows the same neighbour."""
    by %= len(contenders)
    yield from contenders[by:] + contenders[:by]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--volumes", default=",".join(USUAL), help=f"of: {', '.join(VOLUMES)}")
    parser.add_argument("--repeats", type=int, help="of everyone")
    parser.add_argument("--only", default="", help=f"ctseg and of: {', '.join(PEERS)}")
    parser.add_argument("--features", default=",".join(map(str, FEATURES)))
    parser.add_argument("--device", default="", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    found = measure(
        args.volumes.split(","), args.repeats, [n for n in args.only.split(",") if n],
        [int(n) for n in args.features.split(",")], args.device, args.batch,
    )  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
