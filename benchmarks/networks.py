"""`unet3d` against nnU-Net's PlainConvUNet and MONAI's DynUNet with the same plan: time and memory.

Three ways to run each: float32, as each project runs it by default, and all of them under bfloat16 with channels-last
as one can arrange by hand. Bars: never slower than the best peer in the same precision; on a CPU that multiplies
bfloat16 at least 2.5 times as fast as their defaults.

What `ctseg train` arranges by itself belongs to ours as it comes: on a CPU it has the C library keep freed buffers for
the next operation, so our default steps run so. No peer does that as it comes; by hand all of them get it, and in
float32 and forward nobody does. Before timed repetitions there are some that are not, so that nobody pays for what
the network before it left behind, and buffers are what they are after the first steps of a training.

    python -m benchmarks networks
    python -m benchmarks.networks --plan tiny --turns 2
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import ctseg
from ctseg.engine.model.malloc import kept_buffers
from ctseg.engine.model.measure_runtime import choose_measured
from ctseg.engine.model.runtime import Precision, Runtime, choose, cpu_bf16

CLASSES = 3
SETTLE, TIMED = 2, 2
"""Repetitions of a network in its turn; the third is the first that finds the buffers of the one before it."""
Mode = Literal["fp32", "default", "by_hand"]


@dataclass(frozen=True)
class Plan:
    """A network and its patch, as nnU-Net plans them: two convolutions a level, kernels of 3.

    Attributes:
        turns: of each network and its numerics; short ones need more of them.
    """

    patch_zyx: tuple[int, int, int]
    features: tuple[int, ...]
    batch: int = 2
    turns: int = 3

    @property
    def strides(self) -> list[int]:
        return [1] + [2] * (len(self.features) - 1)


PLANS = {
    "tiny": Plan((16, 16, 16), (8, 16, 24)),
    "laptop": Plan((32, 56, 56), (24, 48, 96, 192), turns=12),
    "hippocampus": Plan((40, 56, 40), (32, 64, 128, 256), turns=12),
    "cube_64": Plan((64, 64, 64), (32, 64, 128, 256, 320)),
    "cube_96": Plan((96, 96, 96), (32, 64, 128, 256, 320), turns=2),
    "cube_128": Plan((128, 128, 128), (32, 64, 128, 256, 320, 320), turns=2),
}
USUAL = {
    "cpu": ("hippocampus", "cube_64", "cube_96"),
    "cuda": ("hippocampus", "cube_96", "cube_128"),
}


# ---------------------------------------------------------------- the networks


def ours(plan: Plan) -> nn.Module:
    return ctseg.create_model("unet3d", in_channels=1, out_channels=CLASSES, features=plan.features)


def nnunet(plan: Plan) -> nn.Module:
    """With the arguments that nnU-Net's plans hold."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    levels = len(plan.features)
    return PlainConvUNet(
        input_channels=1, n_stages=levels, features_per_stage=plan.features, conv_op=nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * levels, strides=plan.strides, n_conv_per_stage=2, num_classes=CLASSES,
        n_conv_per_stage_decoder=2, conv_bias=True, norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )  # fmt: skip


def monai(plan: Plan) -> nn.Module:
    from monai.networks.nets import DynUNet

    levels = len(plan.features)
    return DynUNet(
        spatial_dims=3, in_channels=1, out_channels=CLASSES, kernel_size=[3] * levels,
        strides=plan.strides, upsample_kernel_size=plan.strides[1:], filters=plan.features,
        norm_name=("INSTANCE", {"affine": True}), trans_bias=True,
    )  # fmt: skip


NETWORKS: dict[str, Callable[[Plan], nn.Module]] = {
    "ctseg": ours, "nnunet": nnunet, "monai": monai,
}  # fmt: skip


# ---------------------------------------------------------------- how they run


@dataclass(frozen=True)
class Numerics:
    """Number types and memory layout with which a network runs.

    Attributes:
        precision: precision of autocast; `fp32` for none.
        channels_last: memory layout of weights and input.
        tf32: whether float32 products may be rounded on a GPU.
        kept_buffers: whether the C library keeps freed buffers during training, as `ctseg train` has it on a CPU.
        exact: whether ctseg leaves its own kernels out.
    """

    precision: Precision
    channels_last: bool
    tf32: bool = False
    kept_buffers: bool = False
    exact: bool = False


def numerics_of(network: str, mode: Mode, plan: Plan, device: str) -> Numerics:
    """The numerics of a network in a mode.

    Defaults: ctseg tries on the network and patch, as `ctseg train` does; nnU-Net's trainer uses autocast to float16 on
    CUDA and nothing on a CPU; MONAI's networks are used as torch has them (TF32 in convolutions). By hand, all are
    channels-last, and in bfloat16 where the device multiplies it.
    """
    on_gpu = device == "cuda"
    if mode == "fp32":
        return Numerics("fp32", False)
    if mode == "by_hand":
        precision: Precision = "bf16" if on_gpu or cpu_bf16() else "fp32"
        return Numerics(precision, True, tf32=True, kept_buffers=not on_gpu)
    if network == "ctseg":
        own = measured(plan, device)
        return Numerics(
            own.precision, own.channels_last, tf32=True, kept_buffers=not on_gpu, exact=own.exact
        )
    return Numerics("fp16" if on_gpu and network == "nnunet" else "fp32", False, tf32=on_gpu)


@functools.cache
def measured(plan: Plan, device: str) -> Runtime:
    """What `ctseg train` takes for the network and patch of a plan."""
    shape = (1, 1, *plan.patch_zyx)
    return choose_measured(choose(device), ours(plan), shape, training=True).runtime


class Entry:
    """A network that is ready to be timed."""

    def __init__(self, network: str, mode: Mode, plan: Plan, device: str) -> None:
        self.numerics, self.device = numerics_of(network, mode, plan, device), device
        torch.manual_seed(0)
        self.net = NETWORKS[network](plan).to(device)
        layout = torch.channels_last_3d if self.numerics.channels_last else torch.contiguous_format
        self.autocast = self._plain_autocast
        if network == "ctseg":
            # the engine's arrangements, which come with `ctseg train` and `ctseg predict`
            own = Runtime(
                torch.device(device), self.numerics.precision, self.numerics.channels_last, mode,
                exact=self.numerics.exact,
            )  # fmt: skip
            self.net = own.place(self.net)
            self.autocast = own.autocast
        elif self.numerics.channels_last:
            self.net = self.net.to(memory_format=layout)
        shape = (plan.batch, 1, *plan.patch_zyx)
        self.image = torch.randn(shape, device=device).contiguous(memory_format=layout)
        self.target = torch.randint(0, CLASSES, (plan.batch, *plan.patch_zyx), device=device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-3, 0.99, nesterov=True)
        self.scaler = torch.amp.GradScaler(device, enabled=self.numerics.precision == "fp16")

    def _plain_autocast(self) -> contextlib.AbstractContextManager[Any]:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.numerics.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, kinds[self.numerics.precision])

    def set_tf32(self) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.numerics.tf32
        torch.backends.cudnn.allow_tf32 = self.numerics.tf32

    def forward(self) -> None:
        self.net.eval()
        with torch.inference_mode(), self.autocast():
            self.net(self.image)

    def step(self) -> None:
        """Forward, cross-entropy, backward and the update."""
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            logits = self.net(self.image)
        loss = nn.functional.cross_entropy(logits.float(), self.target)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def seconds(self, what: str) -> list[float]:
        """Of repetitions that follow each other."""
        self.set_tf32()
        run, found = getattr(self, what), []
        with self.buffers(what):
            for _ in range(SETTLE + TIMED):
                self.wait()
                begun = time.perf_counter()
                run()
                self.wait()
                found.append(time.perf_counter() - begun)
        return found[SETTLE:]

    def buffers(self, what: str) -> contextlib.AbstractContextManager[None]:
        return kept_buffers(self.numerics.kept_buffers and what == "step")

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


# ---------------------------------------------------------------- measuring


def measure(plans: Sequence[str] = (), turns: int | None = None) -> dict[str, Any]:
    """All devices, plans, networks and ways."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {
        "what": "median seconds and peak MiB over weights of one batch; networks take turns",
        "untimed_and_timed_in_a_turn": [SETTLE, TIMED],
        "devices": {
            device: {
                "name": torch.cuda.get_device_name() if device == "cuda" else _processor(),
                "plans": {
                    name: measure_plan(name, device, turns) for name in plans or USUAL[device]
                },
            }
            for device in devices
        },
    }


def measure_plan(name: str, device: str, turns: int | None = None) -> dict[str, Any]:
    """Every network and mode for one plan; modes with equal numerics are measured once."""
    plan = PLANS[name]
    if turns is not None:
        plan = replace(plan, turns=turns)
    entries: dict[tuple[str, Numerics], Entry] = {}
    for network in NETWORKS:
        for mode in ("fp32", "default", "by_hand"):
            key = (network, numerics_of(network, mode, plan, device))
            if key not in entries:
                entries[key] = Entry(network, mode, plan, device)
    times: dict[tuple[str, Numerics], dict[str, list[float]]] = {
        key: {"forward": [], "step": []} for key in entries
    }
    for what in ("forward", "step"):
        order = list(entries)
        for _ in range(plan.turns):
            for key in order:
                times[key][what] += entries[key].seconds(what)
            order = order[1:] + order[:1]  # nobody always follows the same neighbour
    entries.clear()
    gc.collect()
    found: dict[str, dict[str, Any]] = {}
    memory: dict[tuple[str, Numerics], dict[str, float | None]] = {}
    for network in NETWORKS:
        found[network] = {}
        for mode in ("fp32", "default", "by_hand"):
            key = (network, numerics_of(network, mode, plan, device))
            if key not in memory:
                memory[key] = {w: _memory(network, mode, name, device, w) for w in times[key]}
            found[network][mode] = {"way": asdict(key[1])} | {
                what: {
                    "seconds": round(statistics.median(values), 5),
                    "smallest": round(min(values), 5),
                    "mib": memory[key][what],
                }
                for what, values in times[key].items()
            }
    return {"plan": asdict(plan), "networks": found, "ratios": ratios(found)}


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Ours over the best peer in the same precision (under 1: faster), their defaults and the best of them over ours.

    The best peer is the fastest of all, contiguous in float32 or by hand.
    """
    peers = [name for name in found if name != "ctseg"]

    def seconds(name: str, mode: str, what: str) -> float:
        return float(found[name][mode][what]["seconds"])

    out: dict[str, Any] = {}
    for what in ("forward", "step"):
        own = seconds("ctseg", "default", what)
        out[what] = {
            f"over_best_peer_{mode}": round(
                seconds("ctseg", mode, what) / min(seconds(p, mode, what) for p in peers), 3
            )
            for mode in ("fp32", "by_hand")
        } | {f"{p}_default_over_ours": round(seconds(p, "default", what) / own, 2) for p in peers}
        best = min(seconds(p, mode, what) for p in peers for mode in ("fp32", "by_hand"))
        out[what]["best_peer_over_ours"] = round(best / own, 2)
        memory = {p: found[p]["by_hand"][what]["mib"] for p in found}
        if all(memory.values()):
            least = min(memory[p] for p in peers)
            out[what]["memory_over_best_peer_by_hand"] = round(memory["ctseg"] / least, 3)
    return out


def _memory(network: str, mode: Mode, plan: str, device: str, what: str) -> float | None:
    """Peak MiB of one repetition beyond the network itself, in a process of its own."""
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    command = [
        sys.executable, "-m", "benchmarks.networks", "--memory", network, mode, plan, device, what,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _own_memory(network: str, mode: Mode, plan: str, device: str, what: str) -> float:
    entry = Entry(network, mode, PLANS[plan], device)
    entry.set_tf32()
    run = getattr(entry, what)
    if device == "cuda":
        run()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark so far
    with entry.buffers(what):
        for _ in range(2):
            run()
    return (_status("VmHWM") - before) / 2**10


def _status(key: str) -> int:
    """A figure in KiB from the kernel."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(key))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__)
    parser.add_argument("--plan", action="append", choices=list(PLANS), default=[])
    parser.add_argument("--turns", type=int, help="of each network, instead of what its plan says")
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.memory:
        network, mode, plan, device, what = args.memory
        print(math.ceil(_own_memory(network, mode, plan, device, what)))
        return
    print(json.dumps(measure(args.plan, args.turns), indent=2))


if __name__ == "__main__":
    main()
