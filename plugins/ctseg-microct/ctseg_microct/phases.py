"""The phases of a label map, copied once into a scratch map of small numbers that is cheap to read by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import VolumeSource, Zyx
from ctseg.volume.distinct_values import whole_numbers
from ctseg.volume.geometry import Geometry
from ctseg.volume.labels import labels_in
from ctseg.volume.memory_map import drop_pages
from ctseg.volume.scratch import scratch
from ctseg.volume.spool import by_region

MOST_PHASES = 16
SLAB_VOXELS = 2**24


@dataclass(frozen=True)
class Phases:
    """A map of phases.

    Attributes:
        values: value of each phase in the file, ascending.
        names: name of each phase.
        index: [Z, Y, X] uint8, the phase of each voxel; `len(values)` where none of them is.
        geometry: the grid.
        voxels: voxels of each phase.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    index: NDArray[np.uint8]
    geometry: Geometry
    voxels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape_zyx(self) -> Zyx:
        return self.geometry.shape_zyx

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        x, y, z = self.geometry.spacing_xyz
        return z, y, x

    def read(self, start: Zyx, stop: Zyx) -> NDArray[np.uint8]:
        """A copy of a box."""
        return read_box(self.index, start, stop)

    def slabs(self, before: int = 0) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Slabs along z: how many planes of the one before each begins with, at most `before`, and its voxels."""
        depth, height, width = self.shape_zyx
        thick = max(1, SLAB_VOXELS // (height * width))
        for start in range(0, depth, thick):
            first = max(0, start - before)
            yield (
                start - first,
                self.read((first, 0, 0), (min(start + thick, depth), height, width)),
            )

    def number(self, name: str) -> int:
        """The phase of a name or value.

        Raises:
            BadInput: there is no such phase.
        """
        for at, (value, known) in enumerate(zip(self.values, self.names, strict=True)):
            if name in (known, str(value)):
                return at
        raise BadInput(f"There is no label '{name}'.", hint=f"Labels: {', '.join(self.names)}")


def read_box(array: NDArray[Any], start: Zyx, stop: Zyx) -> NDArray[Any]:
    """A copy of a box of a scratch array, whose pages are released."""
    part = array[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
    out = np.array(part)
    drop_pages(array[start[0] : stop[0]])
    return out


def parse_labels(text: str) -> dict[int, str]:
    """Names by value from `pore=0,grain=1` or `0,1`.

    Raises:
        BadInput: the text has another form, or a name or value occurs twice.
    """
    out: dict[int, str] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        if not value.strip().isdecimal():
            raise BadInput(f"'{part}' is no label.", hint="Write --labels pore=0,grain=1")
        if int(value) in out:
            raise BadInput(f"The value {int(value)} has two names.", hint="Name each value once.")
        out[int(value)] = name.strip() or f"label_{int(value)}"
    _check_names(list(out.values()))
    return out


def _check_names(names: Sequence[str]) -> None:
    """Refuse names that occur twice: results are listed by name.

    Raises:
        BadInput: the message names the first of them.
    """
    for at, name in enumerate(names):
        if name in names[:at]:
            raise BadInput(
                f"Two labels are called '{name}'.",
                hint="Give each value a name of its own: --labels pore=0,grain=1",
            )


def read_phases(source: VolumeSource, labels: Mapping[int, str] | None = None) -> Phases:
    """Copy a label map into a scratch map, slab by slab.

    Args:
        labels: names of the values to measure; by default every value of the file.

    Raises:
        BadInput: it is no label map, has too many values, none of those asked for, or two of one name.
    """
    if source.channels != 1:
        raise BadInput(
            f"{source.path} has {source.channels} channels where a label map is expected.",
            hint="Give vectors and grey values with --scan, and the label map as VOLUME.",
        )
    reader = by_region(source)
    depth, height, width = source.geometry.shape_zyx
    index = scratch((depth, height, width), np.uint8)
    places = {value: at for at, value in enumerate(sorted(labels or {}))}
    thick = max(1, SLAB_VOXELS // (height * width))
    counts = np.zeros(257, np.int64)
    for start in range(0, depth, thick):
        stop = min(start + thick, depth)
        slab = whole_numbers(reader.read((start, stop))[0], where=str(source.path))
        found = np.unique(slab).tolist()
        if labels is None:
            for value in found:
                places.setdefault(int(value), len(places))
            if len(places) > MOST_PHASES:
                raise BadInput(
                    f"{source.path} holds more than {MOST_PHASES} values.",
                    hint="Choose the labels to measure: --labels pore=0,grain=1",
                )
        new = np.full(slab.shape, 255, np.uint8)
        for value in found:
            if value in places:
                new[slab == value] = places[value]
        counts[:256] += np.bincount(new.ravel(), minlength=256)
        index[start:stop] = new
        drop_pages(index[start:stop])
    named = {one.value: one.name for one in labels_in(source.metadata)} | dict(labels or {})
    values = tuple(sorted(places))
    table = np.full(256, len(values), np.uint8)
    for at, value in enumerate(values):
        table[places[value]] = at
    for start in range(0, depth, thick):
        index[start : start + thick] = table[index[start : start + thick]]
        drop_pages(index[start : start + thick])
    voxels = tuple(int(counts[places[value]]) for value in values)
    if not any(voxels):
        raise BadInput(f"{source.path} holds none of the labels {sorted(labels or {})}.")
    names = tuple(named.get(value, f"label_{value}") for value in values)
    _check_names(names)
    return Phases(values, names, index, source.geometry, voxels)
