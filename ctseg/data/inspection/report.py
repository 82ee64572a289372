"""What an inspection found: sizes, intensities, labels, problems and notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Intensity:
    """The values of one channel.

    Attributes:
        channel: its name.
        low, high: smallest and largest finite value.
        p005, median, p995: the quantiles 0.5 %, 50 % and 99.5 %.
    """

    channel: str
    low: float
    p005: float
    median: float
    p995: float
    high: float


@dataclass(frozen=True)
class LabelSize:
    """How much of a case one label takes."""

    name: str
    voxels: int
    ml: float


@dataclass
class CaseReport:
    """One case; fields are empty where its files could not be read.

    `notes` say what a format left out or put right, as copies of DICOM slices; they are no problems.
    """

    id: str
    shape_zyx: tuple[int, int, int] | None = None
    spacing_xyz: tuple[float, float, float] | None = None
    origin_xyz: tuple[float, float, float] | None = None
    unit: str = "mm"
    orientation: str = ""
    dtype: str = ""
    intensity: list[Intensity] = field(default_factory=list)
    labels: list[LabelSize] = field(default_factory=list)
    labelled: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class DataReport:
    """A data set: its cases, and what concerns several of them; `notes` are no problems."""

    name: str
    path: Path
    reader: str
    channels: tuple[str, ...]
    task: Mapping[str, Any] | None
    licence: str
    folds: int
    cases: list[CaseReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def all_problems(self) -> list[str]:
        return self.problems + [f"{c.id}: {text}" for c in self.cases for text in c.problems]
