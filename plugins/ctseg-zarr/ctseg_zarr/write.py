"""OME-Zarr with a pyramid, streamed; the folder appears under its name only when it is whole."""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

import ctseg
from ctseg.errors import BadInput, DiskFull, FileProblem
from ctseg.files import disk_errors
from ctseg.specs import Label, VolumeSource
from ctseg.volume.formats.writer import check_dtype, with_rest
from ctseg.volume.geometry import Geometry
from ctseg_zarr.describe import channel_names, image_label, multiscales
from ctseg_zarr.metadata import OWN
from ctseg_zarr.paths import is_zarr
from ctseg_zarr.pyramid import LevelWriter, chunk_of, steps

VERSIONS = ("0.5", "0.4")
_DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip


class ZarrWriter:
    """Writes a store beside its final name and moves it there on `commit`; see `ctseg.specs.VolumeWriter`.

    Args:
        path: the final name.
        geometry: the grid to be written.
        dtype: of the voxels.
        channels: None for [Z, Y, X], a number for [C, Z, Y, X].
        labels: names and colours: of values, or of channels.
        version: of OME-NGFF.
        source: the store of the scan that a label map belongs to.

    Raises:
        FileProblem: the place cannot be written, or something else than a Zarr store has the name.
    """

    def __init__(
        self,
        path: Path,
        geometry: Geometry,
        dtype: np.dtype[Any],
        channels: int | None,
        labels: Sequence[Label],
        version: str,
        source: Path | None,
    ) -> None:
        _check_target(path)
        self.path = path
        self._geometry = geometry
        self._dtype = dtype
        self._channels = channels
        self._next = 0
        self._open = True
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        with self._writing():
            self._levels = self._create(labels, version, source)

    def _create(self, labels: Sequence[Label], version: str, source: Path | None) -> LevelWriter:
        number: Literal[2, 3] = 2 if version == "0.4" else 3
        group = zarr.create_group(self._temporary, zarr_format=number)
        is_labels = bool(labels) and self._channels is None
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
            self._geometry, factors, self._channels is not None, is_labels, self.path.name, version
        )
        more = (
            image_label(labels, version, source, self.path)
            if is_labels
            else channel_names(labels, self._channels, self._dtype)
        )
        own: dict[str, Any] = {
            OWN: {
                "version": ctseg.__version__,
                "origin_xyz": list(self._geometry.origin_xyz),
                "direction": [list(row) for row in self._geometry.direction],
            }
        }
        if version == "0.4":
            group.attrs.update({"multiscales": [described], **more, **own})
        else:
            group.attrs.update(
                {"ome": {"version": version, "multiscales": [described], **more}, **own}
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

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Clean up after any failure, and tell those of the disk as a `FileProblem`."""
        try:
            with disk_errors(self.path):
                yield
        except DiskFull as error:
            self.abort()
            missing, depth = self._geometry.shape_zyx[0] - self._next, self._geometry.shape_zyx[0]
            plane = math.prod(self._geometry.shape_zyx[1:]) * (self._channels or 1)
            raise with_rest(
                error, missing, depth, plane * self._dtype.itemsize
            ) from error.__cause__
        except OSError as error:
            self.abort()
            raise FileProblem(
                f"{self.path} cannot be written: {error.strerror or error}.",
                hint=f"Check the space left and the permissions: df -h {self.path.parent}",
            ) from error
        except BaseException:
            self.abort()
            raise

    def write(self, start: int, slab: NDArray[Any]) -> None:
        """Write [Z, Y, X], or [C, Z, Y, X] where channels were asked for, from slice `start` on.

        Raises:
            BadInput: a slab out of order, of another shape, or of a type that would lose values.
            FileProblem: the disk refuses.
        """
        slab_czyx = slab if self._channels is not None else slab[None]
        depth, *plane = self._geometry.shape_zyx
        expected = (self._channels or 1, slab_czyx.shape[1], *plane)
        with self._writing():
            if not self._open:
                raise BadInput(
                    f"{self.path} was committed or aborted; nothing more can be written."
                )
            if slab_czyx.shape != expected:
                raise BadInput(
                    f"A slab of {self.path} has the shape {slab_czyx.shape}, not {expected}."
                )
            if start != self._next or start + slab_czyx.shape[1] > depth:
                raise BadInput(
                    f"A slab of {self.path} starts at slice {start} with {slab_czyx.shape[1]} slices "
                    f"where slice {self._next} of {depth} is due."
                )
            if not np.can_cast(slab.dtype, self._dtype, casting="same_kind"):
                raise BadInput(
                    f"A slab of {self.path} is {slab.dtype}, which does not fit {self._dtype}."
                )
            self._levels.put(np.asarray(slab_czyx, self._dtype))
            self._next += slab_czyx.shape[1]

    def commit(self) -> None:
        """Complete the store and give it its name.

        Raises:
            BadInput: slices are missing.
            FileProblem: the disk refuses.
        """
        with self._writing():
            if not self._open:
                raise BadInput(f"{self.path} was committed or aborted already.")
            depth = self._geometry.shape_zyx[0]
            if self._next != depth:
                raise BadInput(f"{self.path} got {self._next} of its {depth} slices.")
            self._levels.finish()
            earlier = self._temporary.with_name(f"{self._temporary.name}.old")
            if self.path.exists():  # a folder cannot be replaced in one step
                self.path.rename(earlier)
            try:
                self._temporary.rename(self.path)
            except OSError:
                if earlier.exists():
                    earlier.rename(self.path)
                raise
            self._open = False
            shutil.rmtree(earlier, ignore_errors=True)

    def abort(self) -> None:
        """Leave nothing behind; does nothing after `commit`."""
        if self._open:
            self._open = False
            with suppress(OSError):
                shutil.rmtree(self._temporary, ignore_errors=True)


def write_ome_zarr(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,
    version: str = "0.5",
) -> ZarrWriter:
    """A writer of an OME-Zarr image; label maps get their names and colours, and levels that keep label values.

    OME-NGFF has neither direction nor a frame of the patient: scale and translation are those of the array's axes.
    ctseg notes the direction in an attribute of its own, so that it comes back.

    Raises:
        BadInput: voxels that Zarr cannot hold, or an unknown version.
        FileProblem: the place cannot be written.
    """
    if version not in VERSIONS:
        raise BadInput(
            f"OME-NGFF {version} is not written (for {path}).", hint=f"Use: {', '.join(VERSIONS)}"
        )
    stored = check_dtype(dtype, _DTYPES, format_name="Zarr")
    source = reference.path if reference is not None and is_zarr(reference.path) else None
    return ZarrWriter(path, geometry, stored, channels, labels, version, source)


def _check_target(path: Path) -> None:
    if path.exists() and not (path.is_dir() and is_zarr(path)):
        raise FileProblem(
            f"{path} is there already and no Zarr store; it is not replaced.",
            hint="Choose another place with -o.",
        )
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise FileProblem(
            f"{path} cannot be written: no permission to write in {path.parent}.",
            hint="Choose another place with -o, or change the permissions.",
        )
