"""Which regions of interest or segments are read, which value each gets, and what happens where two overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, UnknownName

OVERLAPS = ("refuse", "last", "channels")


@dataclass(frozen=True)
class Region:
    """One segment or region of interest.

    Attributes:
        number: within its file.
        name: as the file gives it.
        value: in the label map; 0 before it is chosen.
        colour: red, green, blue in 0..255, None where the file names none.
    """

    number: int
    name: str
    value: int
    colour: tuple[int, int, int] | None = None


def choose(
    regions: Sequence[Region], wanted: Sequence[str] | None, missing: str, what: str, path: Path
) -> list[tuple[int, list[Region]]]:
    """The values of the label map and the regions that each is made of.

    Args:
        regions: what the file has.
        wanted: for the values 1, 2, ... a name each, or its number; `a|b` takes either, `*` and `?` stand for any
            letters, upper and lower case are the same. None takes every region with the value it has.
        missing: `refuse`, or `empty` for a value without voxels.
        what: e.g. `region of interest`, for messages.

    Raises:
        UnknownName: nothing has such a name.
        BadInput: the file has no regions at all, or one of them was asked for twice.
    """
    if not regions:
        raise BadInput(f"{path} has no {what} with voxels.")
    if wanted is None:
        return [(region.value, [region]) for region in regions]
    chosen: list[tuple[int, list[Region]]] = []
    taken: dict[int, str] = {}
    for value, text in enumerate(wanted, start=1):
        found = [region for region in regions if _fits(region, text)]
        if not found and missing == "refuse":
            known = [region.name for region in regions]
            error = UnknownName(what, text, known)
            error.hint = (
                f"{path} has: {', '.join(known)}\n  Several spellings: 'Liver|liver_1|Hepar'. "
                "For files that may lack it: missing=empty."
            )
            raise error
        for region in found:
            if taken.setdefault(region.number, text) != text:
                raise BadInput(
                    f"{path}: '{region.name}' is asked for by '{taken[region.number]}' and '{text}'.",
                    hint="Give each value names of its own.",
                )
        chosen.append((value, found))
    return chosen


def _fits(region: Region, text: str) -> bool:
    name = region.name.strip().lower()
    spellings = [part.strip().lower() for part in text.split("|")]
    return any(s in (name, str(region.number)) or fnmatchcase(name, s) for s in spellings)


class Combiner:
    """Puts masks of single regions together, as one label map or as a channel each.

    Args:
        chosen: values and the names that go with them, in the order of channels.
        overlaps: `refuse`, `last` (of two the later one stays) or `channels`.
        shape_zyx: of the part to be filled.
        path: for messages.
    """

    def __init__(
        self,
        chosen: Sequence[tuple[int, str]],
        overlaps: str,
        shape_zyx: tuple[int, ...],
        path: Path,
    ) -> None:
        self._values = [value for value, _ in chosen]
        self._names = dict(chosen)
        self._overlaps = overlaps
        self._path = path
        stacked = overlaps == "channels"
        self.array: NDArray[Any] = np.zeros(
            (len(chosen) if stacked else 1, *shape_zyx), label_dtype(chosen, overlaps)
        )

    def add(self, value: int, where: Any, mask: NDArray[np.bool_]) -> None:
        """Add a mask at an index of [Z, Y, X].

        Raises:
            BadInput: another region is there already, and overlaps are refused.
        """
        if self._overlaps == "channels":
            self.array[self._values.index(value)][where] |= mask
            return
        part = self.array[0][where]
        if (
            self._overlaps == "refuse"
            and (there := part[mask & (part != 0) & (part != value)]).size
        ):
            other = self._names[int(there[0])]
            raise BadInput(
                f"{self._path}: '{self._names[value]}' overlaps '{other}' in {there.size} voxels of a slice; a label "
                "map holds one value a voxel.",
                hint="Use overlaps=channels for a channel each, or overlaps=last to let the later one stay.",
            )
        part[mask] = value
        self.array[0][where] = part


def label_dtype(chosen: Sequence[tuple[int, Any]], overlaps: str) -> np.dtype[Any]:
    """The smallest unsigned type that holds the values."""
    highest = 1 if overlaps == "channels" else max(value for value, _ in chosen)
    return np.dtype(np.uint8 if highest < 256 else np.uint16)
