"""What is wanted of every scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """What is wanted of every scan.

    Attributes:
        output: a folder; or a file, where there is one scan.
        probabilities: write the probability of each label rather than the labels.
        labels: names of those to keep, all where it is None.
        skip_existing: leave scans alone whose output is there.
        suffix: of the written files; that of the input where it is empty.
    """

    output: Path
    probabilities: bool = False
    labels: tuple[str, ...] | None = None
    skip_existing: bool = False
    suffix: str = ""
