"""Numbers in the text of headers, with bounds: what a header says is not to be trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem

MOST_VOXELS = 1 << 46
"""Voxels along one axis, and of a volume: more than any disk holds, and far from what overflows."""
_LARGEST = 1e12
_INTEGER = re.compile(r"[+-]?\d{1,18}")


def integer(text: str, what: str, low: int, high: int = MOST_VOXELS) -> int:
    """A whole number within bounds.

    Raises:
        ValueError: anything else; for use within `reading`.
    """
    text = text.strip()
    if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError(f"its {what} is '{text[:40]}', not a whole number from {low} to {high}")
    return int(text)


def integers(text: str, what: str, count: int, low: int) -> list[int]:
    """So many whole numbers with blanks between them."""
    words = text.split(maxsplit=count)
    if len(words) != count:
        raise ValueError(f"its {what} is '{text[:40]}', not {count} whole numbers")
    return [integer(word, what, low) for word in words]


def floats(text: str, what: str, count: int) -> list[float]:
    """So many numbers with blanks or commas between them, each of a size that lengths have, or NaN.

    Raises:
        ValueError: anything else; for use within `reading`.
    """
    words = re.split(r"[\s,]+", text.strip(), maxsplit=count)
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if len(found) != count or any(abs(number) > _LARGEST for number in found):
        raise ValueError(f"its {what} is '{text[:60]}', not {count} numbers")
    return found


def check_voxels(shape: Sequence[int], what: object) -> None:
    """Refuse more voxels than there can be, before anything is computed with their number.

    Raises:
        FileProblem: too many.
    """
    if math.prod(shape) > MOST_VOXELS:
        raise FileProblem(
            f"{what} promises {' x '.join(map(str, shape))} voxels, more than any file holds.",
            hint="Its header is damaged; copy or export the scan again.",
        )


def parse_text(text: bytes, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Voxels that are written as text, blanks or commas between them.

    Raises:
        ValueError: no numbers, or values that the type does not hold.
        EOFError: fewer than there should be.
    """
    words = text.replace(b",", b" ").split(maxsplit=count)[:count]
    if len(words) < count:
        raise EOFError(f"it has {len(words)} of {count} voxels")
    try:
        if dtype.kind == "f":
            return np.array([float(word) for word in words], dtype)
        return np.array([int(word) for word in words], dtype)
    except OverflowError as error:
        raise ValueError(f"its voxels are no {dtype} numbers: {error}") from error
