"""Selection of regions of interest or segments, their values in the label map, and the handling of overlaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, UnknownName
from ctseg.volume.formats.source import ScanHeader
from ctseg.volume.geometry import Geometry

OVERLAPS = ("refuse", "last", "channels")
MISSING = ("refuse", "empty")


@dataclass(frozen=True)
class Region:
    """One segment or region of interest.

    Attributes:
        number: number within its file.
        name: name in the file.
        value: value in the label map; 0 before it is chosen.
        colour: red, green, blue in 0..255, None if the file has none.
    """

    number: int
    name: str
    value: int
    colour: tuple[int, int, int] | None = None


def choose(
    regions: Sequence[Region], names: Sequence[str] | None, missing: str, what: str, path: Path
) -> list[tuple[int, list[Region]]]:
    """The values of the label map, and the regions that form each.

    Args:
        regions: all regions of the file.
        names: one name or number for each of the values 1, 2, ...; `a|b` accepts either, `*` and `?` match any
            letters, and case is ignored. None takes every region with the value it has.
        missing: `refuse`, or `empty` for a value without voxels.
        what: kind of region for messages, e.g. `region of interest`.

    Raises:
        UnknownName: no region has such a name.
        BadInput: the file has no regions at all, or a region is requested twice.
    """
    if not regions:
        raise BadInput(f"{path} has no {what} with voxels.")
    if names is None:
        return [(region.value, [region]) for region in regions]
    chosen: list[tuple[int, list[Region]]] = []
    requested_by: dict[int, str] = {}
    for value, text in enumerate(names, start=1):
        matches = [region for region in regions if _fits(region, text)]
        if not matches and missing == "refuse":
            known = [region.name for region in regions]
            error = UnknownName(what, text, known)
            error.hint = (
                f"{path} has: {', '.join(known)}\n  Several spellings: 'Liver|liver_1|Hepar'. "
                "For files that may lack it: missing=empty."
            )
            raise error
        for region in matches:
            if requested_by.setdefault(region.number, text) != text:
                raise BadInput(
                    f"{path}: '{region.name}' is asked for by '{requested_by[region.number]}' and '{text}'.",
                    hint="Give each value names of its own.",
                )
        chosen.append((value, matches))
    return chosen


def _fits(region: Region, text: str) -> bool:
    name = region.name.strip().lower()
    spellings = [part.strip().lower() for part in text.split("|")]
    return any(s in (name, str(region.number)) or fnmatchcase(name, s) for s in spellings)


class Combiner:
    """Combines masks of single regions into one label map, or one channel per region.

    Args:
        chosen: values and their names, in the order of channels.
        overlaps: `refuse`, `last` (the later region replaces the earlier one) or `channels`.
        shape_zyx: shape of the part to fill.
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
            BadInput: it overlaps another region, and overlaps are refused.
        """
        if self._overlaps == "channels":
            self.array[self._values.index(value)][where] |= mask
            return
        part = self.array[0][where]
        if (
            self._overlaps == "refuse"
            and (covered := part[mask & (part != 0) & (part != value)]).size
        ):
            other = self._names[int(covered[0])]
            raise BadInput(
                f"{self._path}: '{self._names[value]}' overlaps '{other}' in {covered.size} voxels of a slice; a label "
                "map holds one value a voxel.",
                hint="Use overlaps=channels for one channel per region, or overlaps=last to keep the later region.",
            )
        part[mask] = value
        self.array[0][where] = part


def label_dtype(chosen: Sequence[tuple[int, Any]], overlaps: str) -> np.dtype[Any]:
    """The smallest unsigned type that holds the values."""
    highest = 1 if overlaps == "channels" else max(value for value, _ in chosen)
    return np.dtype(np.uint8 if highest < 256 else np.uint16)


def label_header(
    geometry: Geometry,
    chosen: Sequence[tuple[int, Any]],
    overlaps: str,
    metadata: Mapping[str, Any],
) -> ScanHeader:
    """Type and channels of the label map that `Combiner` makes of the chosen regions."""
    channels = len(chosen) if overlaps == "channels" else 1
    return ScanHeader(geometry, label_dtype(chosen, overlaps), channels, metadata=metadata)
