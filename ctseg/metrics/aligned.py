"""The maps of a case as they are compared, for those who draw them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ctseg.specs import ImageRef, Task
from ctseg.volume.geometry import Geometry


@dataclass(frozen=True)
class AlignedCase:
    """The two maps of a case as they are compared: on one grid, with the values of one task.

    Attributes:
        case_id: id of the case.
        task: meaning of the values; None if they are ids of instances.
        predicted, reference: label values [Z, Y, X], one map for each label [C, Z, Y, X], or values of a regression.
        geometry: grid of the compared part.
        images: the scan, where it is known.
    """

    case_id: str
    task: Task | None
    predicted: NDArray[Any]
    reference: NDArray[Any]
    geometry: Geometry
    images: tuple[ImageRef, ...]


Look = Callable[[AlignedCase], None]
