"""Chooses the size of a training, so that its steps are enough for the time and fit into the memory.

A size is one of `LEVELS`: patch, batch, width, and how coarse the spacing may be. The largest is taken that fits into
the memory and makes as many steps as it needs to pay (`Budget.steps`). How long a step takes follows from the
operations of the planned network and from the speed that the machine was measured at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ctseg import plugins
from ctseg.config import RunConfig
from ctseg.errors import CtsegError
from ctseg.nets.cost import Cost, measure
from ctseg.planning.choices import LEVELS, USUAL, Budget
from ctseg.specs import training_only

PASSES = 3
"""Operations of a training step over those of a forward pass."""
BESIDE = 1.15
"""Time of a training step over that of its passes: loading, augmentation, loss and optimizer."""
SHIFT = {"fast": -1, "default": 0, "accurate": 1}
"""How many sizes a preset lies above the usual one."""
PATIENCE = {"fast": 2.0, "default": 1.0, "accurate": 0.5}
"""How many times the steps that a size needs a preset asks for."""
COPIES = 5
"""Arrays of the size of the weights: weights, gradients, two moments of the optimizer, and a copy being saved."""
WORKSPACE = 1.3
"""Memory of activations with what convolutions need besides, over that of tensors; measured on CPUs."""
HALF = 0.5
"""Activations in half precision over those in float32."""
PROCESS = {"cpu": 560 * 10**6, "mps": 10**9, "cuda": 10**9}
"""Bytes without a network: the interpreter with its libraries, the context of CUDA."""


@dataclass(frozen=True)
class Limits:
    """What a training has to keep within.

    Attributes:
        device: cpu, cuda or mps.
        memory: bytes; None does not limit it.
        seconds: of the training steps; None does not limit them.
        speed: floating-point operations of training steps in a second; without it, time decides nothing.
        half: whether activations are stored in half precision.
    """

    device: str
    memory: int | None = None
    seconds: float | None = None
    speed: float | None = None
    half: bool = False


class Load(NamedTuple):
    """The load of a planned training: operations and tensors of one patch, and the patches of a step."""

    cost: Cost
    batch_size: int

    def seconds(self, limits: Limits) -> float | None:
        """Seconds of a step; None if the speed is unknown."""
        if limits.speed is None:
            return None
        return BESIDE * PASSES * self.cost.flops * self.batch_size / limits.speed

    def memory(self, limits: Limits) -> int:
        """Peak bytes of a training: on a CPU of the whole process, else on the device."""
        share = HALF if limits.half else 1.0
        activations = WORKSPACE * share * self.batch_size * self.cost.step_bytes
        return int(PROCESS[limits.device] + COPIES * self.cost.weight_bytes + activations)


def load_of(config: RunConfig, *, in_channels: int, out_channels: int) -> Load | None:
    """The load of a complete configuration; nothing is computed, so it takes a fraction of a second.

    None where the network cannot be built or counted; building it for the training says why.
    """
    name, train = config.model.architecture, config.train
    assert train.patch_zyx is not None
    assert train.batch_size is not None
    spec = plugins.architecture(name)
    unread = training_only(spec.config)
    options = {key: value for key, value in config.model.options.items() if key not in unread}
    network = plugins.make_config(spec, options)
    try:
        cost = measure(
            lambda: spec.build(network, in_channels=in_channels, out_channels=out_channels),
            train.patch_zyx,
            in_channels=in_channels,
        )
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
        return None
    except (ImportError, MemoryError, CtsegError):
        return None
    return Load(cost, train.batch_size)


def choose_budget(
    limits: Limits, preset: str, load: Callable[[Budget], Load | None]
) -> tuple[Budget, str]:
    """The size of the training and why.

    Args:
        preset: fast, default or accurate.
        load: the load of a training planned for a size; None if it cannot be counted.
    """
    timed = limits.seconds is not None and limits.speed is not None
    start = min(max(USUAL[limits.device] + SHIFT[preset], 0), len(LEVELS) - 1)
    usual = f"usual on {limits.device}{_named(preset)}"
    if not timed and limits.memory is None:
        return _shaped(LEVELS[start], preset), usual
    first = load(_shaped(LEVELS[start], preset))
    if first is None:
        return _shaped(LEVELS[start], preset), usual
    trials = {start: _Trial.of(first, limits)}

    def fits(index: int) -> bool:
        if index not in trials:
            found = load(_shaped(LEVELS[index], preset))
            if found is None:
                return False
            trials[index] = _Trial.of(found, limits)
        trial = trials[index]
        enough = PATIENCE[preset] * LEVELS[index].steps
        return trial.fits and (trial.steps is None or trial.steps >= enough)

    index = start
    if fits(index):
        grows = timed or limits.device == "cuda"
        while grows and index + 1 < len(LEVELS) and fits(index + 1):
            index += 1
    else:
        while index and not fits(index):
            index -= 1
    fits(index)  # the smallest is taken in any case
    larger = trials.get(index + 1)
    text = trials.get(index, trials[start]).text(limits)
    if larger is not None:
        need = PATIENCE[preset] * LEVELS[index + 1].steps
        text += f"; the next larger size would have {larger.text(limits)}"
        text += f", of {need:.0f} that it needs" if larger.steps is not None else ""
    return _shaped(LEVELS[index], preset), text + _named(preset)


class _Trial(NamedTuple):
    """How a size suits the limits."""

    steps: int | None
    step_seconds: float | None
    memory: int
    fits: bool

    @classmethod
    def of(cls, load: Load, limits: Limits) -> _Trial:
        seconds, memory = load.seconds(limits), load.memory(limits)
        steps = None
        if seconds is not None and limits.seconds is not None:
            steps = int(limits.seconds / max(seconds, 1e-9))
        return cls(steps, seconds, memory, limits.memory is None or memory <= limits.memory)

    def text(self, limits: Limits) -> str:
        memory = f"{self.memory / 1e9:.2g} GB of memory"
        if limits.memory is not None:
            memory = f"{self.memory / 1e9:.2g} of {limits.memory / 1e9:.3g} GB of memory"
        if self.steps is None:
            return memory
        return f"about {self.steps} steps of {self.step_seconds:.2g} s and {memory}"


def _shaped(budget: Budget, preset: str) -> Budget:
    """The size as a preset has it: accurate trainings keep the spacing of the data."""
    return budget._replace(coarsest=1.0) if preset == "accurate" else budget


def _named(preset: str) -> str:
    return "" if preset == "default" else f" (preset {preset})"
