"""Under which names the results of a scan are written.

`-o mask.nii.gz` names the label map; what else is asked for lies beside it: `mask_probabilities.h5`,
`mask_confidence.nii.gz`, `mask_masks/liver.nii.gz`. In a folder of many scans each kind has a folder of its own,
`out/probabilities/case.h5` beside `out/case.nii.gz`, so that a folder of label maps holds label maps alone.
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
"""What is no label map goes here where the format of the map holds nothing else."""


@dataclass(frozen=True)
class OutputPaths:
    """Where the results of one scan go; None for what nobody asked for.

    Attributes:
        main: the label map, or the values of a regression.
        instances: of numbers of objects; `table` lists these.
        masks: by name of the label.
    """

    main: Path
    probabilities: Path | None = None
    confidence: Path | None = None
    instances: Path | None = None
    table: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=frozen)

    @property
    def all(self) -> tuple[Path, ...]:
        """All of them; where they are there, nothing is left to do."""
        beside = (self.probabilities, self.confidence, self.instances, self.table)
        return (self.main, *(path for path in beside if path), *self.masks.values())

    @property
    def there(self) -> bool:
        """Whether every one exists."""
        return all(path.exists() for path in self.all)

    def names(self) -> dict[str, Any]:
        """What lies beside the main result, by kind, as plain data."""
        found: dict[str, Any] = {
            kind: str(path)
            for kind in ("probabilities", "confidence", "instances", "table")
            if (path := getattr(self, kind)) is not None
        }
        return found | ({"masks": {n: str(p) for n, p in self.masks.items()}} if self.masks else {})


def output_paths_of(task: Task, request: Request, target: Path) -> OutputPaths:
    """Where the results of one scan go.

    Args:
        target: the scan's label map: the request's output itself, or a file in that folder.

    Raises:
        BadInput: a name that no format can be written to.
        UnknownName: a label that the task does not have.
    """
    stem, spec = stem_of(target), writer_format(target)
    suffix = target.name[len(stem) :]
    plain = suffix.removeprefix(".seg") if suffix.startswith(".seg.") else suffix
    if spec.needs_reference:  # such a format holds what was drawn on images, and nothing else
        plain = PLAIN
    probabilities = as_suffix(request.probabilities_suffix)

    def beside(kind: str, ending: str) -> Path:
        if target == request.output:
            return target.with_name(f"{stem}_{kind}{ending}")
        return target.parent / kind / f"{stem}{ending}"

    return OutputPaths(
        target,
        beside("probabilities", probabilities) if request.probabilities else None,
        beside("confidence", plain) if request.confidence else None,
        beside("instances", plain) if request.instances else None,
        beside("instances", ".csv") if request.instances else None,
        frozen(_masks(beside("masks", ""), suffix, requested_labels(task, request.labels)))
        if request.masks
        else frozen(),
    )


def requested_labels(task: Task, names: tuple[str, ...] | None) -> tuple[Label, ...]:
    """The foreground labels that are asked for."""
    return task.foreground if names is None else select(task, names)


def as_suffix(text: str) -> str:
    """A suffix with its dot.

    Raises:
        BadInput: no format of this suffix can be written.
    """
    suffix = text if text.startswith(".") else f".{text}"
    writer_format(Path(f"x{suffix}"))
    return suffix


def _masks(folder: Path, suffix: str, labels: tuple[Label, ...]) -> dict[str, Path]:
    """A file a label, named by it as far as all file systems let it."""
    found: dict[str, Path] = {}
    taken: set[str] = set()
    for label in labels:
        name = re.sub(r"[^\w+\-. ]", "_", label.name).strip(". ") or f"label_{label.value}"
        while name.lower() in taken:  # some systems do not tell capitals from small letters
            name = f"{name}_{label.value}"
        taken.add(name.lower())
        found[label.name] = folder / f"{name}{suffix}"
    return found
