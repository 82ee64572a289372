"""HDF5: `/raw` and `/label`, DHW or CDHW, geometry as attributes. Files are always opened read-only for reading."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats import grids, paths
from ctseg.volume.formats.calibration import Calibration, is_assumed, unknown_spacing
from ctseg.volume.formats.handle import Handle
from ctseg.volume.formats.hdf5.disk import DeferredErrors
from ctseg.volume.formats.hdf5.links import Links, StoredDataset, attributes_of, opened
from ctseg.volume.formats.hdf5.map import mapped_box
from ctseg.volume.formats.hdf5.storage import check_storage, is_external, open_external
from ctseg.volume.formats.outside import is_allowed
from ctseg.volume.formats.source import ScanHeader, Source
from ctseg.volume.formats.units import MM, unit_of
from ctseg.volume.formats.writer import DTYPES, Writer, check_dtype
from ctseg.volume.geometry import Geometry, as_xyz
from ctseg.volume.header import VolumeHeader

DEFAULT_DATASET = "/raw"
DEFAULT_LABEL = "/label"
_DTYPES = (*DTYPES, "float16")
_ASSUMED = "assumed_spacing_xyz"
"""Attribute for the voxel size of a volume that has none; `spacing_xyz` and `element_size_um` replace it."""
_GRID = frozenset({"spacing_xyz", "element_size_um", _ASSUMED, "origin_xyz", "direction", "unit"})
_USUAL = (DEFAULT_DATASET, DEFAULT_LABEL)
_SHOWN = 20
_GIVE = "spacing or geometry, or as an attribute: h5py.File(FILE, 'a')['raw'].attrs['spacing_xyz'] = (x, y, z)"
_CHUNK_ZYX = (32, 128, 128)
_CHUNK_BYTES = 1 << 20
"""Size up to which flat chunks are made wider."""
_LAYER_BYTES = 1 << 26
"""Largest layer of chunks, which waits in memory until it is complete, unless a single slice is larger."""


def open_hdf5(
    path: Path, *, dataset: str | None = None, geometry: str | None = None, outside: str = "no"
) -> Source:
    """Open one dataset of an HDF5 file, [Z, Y, X] or [C, Z, Y, X]; any box is read by itself.

    Its attributes `spacing_xyz`, `origin_xyz` (mm, LPS), `direction` (3x3) and `unit` give the geometry, or
    `element_size_um` (z, y, x in micrometres). If it has none, those of the scan in the same file apply, then
    those of the file.

    Args:
        path: the file.
        dataset: name within the file; by default `/raw`, or the file's only volume.
        geometry: dataset whose grid applies if the chosen one has none, `/raw` by default.
        outside: `yes` also reads voxels outside the file's folder: through external links, external storage
            and the sources of virtual datasets.

    Raises:
        FileProblem: missing, damaged, not HDF5, or no such dataset.
    """
    allowed = is_allowed(outside)
    with opened(path, allowed=allowed) as links:
        place = _choose(links, dataset)
        stored = links.file(place)[place.name]
        _check_volume(stored, place.file)
        notes = check_storage(stored, place.file, allowed=allowed)
        attributes = attributes_of(stored)
        lender = _lender(links, stored, geometry or DEFAULT_DATASET)
        grid, about = _geometry({**attributes, **lender}, stored.shape[-3:], path)
        external = is_external(stored)
        count, dtype = (stored.shape[0] if stored.ndim == 4 else 1), stored.dtype
        metadata = {"dataset": place.name, "axes": stored.ndim, **attributes, **about}
        if notes := [*notes, *about.get("notes", ())]:
            metadata["notes"] = notes
        del stored
        handle = Handle(lambda: h5py.File(place.file, "r"), links.take(place))
    _, y, x = grid.shape_zyx

    def load(start: int, stop: int) -> NDArray[Any]:
        return load_box((start, 0, 0), (stop, y, x))

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        file = handle.get()
        stored = open_external(file, place.name) if external else file[place.name]
        return _part(stored, place, tuple(map(slice, start, stop)))

    header = ScanHeader(grid, dtype, channels=count, metadata=metadata)
    return Source(path, header, load, load_box=load_box, close=handle.close)


def _part(stored: h5py.Dataset, place: StoredDataset, box: tuple[slice, ...]) -> NDArray[Any]:
    try:
        array: NDArray[Any] | None = mapped_box(stored, box, place.file)
        if array is None:
            array = stored[(..., *box)]
    except OSError as error:
        if "filter" not in str(error):
            raise
        raise FileProblem(
            f"{place.file}:{place.name} is compressed with a filter that this HDF5 library lacks.",
            hint="Store it again with one that all have: h5repack -f GZIP=1 IN.h5 OUT.h5",
        ) from error
    return array if array.ndim == 4 else array[None]


def parts(path: Path) -> dict[str, dict[str, str]]:
    """The volumes of a file by name, and the option that opens each."""
    with opened(path) as links:
        return {name.strip("/"): {"dataset": name} for name in _distinct(links.volumes())}


def _distinct(volumes: Mapping[str, StoredDataset]) -> dict[str, StoredDataset]:
    """Each volume once, under its shortest name, usually that of the dataset itself and not of a link to it."""
    names: dict[tuple[Path, int], str] = {}
    for name in sorted(volumes, key=lambda name: (name not in _USUAL, len(name), name)):
        names.setdefault(volumes[name].key, name)
    return {name: volumes[name] for name in sorted(names.values())}


def _choose(links: Links, dataset: str | None) -> StoredDataset:
    name = DEFAULT_DATASET if dataset is None else dataset
    if (place := links.place(name)) is not None and (
        dataset is not None or len(place.shape) in (3, 4)
    ):
        return place
    volumes = _distinct(links.volumes())
    if dataset is not None:
        raise FileProblem(
            f"{links.path} has no dataset {dataset}.",
            hint=f"It has: {_listed(volumes)}",
        )
    if len(volumes) == 1:
        return next(iter(volumes.values()))
    if not volumes and links.broken:
        raise next(iter(links.broken.values()))
    raise FileProblem(
        f"{links.path} has no dataset {DEFAULT_DATASET} and {len(volumes) or 'no'} others that are volumes.",
        hint=f"Choose one with the option dataset. It has: {_listed(volumes)}",
    )


def _lender(links: Links, stored: h5py.Dataset, scan: str) -> dict[str, Any]:
    """The attributes that give the grid: of the dataset itself, of the scan with the same voxels, or of the file."""
    for owner in (stored, links.find(scan), links.root):
        if isinstance(owner, h5py.Dataset) and owner.shape[-3:] != stored.shape[-3:]:
            continue
        if owner is not None and not _GRID.isdisjoint(owner.attrs):
            attributes = attributes_of(owner)
            return {name: attributes[name] for name in _GRID if name in attributes}
    return {}


def _listed(volumes: Mapping[str, StoredDataset]) -> str:
    listed = [f"{name} {place.shape}" for name, place in volumes.items()]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more or "no volumes at all"


def _check_volume(stored: h5py.Dataset, path: Path) -> None:
    if stored.ndim not in (3, 4) or min(stored.shape) < 1:
        raise FileProblem(
            f"{path}:{stored.name} has the shape {stored.shape}; a volume is [Z, Y, X] or [C, Z, Y, X]."
        )
    if stored.dtype.kind not in "biuf":
        raise FileProblem(f"{path}:{stored.name} holds {stored.dtype}, which are not real numbers.")


def _geometry(
    attributes: Mapping[str, Any], shape_zyx: tuple[int, ...], path: Path
) -> tuple[Geometry, dict[str, Any]]:
    """The grid that attributes give, and metadata about it."""

    def numbers(name: str, count: int) -> NDArray[np.float64] | None:
        if name not in attributes:
            return None
        try:
            values = np.asarray(attributes[name], np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise FileProblem(f"{path}: the attribute {name} holds no numbers.") from error
        if values.size != count:
            raise FileProblem(
                f"{path}: the attribute {name} has {values.size} numbers, not {count}."
            )
        return values

    spacing, element = numbers("spacing_xyz", 3), numbers("element_size_um", 3)
    notes: list[str] = []
    if spacing is not None:
        unit = attributes.get("unit", "mm")
        unit = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
        factor, shown = unit_of(unit)
        if unit.strip().lower() not in MM or factor not in (1.0, 1e-3):
            notes.append(f"The attribute unit is '{unit}'; spacing_xyz counts as mm all the same.")
        calibration = Calibration(as_xyz(spacing), shown, notes=tuple(notes))
    elif element is not None:
        calibration = Calibration(as_xyz(element[::-1] / 1000.0), "um")
    else:
        assumed = numbers(_ASSUMED, 3)
        calibration = unknown_spacing(
            "no attribute spacing_xyz or element_size_um",
            _GIVE,
            (1.0, 1.0, 1.0) if assumed is None else as_xyz(assumed),
        )
    origin = numbers("origin_xyz", 3)
    direction = numbers("direction", 9)
    grid = grids.make_geometry(
        path,
        shape_zyx,
        calibration.spacing_xyz,
        (0.0, 0.0, 0.0) if origin is None else origin.tolist(),
        np.eye(3) if direction is None else direction.reshape(3, 3),
        calibration.unit,
    )
    return grid, calibration.metadata()


def chunk_of(shape_zyx: Zyx, dtype: np.dtype[Any], channels: int | None = None) -> tuple[int, ...]:
    """The chunks of a volume that is written by slices and read by slices, boxes or channels.

    A chunk holds one channel and at most a few MiB; the larger a slice of all channels, the flatter the chunk.
    """
    z, y, x = shape_zyx
    slice_bytes = y * x * dtype.itemsize * (channels or 1)
    deep = min(_CHUNK_ZYX[0], 1 << (max(1, _LAYER_BYTES // slice_bytes).bit_length() - 1))
    wide = _CHUNK_ZYX[1]
    while deep * (2 * wide) ** 2 * dtype.itemsize <= _CHUNK_BYTES and wide < max(y, x):
        wide *= 2
    chunk = (min(z, deep), min(y, wide), min(x, wide))
    return chunk if channels is None else (1, *chunk)


class _Hdf5Sink:
    """Streams slabs into one chunked, compressed dataset."""

    def __init__(self, temporary: Path, header: VolumeHeader, dataset: str) -> None:
        geometry, dtype = header.geometry, header.dtype
        channels, labels = header.channels, header.labels
        shape = geometry.shape_zyx if channels is None else (channels, *geometry.shape_zyx)
        chunk = chunk_of(geometry.shape_zyx, dtype, channels)
        layer = chunk[-3] * dtype.itemsize * math.prod(shape) // geometry.shape_zyx[0]
        exact = dtype.kind in "iu"
        # Slabs that end within a layer of chunks stay in this cache until the layer is complete: a compressed chunk
        # that is written twice leaves a hole in the file.
        self._disk = DeferredErrors(temporary)
        self._file = h5py.File(
            self._disk, "w", rdcc_nbytes=2 * min(_LAYER_BYTES, layer), rdcc_nslots=100_003
        )
        self._dataset = self._file.create_dataset(
            dataset,
            shape,
            dtype,
            chunks=chunk,
            compression="gzip" if exact else "lzf",
            compression_opts=1 if exact else None,
            shuffle=dtype.itemsize > 1,
        )
        attributes = self._dataset.attrs
        if is_assumed(header):
            attributes[_ASSUMED] = geometry.spacing_xyz
        else:
            attributes["spacing_xyz"] = geometry.spacing_xyz
            attributes["unit"] = geometry.unit
        attributes["origin_xyz"] = geometry.origin_xyz
        attributes["direction"] = geometry.matrix
        if channels is not None and len(labels) == channels:
            attributes["channels"] = json.dumps([label.name for label in labels])
        if labels:
            attributes["labels"] = json.dumps({label.name: label.value for label in labels})
            colours = {label.name: label.colour for label in labels if label.colour is not None}
            if colours:
                attributes["colours"] = json.dumps(colours)

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        stop = start + slab_czyx.shape[1]
        self._dataset[..., start:stop, :, :] = (
            slab_czyx if self._dataset.ndim == 4 else slab_czyx[0]
        )
        self._disk.check()

    def finish(self) -> None:
        self._file.close()
        self._disk.close()
        self._disk.check()

    def discard(self) -> None:
        self._file.close()
        self._disk.close()


def write_hdf5(path: Path, header: VolumeHeader, *, dataset: str | None = None) -> Writer:
    """A writer of HDF5.

    Args:
        dataset: name within the file; by default `/label` for label maps and `/raw` for other volumes.

    Raises:
        BadInput: HDF5 does not support the type.
    """
    stored = replace(header, dtype=check_dtype(header.dtype, _DTYPES, format_name="HDF5"))
    suffix = paths.suffix_of(path, paths.HDF5) or paths.HDF5[0]
    is_labels = bool(header.labels) and header.channels is None
    name = dataset or (DEFAULT_LABEL if is_labels else DEFAULT_DATASET)
    return Writer(path, suffix, stored, lambda temporary: _Hdf5Sink(temporary, stored, name))
