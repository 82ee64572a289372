"""`OutputPaths`: the paths of all results of a scan.

`-o mask.nii.gz` names the label map; further results are written next to it: `mask_probabilities.h5`,
`mask_confidence.nii.gz`, `mask_masks/liver.nii.gz`, `mask_statistics.csv`. In a folder of many scans each kind of
result has a subfolder, such as `out/probabilities/case.h5` for `out/case.nii.gz`, so that the folder itself holds only
label maps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctseg.engine.prediction.request import Request
from ctseg.specs import Label, Task, frozen
from ctseg.task import select
from ctseg.volume.file_names import stem_of
from ctseg.volume.io import writer_format

PLAIN = ".nii.gz"
"""Suffix of other results if the format of the label map holds only label maps."""


@dataclass(frozen=True)
class OutputPaths:
    """The paths of one scan's results; None for results that are not requested.

    Attributes:
        main: the label map, or the values of a regression.
        probabilities: the probability of each label.
        confidence: the confidence map.
        uncertainty: the uncertainty map.
        instances: the map of object numbers.
        table: the table of objects.
        statistics, statistics_table: the statistics of the labels, as JSON and CSV.
        preview: the picture of the scan with the label map.
        masks: masks by label name.
        also: the label map in further formats, by suffix.
    """

    main: Path
    probabilities: Path | None = None
    confidence: Path | None = None
    uncertainty: Path | None = None
    instances: Path | None = None
    table: Path | None = None
    statistics: Path | None = None
    statistics_table: Path | None = None
    preview: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=frozen)
    also: Mapping[str, Path] = field(default_factory=frozen)

    @property
    def _single(self) -> dict[str, Path]:
        """The paths of requested results that are one file each, by kind."""
        kinds = (
            "probabilities", "confidence", "uncertainty", "instances", "table", "statistics", "statistics_table",
            "preview",
        )  # fmt: skip
        return {kind: path for kind in kinds if (path := getattr(self, kind)) is not None}

    @property
    def all(self) -> tuple[Path, ...]:
        """The paths of all requested results."""
        return (self.main, *self._single.values(), *self.masks.values(), *self.also.values())

    @property
    def there(self) -> bool:
        """Whether all of them exist."""
        return all(path.exists() for path in self.all)

    def names(self) -> dict[str, Any]:
        """The paths of all results but the main one, by kind, as plain data."""
        names: dict[str, Any] = {kind: str(path) for kind, path in self._single.items()}
        for kind, paths in (("masks", self.masks), ("also", self.also)):
            if paths:
                names[kind] = {name: str(path) for name, path in paths.items()}
        return names


def output_paths_of(task: Task, request: Request, target: Path) -> OutputPaths:
    """The paths of one scan's results.

    Args:
        target: path of the label map: the request's output itself, or a file in that folder.

    Raises:
        BadInput: no format with a writer has this suffix.
        UnknownName: the task lacks a requested label.
    """
    stem, spec = stem_of(target), writer_format(target)
    suffix = target.name[len(stem) :]
    plain = suffix.removeprefix(".seg") if suffix.startswith(".seg.") else suffix
    if spec.needs_reference:  # such a format holds only segmentations of images
        plain = PLAIN
    probabilities = as_suffix(request.probabilities_suffix)

    def path_of(kind: str, ending: str) -> Path:
        if target == request.output:
            return target.with_name(f"{stem}_{kind}{ending}")
        return target.parent / kind / f"{stem}{ending}"

    def copy_of(ending: str) -> Path:
        if target == request.output:
            return target.with_name(f"{stem}{ending}")
        return target.parent / ending.strip(".") / f"{stem}{ending}"

    wanted = requested_labels(task, request.labels)
    return OutputPaths(
        target,
        path_of("probabilities", probabilities) if request.probabilities else None,
        path_of("confidence", plain) if request.confidence else None,
        path_of("uncertainty", plain) if request.uncertainty else None,
        path_of("instances", plain) if request.instances else None,
        path_of("instances", ".csv") if request.instances else None,
        path_of("statistics", ".json") if request.statistics else None,
        path_of("statistics", ".csv") if request.statistics else None,
        path_of("preview", ".png") if request.preview else None,
        frozen(_masks(path_of("masks", ""), suffix, wanted) if request.masks else {}),
        frozen({end: copy_of(end) for end in map(as_suffix, request.also)}),
    )


def requested_labels(task: Task, names: tuple[str, ...] | None) -> tuple[Label, ...]:
    """The requested foreground labels."""
    return task.foreground if names is None else select(task, names)


def as_suffix(text: str) -> str:
    """The suffix with its dot.

    Raises:
        BadInput: no format with a writer has this suffix.
    """
    suffix = text if text.startswith(".") else f".{text}"
    writer_format(Path(f"x{suffix}"))
    return suffix


def _masks(folder: Path, suffix: str, labels: tuple[Label, ...]) -> dict[str, Path]:
    """One file for each label, named after it as far as all file systems allow."""
    paths: dict[str, Path] = {}
    taken: set[str] = set()
    for label in labels:
        name = re.sub(r"[^\w+\-. ]", "_", label.name).strip(". ") or f"label_{label.value}"
        while name.lower() in taken:  # some file systems ignore case
            name = f"{name}_{label.value}"
        taken.add(name.lower())
        paths[label.name] = folder / f"{name}{suffix}"
    return paths
