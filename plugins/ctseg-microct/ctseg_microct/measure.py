"""All measurements of a volume, in millimetres; `report` brings them to a suitable unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctseg.errors import BadInput
from ctseg.specs import VolumeSource
from ctseg_microct import basics, correlation, memory
from ctseg_microct.boundary import give_boundary
from ctseg_microct.clusters import cluster_counts
from ctseg_microct.grains import part_grains
from ctseg_microct.objects import measure_objects
from ctseg_microct.orientation import orientation
from ctseg_microct.parts import Numbered, connectivity, number_parts
from ctseg_microct.phases import Phases
from ctseg_microct.thickness import largest_radius, thickness

TOPICS = ("fractions", "windows", "correlation", "thickness", "connectivity", "objects")
"""Measurements of a label map; `orientation` needs a scan."""
WIDEST_REACH = 64


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        topics: some of `TOPICS`.
        reach: longest distance of correlations and largest radius of thickness, mm; None for a quarter of the
            shortest edge, at most 64 voxels.
        split: empty, a neck ratio such as `0.7`, or the name of a boundary label.
        memory: bytes.
        say: called with the name of each measurement that begins.
    """

    topics: Sequence[str] = TOPICS
    reach: float | None = None
    split: str = ""
    memory: int = 2**30
    say: Callable[[str], None] = lambda _: None


@dataclass
class Results:
    """Measurements of one volume.

    Attributes:
        phases: results by label name.
        objects: columns of the table of objects.
        numbered: the map of objects.
    """

    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, Any] | None = None
    numbered: Numbered | None = None


def reach_of(phases: Phases, reach: float | None) -> float:
    """The reach in mm; by default a quarter of the shortest edge, at most 64 of the finest voxels."""
    spacing = np.array(phases.spacing_zyx)
    if reach is None:
        quarter = float((spacing * phases.shape_zyx).min()) / 4
        return max(float(spacing.min()), min(quarter, WIDEST_REACH * float(spacing.min())))
    if reach < spacing.min():
        raise BadInput(
            f"The reach of {reach:g} mm is shorter than a voxel ({spacing.min():g} mm).",
            hint="Give a length with its unit: --reach 200um",
        )
    return reach


def measure(phases: Phases, wanted: Wanted, scan: VolumeSource | None = None) -> Results:
    """Measure every phase.

    Raises:
        BadInput: the reach is shorter than a voxel, or needs more memory than there is; objects cannot be parted so.
    """
    out = Results({name: {} for name in phases.names})
    reach = reach_of(phases, wanted.reach)
    radius = reach / min(phases.spacing_zyx)
    _check(phases, wanted, round(radius, 3))

    def note(topic: str, rows: Sequence[Any]) -> None:
        for name, row in zip(phases.names, rows, strict=True):
            out.phases[name][topic] = row

    if "fractions" in wanted.topics:
        wanted.say("fractions and surfaces")
        note("fractions", basics.fractions(phases))
    if "windows" in wanted.topics:
        wanted.say("representative windows")
        rows = basics.windows(phases)
        note(
            "windows", [{"representative_edge": basics.representative(r), "rows": r} for r in rows]
        )
    parts = None
    if {"connectivity", "objects", "correlation"} & set(wanted.topics):
        wanted.say("connected parts")
        parts = number_parts(phases)
        if "connectivity" in wanted.topics:
            note("connectivity", connectivity(phases, parts))
        if "correlation" in wanted.topics:
            wanted.say("correlations")
            note("correlation", _correlations(phases, parts, reach, wanted))
    if "thickness" in wanted.topics:
        wanted.say("local thickness")
        note(
            "thickness", [thickness(phases, at, radius, wanted.memory) for at in range(len(phases))]
        )
    if "objects" in wanted.topics and parts is not None:
        wanted.say("objects")
        out.numbered = _split(phases, parts, wanted, radius)
        out.objects = measure_objects(phases, out.numbered, wanted.memory)
    if scan is not None:
        wanted.say("orientation")
        note("orientation", orientation(phases, scan, wanted.memory))
    return out


def _correlations(
    phases: Phases, parts: Numbered, reach: float, wanted: Wanted
) -> list[dict[str, Any]]:
    lags = correlation.lags_up_to(phases.shape_zyx, phases.spacing_zyx, reach)
    chords = [basics.chords(phases, axis) for axis in range(3)]
    out = []
    for at, voxels in enumerate(phases.voxels):
        fraction = voxels / phases.index.size
        counts = correlation.pair_counts(phases.index, at, lags, wanted.memory)
        single = int((parts.phase == at).sum()) <= 1
        joined = counts if single else cluster_counts(parts, at, lags, wanted.memory)
        s2 = lags.radial(counts)
        row: dict[str, Any] = {
            "length": correlation.correlation_length(lags.distance, s2, fraction),
            "distance": lags.distance.tolist(),
            "s2": s2.tolist(),
            "c2": lags.radial(joined).tolist(),
        }
        for axis, name in enumerate("zyx"):
            n, steps = phases.shape_zyx[axis], lags.reach[axis]
            lines = phases.index.size // n
            row[f"along_{name}"] = {
                "distance": (np.arange(steps + 1) * phases.spacing_zyx[axis]).tolist(),
                "s2": lags.along(counts, axis).tolist(),
                "lineal_path": basics.lineal_path(chords[axis][at], lines, steps).tolist(),
                "mean_chord": _mean_chord(chords[axis][at]) * phases.spacing_zyx[axis],
            }
        out.append(row)
    return out


def _mean_chord(counts: Any) -> float:
    number = counts.sum()
    return float((counts * np.arange(len(counts))).sum() / number) if number else 0.0


def _check(phases: Phases, wanted: Wanted, radius: float) -> None:
    """Refuse before anything is measured what would fail later, or take more memory than is allowed."""
    if "correlation" in wanted.topics:
        memory.check_correlation(phases, radius, wanted.memory)
    if "thickness" in wanted.topics:
        memory.check_thickness(phases, radius, wanted.memory)
    if wanted.split and (parted := _neck(phases, wanted.split)) is not None:
        memory.check_grains(phases, parted[1], radius, wanted.memory)


def _split(phases: Phases, parts: Numbered, wanted: Wanted, radius: float) -> Numbered:
    """The objects: connected parts, or grains if touching ones are to be parted."""
    if not wanted.split:
        return parts
    parted = _neck(phases, wanted.split)
    if parted is None:
        return give_boundary(phases, phases.number(wanted.split), wanted.memory)
    neck, phase = parted
    most = largest_radius(phases, phase, radius, wanted.memory)
    return part_grains(phases, phase, neck, most, wanted.memory)


def _neck(phases: Phases, split: str) -> tuple[float, int] | None:
    """The neck ratio and the phase of the grains; None for a boundary label."""
    try:
        neck = float(split)
    except ValueError:
        phases.number(split)
        return None
    if not 0 < neck < 1:
        raise BadInput(
            f"A neck ratio lies between 0 and 1, not {split}.",
            hint="Write --split 0.7, or the name of a boundary label.",
        )
    at = [k for k, value in enumerate(phases.values) if value != 0]
    if len(at) != 1:
        raise BadInput(
            f"Grains are parted in one label, and there are {len(at)} besides the background.",
            hint="Name it: --labels grain=1",
        )
    return neck, at[0]
