"""Slices that a user names for a mosaic or a film."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.report.planes import PLANES, Plane


def choose_slices(
    text: str | None, plane: Plane, zyx: NDArray[Any], *, labelled: bool
) -> list[int]:
    """Numbers of slices along a plane, counted from 0 from the foot, the front, or the patient's right.

    Args:
        text: `12` for so many slices, spread evenly over those that show a label; `10,20,30` for these; `10:60:5` for a
            range; None for all.
        zyx: the canonical array of the label map, or of the scan without one.
        labelled: whether the array is a label map.

    Raises:
        BadInput: another form, or a slice that does not exist.
    """
    axis = PLANES.index(plane)
    depth = zyx.shape[axis]
    if text is None:
        return list(range(depth))
    if re.fullmatch(r"[1-9]\d{0,5}", text):
        used = np.arange(depth)
        if labelled and zyx.any():
            used = np.flatnonzero(zyx.any(axis=tuple(i for i in range(3) if i != axis)))
        count = min(int(text), int(used[-1] - used[0]) + 1)
        edges = np.linspace(used[0], used[-1] + 1, count + 1)
        return [int(i) for i in (edges[:-1] + edges[1:]) / 2]
    if re.fullmatch(r"\d*:\d*(:[1-9]\d*)?", text):
        parts = [int(part) if part else None for part in text.split(":")]
        chosen = list(range(depth))[slice(*parts)]
    elif re.fullmatch(r"(\d{1,6},)+(\d{1,6})?", text):
        chosen = [int(part) for part in text.rstrip(",").split(",")]
    else:
        raise BadInput(
            f"'{text}' names no slices.",
            hint="Write 12 for twelve slices, 10,20,30 for these, or 10:60:5 for a range.",
        )
    if not chosen or max(chosen) >= depth:
        raise BadInput(f"The scan has {plane} slices 0 to {depth - 1}, and not '{text}'.")
    return chosen
