"""Numbers in the text of headers, checked against bounds, since headers may be damaged or hostile."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem

MOST_VOXELS = 1 << 46
"""Most voxels along one axis, and in a volume: more than any disk holds, and far below an overflow."""
_LARGEST = 1e12
_INTEGER = re.compile(r"[+-]?\d{1,18}")


def integer(text: str, what: str, low: int, high: int = MOST_VOXELS) -> int:
    """Parse a whole number within bounds.

    Raises:
        ValueError: anything else; for use within `reading`.
    """
    text = text.strip()
    if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError(f"its {what} is '{text[:40]}', not a whole number from {low} to {high}")
    return int(text)


def integers(text: str, what: str, count: int, low: int) -> list[int]:
    """Parse a given number of whole numbers separated by blanks."""
    words = text.split(maxsplit=count)
    if len(words) != count:
        raise ValueError(f"its {what} is '{text[:40]}', not {count} whole numbers")
    return [integer(word, what, low) for word in words]


def floats(text: str, what: str, count: int) -> list[float]:
    """Parse a given number of numbers separated by blanks or commas, each within the range of lengths, or NaN.

    Raises:
        ValueError: anything else; for use within `reading`.
    """
    words = re.split(r"[\s,]+", text.strip(), maxsplit=count)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or any(abs(number) > _LARGEST for number in numbers):
        raise ValueError(f"its {what} is '{text[:60]}', not {count} numbers")
    return numbers


def check_voxels(shape: Sequence[int], what: object) -> None:
    """Refuse more voxels than a file can hold, before their number is used.

    Raises:
        FileProblem: too many.
    """
    if math.prod(shape) > MOST_VOXELS:
        raise FileProblem(
            f"{what} promises {' x '.join(map(str, shape))} voxels, more than any file holds.",
            hint="Its header is damaged; copy or export the scan again.",
        )


def parse_text(text: bytes, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Parse voxels written as text, separated by blanks or commas.

    Raises:
        ValueError: the text is not numbers, or the type does not hold the values.
        EOFError: there are fewer values than expected.
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
