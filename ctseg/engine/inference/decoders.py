"""Decoders: turn logits into results on the scan's grid (labels, probabilities, masks, values, ...)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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
"""Bytes of logits, over all classes, that are turned into probabilities at a time."""


class Decoder(Protocol):
    """Turns logits into the voxels of one result, piece by piece.

    Attributes:
        channels: None for [Z, Y, X], a number for [K, Z, Y, X].
        dtype: NumPy name of the voxel type.
        fill: [channels or 1], the value of voxels that a crop removed before prediction.
        working: bytes of working memory for each voxel of the scan's grid.
    """

    channels: int | None
    dtype: str
    fill: NDArray[np.generic]
    working: int

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        """Voxels at these positions (on the network's grid), from the fp32 logits around them."""
        ...


class LabelMap:
    """The label of each voxel, in the smallest type that holds all of them.

    Args:
        selected: labels to write; None for all.
    """

    def __init__(self, task: Task, selected: Sequence[Label] | None = None) -> None:
        if task.kind == "regression":
            raise BadInput("A regression has no labels.", hint="It predicts values.")
        self.channels: int | None = None
        self.dtype = label_dtype(task)
        self.fill = np.zeros(1, self.dtype)
        self.working = 12
        self._exclusive = task.kind == "classes"
        written = task.foreground if selected is None else selected
        values = [label.value if label in written else 0 for label in task.labels]
        if not self._exclusive:
            values.insert(0, 0)  # no channel is present
        self._hidden = None
        if not self._exclusive and selected is not None:
            self._hidden = [i for i, label in enumerate(task.labels) if label not in written]
        kind = torch.uint8 if self.dtype == "uint8" else torch.int32  # torch has no uint16
        identity = values == list(range(len(values)))
        self._table = None if identity else torch.tensor(values, dtype=kind)

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        if self._exclusive:
            classes = argmax_at(low_czyx, positions)
        else:
            if self._hidden:  # otherwise an unselected label would cover a selected one
                low_czyx = low_czyx.clone()
                low_czyx[self._hidden] = -1.0
            classes = last_positive_at(low_czyx, positions)
        return self.of_classes(classes)

    def of_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """The label map, from the class index of each voxel."""
        return classes if self._table is None else self._table.to(classes.device)[classes.int()]


class Probabilities:
    """The probability of each label; for `classes` the background comes first.

    Args:
        temperature: divisor of the logits.
        selected: labels to write; None for all.
    """

    def __init__(
        self,
        task: Task,
        *,
        temperature: float = 1.0,
        dtype: FloatType = "float32",
        selected: Sequence[Label] | None = None,
    ) -> None:
        self._task, self._temperature = task, temperature
        self.dtype: str = dtype
        self._chosen = _indices(task, selected)
        self.channels: int | None = len(self._chosen)
        fill = background_fill(task, probabilities=True)
        self.fill = fill[self._chosen].astype(dtype)
        own = 0 if dtype == "float32" else np.dtype(dtype).itemsize
        self.working = (4 + own) * len(self._chosen) + 4

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        sizes = (len(self._chosen), *map(len, positions))
        out = torch.empty(sizes, device=low_czyx.device)
        for part, every in _by_rows(self._task, low_czyx, positions, self._temperature):
            out[:, :, part] = every if len(out) == len(every) else every[self._chosen]
        return out


class Values:
    """The values of a regression, in the unit of its target; the mean of the target outside a crop.

    Args:
        scale: mean and standard deviation of each channel in training.
        selected: channels to write; None for all.
        squeeze: drop the channel axis of a single channel.
    """

    def __init__(
        self,
        task: Task,
        scale: Scale | None,
        *,
        dtype: FloatType = "float32",
        selected: Sequence[Label] | None = None,
        squeeze: bool = True,
    ) -> None:
        self._scale = scale
        self.dtype: str = dtype
        self._chosen = _indices(task, selected)
        single = squeeze and len(self._chosen) == 1
        self.channels = None if single else len(self._chosen)
        fill = values_of(torch.zeros(task.out_channels, 1, 1, 1), scale).flatten().numpy()
        self.fill = fill[self._chosen].astype(dtype)
        self.working = 12 * task.out_channels

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        values = values_of(interpolate(low_czyx, positions), self._scale)[self._chosen]
        largest = float(values.abs().amax())
        if not largest <= float(np.finfo(self.dtype).max):
            check_finite(largest)
            raise RunFailed(
                f"The network predicts values up to {largest:.3g}, which {self.dtype} does not hold.",
                hint="Write them as float32: --set dtype=float32",
            )
        return values[0] if self.channels is None else values


class Confidence:
    """The probability of the most probable label of each voxel, 0 to 1.

    For `channels` it is the probability of the least certain decision, the minimum of max(p, 1 - p).
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


class Uncertainty:
    """Shannon's entropy of each voxel's probabilities: 0 where one label is certain, 1 where all are equally likely.

    For `channels` it is the largest entropy of a label's two outcomes, in bits.
    """

    def __init__(
        self, task: Task, *, temperature: float = 1.0, dtype: FloatType = "float32"
    ) -> None:
        if task.kind == "regression":
            raise BadInput("A regression has no uncertainty.", hint="Leave out --uncertainty.")
        self._task, self._temperature = task, temperature
        self.channels: int | None = None
        self.dtype: str = dtype
        self.fill = np.zeros(1, dtype)
        self.working = 12

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        out = torch.empty(tuple(map(len, positions)), device=low_czyx.device)
        for part, p_kzyx in _by_rows(self._task, low_czyx, positions, self._temperature):
            if self._task.kind == "classes":
                entropy = torch.special.entr(p_kzyx).sum(0) / math.log(max(len(p_kzyx), 2))
            else:
                both = torch.special.entr(p_kzyx) + torch.special.entr(1 - p_kzyx)
                entropy = both.amax(0) / math.log(2)
            out[:, part] = entropy.clamp_(0, 1)
        return out


class Logits:
    """The logits themselves."""

    def __init__(self, task: Task) -> None:
        self.channels: int | None = task.out_channels
        self.dtype = "float32"
        self.fill: NDArray[np.generic] = background_fill(task, probabilities=False)
        self.working = 8 * task.out_channels

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        return interpolate(low_czyx, positions)


class Masks:
    """One binary mask for each label; the masks of `channels` may overlap.

    Args:
        selected: labels to write; None for all.
    """

    def __init__(self, task: Task, selected: Sequence[Label] | None = None) -> None:
        if task.kind == "regression":
            raise BadInput("A regression has no masks.")
        self._exclusive = task.kind == "classes"
        foreground = task.foreground if selected is None else selected
        self._chosen = [task.labels.index(label) for label in foreground]
        self.channels: int | None = len(self._chosen)
        self.dtype = "uint8"
        self.fill: NDArray[np.generic] = np.zeros(len(self._chosen), np.uint8)
        self.working = 12 + len(self._chosen) if self._exclusive else 8 * task.out_channels

    def decode(self, low_czyx: torch.Tensor, positions: Positions) -> torch.Tensor:
        if self._exclusive:
            return self.of_classes(argmax_at(low_czyx, positions))
        return (interpolate(low_czyx[self._chosen], positions) > 0).to(torch.uint8)

    def of_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """The masks, from the class index of each voxel."""
        return torch.stack([classes == index for index in self._chosen]).to(torch.uint8)


def _by_rows(
    task: Task, low_czyx: torch.Tensor, positions: Positions, temperature: float
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The probabilities [K, Z, rows, X] of all labels for a few rows at a time, so that they take little memory."""
    z, y, x = positions
    rows = max(1, ROWS_BYTES // (4 * len(low_czyx) * len(z) * len(x)))
    for start in range(0, len(y), rows):
        part = slice(start, start + rows)
        logits = interpolate(low_czyx, (z, y[part], x))
        yield part, activate(task, (logits / temperature)[None])[0]


def _indices(task: Task, selected: Iterable[Label] | None) -> list[int]:
    if selected is None:
        return list(range(task.out_channels))
    return [task.labels.index(label) for label in selected]
