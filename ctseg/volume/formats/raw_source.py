"""Sources that read from a block of voxels, and their uncompressed copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.specs import Zyx
from ctseg.volume.formats.raw import Raw, UnpackTarget
from ctseg.volume.formats.source import Source
from ctseg.volume.geometry import Geometry

Convert = Callable[[NDArray[Any]], NDArray[Any]]


def raw_source(
    raw: Raw,
    path: Path,
    geometry: Geometry,
    dtype: np.dtype[Any],
    *,
    metadata: Mapping[str, Any] | None = None,
    convert: Convert | None = None,
    close: Callable[[], None] | None = None,
) -> Source:
    """A source that reads from `raw`; `convert` turns stored numbers into values of `dtype`."""

    def load(start: int, stop: int) -> NDArray[Any]:
        part = raw.slices(start, stop)
        return part if convert is None else convert(part)

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        part = raw.box(start, stop)
        return part if convert is None else convert(part)

    def unpack(target: UnpackTarget) -> Source:
        return raw_source(
            raw.unpack(target),
            path,
            geometry,
            dtype,
            metadata=metadata,
            convert=convert,
            close=target.close,
        )

    return Source(
        path,
        geometry,
        dtype,
        load,
        channels=raw.channels,
        by_region=not raw.compression,
        metadata=metadata,
        close=close,
        load_box=load_box,
        unpack=unpack if raw.compression else None,
    )


def with_surplus(metadata: Mapping[str, Any], raw: Raw) -> dict[str, Any]:
    """Metadata, with a note if the file holds whole slices beyond those in its header."""
    more = raw.surplus
    note = f"the file holds {more} slices more than the {raw.shape_zyx[0]} of its header"
    notes = [*metadata.get("notes", ()), *([note] if more else [])]
    return {**metadata, "notes": notes}
