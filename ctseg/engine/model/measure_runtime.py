"""Chooses precision, memory layout and kernels by trying them on the network that will run.

Each candidate makes a pass on the network and patch of the run: forward and backward for training, forward for
prediction. A candidate must agree with PyTorch's float32 (`LOGITS` and `GRADIENTS` in `runtime_trial`), and the
fastest is taken. The choice is kept in the user's cache for the same machine, versions, network and patch.

Not tried: `torch.compile`, which takes 80 seconds on a CPU and gains less than the memory layout does; MPS, where only
float32 is used; networks so small that trying takes longer than what it gains (`SMALL`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctseg import machine
from ctseg.card import Card
from ctseg.config.checking import parse_json
from ctseg.data.store import cache_folder
from ctseg.engine.model.build import constraints_of
from ctseg.engine.model.runtime import Runtime, processes_here, repeatable
from ctseg.engine.model.runtime_trial import Trial, flops_of, hooked, own_random_numbers
from ctseg.errors import CtsegError
from ctseg.files import write_text
from ctseg.specs import Constraints, Zyx
from ctseg.version import __version__

VERSION = 1
"""Of the files in the cache."""
GAIN = 0.95
"""A candidate replaces the default if it takes less than this share of its time, so that noise decides nothing."""
SMALL = 5e9
"""Networks with fewer floating-point operations a pass keep the default."""
REPAID = 64
"""Tiles from which on a trial of any network in half precision, 2 seconds on two cores, is repaid where it finds more
speed."""
PROBE_VOXELS = {"cpu": 40**3, "cuda": 96**3}
"""Largest patch that is tried; larger ones are reduced to about as many voxels."""


@dataclass(frozen=True)
class Measurement:
    """The chosen runtime with the figures that it was chosen by.

    Attributes:
        seconds: fastest pass of each candidate by `name_of`; empty where nothing was tried.
        differing: candidates that were left out with how far their results are off, or why they failed.
        flops: floating-point operations of a forward pass of the patch that was tried.
    """

    runtime: Runtime
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    differing: dict[str, str] = dataclasses.field(default_factory=dict)
    flops: float = 0.0


def choose_measured(
    default: Runtime, network: torch.nn.Module, shape_bczyx: Sequence[int], *, training: bool,
    precision: str = "auto",
) -> Measurement:  # fmt: skip
    """The fastest runtime for a network: of the cache, or measured now.

    Args:
        default: as `ctseg.engine.model.runtime.choose` gives it; kept unless another one is faster by more than 5 %.
        network: on any device; it stays as it is.
        shape_bczyx: shape of the patch to try, see `probe_of`.
        training: whether a backward pass belongs to a pass.
        precision: as asked for; unless `auto` only layouts are tried.
    """
    rivals = candidates(default, precision)
    # processes that work together must choose the same, and would disturb each other's measurement
    together = processes_here() > 1 or os.environ.get("WORLD_SIZE", "1") != "1"
    if len(rivals) < 2 or together:
        return Measurement(default)
    made_of = {
        "version": VERSION, "machine": machine_of(default.device), "network": _structure(network),
        "shape": list(shape_bczyx), "training": training, "precision": precision,
        "candidates": [name_of(rival) for rival in rivals],
    }  # fmt: skip
    text = json.dumps(made_of, sort_keys=True)
    file = cache_folder() / "runtime" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    found = _read(file, rivals)
    if found is None:
        found = _measure(rivals, network, shape_bczyx, training=training)
        _write(file, found, made_of)
    return found


def choose_for_card(
    default: Runtime, card: Card, network: torch.nn.Module, precision: str = "auto"
) -> Runtime:
    """The fastest runtime to predict with a card's network and tile."""
    tile = card.predict.tile_zyx
    if tile is None or default.precision == "int8":
        return default
    probe = probe_of(default.device, card.network_channels, tile, constraints_of(card))
    return choose_measured(default, network, probe, training=False, precision=precision).runtime


def choose_for_tiles(
    default: Runtime, network: torch.nn.Module, tile_czyx: tuple[int, int, int, int], tiles: int,
    constraints: Constraints, precision: str = "auto",
) -> Runtime:  # fmt: skip
    """The fastest runtime to predict so many tiles with any network; the default where trying would not be repaid.

    Half precision is tried, which not every processor that multiplies it computes faster. A network with hooks, or
    whose operations cannot be counted, may do more than compute, and is not tried.
    """
    if tiles < REPAID or default.precision not in ("bf16", "fp16") or hooked(network):
        return default
    probe = probe_of(default.device, tile_czyx[0], tile_czyx[1:], constraints)
    if not math.isfinite(flops_of(network, probe)):
        return default
    return choose_measured(default, network, probe, training=False, precision=precision).runtime


def speed_of(runtime: Runtime, network: torch.nn.Module, shape_bczyx: Sequence[int]) -> float:
    """Floating-point operations a second of passes in training, counting three times those of a forward pass.

    Measured anew each time, since a machine may be busy. A machine that is busy for a moment must not decide alone: a
    CPU counts as no slower than half of what its processor time says. 0 where operations cannot be counted or the
    pass fails.
    """
    flops = flops_of(network, shape_bczyx)
    if not math.isfinite(flops):
        return 0.0
    try:
        with own_random_numbers(runtime.device), repeatable(runtime.device):
            trial = Trial(network, runtime, shape_bczyx, training=True)
            trial()
            begun, passes = time.process_time(), trial.passes
            seconds = trial.seconds(math.inf)
            used = (time.process_time() - begun) / (trial.passes - passes)
    except (RuntimeError, ValueError, MemoryError):  # the run says why
        return 0.0
    if runtime.device.type == "cpu":
        seconds = min(seconds, 2 * used / torch.get_num_threads())
    return 3 * flops / seconds


def candidates(default: Runtime, precision: str = "auto") -> list[Runtime]:
    """What is tried on a device, the default first; one where there is no choice."""
    if default.device.type not in PROBE_VOXELS:
        return [default]
    layouts = [dataclasses.replace(default, channels_last=last) for last in (True, False)]
    if precision == "auto" and default.device.type == "cpu" and default.precision != "fp32":
        layouts = [default]  # the kernels for half precision need channels-last
        layouts += [dataclasses.replace(default, precision="fp32", channels_last=True)]
    if precision == "auto" and default.device.type == "cpu":
        layouts.append(plain(default))
    return [default, *(rival for rival in layouts if rival != default)]


def plain(runtime: Runtime) -> Runtime:
    """PyTorch's float32 on the same device, against which candidates are compared."""
    return dataclasses.replace(runtime, precision="fp32", channels_last=False, exact=True)


def name_of(runtime: Runtime) -> str:
    """A candidate in the log."""
    layout = "channels-last" if runtime.channels_last else "contiguous"
    kernels = ", PyTorch's kernels" if runtime.exact and runtime.device.type == "cpu" else ""
    return f"{runtime.precision}, {layout}{kernels}"


def probe_of(
    device: torch.device, channels: int, patch_zyx: Zyx, constraints: Constraints
) -> tuple[int, ...]:
    """The shape [1, C, Z, Y, X] of the patch to try: the run's, reduced along all axes if it is large."""
    share = (PROBE_VOXELS.get(device.type, 1) / math.prod(patch_zyx)) ** (1 / 3)
    if share >= 1:
        return (1, channels, *patch_zyx)
    z, y, x = (min(max(math.ceil(n * share), 1), n) for n in patch_zyx)
    least = 2 * constraints.context_slices + 1
    return (1, channels, *constraints.fit((max(z, min(least, patch_zyx[0])), y, x)))


def machine_of(device: torch.device) -> dict[str, Any]:
    """What a measurement depends on besides the network: hardware, threads and versions."""
    limits = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    out = {
        "processor": machine.processor(), "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "limit": next((os.environ[name] for name in limits if name in os.environ), ""),
        "torch": torch.__version__, "ctseg": __version__,
    }  # fmt: skip
    if device.type == "cuda" and torch.cuda.is_available():  # a plan may be for another machine
        out["gpu"] = torch.cuda.get_device_name(device)
    return out


def as_choice(found: Measurement) -> dict[str, Any]:
    """A measurement as `plan.json` keeps it, so that a resumed run computes in the same way."""
    chosen = found.runtime
    return {
        "precision": chosen.precision, "channels_last": chosen.channels_last, "exact": chosen.exact,
        "seconds": {name: round(seconds, 4) for name, seconds in found.seconds.items()},
        **({"left_out": found.differing} if found.differing else {}),
        "machine": machine_of(chosen.device),
    }  # fmt: skip


def recorded(choice: Any, default: Runtime, precision: str = "auto") -> Runtime | None:
    """The runtime that `as_choice` recorded; None if there is none, or another machine recorded it."""
    if not isinstance(choice, dict) or choice.get("machine") != machine_of(default.device):
        return None
    for rival in candidates(default, precision):
        if all(
            choice.get(key) == getattr(rival, key)
            for key in ("precision", "channels_last", "exact")
        ):
            return dataclasses.replace(rival, reason="as the run began")
    return None


def _measure(
    rivals: list[Runtime], network: torch.nn.Module, shape: Sequence[int], *, training: bool
) -> Measurement:
    default = rivals[0]
    flops = flops_of(network, shape)
    if flops < SMALL:
        return Measurement(default, flops=flops)
    reference = plain(default)
    seconds: dict[str, float] = {}
    differing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_random_numbers(default.device))
        if training:  # as in the training loop
            stack.enter_context(repeatable(default.device))
        try:
            expected = Trial(network, reference, shape, training=training)()
        except (RuntimeError, ValueError, MemoryError):  # then the run fails, too, and says why
            return Measurement(default, flops=flops)
        for rival in rivals:
            try:
                trial = Trial(network, rival, shape, training=training)
                off = trial.difference(expected, trial())
                if off is None:
                    seconds[name_of(rival)] = trial.seconds(min(seconds.values(), default=math.inf))
                else:
                    differing[name_of(rival)] = off
            except (RuntimeError, ValueError, MemoryError) as error:
                differing[name_of(rival)] = " ".join(str(error).split())[:200]
    timed = [rival for rival in rivals if name_of(rival) in seconds]
    if not timed:
        return Measurement(default, {}, differing, flops)
    best = min(timed, key=lambda rival: seconds[name_of(rival)])
    if timed[0] == default and seconds[name_of(best)] > GAIN * seconds[name_of(default)]:
        best = default
    return Measurement(_with_reason(best, seconds), seconds, differing, flops)


def _with_reason(runtime: Runtime, seconds: dict[str, float]) -> Runtime:
    own = name_of(runtime)
    others = [f"{name} {value:.3g}" for name, value in seconds.items() if name != own]
    return dataclasses.replace(
        runtime,
        reason=f"measured: {seconds[own]:.3g} s" + "".join(f"; {other}" for other in others),
    )


def _structure(network: torch.nn.Module) -> str:
    """A fingerprint of a network's layers and sizes."""
    sizes = [f"{name}{tuple(p.shape)}" for name, p in network.named_parameters()]
    return hashlib.sha256("\n".join([repr(network), *sizes]).encode()).hexdigest()[:16]


def _read(file: Path, rivals: list[Runtime]) -> Measurement | None:
    """A measurement of the cache; None if there is none, or it is damaged."""
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
        seconds = {str(name): float(value) for name, value in found["seconds"].items()}
        runtime = next(rival for rival in rivals if name_of(rival) == found["chosen"])
        flops = math.inf if found["flops"] is None else float(found["flops"])
        if seconds:
            runtime = _with_reason(runtime, seconds)
        return Measurement(runtime, seconds, dict(found["differing"]), flops)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def _write(file: Path, found: Measurement, made_of: dict[str, Any]) -> None:
    """Keep a measurement; a cache that cannot be written is left alone."""
    document = {
        "chosen": name_of(found.runtime), "seconds": found.seconds, "differing": found.differing,
        "flops": found.flops if math.isfinite(found.flops) else None, "of": made_of,
    }  # fmt: skip
    with contextlib.suppress(OSError, CtsegError):
        write_text(file, json.dumps(document, indent=2) + "\n")
