"""How the values of scans are brought to one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ctseg.data.steps import Clip, Normalise, NormaliseCase, Step
from ctseg.planning.fingerprint import Fingerprint

if TYPE_CHECKING:
    from ctseg.planning.plan import Plan

RARE = 0.01
"""A label that fills a smaller share of the scans may lie beyond any percentile of theirs."""


def normalisation(
    found: Fingerprint, channels: tuple[str, ...], one_volume: bool, plan: Plan
) -> list[Step]:
    """The steps that clip and scale; the reason goes into the plan.

    Args:
        channels: `CT` and `CBCT` hold Hounsfield units.
        one_volume: whether all cases are parts of one scan, and so have one scale.
    """
    statistics = found.foreground
    if not (one_volume or all(name.upper() in ("CT", "CBCT") for name in channels)):
        reason = f"the channels ({', '.join(channels)}) are not CT: each scan has its own scale"
        if _some_label_is_rare(found):
            reason += "; not clipped, since a rare label might be all that lies beyond a percentile"
            plan.note("normalisation", "per case", reason)
            return [NormaliseCase()]
        plan.note("normalisation", "per case", reason)
        return [NormaliseCase(percentiles=(0.5, 99.5))]
    if any(s["percentile_99_5"] <= s["percentile_00_5"] for s in statistics):
        plan.note(
            "normalisation", "per case",
            "the foreground has one value: clipped to it, or divided by its deviation, a scan would show nothing",
        )  # fmt: skip
        return [NormaliseCase()]
    fixed = Normalise(
        tuple(_short(s["mean"], s) for s in statistics),
        tuple(_short(s["std"], s) for s in statistics),
    )
    if one_volume:
        plan.note(
            "normalisation", "fixed",
            "the cases are parts of one scan: the mean and deviation of its training part's foreground "
            "serve them all, whatever a part holds",
        )  # fmt: skip
        return [fixed]
    plan.note(
        "normalisation", "foreground",
        "Hounsfield units mean the same in every scan: clipped to the 0.5 and 99.5 percentiles "
        "of the foreground, then its mean and deviation",
    )  # fmt: skip
    low = tuple(_short(s["percentile_00_5"], s) for s in statistics)
    high = tuple(_short(s["percentile_99_5"], s) for s in statistics)
    return [Clip(low, high), fixed]


def _some_label_is_rare(found: Fingerprint) -> bool:
    """Whether a label is there and fills next to nothing of the scans: grains of metal, calcifications."""
    mm3 = np.prod(found.shapes_zyx, 1) * np.prod(found.spacings_zyx, 1)
    least = RARE * float(mm3.mean()) / 1000
    return any(0 < volume < least for volume in found.volumes_ml.values())


def _short(value: float, statistics: Mapping[str, float]) -> float:
    """A value with three decimals, or as many as give a small deviation three digits."""
    deviation = statistics["std"]
    return round(value, 3 if deviation >= 0.1 else 2 - math.floor(math.log10(deviation)))
