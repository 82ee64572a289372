"""Whether a scan is of the kind that a model was trained on, asked before anything is made of it.

A network answers whatever it is given. A scan whose voxel size was never written down, or was written in another
unit, goes through it like any other, and all that comes of it is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctseg.card import Card
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import Clip, Normalise, OnValues, Orient, Resample, Rescale, Transpose
from ctseg.data.stream import Scan, intensity_ranges
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry

FAR, APART = 10.0, 2.5
"""A spacing so many times beyond those of training is refused, or warned about."""
FAR_OF_TARGET, APART_OF_TARGET = 20.0, 4.0
"""The same where a card only has the spacing that scans are resampled to, around which those of training lay."""
MOST_VOXELS, MOST_TIMES = 2**31, 64
"""A grid of more voxels, and so many times those of the scan, cannot be meant."""
LONG_VOXELS = 2**27
SPACING_HINT = "If its voxel size is missing or wrong in the file, give it: --option spacing=X,Y,Z (mm, or e.g. 5um)"
NARROW = 0.01
"""Values over less than this share of the range of training are in another unit."""
BELOW_ZERO = 0.05
"""Share of a scan's range below 0, where no scan of training went below it."""
_MODALITIES = (
    ("CT", r"\b(ct|cbct|hu)\b"),
    ("MR", r"\b(mr|mri|mrt|t1\w*|t2\w*|flair|dwi|adc|swi|dce)\b"),
    ("PT", r"\b(pet|pt|suv)\b"),
    ("US", r"\b(us|ultrasound)\b"),
)


@dataclass(frozen=True)
class PlannedGrid:
    """The grid that a network will see, as far as can be said without the scan's voxels: crops keep all.

    Attributes:
        geometry: of the scan after preprocessing.
        tiles: that the network goes through.
        source: the scan's own grid.
    """

    geometry: Geometry
    tiles: int
    source: Geometry

    @property
    def worth_telling(self) -> bool:
        """Whether it is another size than the scan's, or takes long."""
        shape = self.geometry.shape_zyx
        return shape != self.source.shape_zyx or math.prod(shape) > LONG_VOXELS

    def __str__(self) -> str:
        z, y, x = self.geometry.shape_zyx
        tiles = f"{self.tiles} tile{'s'[: self.tiles > 1]}"
        return f"planned grid {z} x {y} x {x} voxels of {_size(self.geometry)} (z, y, x), {tiles}"


def plan_grid(pipeline: Pipeline, scan: Scan, settings: TilingSettings) -> PlannedGrid:
    """The grid of a scan that was checked; see `check_scan`."""
    geometry = pipeline.typical_grid(scan.geometry)
    return PlannedGrid(geometry, TileGrid(geometry.shape_zyx, settings).tiles, scan.geometry)


def check_scan(
    card: Card, pipeline: Pipeline, scan: Scan, *, flat: bool, force: bool = False
) -> list[str]:
    """Compare a scan with those of training, as far as the card knows them.

    Args:
        pipeline: all steps before the network.
        flat: whether the network looks at each slice by itself, so that their distance does not matter.
        force: tell where a spacing far from training would be refused.

    Returns:
        what may make the prediction wrong.

    Raises:
        BadInput: a spacing far from all that the model saw, or a grid that cannot be meant.
    """
    notes = list(_spacing(card, pipeline, scan.geometry, flat=flat, force=force))
    _check_size(pipeline, scan.geometry)
    notes += _modality(card, scan.modalities)
    notes += _intensities(card, pipeline, scan)
    return notes


def _spacing(
    card: Card, pipeline: Pipeline, geometry: Geometry, *, flat: bool, force: bool
) -> Iterator[str]:
    seen = card.training_scans
    target = next((s for s in pipeline.steps if isinstance(s, Resample)), None)
    turned = next((s.order_zyx for s in pipeline.steps if isinstance(s, Transpose)), (0, 1, 2))
    made = (0.0, 0.0, 0.0) if target is None else target.spacing_xyz[::-1]
    z, y, x = (made[turned.index(axis)] for axis in range(3))  # along the axes before Transpose
    wanted = (z, y, x)
    if seen is not None:
        low, high, far, apart = seen.spacing_min_zyx, seen.spacing_max_zyx, FAR, APART
        what = "the model was trained on scans of"
    else:
        low = high = wanted
        far, apart = FAR_OF_TARGET, APART_OF_TARGET
        what = "the model works at"
    slices = turned[0] if flat and not wanted[turned[0]] else None

    def apart_by(grid: Geometry) -> float:
        pairs = enumerate(zip(grid.spacing_zyx, low, high, strict=True))
        ratios = [
            max(least / spacing, spacing / most)
            for axis, (spacing, least, most) in pairs
            if least > 0 and axis != slices
        ]
        return max([1.0, *ratios])

    oriented = Orient().grid(geometry, {})
    worst = apart_by(oriented)
    if not any(isinstance(step, Orient) for step in pipeline.steps) and worst >= apart:
        as_stored = apart_by(geometry)
        if as_stored < worst:
            oriented, worst = geometry, as_stored
    if worst < apart:
        return
    unit = "um" if max(high) < 0.1 else "mm"
    spans = " x ".join(_span(a, b, unit) for a, b in zip(low, high, strict=True))
    text = (
        f"The scan has voxels of {_size(oriented)}, {what} {spans} {unit} (z, y, x): "
        f"up to {worst:.3g} times apart"
    )
    if worst < far * (1 - 1e-6):
        yield f"{text}. The result may be wrong."
    elif force:
        yield f"{text}, which would be refused without --set force=true. The result is most likely wrong."
    else:
        raise BadInput(
            f"{text}.", hint=f"{SPACING_HINT}\n  Predict it all the same: --set force=true"
        )


def _check_size(pipeline: Pipeline, geometry: Geometry) -> None:
    after = pipeline.typical_grid(geometry)
    voxels, own = math.prod(after.shape_zyx), math.prod(geometry.shape_zyx)
    if voxels <= MOST_VOXELS or voxels <= MOST_TIMES * own:
        return
    before, size = (" x ".join(map(str, g.shape_zyx)) for g in (geometry, after))
    raise BadInput(
        f"The scan of {before} voxels of {_size(geometry)} would become one of {size} voxels (z, y, x), "
        f"{voxels / own:.3g} times as many, at the {_size(after)} that the model works at.",
        hint=SPACING_HINT,
    )


def _modality(card: Card, modalities: Sequence[str]) -> Iterator[str]:
    """Where files name another modality than those of training, or than the channels are named by."""
    seen = card.training_scans.modalities if card.training_scans is not None else ()
    named = [modality_named(channel) for channel in card.channels]
    known = set(seen) or (set(named) if all(named) else set())
    strange = [name for name in modalities if name not in known]
    if known and strange:
        yield (
            f"The scan is of the modality {', '.join(strange)}, the model was trained on "
            f"{', '.join(sorted(known))} (channels: {', '.join(card.channels)}). The result is most likely wrong."
        )


def modality_named(channel: str) -> str:
    """The DICOM modality that the name of a channel tells, e.g. `MR` for `T1w`; empty where it tells none."""
    name = channel.lower().replace("_", " ")
    return next((code for code, words in _MODALITIES if re.search(words, name)), "")


def _intensities(card: Card, pipeline: Pipeline, scan: Scan) -> Iterator[str]:
    seen = card.training_scans
    fixed = not any(isinstance(step, OnValues) and step.fits for step in pipeline.steps)
    known: list[tuple[float, float]] = []
    measured = seen is not None and bool(seen.intensity_low)
    if seen is not None and measured:
        known = list(zip(seen.intensity_low, seen.intensity_high, strict=True))
    elif fixed:
        known = _expected(pipeline, scan.channels)
    if len(known) != scan.channels:
        return
    for channel, (low, high), (least, most) in zip(
        card.channels, known, intensity_ranges(scan), strict=True
    ):
        width, own = max(high - low, 1e-12), most - least
        far = least < low - width or most > high + width if measured else False
        if fixed:
            strange = most < low or least > high or far or 0 < own < NARROW * width
        else:  # each scan is scaled by its own values, but not those of another kind
            strange = low >= 0 and -least > BELOW_ZERO * own
        if strange:
            yield (
                f"The values of the channel {channel} lie from {least:.5g} to {most:.5g}, those that the model "
                f"expects from {low:.5g} to {high:.5g}. The result may be wrong."
            )


def _expected(pipeline: Pipeline, channels: int) -> list[tuple[float, float]]:
    """The values for which the first fixed step is made, by channel; none where no step tells."""
    for step in pipeline.steps:
        if isinstance(step, Clip):
            return list(zip(_each(step.low, channels), _each(step.high, channels), strict=True))
        if isinstance(step, Rescale) and step.clip:
            return [(step.low, step.high)] * channels
        if isinstance(step, Normalise):
            pairs = list(zip(_each(step.mean, channels), _each(step.std, channels), strict=True))
            return [(mean - 10 * std, mean + 10 * std) for mean, std in pairs]
    return []


def _each(values: Sequence[float], channels: int) -> Sequence[float]:
    return tuple(values) * channels if len(values) == 1 else values


def _span(low: float, high: float, unit: str) -> str:
    factor = 1000 if unit == "um" else 1
    if not high:
        return "any"
    return f"{low * factor:.4g}" if low == high else f"{low * factor:.4g} to {high * factor:.4g}"


def _size(geometry: Geometry) -> str:
    fine = max(geometry.spacing_xyz) < 0.1
    sizes = " x ".join(f"{v * (1000 if fine else 1):.4g}" for v in geometry.spacing_zyx)
    return f"{sizes} {'um' if fine else 'mm'}"
