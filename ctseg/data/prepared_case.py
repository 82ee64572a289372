"""A case ready to be drawn from."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.pipeline import AppliedPipeline

_PARSING = threading.Lock()


@dataclass(frozen=True)
class Prepared:
    """One prepared case; its arrays are memory maps, or read parts of the source's files (`ctseg.data.lazy`).

    Sent to another process, it opens its files there anew.

    Attributes:
        image: float32 [C, Z, Y, X].
        target: class indices [1, Z, Y, X], or one map a channel [C, Z, Y, X]; -1 (NaN) where ignored.
        places: int32 [N, 4] of (group, z, y, x), ordered by group (see `ctseg.data.patch_centres`).
        weight: float32 [1, Z, Y, X] where the case has a weight map, else None.
        applied: how it came from the source grid.
        folder: where its arrays lie, None where they are not files of the store.
        lazy: whether image and target are read from the source as they are asked for.
        undrawn: outputs of the task that nobody drew, so that their voxels are background in the target.
    """

    id: str
    image: Any
    target: Any
    places: NDArray[np.int32]
    applied: AppliedPipeline
    weight: Any = None
    folder: Path | None = None
    lazy: bool = False
    undrawn: tuple[int, ...] = ()

    @cached_property
    def groups(self) -> dict[int, NDArray[np.int32]]:
        """The places [n, 3] (z, y, x) of each group that has any."""
        if not len(self.places):
            return {}
        found, first = np.unique(self.places[:, 0], return_index=True)
        parts = np.split(self.places[:, 1:], first[1:])
        return {int(group): part for group, part in zip(found, parts, strict=True)}

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The groups of the labels that the case holds, in ascending order."""
        return tuple(group for group in self.groups if group > 0)

    def close(self) -> None:
        """Close the files of a case that is read lazily; they are opened again when something is read."""
        if self.lazy:
            for array in (self.image, self.target, self.weight):
                if array is not None:
                    array.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None and not self.lazy:
            return open_prepared, (self.id, self.folder, self.applied)
        fields = (self.image, self.target, self.places, self.applied, self.weight)
        return Prepared, (self.id, *fields, self.folder, self.lazy)


def load_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """Read or map a .npy file, in one thread at a time.

    NumPy parses the header with `ast`, which in some releases of Python (seen in 3.11.7) fails at random with a
    SystemError where two threads parse at once (https://github.com/python/cpython/issues/106905).
    """
    with _PARSING:
        loaded: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None)
        return loaded


def open_prepared(name: str, folder: Path, applied: AppliedPipeline) -> Prepared:
    """A case of the store."""

    def array(part: str) -> NDArray[Any]:
        return load_array(folder / f"{part}.npy", mapped=True)

    weight = array("weight") if (folder / "weight.npy").is_file() else None
    places = load_array(folder / "places.npy")
    return Prepared(name, array("image"), array("target"), places, applied, weight, folder)
