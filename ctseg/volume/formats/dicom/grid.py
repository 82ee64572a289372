"""The frames of a DICOM series in order of position, and the grid that they form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats import grids
from ctseg.volume.formats.dicom.frames import Frame
from ctseg.volume.geometry import Geometry

_GAP_TOLERANCE = 0.02
"""Largest deviation of a gap, as a fraction of the slice distance: positions are decimal strings of few digits."""
_SHEAR_TOLERANCE = 1e-3
_PIXEL_TOLERANCE = 0.02
"""Largest offset of single slices from the line of the others, as a fraction of a pixel, for the same reason."""
_STRAIGHTEN = (
    "Read it with the option straighten=yes, which resamples the scan onto an even, unsheared grid."
)
_TELLING = {
    "AcquisitionNumber": 0x00200012, "TemporalPositionIdentifier": 0x00200100,
    "TriggerTime": 0x00181060, "EchoTime": 0x00180081, "ContentTime": 0x00080033,
    "ImageType": 0x00080008, "ConvolutionKernel": 0x00181210,
}  # fmt: skip
"""Values that may distinguish several planes at one position."""


@dataclass(frozen=True)
class Stack:
    """Frames in order, the grid that the first frame and the usual distance define, and deviations from it.

    Attributes:
        frames: frames by position along the normal.
        geometry: grid of an even stack of these frames.
        offsets_xyz: offset of each frame from the first, mm, along the axes of `geometry`: (0, 0, i * spacing) in an
            even stack.
        notes: notes on frames that were left out.
        problem: why the frames do not form the grid; None if they do.
    """

    frames: tuple[Frame, ...]
    geometry: Geometry
    offsets_xyz: NDArray[np.float64]
    notes: tuple[str, ...]
    problem: FileProblem | None


def arrange(frames: Sequence[Frame], path: Path) -> Stack:
    """Sort frames by position and check their spacing.

    Raises:
        FileProblem: frames of several sizes or orientations, or several at one position.
    """
    first = frames[0]
    cosines = first.vector("cosines")
    _check_alike(frames, path)
    row, column = cosines[:3], cosines[3:]
    normal = np.cross(row, column)
    positions = np.array([one.vector("position") for one in frames])
    order = np.argsort(positions @ normal, kind="stable")
    frames, positions = [frames[i] for i in order], positions[order]
    frames, positions, notes = _once(frames, positions)
    axes = grids.orthonormal(np.stack([row, column, normal], axis=1))  # cosines of few digits, too
    offsets = (positions - positions[0]) @ axes
    gap = _distance(frames, offsets[:, 2], path)
    missing = _missing(frames, offsets[:, 2], gap, path)
    if missing is None and len(frames) > 1:
        gap = float(offsets[-1, 2]) / (len(frames) - 1)  # positions of few digits scatter about it
    geometry = grids.make_geometry(
        path,
        (len(frames), *first.size_yx),
        (*first.vector("spacing_yx")[::-1], gap),
        positions[0].tolist(),
        axes,
    )
    pixel = min(first.vector("spacing_yx").tolist())
    problem = missing or _sheared(offsets, gap, pixel, path)
    return Stack(tuple(frames), geometry, offsets, tuple(notes), problem)


def _check_alike(frames: Sequence[Frame], path: Path) -> None:
    properties: tuple[tuple[str, Callable[[Frame], Any]], ...] = (
        ("size", lambda f: f.size_yx),
        ("pixel spacing", lambda f: tuple(np.round(f.vector("spacing_yx"), 4).tolist())),
        ("orientation", lambda f: tuple((np.round(f.vector("cosines"), 3) + 0.0).tolist())),
        ("modality", lambda f: f.header.text(0x00080060) or "none"),
        ("frame of reference", lambda f: f.header.text(0x00200052) or "none"),
        ("rescaling", lambda f: "a slope or intercept" if f.rescaled else "none"),
    )
    for what, of in properties:
        counts = Counter(map(of, frames))
        if len(counts) == 1:
            continue
        (most, many), (other, few) = counts.most_common(2)
        if what == "orientation" and _close(most, other):
            continue
        example = next(one for one in frames if of(one) == other)
        raise FileProblem(
            f"{path}: the slices differ in {what}: {many} have {most} and {few} have {other}, "
            f"{example.name} among them.",
            hint="Keep the slices that belong together in a folder of their own, and localisers elsewhere.",
        )


def _close(one: Sequence[float], two: Sequence[float]) -> bool:
    """Whether two rounded sets of cosines are equal up to the rounding."""
    return bool(np.abs(np.subtract(one, two)).max() < 2e-3)


def _once(
    frames: list[Frame], positions: NDArray[np.float64]
) -> tuple[list[Frame], NDArray[np.float64], list[str]]:
    """Leave out copies of a slice: the same SOPInstanceUID, frame and position."""
    seen: set[tuple[str, int, tuple[float, ...]]] = set()
    keep: list[int] = []
    copies: list[int] = []
    for number, one in enumerate(frames):
        key = (one.header.text(0x00080018), one.index, one.position)
        (copies if key[0] and key in seen else keep).append(number)
        seen.add(key)
    notes = []
    if copies:
        names = ", ".join(frames[i].name for i in copies[:3])
        notes.append(f"{len(copies)} copies of slices were left out: {names}")
    return [frames[i] for i in keep], positions[keep], notes


def _distance(frames: Sequence[Frame], heights: NDArray[np.float64], path: Path) -> float:
    """The median distance of neighbours; for a single slice its thickness.

    Raises:
        FileProblem: several slices lie at one position.
    """
    if len(frames) == 1:
        for tag in (0x00180050, 0x00180088):  # SliceThickness, SpacingBetweenSlices
            lengths = frames[0].header.numbers(tag)
            if lengths and lengths[0] > 0:
                return lengths[0]
        return 1.0
    gaps = np.diff(heights)
    apart = gaps[gaps > 1e-3]
    gap = float(np.median(apart)) if apart.size else 0.0
    doubled = np.flatnonzero(gaps < max(gap, 1e-3) * _GAP_TOLERANCE)
    if doubled.size:
        at = int(doubled[0])
        one, two = frames[at], frames[at + 1]
        telling = [
            f"{name} ({one.header.text(tag)}, {two.header.text(tag)})"
            for name, tag in _TELLING.items()
            if one.header.text(tag) != two.header.text(tag)
        ]
        raise FileProblem(
            f"{path}: {len(frames)} slices lie at {len(frames) - doubled.size} places; {one.name} and {two.name} "
            "lie at the same place" + (f" and differ in {', '.join(telling)}." if telling else "."),
            hint="Several phases or reconstructions share this series; keep one of them in a folder of its own.",
        )
    return gap


def _missing(
    frames: Sequence[Frame], heights: NDArray[np.float64], gap: float, path: Path
) -> FileProblem | None:
    if len(frames) < 3:
        return None
    gaps = np.diff(heights)
    odd = np.flatnonzero(np.abs(gaps - gap) > gap * _GAP_TOLERANCE)
    if not odd.size:
        return None
    at = int(odd[np.abs(gaps[odd] - gap).argmax()])
    lost = np.round(gaps[odd] / gap).astype(int) - 1
    is_multiple = np.abs(gaps[odd] / gap - (lost + 1)).max() < 0.1 and lost.min() > 0
    tail = f" {lost.sum()} slices are missing." if is_multiple else f" {odd.size} distances differ."
    return FileProblem(
        f"{path}: the slices are {gap:.4g} mm apart, but {gaps[at]:.4g} mm between "
        f"{frames[at].name} and {frames[at + 1].name}.{tail}",
        hint=("Copy the series again. " if is_multiple else "") + _STRAIGHTEN,
    )


def _sheared(
    offsets: NDArray[np.float64], gap: float, pixel: float, path: Path
) -> FileProblem | None:
    if len(offsets) < 2:
        return None
    expected = offsets[:, 2:] / offsets[-1, 2] * offsets[-1, :2]
    total = float(np.linalg.norm(offsets[-1, :2]))
    shift = total / (len(offsets) - 1)
    uneven = float(np.abs(offsets[:, :2] - expected).max())
    aside = max(_SHEAR_TOLERANCE * gap, _PIXEL_TOLERANCE * pixel)
    if (shift <= _SHEAR_TOLERANCE * gap or total <= aside) and uneven <= aside:
        return None
    angle = float(np.degrees(np.arctan2(shift, gap)))
    return FileProblem(
        f"{path}: the slices are shifted against each other by {shift:.3g} mm each (gantry tilted by {angle:.3g} "
        "degrees), so the grid is sheared.",
        hint=_STRAIGHTEN,
    )
