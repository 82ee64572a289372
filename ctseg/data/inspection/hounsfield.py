"""Hounsfield units told by their values: scans that hold them without saying so, and CT that does not."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ctseg import plugins
from ctseg.specs import DataSet

AIR, HIGH = (-3100.0, -900.0), 200.0
"""CT has air or a padding value near -1000 to -3024, and more than water; no other modality is stored so."""
CT = ("CT", "CBCT")
_UNSIGNED, _SPAN, _SHIFT = 60_000.0, 20.0, 1024.0
Range = tuple[float, float]


def is_ct(channel: str) -> bool:
    """Whether a channel of that name holds Hounsfield units."""
    return channel.upper() in CT


def looks_like_ct(ranges: Sequence[Range]) -> bool:
    """Whether the smallest and largest values of every scan are those of a CT."""
    return bool(ranges) and all(
        AIR[0] <= low <= AIR[1] and high >= HIGH and float(low).is_integer() for low, high in ranges
    )


def unnamed_ct(dataset: DataSet, ranges: Sequence[Sequence[Range]]) -> str | None:
    """A sentence on channels that look like CT and are not named so, with the option that names them.

    Args:
        ranges: smallest and largest value of each channel, case by case.
    """
    known = [case for case in ranges if len(case) == len(dataset.channels)]
    alike = [
        not is_ct(name) and looks_like_ct([case[index] for case in known])
        for index, name in enumerate(dataset.channels)
    ]
    if not any(alike):
        return None
    names = ["CT" if ct else name for name, ct in zip(dataset.channels, alike, strict=True)]
    found = ", ".join(f"'{n}'" for n, ct in zip(dataset.channels, alike, strict=True) if ct)
    lows, highs = zip(*(case[alike.index(True)] for case in known), strict=True)
    return (
        f"The values of {found} look like Hounsfield units ({min(lows):g} to {max(highs):g}), but the channel is not "
        f"named CT, so that each scan is normalised on its own. If it is CT: {_naming(dataset, names)}"
    )


def _naming(dataset: DataSet, names: Sequence[str]) -> str:
    if "channels" in plugins.reader(dataset.reader).options:
        return f"--option channels={','.join(names)}"
    if dataset.reader == "hdf5":
        return f"set the attribute 'channels' of the scan's dataset to {','.join(names)!r}."
    return f"name it so in {dataset.path / 'dataset.json'}: {', '.join(names)}."


def impossible_ct(low: float, high: float) -> str | None:
    """Why a scan of these smallest and largest values cannot hold Hounsfield units; None where it can."""
    if high >= _UNSIGNED:
        return (
            f"its CT values reach {high:g}, as numbers below 0 do that are read without a sign (64512 is -1024); "
            "save the scan as signed integers (int16)"
        )
    if low < high and high - low <= _SPAN:
        return (
            f"its CT values span {low:g} to {high:g} only; Hounsfield units run from -1000 (air) on"
        )
    if low >= 0 and high <= 255:
        return f"its CT values span {low:g} to {high:g}, those of a picture of 8 bits, no Hounsfield units"
    return None


def unshifted_ct(low: float, p005: float, p995: float) -> str | None:
    """Whether a CT scan begins at 0 where it should at air: it is stored without its rescale intercept."""
    if low >= 0 and p005 < 200 and p995 > 800:
        return f"its CT values begin at {low:g}, where air is -1000 HU; was the rescale intercept left out?"
    return None


def shifted_ct(case: Sequence[float], others: Sequence[Sequence[float]]) -> str | None:
    """Whether a CT scan lies 1024 above the others, as one without its rescale intercept does.

    Args:
        case: its smallest value and its quantile 0.5 %.
        others: the same of the other scans.
    """
    if len(others) < 2:
        return None
    usual = [median(values) for values in zip(*others, strict=True)]
    above = [value - middle for value, middle in zip(case, usual, strict=True)]
    if all(abs(value - _SHIFT) <= 100 for value in above):
        return (
            f"its CT values begin at {case[0]:g}, those of the other scans at {usual[0]:g}: "
            f"about {_SHIFT:g} above them; was the rescale intercept left out?"
        )
    return None
