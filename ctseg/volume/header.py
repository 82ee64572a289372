"""The header of a volume that is to be written, and writers that take it in one piece.

This module imports no NumPy, so that plugins can name their writers when they are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctseg.specs import Label, OpenWriter, VolumeSource, VolumeWriter

if TYPE_CHECKING:
    import numpy as np

    from ctseg.volume.geometry import Geometry


@dataclass(frozen=True)
class VolumeHeader:
    """What a writer is told before the first slab.

    Attributes:
        geometry: grid of the volume.
        dtype: type of the voxels.
        channels: None for slabs [Z, Y, X], a number for [C, Z, Y, X].
        labels: names and colours of label values, for formats that hold them.
        reference: the scan that the volume belongs to, for formats that require it.
    """

    geometry: Geometry
    dtype: np.dtype[Any]
    channels: int | None = None
    labels: Sequence[Label] = ()
    reference: VolumeSource | None = None


PARTS = ("channels", "labels", "reference")
"""Parts of a header that `FormatSpec.writer` takes by name."""


def header_writer(write: Callable[..., VolumeWriter]) -> OpenWriter:
    """`write(path, header, **options)` as `FormatSpec.writer`, which takes the parts of the header one by one."""

    def writer(
        path: Path,
        geometry: Geometry,
        dtype: np.dtype[Any],
        **given: Any,
    ) -> VolumeWriter:
        parts = {name: given.pop(name) for name in PARTS if name in given}
        return write(path, VolumeHeader(geometry, dtype, **parts), **given)

    return writer
