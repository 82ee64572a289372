"""Planned preprocessing: resampling and intensity normalisation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctseg.config import PreprocessConfig
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import Clip, Normalise, NormaliseCase, Resample, Step, step_to_dict
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.spacing import Spacing, rounded_mm
from ctseg.specs import Zyx
from ctseg.volume.geometry import Geometry

RESHAPING = ("downscale", "transpose", "crop_or_pad", "pad_to_multiple")
"""Steps besides `resample` that change shape or spacing of the network's input."""
RARE = 0.01
"""Smallest fraction of the scans that a label fills before clipping at percentiles might remove it."""


def choose_resampling(
    fingerprint: Fingerprint, spacing_zyx: Spacing, kept_zyx: Sequence[bool]
) -> tuple[Resample | None, str]:
    """The step that resamples to the target spacing; None if every scan has it already.

    Args:
        kept_zyx: axes along which every scan keeps its own spacing.
    """
    spacings = np.asarray(fingerprint.spacings_zyx)
    if np.allclose(spacings, np.where(kept_zyx, spacings, spacing_zyx), rtol=1e-3):
        return None, "every scan has the target spacing already"
    z, y, x = (
        0.0 if kept else rounded_mm(s, 6) for s, kept in zip(spacing_zyx, kept_zyx, strict=True)
    )
    return Resample((x, y, z)), "the scans differ from the target spacing"


def at_spacing(
    steps: Sequence[Mapping[str, Any]], spacing_xyz: Sequence[float]
) -> tuple[dict[str, Any], ...]:
    """The steps with another target spacing; where none resamples, a step that does follows the turning of the axes."""
    out = [dict(step) for step in steps]
    at = next((i for i, step in enumerate(out) if step["kind"] == "resample"), None)
    if at is not None:
        out[at]["spacing_xyz"] = list(spacing_xyz)
        return tuple(out)
    oriented = [i for i, step in enumerate(out) if step["kind"] == "orient"]
    x, y, z = spacing_xyz
    out.insert(oriented[0] + 1 if oriented else 0, step_to_dict(Resample((x, y, z))))
    return tuple(out)


def network_grid(steps: PreprocessConfig, fingerprint: Fingerprint) -> tuple[Spacing, Zyx]:
    """Spacing and shape of a median scan at the network's input."""
    spacing = fingerprint.median_spacing_zyx
    resample = next((s for s in steps.steps if s.get("kind") == "resample"), None)
    if resample is not None:
        x, y, z = resample["spacing_xyz"]
        spacing = (z or spacing[0], y or spacing[1], x or spacing[2])
    if not any(s.get("kind") in RESHAPING for s in steps.steps):
        return spacing, fingerprint.median_shape_at(spacing)
    spacing = fingerprint.median_spacing_zyx
    grid = Pipeline.of(steps).typical_grid(
        Geometry(fingerprint.median_shape_at(spacing), spacing[::-1])
    )
    return grid.spacing_zyx, grid.shape_zyx


def choose_normalisation(
    fingerprint: Fingerprint, channels: tuple[str, ...], *, one_volume: bool
) -> tuple[Sequence[Step], str]:
    """The steps that clip and scale intensities.

    Args:
        channels: `CT` and `CBCT` hold Hounsfield units.
        one_volume: whether all cases are parts of one scan, and so share one intensity scale.
    """
    absolute = [
        n for n, name in enumerate(channels) if one_volume or name.upper() in ("CT", "CBCT")
    ]
    relative = [n for n in range(len(channels)) if n not in absolute]
    if not relative:
        return _fixed(fingerprint, absolute, one_volume=one_volume)
    own, why = _per_case(fingerprint)
    if not absolute:
        return [own], f"the channels ({', '.join(channels)}) {why}"
    steps, reason = _fixed(fingerprint, absolute, one_volume=False)
    of_each = [dataclasses.replace(step, channels=tuple(absolute)) for step in steps]
    named = ", ".join(channels[n] for n in relative)
    return [*of_each, dataclasses.replace(own, channels=tuple(relative))], (
        f"{', '.join(channels[n] for n in absolute)}: {reason}; {named}: they {why}"
    )


def _per_case(fingerprint: Fingerprint) -> tuple[NormaliseCase, str]:
    """The normalisation of channels with no unit, and why."""
    reason = "are not CT: each scan has its own scale"
    if not _some_label_is_rare(fingerprint):
        return NormaliseCase(percentiles=(0.5, 99.5)), reason
    reason += "; not clipped, since a rare label might be all that lies beyond a percentile"
    return NormaliseCase(), reason


def _fixed(
    fingerprint: Fingerprint, channels: Sequence[int], *, one_volume: bool
) -> tuple[list[Clip | Normalise | NormaliseCase], str]:
    """The normalisation of channels of which a value means the same in every scan, and why."""
    statistics = [fingerprint.foreground[n] for n in channels]
    if any(s["percentile_99_5"] <= s["percentile_00_5"] for s in statistics):
        reason = "the foreground has one value: clipped to it, or divided by its deviation, a scan would show nothing"
        return [NormaliseCase()], reason
    fixed = Normalise(
        tuple(_short(s["mean"], s) for s in statistics),
        tuple(_short(s["std"], s) for s in statistics),
    )
    if one_volume:
        reason = (
            "the cases are parts of one scan: the mean and deviation of its training part's foreground "
            "serve them all, whatever a part holds"
        )
        return [fixed], reason
    low = tuple(_short(s["percentile_00_5"], s) for s in statistics)
    high = tuple(_short(s["percentile_99_5"], s) for s in statistics)
    reason = (
        "Hounsfield units mean the same in every scan: clipped to the 0.5 and 99.5 percentiles "
        "of the foreground, then its mean and deviation"
    )
    return [Clip(low, high), fixed], reason


def scheme_of(steps: Sequence[Step]) -> str:
    """The name of a normalisation in `plan.json`."""
    if isinstance(steps[0], NormaliseCase):
        return "per case"
    if isinstance(steps[-1], NormaliseCase):
        return "by channel"
    return "foreground" if isinstance(steps[0], Clip) else "fixed"


def _some_label_is_rare(fingerprint: Fingerprint) -> bool:
    """Whether some label fills next to nothing of the scans: grains of metal, calcifications."""
    mm3 = np.prod(fingerprint.shapes_zyx, 1) * np.prod(fingerprint.spacings_zyx, 1)
    least = RARE * float(mm3.mean()) / 1000
    return any(0 < volume < least for volume in fingerprint.volumes_ml.values())


def _short(value: float, statistics: Mapping[str, float]) -> float:
    """A value with three decimals, or with enough of them to give a small deviation three digits."""
    deviation = statistics["std"]
    return round(value, 3 if deviation >= 0.1 else 2 - math.floor(math.log10(deviation)))
