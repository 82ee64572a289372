"""Units of lengths and volumes in tables: the unit in which most of a column's values have visible digits.

Files keep millimetres and millilitres; only tables choose a unit. This module imports no NumPy.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit, and the factor that converts mm or ml into it."""

    name: str
    factor: float = 1.0

    def of(self, value: float | None) -> float | None:
        """Convert a value in mm or ml into this unit."""
        return None if value is None else value * self.factor


_LENGTHS = (Unit("mm"), Unit("um", 1e3))
_VOLUMES = (Unit("ml"), Unit("mm3", 1e3), Unit("um3", 1e12))
_LEAST = {"mm": 0.1, "ml": 0.01, "mm3": 0.01}
"""The next smaller unit is chosen if the median is below this value."""
PLAIN = Unit("")


def length_unit(values_mm: Iterable[float | None]) -> Unit:
    """mm or um."""
    return _unit(values_mm, _LENGTHS)


def volume_unit(values_ml: Iterable[float | None]) -> Unit:
    """ml, mm3 or um3."""
    return _unit(values_ml, _VOLUMES)


def unit_for(title: str, values: Iterable[float | None]) -> tuple[str, Unit]:
    """The column header in the unit that suits its values, which are in mm or ml if the title ends with that unit."""
    stem, _, unit = title.rpartition(" ")
    if unit not in ("mm", "ml"):
        return title, PLAIN
    chosen = (length_unit if unit == "mm" else volume_unit)(values)
    return f"{stem} {chosen.name}", chosen


def length_text(mm: float) -> str:
    """A single length, e.g. `1 mm` or `10 um`."""
    unit = length_unit([mm])
    return f"{mm * unit.factor:g} {unit.name}"


def _unit(values: Iterable[float | None], units: tuple[Unit, ...]) -> Unit:
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return units[0]
    middle = statistics.median_low(sizes)
    for unit in units[:-1]:
        if middle * unit.factor >= _LEAST[unit.name]:
            return unit
    return units[-1]
