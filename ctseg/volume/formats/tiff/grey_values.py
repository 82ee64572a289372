"""Grey values of calibrated TIFF files: ImageJ stores signed scans as unsigned numbers and the line that maps them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats.raw_source import Scaling

_LINE, _NONE = 0, 20
"""Numbers of ImageJ's calibration functions: a straight line, and no calibration."""
_WHOLE = ("uint8", "int8", "uint16", "int16", "uint32", "int32")


def scaling_of(tif: tifffile.TiffFile, dtype: np.dtype[Any], path: Path) -> Scaling | None:
    """The scaling from stored numbers to the grey values that ImageJ shows; None where both are equal.

    ImageJ calibrates unsigned numbers of 8 and 16 bits.

    Args:
        dtype: type of the stored numbers.

    Raises:
        FileProblem: the calibration is no straight line.
    """
    if not tif.is_imagej or dtype.kind != "u" or dtype.itemsize > 2:
        return None
    metadata = tif.imagej_metadata or {}
    function = metadata.get("cf", _NONE)
    if function == _NONE:
        return None
    if function != _LINE or metadata.get("zeroclip"):
        raise FileProblem(
            f"{path} has grey values with a calibration of ImageJ (function {function}) other than a straight line.",
            hint="Apply it in Fiji with Image > Type > 32-bit, and save the result.",
        )
    offset, slope = _number(metadata.get("c0")), _number(metadata.get("c1"))
    if offset is None or slope is None or (offset, slope) == (0, 1):
        return None  # without two numbers, ImageJ does not calibrate either
    return _straight_line(offset, slope, dtype)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _straight_line(offset: float, slope: float, dtype: np.dtype[Any]) -> Scaling:
    """The scaling `offset + slope * stored`."""
    values = _dtype_of(offset, slope, dtype)

    def convert(stored: NDArray[Any]) -> NDArray[Any]:
        if values.kind == "f":
            with np.errstate(over="ignore"):  # infinite where the file says so
                return (stored * np.float64(slope) + offset).astype(values)
        out: NDArray[Any] = stored.astype(values)  # whole numbers wrap around and wrap back
        out *= np.array(int(slope)).astype(values)
        out += np.array(int(offset)).astype(values)
        return out

    return Scaling(values, convert)


def _dtype_of(offset: float, slope: float, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The smallest type that holds every value on the line as a whole number, else float32."""
    if offset.is_integer() and slope.is_integer():
        ends = sorted((offset, offset + slope * float(np.iinfo(dtype).max)))
        for name in _WHOLE:
            limits = np.iinfo(name)
            if limits.min <= ends[0] and ends[1] <= limits.max:
                return np.dtype(name)
    return np.dtype("float32")
