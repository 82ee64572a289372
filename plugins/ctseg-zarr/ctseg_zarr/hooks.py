"""What this package registers with ctseg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctseg
from ctseg.specs import FormatSpec, Label, VolumeSource, VolumeWriter, frozen
from ctseg_zarr.paths import SUFFIXES, is_zarr

if TYPE_CHECKING:
    import numpy as np

    from ctseg.volume.geometry import Geometry


def _open(path: Path, **options: Any) -> VolumeSource:
    from ctseg_zarr.read import open_ome_zarr

    return open_ome_zarr(path, **options)


def _write(
    path: Path,
    geometry: Geometry,
    dtype: np.dtype[Any],
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,
    version: str = "0.5",
) -> VolumeWriter:
    from ctseg_zarr.write import write_ome_zarr

    return write_ome_zarr(
        path,
        geometry,
        dtype,
        channels=channels,
        labels=labels,
        reference=reference,
        version=version,
    )


def _parts(path: Path) -> Mapping[str, Mapping[str, Any]]:
    from ctseg_zarr.stores import parts

    return parts(path)


@ctseg.hookimpl
def ctseg_formats() -> Sequence[FormatSpec]:
    """OME-Zarr and plain Zarr arrays."""
    return [
        FormatSpec(
            name="ome_zarr",
            suffixes=SUFFIXES,
            recognise=is_zarr,
            open=_open,
            writer=_write,
            parts=_parts,
            summary="OME-Zarr images with a pyramid, and plain Zarr arrays; any box is read alone",
            options=frozen(
                {
                    "dataset": "image or array within the store, e.g. labels/liver",
                    "level": "of the pyramid, 0 (default) being the finest",
                    "spacing": "takes the coarsest level no coarser than this, mm: one number or x,y,z",
                    "voxel": "voxel size of a plain array: one number or x,y,z",
                    "unit": "of voxel, and of images that name none: millimeter (default), micrometer, ...",
                    "axes": "of a plain array, e.g. zcyx",
                    "time": "the point in time, where there are several",
                }
            ),
            writer_options=frozen(
                {"version": "of OME-NGFF: 0.5 (default, Zarr 3) or 0.4 (Zarr 2)"}
            ),
        )
    ]
