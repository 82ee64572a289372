"""A label map of which only some slices are labelled: the others get a value that training ignores."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import VolumeSource, Zyx
from ctseg.volume.formats.source import check_slices

AXES = ("z", "y", "x")
SLAB_BYTES = 2**25


class FilledEmptySlices:
    """Another source, whose slices without any label have one value; see `ctseg.specs.VolumeSource`.

    Args:
        source: label map of one channel, read by region; closed with this source. It is read once to find the slices.
        filling: the value, e.g. `255`, for slices along z; with an axis of the file, e.g. `y=255`, for slices along it.

    Raises:
        BadInput: no such value, one that the voxel type does not hold or that is a label, or a map without labels.
    """

    def __init__(self, source: VolumeSource, filling: str) -> None:
        self._source = source
        self._axis, self._value = _parse(filling)
        self.path, self.geometry, self.channels = source.path, source.geometry, source.channels
        self.dtype, self.metadata, self.by_region = source.dtype, source.metadata, True
        if self.dtype.kind not in "iu" or self.channels != 1:
            raise BadInput(
                f"{self.path} has {self.channels} channel(s) of {self.dtype}, which are no label map.",
                hint="Leave out --empty-slices.",
            )
        if self._value not in range(np.iinfo(self.dtype).min, np.iinfo(self.dtype).max + 1):
            raise BadInput(
                f"{self.dtype}, the voxel type of {self.path}, does not hold {self._value}.",
                hint="Choose a value of this type that is no label.",
            )
        self._labelled = self._find()
        if not self._labelled.any():
            raise BadInput(f"No voxel of {self.path} has a label.", hint="Is it the label map?")

    @property
    def labelled(self) -> int:
        """The number of slices that have a label."""
        return int(self._labelled.sum())

    def __str__(self) -> str:
        count, axis = len(self._labelled), AXES[self._axis]
        return f"{self.labelled} of {count} slices along {axis} have labels; the others became {self._value}"

    def read(self, slices: tuple[int, int] | None = None) -> NDArray[Any]:
        depth, height, width = self.geometry.shape_zyx
        start, stop = check_slices(slices, depth, self.path)
        return self.read_box((start, 0, 0), (stop, height, width))

    def read_box(self, start_zyx: Zyx, stop_zyx: Zyx) -> NDArray[Any]:
        out = self._source.read_box(start_zyx, stop_zyx)
        own = slice(start_zyx[self._axis], stop_zyx[self._axis])
        np.moveaxis(out, self._axis + 1, 0)[~self._labelled[own]] = self._value
        return out

    def close(self) -> None:
        self._source.close()

    def _find(self) -> NDArray[np.bool_]:
        """Whether each slice along the axis has a label."""
        depth, height, width = self.geometry.shape_zyx
        step = max(1, SLAB_BYTES // max(1, height * width * self.dtype.itemsize))
        others = tuple(axis for axis in range(3) if axis != self._axis)
        found = np.zeros(self.geometry.shape_zyx[self._axis], np.bool_)
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            (slab,) = self._source.read((start, stop))
            if (slab == self._value).any():
                raise BadInput(
                    f"{self._value} is a label of {self.path} already.",
                    hint="Choose another value for --empty-slices.",
                )
            part = slice(start, stop) if self._axis == 0 else slice(None)
            found[part] |= (slab != 0).any(others)
        return found


def _parse(text: str) -> tuple[int, int]:
    """The axis and the value of `255` or `y=255`."""
    match = re.fullmatch(r"(?:([zyx])=)?(\d{1,10})", text.strip())
    if match is None or int(match[2]) == 0:
        raise BadInput(
            f"'{text}' is no value for slices without labels.",
            hint="Give a number above 0, e.g. --empty-slices 255, or y=255 for slices along y.",
        )
    return AXES.index(match[1] or "z"), int(match[2])
