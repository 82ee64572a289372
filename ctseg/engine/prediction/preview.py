"""`--preview`: a picture of a scan with its label map, reduced as they pass by, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.prediction.companions import Companion
from ctseg.report.display import DISPLAY_VOXELS, block_means, factors_for, reduced
from ctseg.specs import Label, Task
from ctseg.task import PALETTE
from ctseg.volume.volume import Volume

if TYPE_CHECKING:
    from ctseg.data.stream import OnDisk
    from ctseg.engine.prediction.result_files import OutputTransaction

_SLAB_BYTES = 2**26


class PreviewPicture(Companion):
    """Draws the picture that `ctseg render` draws of the scan and the label map.

    Args:
        png: the picture.
        name: name of the label map, beside the picture.
        labels: labels of the map; each voxel is shown as the label whose value it has.
        most: voxels of the scan that are kept; more are averaged over blocks.
    """

    def __init__(
        self, png: Path, name: str, labels: Sequence[Label], most: int = DISPLAY_VOXELS
    ) -> None:
        self._png, self._name, self._labels, self._most = png, name, labels, most

    def open(self, scan: OnDisk) -> None:
        self._scan = scan
        shape = scan.geometry.shape_zyx
        self._factors = factors_for(shape, scan.geometry.spacing_zyx, self._most)
        self._grid = reduced(scan.geometry, self._factors)
        kind = scan.dtype if max(self._factors) == 1 or scan.dtype.kind in "iu" else np.float32
        self._image = np.zeros(self._grid.shape_zyx, kind)
        self._map: NDArray[Any] | None = None
        self._next = self._drawn = 0
        self._at = [
            np.minimum(np.floor(np.arange(count) * f + f / 2).astype(np.int64), n - 1)
            for count, f, n in zip(self._grid.shape_zyx, self._factors, shape, strict=True)
        ]
        """The voxel of the map in the middle of each block, along each axis."""

    def add(self, slab: NDArray[Any]) -> None:
        if self._map is None:
            self._map = np.zeros(self._grid.shape_zyx, slab.dtype)
        first, last = np.searchsorted(self._at[0], [self._next, self._next + len(slab)])
        rows = self._at[0][first:last] - self._next
        self._map[first:last] = slab[np.ix_(rows, self._at[1], self._at[2])]
        self._next += len(slab)
        self._reduce()

    def _reduce(self) -> None:
        """Average the scan over the blocks that end within the slabs so far."""
        depth, height, width = self._scan.geometry.shape_zyx
        factor = self._factors[0]
        stop = len(self._image) if self._next == depth else self._next // factor
        plane = height * width * self._scan.channels * self._scan.dtype.itemsize * factor
        step = max(1, _SLAB_BYTES // plane)
        for first in range(self._drawn, stop, step):
            last = min(first + step, stop)
            span = (first * factor, min(last * factor, depth))
            slab = self._scan.box((span, (0, height), (0, width)))[0]
            if max(self._factors) > 1:
                means = block_means(slab, self._factors)
                slab = np.rint(means) if self._image.dtype.kind in "iu" else means
            self._image[first:last] = slab
        self._drawn = max(stop, self._drawn)

    def close(self, files: OutputTransaction) -> None:
        files.later(self._png, self._draw)

    def _draw(self, png: Path) -> None:
        from ctseg.report.overlay import draw_overlay

        assert self._map is not None
        present = np.unique(self._map).tolist()
        labels = [
            replace(label, values=(label.value,), colour=label.colour or PALETTE[i % len(PALETTE)])
            for i, label in enumerate(self._labels)
        ]
        shown = sorted((one for one in labels if one.value in present), key=lambda one: one.value)
        task = Task("classes", (Label("background", (0,), 0), *shown))
        draw_overlay(Volume(self._image, self._grid), {self._name: self._map}, task, png)
