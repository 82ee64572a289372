"""The parts of a run's report that were fixed at its start: plan, fingerprint, environment, configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctseg.errors import FileProblem
from ctseg.markup import Cell, Markup, definitions, element, markup, table
from ctseg.metrics.units import volume_unit
from ctseg.report.html.page import folded, wide

_STATISTICS = ("percentile_00_5", "median", "percentile_99_5", "mean", "std")


def choices_table(choices: object) -> Markup:
    """The planner's choices with their reasons."""
    if not isinstance(choices, dict):
        return markup()
    rows = [
        (name, _plain(choice.get("value")), str(choice.get("reason", "")))
        for name, choice in choices.items()
        if isinstance(choice, dict)
    ]
    return wide(table(("choice", "value", "reason"), rows), "Plan") if rows else markup()


def _plain(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        if value and all(isinstance(one, int | float) for one in value):
            return ", ".join(f"{one:.6g}" for one in value)
        return "; ".join(_plain(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value)


def fingerprint(found: object) -> Markup:
    """What the training cases are like."""
    if not isinstance(found, dict):
        return markup()
    try:
        facts: dict[str, object] = {"training cases": found["cases"]}
        facts["voxels (z, y, x)"] = _ranges(found["shapes_zyx"], "{:.0f}")
        facts["spacing in mm (z, y, x)"] = _ranges(found["spacings_zyx"], "{:.4g}")
        if found.get("modalities"):
            facts["modalities"] = ", ".join(map(str, found["modalities"]))
        volumes = [(name, float(ml)) for name, ml in found["volumes_ml"].items()]
        intensities = [
            [f"channel {number}", *(float(channel[key]) for key in _STATISTICS)]
            for number, channel in enumerate(found["foreground"])
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return markup()
    unit = volume_unit(ml for _, ml in volumes)
    rows = [(name, Cell(f"{ml * unit.factor:.4g}", ml)) for name, ml in volumes]
    heads = ("intensity of the foreground", "0.5 %", "median", "99.5 %", "mean", "deviation")
    return markup(
        definitions(facts),
        element("h3", "Labels"),
        wide(table(("label", f"mean volume in {unit.name}"), rows), "Volumes of labels") if rows else None,
        wide(table(heads, intensities), "Intensities"),
    )  # fmt: skip


def _ranges(rows: Any, form: str) -> str:
    """The median of each axis with its smallest and largest value."""
    columns = np.asarray(rows, np.float64).T
    parts = []
    for column in columns:
        low, middle, high = (form.format(f(column)) for f in (np.min, np.median, np.max))
        parts.append(middle if low == high else f"{middle} ({low} to {high})")
    return " × ".join(parts)


def environment(plan: Mapping[str, Any]) -> Markup:
    """The device and the software at the start of the run."""
    found = plan.get("environment")
    facts = {str(k): _plain(v) for k, v in found.items()} if isinstance(found, dict) else {}
    if isinstance(plan.get("runtime"), str):
        facts = {"device": plan["runtime"], **facts}
    return definitions(facts) if facts else markup()


def configuration(folder: Path) -> Markup:
    """The run file.

    Raises:
        FileProblem: it cannot be read.
    """
    try:
        text = (folder / "config.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileProblem(f"{folder / 'config.toml'} cannot be read: {error}.") from error
    return folded("config.toml", element("pre", text))
