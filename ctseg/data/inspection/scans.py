"""What is in single scans, and in folders of scans that no layout binds together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ctseg.data.inspection.checks import check_ct, is_unsized
from ctseg.data.inspection.dataset import look, look_at_label
from ctseg.data.inspection.report import CaseReport, DataReport
from ctseg.errors import CtsegError
from ctseg.specs import ImageRef, VolumeSource
from ctseg.volume.io import open_volume

_MOST_LABELS = 200
_ALIKE = 0.9


def inspect_volume(path: Path, **options: Any) -> CaseReport:
    """Look at a single file or DICOM folder.

    Raises:
        FileProblem: it cannot be opened.
    """
    report = CaseReport(path.name)
    source = open_volume(path, **options)
    try:
        names = [""] if source.channels == 1 else [str(i) for i in range(source.channels)]
        look(source, report, names, hashlib.blake2b())
        if _like_labels(source):
            report.intensity.clear()
            look_at_label(ImageRef(path, options), None, None, report)
        elif str(source.metadata.get("modality")) == "CT":
            check_ct([report], 0)
        if is_unsized(report):
            report.problems.append("The header has no voxel size, and 1 mm is taken.")
    finally:
        source.close()
    return report


def _like_labels(source: VolumeSource) -> bool:
    """Whether a volume looks like a label map: few whole values from 0 on, and neighbours that are alike."""
    if source.channels != 1 or source.dtype.kind not in "ubi":
        return False
    depth = source.geometry.shape_zyx[0]
    values: set[int] = set()
    alike = total = 0
    for z in sorted({int(z) for z in np.linspace(0, depth - 1, 32)}):
        plane = source.read((z, z + 1))[0, 0]
        values |= {int(v) for v in np.unique(plane)}
        if len(values) > _MOST_LABELS or min(values) < 0:
            return False
        alike += int((plane[:, 1:] == plane[:, :-1]).sum())
        total += max(plane[:, 1:].size, 1)
    return len(values) > 1 and alike / total > _ALIKE


def inspect_scans(
    folder: Path, paths: Iterable[Path], advance: Callable[[str], None] | None = None
) -> DataReport:
    """Look at volumes that no layout binds together; label maps among them are told by their few values."""
    report = DataReport(folder.resolve().name, folder, "scans", ("",), None, "", 0)
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            found = inspect_volume(path)
            found.id = name
        except CtsegError as error:
            found = CaseReport(name, problems=[error.message])
        report.cases.append(found)
        if advance is not None:
            advance(name)
    return report
