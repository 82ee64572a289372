"""What a run will take, foretold before its start and again after some steps, and how true it was."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from ctseg.engine.training.checkpoint import State

SECOND_AT = 50
"""Steps after which a run is foretold (again), once a validation was timed."""


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held so far: on the accelerator where it has one, else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def foretell(state: State, spent: float, device: torch.device) -> dict[str, Any]:
    """A forecast from here on, noted in the state, as a line of the log.

    Args:
        spent: seconds of the run so far.
    """
    left = state.steps - state.step
    validations = math.ceil(left / state.steps_per_epoch)
    seconds = spent + left * state.step_seconds + validations * state.validation_seconds
    line = {
        "step": state.step, "steps": state.steps, "seconds": round(seconds, 1),
        "memory_mib": round(peak_memory(device) / 2**20),
    }  # fmt: skip
    state.forecasts.append(line)
    return line


def outcome(state: State, spent: float, device: torch.device) -> dict[str, Any]:
    """What the run took, and each forecast in relation to it: 1 is true, 2 is twice as much as it was."""
    memory = round(peak_memory(device) / 2**20)
    seconds = {"seconds": spent, "memory_mib": memory, "steps": state.step}
    return {
        "step": state.step, "seconds": round(spent, 1), "memory_mib": memory,
        "forecasts": [
            {"step": line["step"]}
            | {name: round(line[name] / true, 3) for name, true in seconds.items() if true}
            for line in state.forecasts
        ],
    }  # fmt: skip


def in_words(seconds: float) -> str:
    """A duration as people say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
