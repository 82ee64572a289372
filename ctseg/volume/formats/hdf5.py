"""HDF5: `/raw` and `/label`, DHW or CDHW, geometry as attributes. Files to be read are opened read-only, always."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg.errors import FileProblem
from ctseg.specs import Label, VolumeSource, Zyx
from ctseg.volume.formats import itk, paths
from ctseg.volume.formats.handle import Handle
from ctseg.volume.formats.hdf5_disk import Forgiving
from ctseg.volume.formats.hdf5_map import mapped_box
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry

DEFAULT_DATASET = "/raw"
DEFAULT_LABEL = "/label"
_DTYPES = (*itk.DTYPES, "float16")
_GRID = frozenset({"spacing_xyz", "element_size_um", "origin_xyz", "direction", "unit"})
_CHUNK_ZYX = (32, 128, 128)
_CHUNK_BYTES = 1 << 20
"""Flat chunks are made wider up to about this."""
_LAYER_BYTES = 1 << 26
"""Chunks are so flat that a layer of them is no larger, but where a single slice is; it waits in memory until whole."""


def open_hdf5(path: Path, *, dataset: str | None = None, geometry: str | None = None) -> Source:
    """Open one dataset of an HDF5 file, [Z, Y, X] or [C, Z, Y, X]; any part of it is read alone.

    Its attributes `spacing_xyz`, `origin_xyz` (mm, LPS), `direction` (3x3) and `unit` give the geometry, or
    `element_size_um` (z, y, x in micrometres). Where it has none, those of the scan in the same file count, and
    then those of the file.

    Args:
        path: the file.
        dataset: the name within the file. Without it `/raw`, or the only volume that the file has.
        geometry: the dataset whose grid counts where the chosen one says nothing of its own, `/raw` by default.

    Raises:
        FileProblem: missing, damaged, not HDF5, or no such dataset.
    """
    check_file(path)
    with reading(path):
        if not h5py.is_hdf5(path):
            raise FileProblem(
                f"{path} is no HDF5 file.",
                hint="Check what it is (file PATH) and give it the suffix of its format.",
            )
        file = h5py.File(path, "r")
        try:
            name = _choose(file, path, dataset)
            stored = file[name]
            _check_volume(stored, path)
            attributes = dict(stored.attrs)
            lender = _lender(file, stored, geometry or DEFAULT_DATASET)
            grid = _geometry({**attributes, **lender}, stored.shape[-3:], path)
        except BaseException:
            file.close()
            raise

    opened = Handle(lambda: h5py.File(path, "r"), file)
    count = stored.shape[0] if stored.ndim == 4 else 1
    metadata = {"dataset": stored.name, "axes": stored.ndim, **attributes}
    dtype, (_, y, x) = stored.dtype, grid.shape_zyx
    del stored

    def load(start: int, stop: int) -> NDArray[Any]:
        return load_box((start, 0, 0), (stop, y, x))

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        return _part(opened.get(), name, tuple(map(slice, start, stop)), path)

    return Source(
        path,
        grid,
        dtype,
        load,
        channels=count,
        metadata=metadata,
        close=opened.close,
        load_box=load_box,
    )


def _part(file: h5py.File, name: str, box: tuple[slice, ...], path: Path) -> NDArray[Any]:
    stored = file[name]
    try:
        array: NDArray[Any] | None = mapped_box(stored, box, path)
        if array is None:
            array = stored[(..., *box)]
    except OSError as error:
        if "filter" not in str(error):
            raise
        raise FileProblem(
            f"{path}:{name} is compressed with a filter that this HDF5 library has not.",
            hint="Store it again with one that all have: h5repack -f GZIP=1 IN.h5 OUT.h5",
        ) from error
    return array if array.ndim == 4 else array[None]


def parts(path: Path) -> dict[str, dict[str, str]]:
    """The volumes of a file by name, and the option that opens each."""
    check_file(path)
    with reading(path), h5py.File(path, "r") as file:
        return {name.strip("/"): {"dataset": name} for name in volumes_in(file)}


def volumes_in(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """The datasets of three or four axes and their shapes, by absolute name."""
    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (3, 4):
            found[f"/{name}"] = item.shape

    file.visititems(visit)
    return found


def _choose(file: h5py.File, path: Path, dataset: str | None) -> str:
    volumes = volumes_in(file)
    if dataset is not None:
        if not isinstance(file.get(dataset), h5py.Dataset):
            raise FileProblem(
                f"{path} has no dataset {dataset}.",
                hint=f"It has: {_listed(volumes)}",
            )
        return dataset
    if DEFAULT_DATASET in volumes:
        return DEFAULT_DATASET
    if len(volumes) == 1:
        return next(iter(volumes))
    raise FileProblem(
        f"{path} has no dataset {DEFAULT_DATASET} and {len(volumes) or 'no'} others that are volumes.",
        hint=f"Say which one with the option dataset. It has: {_listed(volumes)}",
    )


def _lender(file: h5py.File, stored: h5py.Dataset, scan: str) -> dict[str, Any]:
    """The attributes that give the grid: of the dataset itself, of the scan with the same voxels, or of the file."""
    for owner in (stored, file.get(scan), file):
        if isinstance(owner, h5py.Dataset) and owner.shape[-3:] != stored.shape[-3:]:
            continue
        if owner is not None and not _GRID.isdisjoint(owner.attrs):
            return {name: owner.attrs[name] for name in _GRID if name in owner.attrs}
    return {}


def _listed(volumes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in volumes.items()) or "no volumes at all"


def _check_volume(stored: h5py.Dataset, path: Path) -> None:
    if stored.ndim not in (3, 4) or min(stored.shape) < 1:
        raise FileProblem(
            f"{path}:{stored.name} has the shape {stored.shape}; a volume is [Z, Y, X] or [C, Z, Y, X]."
        )
    if stored.dtype.kind not in "biuf":
        raise FileProblem(f"{path}:{stored.name} holds {stored.dtype}, which are no real numbers.")


def _geometry(attributes: Mapping[str, Any], shape_zyx: tuple[int, ...], path: Path) -> Geometry:
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

    unit = attributes.get("unit", "mm")
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    spacing = numbers("spacing_xyz", 3)
    if spacing is None and (element := numbers("element_size_um", 3)) is not None:
        spacing, unit = element[::-1] / 1000.0, "um"
    origin = numbers("origin_xyz", 3)
    direction = numbers("direction", 9)
    return itk.make_geometry(
        path,
        shape_zyx,
        (1.0, 1.0, 1.0) if spacing is None else spacing.tolist(),
        (0.0, 0.0, 0.0) if origin is None else origin.tolist(),
        np.eye(3) if direction is None else direction.reshape(3, 3),
        "um" if unit in ("um", "µm", "micron", "micrometer", "micrometre") else "mm",
    )


def chunk_of(shape_zyx: Zyx, dtype: np.dtype[Any], channels: int | None = None) -> tuple[int, ...]:
    """The chunks of a volume that is written slice by slice, and read by slices, boxes, or a channel at a time.

    A chunk holds one channel and at most a few MiB; the more a slice of all channels takes, the flatter it is.
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

    def __init__(
        self,
        temporary: Path,
        geometry: Geometry,
        dtype: np.dtype[Any],
        channels: int | None,
        labels: Sequence[Label],
        dataset: str,
    ) -> None:
        shape = geometry.shape_zyx if channels is None else (channels, *geometry.shape_zyx)
        chunk = chunk_of(geometry.shape_zyx, dtype, channels)
        layer = chunk[-3] * dtype.itemsize * math.prod(shape) // geometry.shape_zyx[0]
        exact = dtype.kind in "iu"
        # Slabs that end within a layer of chunks stay in this cache until the layer is whole: a compressed chunk
        # that is written twice leaves a hole in the file.
        self._disk = Forgiving(temporary)
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
        attributes["spacing_xyz"] = geometry.spacing_xyz
        attributes["origin_xyz"] = geometry.origin_xyz
        attributes["direction"] = geometry.matrix
        attributes["unit"] = geometry.unit
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


def write_hdf5(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,  # noqa: ARG001
    dataset: str | None = None,
) -> Writer:
    """A writer of HDF5.

    Args:
        dataset: name within the file. Without it label maps go to `/label`, everything else to `/raw`.

    Raises:
        BadInput: a type that HDF5 has not.
    """
    stored = check_dtype(dtype, _DTYPES, format_name="HDF5")
    suffix = paths.suffix_of(path, paths.HDF5) or paths.HDF5[0]
    name = dataset or (DEFAULT_LABEL if labels and channels is None else DEFAULT_DATASET)
    return Writer(
        path,
        suffix,
        geometry,
        stored,
        channels,
        lambda temporary: _Hdf5Sink(temporary, geometry, stored, channels, labels, name),
    )
