"""Damage to single elements of a DICOM file, at any depth."""

from __future__ import annotations

import functools
import io
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from tests.hostile.mutate import Mutator, number, scramble

HEADER = 1500
"""Bytes from the preamble on in which most elements of a small file lie."""
NUMBERS = (0, 1, -1, 2, 3, 255, 65535, 2**31 - 1, 2**32 - 1, 1e-30, 1e30, 0.5, float("nan"), float("inf"))  # fmt: skip
PIXELS = 0x7FE00010
Way = tuple[tuple[int, int], ...]
"""Tag of a sequence and index of an item in it, from the outside in."""
_bytes = scramble(HEADER)


def element(content: bytes, draw: random.Random) -> bytes:
    """One element with another value, without one, or gone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(io.BytesIO(content), force=True)
            way, tags = draw.choice(_tags(content))
            holder = data
            for sequence, index in way:
                holder = holder[sequence].value[index]
            tag = draw.choice(tags)
            found = holder[tag]
            if draw.random() < 0.2:
                del holder[tag]
            elif found.VR == "SQ":
                items = list(found.value)
                found.value = draw.choice((items[:-1], items * 2, items[::-1], []))
            else:
                found.value = _other(found, draw)
            out = io.BytesIO()
            data.save_as(out)
            return out.getvalue()
    except Exception:  # a copy that is damaged already, or a value that pydicom does not write
        return _bytes(content, draw)


WAYS: tuple[Mutator, ...] = (_bytes, _bytes, number(HEADER), element, element, element)


@functools.lru_cache(64)
def _tags(content: bytes) -> list[tuple[Way, list[int]]]:
    """Tags of a file and of each item of its sequences, with the way to that item; without those of pixels."""
    data = pydicom.dcmread(io.BytesIO(content), force=True)
    return [
        (way, [int(tag) for tag in item.keys() if tag != PIXELS])  # noqa: SIM118
        for way, item in _items(data, ())
    ]


def _items(data: Dataset, way: Way) -> Iterator[tuple[Way, Dataset]]:
    yield way, data
    for found in data:
        if found.VR == "SQ":
            for index, item in enumerate(found.value):
                yield from _items(item, (*way, (int(found.tag), index)))


def _other(found: Any, draw: random.Random) -> Any:
    many = found.value if isinstance(found.value, list | pydicom.multival.MultiValue) else None
    if found.VR in ("DS", "IS", "US", "UL", "FD", "FL", "SS"):
        value = draw.choice(NUMBERS)
        if found.VR in ("US", "UL", "SS", "IS"):
            value = int(value) & 0x7FFF if np.isfinite(value) else 7
        if many is None:
            return value
        values = list(many)
        values[draw.randrange(len(values))] = value
        return draw.choice((values, values[:-1], values * 2))
    if isinstance(found.value, bytes):
        return draw.choice((b"", found.value[:-2], found.value * 2, b"\xff" * 8))
    return draw.choice(
        ("", "1.2.3", "x" * 100, "\\\\", "\0", "\u00e9", "CT", "SEG", "BINARY", "1\\2")
    )
