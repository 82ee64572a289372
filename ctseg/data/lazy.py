"""Scans too large to be copied: patches are read from the files as they are, and preprocessed one by one.

That works where every step changes values only, so that a voxel of the network's grid is a voxel of the file, and
where the file can be read by region.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctseg.data.load import as_label
from ctseg.data.pipeline import AppliedPipeline, AppliedStep
from ctseg.data.prepared_case import Prepared
from ctseg.data.steps import OnValues
from ctseg.errors import BadInput
from ctseg.specs import Case, ImageRef, Task, VolumeSource
from ctseg.task import encode
from ctseg.volume.io import open_ref


class OpenFiles:
    """Sources opened when they are first read, anew in every process, one thread at a time."""

    def __init__(self, refs: Sequence[ImageRef]) -> None:
        self.refs = tuple(refs)
        self._forget()

    def _forget(self) -> None:
        self._lock, self._pid = threading.Lock(), 0
        self._sources: list[VolumeSource] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"refs": self.refs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.refs = state["refs"]
        self._forget()

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        """A box of all channels, [C, Z, Y, X]."""
        a, b = (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])
        with self._lock:
            parts = [source.read_box(a, b) for source in self.open()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def open(self) -> list[VolumeSource]:
        if self._pid != os.getpid():
            self._sources, self._pid = [open_ref(ref) for ref in self.refs], os.getpid()
        return self._sources

    def close(self) -> None:
        if self._pid == os.getpid():
            for source in self._sources:
                source.close()
        self._forget()


class BoxReader(Protocol):
    """Reads boxes of one array."""

    def __call__(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]: ...

    def close(self) -> None: ...


class LazyArray:
    """An array [C, Z, Y, X] whose boxes are read as they are asked for; `numpy.asarray` reads all of it.

    Args:
        shape_czyx: of the whole.
        read: `read(start, stop)` gives a box.
    """

    ndim = 4

    def __init__(
        self,
        shape_czyx: tuple[int, int, int, int],
        dtype: Any,
        read: BoxReader,
    ) -> None:
        self.shape, self.dtype, self._read = shape_czyx, np.dtype(dtype), read

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        parts = list(key) if isinstance(key, tuple) else [key]
        parts += [slice(None)] * (4 - len(parts))
        boxed = all(isinstance(part, slice) and part.step in (None, 1) for part in parts[1:])
        if Ellipsis in [p for p in parts if p is Ellipsis] or len(parts) != 4 or not boxed:
            raise IndexError(
                "A scan that is read from its file is indexed by boxes: [:, z0:z1, y0:y1, x0:x1]."
            )
        spans = [part.indices(n)[:2] for part, n in zip(parts[1:], self.shape[1:], strict=True)]
        if any(b <= a for a, b in spans):
            empty = np.empty((self.shape[0], *(max(b - a, 0) for a, b in spans)), self.dtype)
            return np.asarray(empty[parts[0]])
        box = self._read([a for a, _ in spans], [b for _, b in spans])
        out: NDArray[Any] = box[parts[0]]
        return out

    def close(self) -> None:
        """Close the files; they are opened again when something is read."""
        self._read.close()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:, :, :, :]
        return whole if dtype is None else whole.astype(dtype, copy=False)


class ImageReader:
    """Reads boxes of a scan and preprocesses them."""

    def __init__(self, case: Case, steps: Sequence[AppliedStep]) -> None:
        self.name, self.files = case.id, OpenFiles(case.images)
        self.steps = [p for p in steps if isinstance(p.step, OnValues)]

    def __call__(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]:
        box = self.files.read(start, stop)
        if box.dtype.kind == "f" and not np.isfinite(box).all():
            raise BadInput(
                f"The scan of case {self.name} ({self.files.refs[0].path}) holds NaN or infinite values "
                f"within the voxels {list(start)} to {list(stop)} (z, y, x).",
                hint="Replace them in the file, by the value of air for example.",
            )
        for applied_step in self.steps:
            box = applied_step.step.image(box, applied_step.before, applied_step.record)
        return np.ascontiguousarray(box, np.float32)

    def close(self) -> None:
        self.files.close()


class TargetReader:
    """Reads boxes of a label and makes them the network's target."""

    def __init__(self, case: Case, task: Task) -> None:
        assert case.label is not None
        self.task, self.where = task, str(case.label.path)
        self.label = OpenFiles([case.label])
        self.mask = None if case.mask is None else OpenFiles([case.mask])

    def __call__(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        label = self.label.read(start, stop)
        mask = None if self.mask is None else self.mask.read(start, stop)
        return self.made(label, mask)

    def close(self) -> None:
        for files in (self.label, self.mask):
            if files is not None:
                files.close()

    def made(self, label_czyx: NDArray[Any], mask_czyx: NDArray[Any] | None) -> NDArray[Any]:
        target = encode_czyx(self.task, as_label(label_czyx, self.task, where=self.where))
        return target if mask_czyx is None else masked(target, mask_czyx > 0)


class WeightReader:
    """Reads boxes of a weight map."""

    def __init__(self, case: Case) -> None:
        assert case.weight is not None
        self.name, self.files = case.id, OpenFiles([case.weight])

    def __call__(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]:
        box = self.files.read(start, stop).astype(np.float32)
        if not np.isfinite(box).all() or box.min() < 0:
            raise BadInput(
                f"The weight map of case {self.name} ({self.files.refs[0].path}) must hold finite numbers, none "
                "of them negative."
            )
        return box

    def close(self) -> None:
        self.files.close()


def encode_czyx(task: Task, label: NDArray[Any]) -> NDArray[Any]:
    """A label as `as_label` gives it as the target, with its channel axis."""
    if task.kind == "channels" and not task.stacked:
        return encode(task, label[0] if label.ndim == 4 else label)
    return encode(task, label if label.ndim == 4 else label[None])


def masked(target_czyx: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """A target that counts only where a mask says so."""
    ignored = np.nan if target_czyx.dtype.kind == "f" else -1
    return np.where(valid, target_czyx, ignored).astype(target_czyx.dtype)


def open_lazily(
    task: Task, case: Case, applied: AppliedPipeline, places: NDArray[np.int32]
) -> Prepared:
    """A case whose patches are read from its files."""
    files = OpenFiles(case.images)
    channels = sum(source.channels for source in files.open())
    files.close()
    shape = applied.source.shape_zyx
    outputs = 1 if task.kind == "classes" else task.out_channels
    dtype = {"classes": np.int16, "channels": np.int8, "regression": np.float32}[task.kind]
    return Prepared(
        case.id,
        LazyArray((channels, *shape), np.float32, ImageReader(case, applied.steps)),
        LazyArray((outputs, *shape), dtype, TargetReader(case, task)),
        places,
        applied,
        None if case.weight is None else LazyArray((1, *shape), np.float32, WeightReader(case)),
        lazy=True,
    )
