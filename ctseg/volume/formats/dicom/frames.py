"""The frames of DICOM files and their positions: one per file, or many in enhanced CT and MR."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats.dicom.header import Element, Header, numbers

_POSITION, _COSINES, _SPACING = 0x00200032, 0x00200037, 0x00280030
_SLOPE, _INTERCEPT = 0x00281053, 0x00281052
_SHARED, _EACH = 0x52009229, 0x52009230
_HOLDERS = {_POSITION: 0x00209113, _COSINES: 0x00209116, _SPACING: 0x00289110,
            _SLOPE: 0x00289145, _INTERCEPT: 0x00289145}  # fmt: skip
"""The functional group that contains each value (PS3.3, C.7.6.16.2)."""
LARGE_PLANE, MOST_PACKED = 2**26, 1000
"""Size of a plane from which its ratio to the compressed file is checked."""


@dataclass(frozen=True)
class Frame:
    """One plane of voxels.

    Attributes:
        header: header of its file.
        index: index of the frame in the file.
        position, cosines, spacing_yx: geometry; empty where the file has none.
        slope, intercept: real value = stored value * slope + intercept.
        rescaled: whether the file gives slope and intercept.
    """

    header: Header
    index: int
    position: tuple[float, ...]
    cosines: tuple[float, ...]
    spacing_yx: tuple[float, ...]
    slope: float
    intercept: float
    rescaled: bool = True

    @property
    def size_yx(self) -> tuple[int, int]:
        return self.header.integer(0x00280010), self.header.integer(0x00280011)

    @property
    def name(self) -> str:
        """The file name, with the frame number if the file has several."""
        many = self.header.integer(0x00280008, 1) > 1
        return f"{self.header.path.name}" + (f", frame {self.index + 1}" if many else "")

    def vector(self, what: str) -> NDArray[np.float64]:
        """Position (3), cosines (6) or pixel spacing (2).

        Raises:
            FileProblem: the file does not contain it.
        """
        tag, values, count = {
            "position": ("0020,0032", self.position, 3),
            "cosines": ("0020,0037", self.cosines, 6),
            "spacing_yx": ("0028,0030", self.spacing_yx, 2),
        }[what]
        if len(values) != count or not np.isfinite(values).all():
            raise FileProblem(
                f"{self.header.path} lacks the DICOM tag ({tag}), without which its place is unknown.",
                hint="Export the series again, as CT or MR image storage.",
            )
        return np.asarray(values)


def frames_of(header: Header) -> Iterator[Frame]:
    """The frames of a file, in its order.

    Raises:
        EOFError: the file has fewer bytes than its frames need.
    """
    count = max(header.integer(0x00280008, 1), 1)
    bits = header.integer(0x00280010) * header.integer(0x00280011) * header.integer(0x00280100, 16)
    pixel_bytes = header.pixel_bytes
    needed = (
        count * bits // 8 if pixel_bytes is not None else count * 8
    )  # each item has a header of 8 bytes
    if header.pixel_tag == 0x7FE00010 and needed > (
        header.file_bytes if pixel_bytes is None else pixel_bytes
    ):
        raise EOFError(f"{header.path.name} is too short for {count} frames")
    if (
        pixel_bytes is None
        and bits >= 8 * LARGE_PLANE
        and bits > 8 * MOST_PACKED * header.file_bytes
    ):
        raise ValueError(
            f"{header.path.name} says {bits // 8} bytes a plane and has {header.file_bytes} in all"
        )
    shared = _first(header.elements, _SHARED)
    each = header.elements.get(_EACH)
    groups = each.items if each is not None else ()
    if groups and len(groups) != count:
        raise ValueError(f"{header.path.name} says {count} frames and describes {len(groups)}")
    stored = bits * max(header.integer(0x00280002, 1), 1)  # colour pictures have several samples
    native = header.pixel_tag == 0x7FE00010 and pixel_bytes is not None
    if native and stored and (pixel_bytes or 0) * 8 >= (count + 1) * stored:
        raise ValueError(
            f"{header.path.name} says {count} frames and has voxels of {(pixel_bytes or 0) * 8 // stored}"
        )
    for index in range(count):
        frame_groups = groups[index] if index < len(groups) else {}

        def find(tag: int, frame_groups: Mapping[int, Element] = frame_groups) -> tuple[float, ...]:
            for place in (frame_groups, shared):
                if found := numbers(_first(place, _HOLDERS[tag]), tag):
                    return tuple(found)
            # without functional groups a file of many frames has one position for all, so none is known
            known = count == 1 or tag not in (_POSITION,)
            return tuple(header.numbers(tag)) if known else ()

        slope, intercept = find(_SLOPE), find(_INTERCEPT)
        if slope and not (math.isfinite(slope[0]) and slope[0]):
            raise ValueError(f"{header.path.name} has a RescaleSlope of {slope[0]:g}")
        if intercept and not math.isfinite(intercept[0]):
            raise ValueError(f"{header.path.name} has a RescaleIntercept of {intercept[0]:g}")
        yield Frame(
            header,
            index,
            find(_POSITION),
            find(_COSINES),
            find(_SPACING),
            slope[0] if slope else 1.0,
            intercept[0] if intercept else 0.0,
            bool(slope or intercept),
        )


def _first(elements: Mapping[int, Element], tag: int) -> Mapping[int, Element]:
    """The first item of a sequence, empty without one."""
    element = elements.get(tag)
    return element.items[0] if element is not None and element.items else {}
