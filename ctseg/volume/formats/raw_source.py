"""Sources that read from a block of voxels, and their uncompressed copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.specs import Zyx
from ctseg.volume.formats.raw import Raw, UnpackTarget
from ctseg.volume.formats.source import ScanHeader, Source
from ctseg.volume.geometry import Geometry


@dataclass(frozen=True)
class Scaling:
    """How stored numbers become values.

    Attributes:
        dtype: type of the values.
        convert: stored numbers to values.
    """

    dtype: np.dtype[Any]
    convert: Callable[[NDArray[Any]], NDArray[Any]]


def raw_source(
    raw: Raw,
    path: Path,
    geometry: Geometry,
    metadata: Mapping[str, Any],
    *,
    scaling: Scaling | None = None,
    close: Callable[[], None] | None = None,
) -> Source:
    """A source that reads from `raw`, as its stored numbers are or scaled."""

    def load(start: int, stop: int) -> NDArray[Any]:
        part = raw.slices(start, stop)
        return part if scaling is None else scaling.convert(part)

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        part = raw.box(start, stop)
        return part if scaling is None else scaling.convert(part)

    def unpack(target: UnpackTarget) -> Source:
        stored = raw.unpack(target)
        return raw_source(stored, path, geometry, metadata, scaling=scaling, close=target.close)

    return Source(
        path,
        ScanHeader(
            geometry,
            raw.dtype if scaling is None else scaling.dtype,
            channels=raw.channels,
            by_region=not raw.compression,
            metadata=metadata,
        ),
        load,
        load_box=load_box,
        unpack=unpack if raw.compression else None,
        close=close,
    )


def with_surplus(metadata: Mapping[str, Any], raw: Raw) -> dict[str, Any]:
    """Metadata, with a note if the file holds whole slices beyond those in its header."""
    more = raw.surplus
    note = f"the file holds {more} slices more than the {raw.shape_zyx[0]} of its header"
    notes = [*metadata.get("notes", ()), *([note] if more else [])]
    return {**metadata, "notes": notes}
