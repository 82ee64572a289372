"""Left and right: which labels change places when a scan is mirrored from one side to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ctseg.data.augment.parameters import AugmentParameters
from ctseg.specs import Task


@dataclass(frozen=True)
class Sides:
    """What swaps.

    Attributes:
        table: new class index of each class index, for exclusive classes; None where no classes swap.
        channels: old channel of each new channel, for targets of one map a channel; None where none swap.
    """

    table: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None

    @classmethod
    def of(cls, task: Task) -> Sides:
        """What the task's `mirror_pairs` say of its targets (`ctseg.task.encode`)."""
        places = {label.name: index for index, label in enumerate(task.labels)}
        order = list(range(len(task.labels)))
        for one, two in task.mirror_pairs:
            if one in places and two in places:
                order[places[one]], order[places[two]] = places[two], places[one]
        if order == sorted(order):
            return cls()
        return cls(table=tuple(order)) if task.kind == "classes" else cls(channels=tuple(order))

    def swap(self, target: torch.Tensor) -> torch.Tensor:
        """The target [T, Z, Y, X] with left and right labels exchanged; ignored voxels stay so."""
        if self.table is not None:
            table = torch.tensor([-1, *self.table], dtype=target.dtype, device=target.device)
            index = target.reshape(-1).to(torch.int32) + 1
            return table.index_select(0, index).view(target.shape)
        if self.channels is not None and len(self.channels) == len(target):
            return target[list(self.channels)]
        return target


def exchanged(drawn: AugmentParameters, lateral: int) -> bool:
    """Whether a sample shows left and right exchanged, its mirroring and turns taken together.

    A side is where it lies: it changes where the lateral axis runs backwards. Turned by 90 degrees onto another axis
    it changes where the scan is mirrored.
    """
    axes, back = drawn.turn
    flips = [(axis in back) != (axis in drawn.mirror) for axis in range(3)]
    if axes[lateral] == lateral:
        return flips[lateral]
    odd = sum(axes[a] > axes[b] for a, b in ((0, 1), (0, 2), (1, 2))) % 2
    return bool((odd + sum(flips)) % 2)


def lateral_axis(direction: Any) -> int:
    """The array axis 0..2 (z, y, x) that runs most nearly between left and right.

    Args:
        direction: 3x3 matrix whose columns are the array axes x, y, z (`ctseg.volume.geometry`).
    """
    return 2 - int(np.abs(np.asarray(direction)[0]).argmax())
