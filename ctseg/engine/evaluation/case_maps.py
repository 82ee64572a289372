"""The maps of a case that are to be compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.metrics.aligned import AlignedCase, Look
from ctseg.specs import ImageRef, Task
from ctseg.volume.volume import Volume

Slices = tuple[int | None, int | None]


@dataclass(frozen=True)
class CaseMaps:
    """The predicted map of a case and its reference, on one grid.

    Attributes:
        prediction, reference: label values [Z, Y, X], or one map for each label [C, Z, Y, X]; float values of a
            regression.
        case_id: id of the case.
        names: names of the two maps in messages.
        slices: start and stop along z of the evaluated slices.
        mask: evaluated region, [Z, Y, X] or [1, Z, Y, X], above 0.
        group: the patient or specimen of the case.
        drawn: names of the labels that were drawn in the reference, and are scored; None for all.
        foreign: values of the reference whose labels the prediction cannot have; they count as background.
        images: its scan, for pictures.
        look: called with the maps as they are compared.
        shown: names of the labels that a predicted map was restricted to; None for all.
    """

    prediction: Volume
    reference: Volume
    case_id: str
    names: tuple[str, str] | None = None
    slices: Slices | None = None
    mask: NDArray[Any] | None = None
    group: str | None = None
    images: tuple[ImageRef, ...] = ()
    drawn: tuple[str, ...] | None = None
    foreign: tuple[int, ...] = ()
    look: Look | None = None
    shown: tuple[str, ...] | None = None

    @cached_property
    def valid(self) -> NDArray[np.bool_] | None:
        """The mask as bool [Z, Y, X]; None if all voxels count."""
        if self.mask is None:
            return None
        return np.asarray(self.mask.reshape(self.mask.shape[-3:]) > 0)

    def without_foreign(self, task: Task, reference: NDArray[Any]) -> NDArray[Any]:
        """A reference in the values of label files, whose foreign ones became background if it is a single map."""
        if not self.foreign or reference.ndim != 3:
            return reference
        background = task.labels[0].values[0] if task.kind == "classes" else 0
        out = reference.copy()
        out[np.isin(reference, self.foreign)] = background
        return out

    def show(self, task: Task | None, predicted: NDArray[Any], reference: NDArray[Any]) -> None:
        """Let `look` see the arrays as they are compared."""
        if self.look is None:
            return
        geometry = self.reference.geometry
        start = slice(*self.slices).indices(geometry.shape_zyx[0])[0] if self.slices else 0
        part = geometry.sub((start, 0, 0), reference.shape[-3:])
        self.look(AlignedCase(self.case_id, task, predicted, reference, part, self.images))
