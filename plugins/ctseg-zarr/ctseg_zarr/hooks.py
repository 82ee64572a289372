"""The plugins that this package registers with ctseg."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ctseg
from ctseg.errors import BadInput
from ctseg.specs import FormatSpec, VolumeSource, VolumeWriter, frozen
from ctseg.volume.header import VolumeHeader, header_writer
from ctseg_zarr.paths import SUFFIXES, is_zarr


def _module(name: str) -> Any:
    """Import a module of this package that needs zarr.

    Raises:
        BadInput: zarr is missing, or older than the required version.
    """
    try:
        return importlib.import_module(f"ctseg_zarr.{name}")
    except ImportError as error:
        raise BadInput(
            f"Zarr stores need the package zarr in version 3, which is missing ({error}).",
            hint="Install it: pip install 'ctseg[zarr]'",
        ) from error


def _open(path: Path, **options: Any) -> VolumeSource:
    return cast("VolumeSource", _module("read").open_ome_zarr(path, **options))


def _write(path: Path, header: VolumeHeader, **options: Any) -> VolumeWriter:
    return cast("VolumeWriter", _module("write").write_ome_zarr(path, header, **options))


def _parts(path: Path) -> Mapping[str, Mapping[str, Any]]:
    return cast("Mapping[str, Mapping[str, Any]]", _module("stores").parts(path))


@ctseg.hookimpl
def ctseg_formats() -> Sequence[FormatSpec]:
    """OME-Zarr and plain Zarr arrays."""
    return [
        FormatSpec(
            name="ome_zarr",
            suffixes=SUFFIXES,
            recognise=is_zarr,
            open=_open,
            writer=header_writer(_write),
            parts=_parts,
            summary="OME-Zarr images with a pyramid, and plain Zarr arrays; boxes are read one by one",
            options=frozen(
                {
                    "dataset": "image or array within the store, e.g. labels/liver",
                    "level": "level of the pyramid, 0 (default) is the finest",
                    "spacing": "takes the coarsest level no coarser than this, mm: one number or x,y,z",
                    "voxel": "voxel size of a plain array: one number or x,y,z",
                    "unit": "unit of voxel, and of images without one: millimeter (default), micrometer, ...",
                    "axes": "axes of a plain array, e.g. zcyx",
                    "time": "point in time, if there are several",
                    "outside": "'yes' also follows links that lead outside the folder of the store",
                }
            ),
            writer_options=frozen(
                {
                    "version": "version of OME-NGFF: 0.5 (default, Zarr 3) or 0.4 (Zarr 2)",
                    "label_map": "True for label values without names, which the pyramid keeps",
                }
            ),
        )
    ]
