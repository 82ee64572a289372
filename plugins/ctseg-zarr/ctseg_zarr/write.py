"""Writes OME-Zarr with a pyramid, slab by slab; the folder appears under its name only when it is complete."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

import ctseg
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader
from ctseg_zarr.describe import channel_names, image_label, multiscales
from ctseg_zarr.metadata import OWN
from ctseg_zarr.paths import is_zarr
from ctseg_zarr.pyramid import LevelWriter, chunk_of, steps

VERSIONS = ("0.5", "0.4")
_DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip


@dataclass(frozen=True)
class _Description:
    """The content of an image's metadata.

    Attributes:
        path: final name of the image.
        labels: names and colours of values, or of channels.
        label_map: whether one channel holds label values.
        version: version of OME-NGFF.
        source: store of the scan that a label map belongs to.
    """

    path: Path
    labels: tuple[Label, ...]
    label_map: bool
    version: str
    source: Path | None


class _ZarrSink:
    """Streams slabs into a pyramid of arrays; see `ctseg.volume.formats.writer.FormatSink`.

    Args:
        temporary: folder to create.
        geometry: grid of the image.
        dtype: type of the voxels.
        channels: None for [Z, Y, X], a number for [C, Z, Y, X].
        about: content of the metadata.
    """

    def __init__(
        self,
        temporary: Path,
        geometry: Geometry,
        dtype: np.dtype[Any],
        channels: int | None,
        about: _Description,
    ) -> None:
        self._geometry = geometry
        self._dtype = dtype
        self._channels = channels
        self._levels = self._create(temporary, about)

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        self._levels.put(slab_czyx)

    def finish(self) -> None:
        self._levels.finish()

    def discard(self) -> None: ...

    def _create(self, temporary: Path, about: _Description) -> LevelWriter:
        version, labels = about.version, about.labels
        number: Literal[2, 3] = 2 if version == "0.4" else 3
        group = zarr.create_group(temporary, zarr_format=number)
        is_labels = about.label_map and self._channels is None
        factors = steps(self._geometry.shape_zyx, self._geometry.spacing_zyx)
        shapes = [self._geometry.shape_zyx]
        for step in factors:
            z, y, x = (-(-n // f) for n, f in zip(shapes[-1], step, strict=True))
            shapes.append((z, y, x))
        arrays = [self._array(group, str(n), shape, number) for n, shape in enumerate(shapes)]
        following: LevelWriter | None = None
        for array, step in zip(arrays[::-1], [(1, 1, 1), *factors[::-1]], strict=True):
            following = LevelWriter(array, step, following, exact=is_labels)
        described = multiscales(
            self._geometry, factors, self._channels is not None, is_labels, about.path.name, version
        )
        more = (
            image_label(labels, version, about.source, about.path)
            if is_labels and self._dtype.kind in "iu"
            else channel_names(labels, self._channels, self._dtype)
        )
        attributes: dict[str, Any] = {
            OWN: {
                "version": ctseg.__version__,
                "origin_xyz": list(self._geometry.origin_xyz),
                "direction": [list(row) for row in self._geometry.direction],
            }
        }
        if version == "0.4":
            group.attrs.update({"multiscales": [described], **more, **attributes})
        else:
            group.attrs.update(
                {"ome": {"version": version, "multiscales": [described], **more}, **attributes}
            )
        assert following is not None
        return following

    def _array(
        self, group: zarr.Group, name: str, shape_zyx: tuple[int, int, int], number: int
    ) -> zarr.Array[Any]:
        front = () if self._channels is None else (self._channels,)
        chunks = chunk_of(shape_zyx, self._dtype, self._channels)
        names = ("z", "y", "x") if self._channels is None else ("c", "z", "y", "x")
        return group.create_array(
            name,
            shape=(*front, *shape_zyx),
            chunks=(*(1 for _ in front), *chunks),
            dtype=self._dtype,
            fill_value=0,
            dimension_names=names if number == 3 else None,
            chunk_key_encoding={"name": "v2" if number == 2 else "default", "separator": "/"},
        )


def write_ome_zarr(
    path: Path, header: VolumeHeader, *, version: str = "0.5", label_map: bool = False
) -> Writer:
    """A writer of an OME-Zarr image; label maps get names, colours, and levels that keep label values.

    OME-NGFF stores neither direction nor patient coordinates: scale and translation are along the array's axes.
    ctseg stores the direction in its own attribute, and reads it back.

    Args:
        version: of OME-NGFF.
        label_map: whether one channel without names holds label values; one with names does.

    Raises:
        BadInput: voxels of a type that Zarr does not support, or an unknown version.
        FileProblem: the target cannot be written.
    """
    if version not in VERSIONS:
        raise BadInput(
            f"OME-NGFF {version} is not written (for {path}).", hint=f"Use: {', '.join(VERSIONS)}"
        )
    if path.exists() and not (path.is_dir() and is_zarr(path)):
        raise FileProblem(
            f"{path} is there already and no Zarr store; it is not replaced.",
            hint="Choose another place with -o.",
        )
    stored = check_dtype(header.dtype, _DTYPES, format_name="Zarr")
    reference = header.reference
    source = reference.path if reference is not None and is_zarr(reference.path) else None
    labels = tuple(header.labels)
    about = _Description(path, labels, label_map or bool(labels), version, source)
    return Writer(
        path,
        "",
        replace(header, dtype=stored),
        lambda temporary: _ZarrSink(temporary, header.geometry, stored, header.channels, about),
        folder=is_zarr,
    )
