"""Converted networks and measured times on disk, for the next process on the same machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctseg.config.checking import parse_json
from ctseg.data.store import cache_folder
from ctseg.errors import CtsegError
from ctseg.files import whole_folder

FORMAT = 1
CACHE_BYTES = 2 * 2**30
"""The least recently used networks are removed above this."""
RECORD, DESCRIPTION, WEIGHTS = "record.json", "network.xml", "network.bin"


@dataclass(frozen=True)
class Record:
    """What was measured with a network on a tile.

    Attributes:
        torch_s, openvino_s: seconds a tile.
        difference: largest difference of OpenVINO's logits from PyTorch's in fp32, relative to the largest logit.
        allowed: its bound.
        start_s: seconds until a kept program is ready.
    """

    torch_s: float
    openvino_s: float
    difference: float
    allowed: float
    start_s: float

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.openvino_s:.3g} s a tile, PyTorch {self.torch_s:.3g} s; logits differ by at most "
            f"{self.difference:.1e} of the largest"
        )


def folder() -> Path:
    """Where converted networks lie."""
    return cache_folder() / "openvino"


def place(made_of: Mapping[str, Any]) -> Path:
    """The folder for what is made of these."""
    text = json.dumps({"format": FORMAT, **made_of}, sort_keys=True, default=str)
    return folder() / hashlib.sha256(text.encode()).hexdigest()[:32]


def read(path: Path) -> Record | None:
    """The record in a folder; None if there is none, or a damaged one."""
    try:
        found = parse_json((path / RECORD).read_text(encoding="utf-8"))
        record = Record(**{name: float(found["measured"][name]) for name in Record.__annotations__})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(math.isfinite(value) and value >= 0 for value in asdict(record).values()):
        return None
    return record


def read_network(path: Path) -> tuple[bytes, bytes] | None:
    """The two files of a converted network; None if one is missing or not what was written."""
    try:
        sums = parse_json((path / RECORD).read_text(encoding="utf-8"))["sha256"]
        parts = [(path / name).read_bytes() for name in (DESCRIPTION, WEIGHTS)]
        same = [hashlib.sha256(part).hexdigest() for part in parts] == [
            sums[name] for name in (DESCRIPTION, WEIGHTS)
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not same:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used last
    return parts[0], parts[1]


def write(
    path: Path,
    made_of: Mapping[str, Any],
    record: Record,
    save: Callable[[Path], None] | None = None,
) -> None:
    """Keep a record and, with `save`, the network that it writes; nothing is kept where the cache cannot be written."""
    with contextlib.suppress(OSError, CtsegError), whole_folder(path, replace=True) as temporary:
        if save is not None:
            save(temporary / DESCRIPTION)
        sums = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(temporary.iterdir())
        }
        document = {"made_of": dict(made_of), "measured": asdict(record), "sha256": sums}
        text = json.dumps(document, indent=1, default=str)
        (temporary / RECORD).write_text(text, encoding="utf-8")
    _limit()


def kept() -> Iterator[tuple[dict[str, Any], Record]]:
    """What is in the cache, the latest first: what it was made of, and what was measured."""
    for path in sorted(_folders(), key=_time, reverse=True):
        record = read(path)
        if record is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                yield (
                    dict(parse_json((path / RECORD).read_text(encoding="utf-8"))["made_of"]),
                    record,
                )


def _folders() -> list[Path]:
    try:
        return [path for path in folder().iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _limit() -> None:
    """Remove the least recently used networks of a cache that is too large."""
    total = 0
    for path in sorted(_folders(), key=_time, reverse=True):
        with contextlib.suppress(OSError):
            total += sum(file.stat().st_size for file in path.iterdir())
            if total > CACHE_BYTES:
                shutil.rmtree(path, ignore_errors=True)
