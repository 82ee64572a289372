"""The header of a weight file, read without torch, so that listing models stays quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctseg.card import HEADER_KEY, Card, parse_card
from ctseg.errors import CorruptWeights, FileProblem

MAX_HEADER = 100_000_000
"""Bytes; the limit that the safetensors format itself sets."""
MEND = "Copy or download the file again, or publish the model anew."


def read_card(path: Path) -> Card:
    """The card in the header of a weight file; the tensors are not touched.

    Raises:
        FileProblem: the file is missing or cannot be read.
        CorruptWeights: no safetensors file, truncated, or without a card.
    """
    return parse_card(_card_text(path), where=str(path))


def _card_text(path: Path) -> str:
    header = _header(path)
    metadata = header.get("__metadata__")
    text = metadata.get(HEADER_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise CorruptWeights(
            f"{path} holds weights without a ctseg card, so nothing says what network they belong to.",
            hint="Use a file that ctseg wrote: the best.safetensors of a run, or a zoo entry.",
        )
    return text


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: an 8-byte little-endian length, then so many bytes of JSON."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 2 <= length <= min(MAX_HEADER, size - 8) else b""
    except FileNotFoundError as error:
        raise FileProblem(
            f"The weight file {path} does not exist.", hint="See: ctseg zoo list"
        ) from error
    except OSError as error:
        raise FileProblem(f"The weight file {path} cannot be read: {error.strerror}.") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):  # JSON or UTF-8, or absurdly nested
        header = None
    if not isinstance(header, dict):
        raise CorruptWeights(f"{path} is no safetensors file, or only the start of one.", hint=MEND)
    ends = [
        v["data_offsets"][1] for k, v in header.items() if k != "__metadata__" and _is_tensor(v)
    ]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise CorruptWeights(f"{path} has {size} bytes and should have {expected}.", hint=MEND)
    return header


def _is_tensor(entry: Any) -> bool:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int)
