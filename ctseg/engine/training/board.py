"""What TensorBoard shows of a run: curves, and a slice and surfaces of the first validation case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.metrics.aligned import AlignedCase
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.surface import Surface, surface_of
from ctseg.task import colour_of, masks

LONGEST = 96
"""Longest edge, in voxels, of the maps that surfaces are computed from; larger maps are thinned."""
EXTRA = "mesh"


class ShownCase:
    """What TensorBoard shows of the first case of a validation; pass `add` as `look`.

    Args:
        surfaces: whether to compute surfaces, which needs scikit-image.

    Attributes:
        slices: the slices of all cases.
        name: id of the first case; empty before the validation.
        surfaces: by map, the surface of each label with its colour.
    """

    def __init__(self, *, surfaces: bool) -> None:
        self.slices = CaseSlices()
        self.name = ""
        self.surfaces: dict[str, list[tuple[Surface, tuple[int, int, int]]]] = {}
        self._wanted = surfaces

    def add(self, case: AlignedCase) -> None:
        """Take the next case."""
        self.slices.add(case)
        first, self.name = not self.name, self.name or case.case_id
        if not first or not self._wanted or case.task is None or case.task.kind == "regression":
            return
        try:
            self.surfaces = {
                "reference": list(_surfaces(case, case.reference)),
                "prediction": list(_surfaces(case, case.predicted)),
            }
        except BadInput:  # without scikit-image there are no surfaces
            self._wanted = False


def _surfaces(
    case: AlignedCase, array: NDArray[Any]
) -> Iterator[tuple[Surface, tuple[int, int, int]]]:
    task = case.task
    assert task is not None
    step = -(-max(case.geometry.shape_zyx) // LONGEST)
    thin = array[..., ::step, ::step, ::step]
    x, y, z = case.geometry.spacing_xyz
    spacing = (x * step, y * step, z * step)
    geometry = replace(case.geometry, shape_zyx=thin.shape[-3:], spacing_xyz=spacing)
    parts = [one > 0.5 for one in thin] if thin.ndim == 4 else list(masks(task, thin).values())
    for number, part in enumerate(parts):
        surface = surface_of(part, geometry, EXTRA)
        if surface is not None:
            yield surface, colour_of(task, number)


class Board:
    """Writes the log of TensorBoard.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    @classmethod
    def open(cls, folder: Path, step: int) -> Board | None:
        """The log in a folder; None if TensorBoard is not installed.

        Args:
            step: of the resume point; TensorBoard shows nothing that was written for later ones.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return cls(SummaryWriter(str(folder), purge_step=step + 1 if step else None))

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """Add the numbers of a line of `log.jsonl`."""
        if kind == "step":
            for name in ("loss", "lr"):
                self._writer.add_scalar(f"step/{name}", fields[name], fields["step"])
        elif kind == "epoch":
            self._epoch(fields)

    def _epoch(self, fields: dict[str, Any]) -> None:
        for name in ("loss", "lr", "mean_dice"):
            if isinstance(fields.get(name), int | float):
                self._writer.add_scalar(name, fields[name], fields["step"])
        for label, value in (fields.get("dice") or {}).items():
            self._writer.add_scalar(f"dice/{label}", value, fields["step"])
        for metric, values in (fields.get("scores") or {}).items():
            for label, value in values.items():
                self._writer.add_scalar(f"{metric}/{label}", value, fields["step"])
        self._writer.flush()

    def show(self, case: ShownCase, step: int) -> None:
        """Add the slice in which reference and prediction differ most, and the surfaces of both."""
        for name, picture in case.slices.tiles(case.name).items():
            dataformats = "HW" if picture.ndim == 2 else "HWC"
            self._writer.add_image(f"{case.name}/{name}", picture, step, dataformats=dataformats)
        for name, surfaces in case.surfaces.items():
            if surfaces:
                points, colours, triangles = _joined(surfaces)
                self._writer.add_mesh(
                    f"{case.name}/{name}", points[None], colours[None], triangles[None],
                    global_step=step,
                )  # fmt: skip
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _joined(
    surfaces: list[tuple[Surface, tuple[int, int, int]]],
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int32]]:
    """Points in millimetres from their middle, a colour for each, and triangles, of all surfaces as one."""
    points = np.concatenate([one.points_xyz for one, _ in surfaces])
    counts = [len(one.points_xyz) for one, _ in surfaces]
    starts = np.cumsum([0, *counts])
    triangles = [one.triangles + start for (one, _), start in zip(surfaces, starts, strict=False)]
    colours = np.repeat(np.array([colour for _, colour in surfaces], np.uint8), counts, axis=0)
    middle = (points.max(0) + points.min(0)) / 2
    return (points - middle).astype(np.float32), colours, np.concatenate(triangles).astype(np.int32)
