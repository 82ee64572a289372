"""What is made of logits on the scan's grid: labels, probabilities, confidence, masks of classes, values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.pipeline import background_fill
from ctseg.data.steps.target import Scale
from ctseg.data.steps.track import Positions
from ctseg.engine.inference.resample_logits import (
    argmax_at,
    confidence,
    interpolate,
    last_positive_at,
)
from ctseg.engine.inference.resample_logits_cpu import check_finite
from ctseg.errors import BadInput, RunFailed
from ctseg.specs import Label, Task
from ctseg.task import activate, label_dtype, values_of

FloatType = Literal["float16", "float32", "float64"]
ROWS_BYTES = 2**23
"""Logits of all classes that are made into probabilities at a time."""


class Decoder(Protocol):
    """A result, piece by piece.

    Attributes:
        channels: None for [Z, Y, X], a number for [K, Z, Y, X].
        dtype: of the voxels, as NumPy writes it.
        fill: [channels or 1], what stands where a crop left nothing to predict from.
        working: bytes that a voxel of the scan's grid takes while it is made.
    """

    channels: int | None
    dtype: str
    fill: NDArray[np.generic]
    working: int

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        """The voxels at these positions (on the network's grid) from fp32 logits around them."""
        ...


class LabelMap:
    """The label of each voxel, in the smallest type that holds them.

    Args:
        kept: the only labels to write; all where it is None.
    """

    def __init__(self, task: Task, kept: Sequence[Label] | None = None) -> None:
        if task.kind == "regression":
            raise BadInput("A regression has no labels.", hint="Its values are what it predicts.")
        self.channels: int | None = None
        self.dtype = label_dtype(task)
        self.fill = np.zeros(1, self.dtype)
        self.working = 12
        self._exclusive = task.kind == "classes"
        wanted = task.foreground if kept is None else kept
        numbers = [label.value if label in wanted else 0 for label in task.labels]
        if not self._exclusive:
            numbers.insert(0, 0)  # where no channel is present
        self._hidden = None
        if not self._exclusive and kept is not None:
            self._hidden = [i for i, label in enumerate(task.labels) if label not in wanted]
        kind = torch.uint8 if self.dtype == "uint8" else torch.int32  # torch has no uint16
        plain = numbers == list(range(len(numbers)))
        self._table = None if plain else torch.tensor(numbers, dtype=kind)

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        if self._exclusive:
            found = argmax_at(low_czyx, positions)
        else:
            if self._hidden:  # else a label that nobody asked for would cover those that they did
                low_czyx = low_czyx.clone()
                low_czyx[self._hidden] = -1.0
            found = last_positive_at(low_czyx, positions)
        return self.of_classes(found)

    def of_classes(self, found: torch.Tensor) -> torch.Tensor:
        """The same from the class of each voxel."""
        return found if self._table is None else self._table.to(found.device)[found.int()]


class Probabilities:
    """The probability of each label, for `classes` with the background first.

    Args:
        temperature: logits are divided by it.
        kept: the only labels to write; all where it is None.
    """

    def __init__(
        self,
        task: Task,
        *,
        temperature: float = 1.0,
        dtype: FloatType = "float32",
        kept: Sequence[Label] | None = None,
    ) -> None:
        self._task, self._temperature = task, temperature
        self.dtype: str = dtype
        self._chosen = _indices(task, kept)
        self.channels: int | None = len(self._chosen)
        fill = background_fill(task, probabilities=True)
        self.fill = fill[self._chosen].astype(dtype)
        own = 0 if dtype == "float32" else np.dtype(dtype).itemsize
        self.working = (4 + own) * len(self._chosen) + 4

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        z, y, x = positions
        out = torch.empty((len(self._chosen), len(z), len(y), len(x)), device=low_czyx.device)
        # in rows, so that what all classes take on the way is small beside the result
        rows = max(1, ROWS_BYTES // (4 * len(low_czyx) * len(z) * len(x)))
        for start in range(0, len(y), rows):
            part = slice(start, start + rows)
            logits = interpolate(low_czyx, (z, y[part], x))
            shares = activate(self._task, (logits / self._temperature)[None])[0]
            out[:, :, part] = shares if len(out) == len(shares) else shares[self._chosen]
        return out


class Values:
    """What a regression predicts, in the target's own unit; its mean where there was nothing to predict from.

    Args:
        scale: mean and deviation of each channel on which it was trained.
        kept: the only channels to write.
    """

    def __init__(
        self,
        task: Task,
        scale: Scale | None,
        *,
        dtype: FloatType = "float32",
        kept: Sequence[Label] | None = None,
        flat: bool = True,
    ) -> None:
        self._scale = scale
        self.dtype: str = dtype
        self._chosen = _indices(task, kept)
        one = flat and len(self._chosen) == 1
        self.channels = None if one else len(self._chosen)
        fill = values_of(torch.zeros(task.out_channels, 1, 1, 1), scale).flatten().numpy()
        self.fill = fill[self._chosen].astype(dtype)
        self.working = 12 * task.out_channels

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        found = values_of(interpolate(low_czyx, positions), self._scale)[self._chosen]
        most = float(found.abs().amax())
        if not most <= float(np.finfo(self.dtype).max):
            check_finite(most)
            raise RunFailed(
                f"The network gave values up to {most:.3g}, which {self.dtype} does not hold.",
                hint="Write them as float32: --set dtype=float32",
            )
        return found[0] if self.channels is None else found


class Confidence:
    """How sure the model is of the label of each voxel: the probability of the strongest one, 0 to 1.

    For `channels` it is that of the least certain decision, the smallest of max(p, 1 - p).
    """

    def __init__(
        self, task: Task, *, temperature: float = 1.0, dtype: FloatType = "float32"
    ) -> None:
        if task.kind == "regression":
            raise BadInput("A regression has no confidence.", hint="Leave out --confidence.")
        self._exclusive, self._temperature = task.kind == "classes", temperature
        self.channels: int | None = None
        self.dtype: str = dtype
        self.fill = np.ones(1, dtype)
        self.working = 16 if self._exclusive else 12 * task.out_channels

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        if self._exclusive:
            return confidence(low_czyx, positions, temperature=self._temperature)
        logits = interpolate(low_czyx, positions) / self._temperature
        return logits.abs().amin(0).sigmoid()


class Logits:
    """The logits themselves."""

    def __init__(self, task: Task) -> None:
        self.channels: int | None = task.out_channels
        self.dtype = "float32"
        self.fill = background_fill(task, probabilities=False)
        self.working = 8 * task.out_channels

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        return interpolate(low_czyx, positions)


class Masks:
    """One map of 0 and 1 a label; those of `channels` may overlap."""

    def __init__(self, task: Task, kept: Sequence[Label] | None = None) -> None:
        if task.kind == "regression":
            raise BadInput("A regression has no masks.")
        self._exclusive = task.kind == "classes"
        foreground = task.foreground if kept is None else kept
        self._chosen = [task.labels.index(label) for label in foreground]
        self.channels: int | None = len(self._chosen)
        self.dtype = "uint8"
        self.fill: NDArray[np.generic] = np.zeros(len(self._chosen), np.uint8)
        self.working = 12 + len(self._chosen) if self._exclusive else 8 * task.out_channels

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        if self._exclusive:
            return self.of_classes(argmax_at(low_czyx, positions))
        return (interpolate(low_czyx[self._chosen], positions) > 0).to(torch.uint8)

    def of_classes(self, found: torch.Tensor) -> torch.Tensor:
        """The same from the class of each voxel."""
        return torch.stack([found == index for index in self._chosen]).to(torch.uint8)


def _indices(task: Task, kept: Iterable[Label] | None) -> list[int]:
    if kept is None:
        return list(range(task.out_channels))
    return [task.labels.index(label) for label in kept]
