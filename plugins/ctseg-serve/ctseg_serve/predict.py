"""Predicts an upload with the engine of `ctseg predict`."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ctseg.engine.inference.model import Model
from ctseg.engine.prediction.case_job import MemoryOptions
from ctseg.engine.prediction.folder import Execution, Listener, predict_folder
from ctseg.engine.prediction.inputs import Item
from ctseg.engine.prediction.outputs import check_request
from ctseg.engine.prediction.request import Request
from ctseg.errors import BadInput
from ctseg.specs import ImageRef, frozen
from ctseg.volume.formats.nifti.header import read_nifti_header
from ctseg.volume.io import open_ref, writer_format
from ctseg_serve.dicom_zip import unpack
from ctseg_serve.limits import Limits
from ctseg_serve.problems import Problem
from ctseg_serve.receive import NIFTI, SERIES

MEDIA_TYPES = {
    "nii.gz": "application/gzip", "nii": "application/octet-stream", "seg.dcm": "application/dicom",
    "rt.dcm": "application/dicom",
}  # fmt: skip


class Wanted(BaseModel):
    """The query parameters of a prediction."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["nii.gz", "nii", "seg.dcm", "rt.dcm"] = Field(
        "nii.gz",
        description="Format of the label map; seg.dcm (DICOM SEG) and rt.dcm (RTSTRUCT) are for DICOM scans.",
    )
    labels: str | None = Field(
        None, description="Names of the labels to write, separated by commas; all by default."
    )
    series: str | None = Field(
        None, description="SeriesInstanceUID, or its end, if a zip holds several series."
    )
    spacing: str | None = Field(
        None,
        description="Voxel size as X,Y,Z in mm, or with a unit, e.g. 5um; for scans that lack it.",
    )

    def request(self, folder: Path) -> Request:
        """What the engine writes into a folder."""
        names = None
        if self.labels is not None:
            names = tuple(name.strip() for name in self.labels.split(",") if name.strip())
        return Request(folder / f"mask.{self.format}", labels=names)


@dataclass(frozen=True)
class Predicted:
    """A finished prediction.

    Attributes:
        path: the label map.
        notes: what may make it wrong and what was changed on the way, as in `predictions.json`.
    """

    path: Path
    notes: tuple[str, ...]


def check_wanted(model: Model, wanted: Wanted) -> None:
    """Reject a request that the model cannot fulfil, before its scan is received.

    Raises:
        BadInput: labels that the model does not have, or a format that is not installed.
    """
    request = wanted.request(Path())
    if not _writes(request.output):
        raise BadInput(
            f"This server does not write {wanted.format}.",
            hint="Its operator can install ctseg-dicom; or ask for format=nii.gz.",
        )
    check_request(model, request)


def predict(
    model: Model, upload: Path, wanted: Wanted, *, limits: Limits, check: Callable[[], None]
) -> Predicted:
    """Predict an upload into its folder.

    Args:
        upload: a scan, or a zip of a DICOM series.
        check: called while a zip is unpacked, once the scan is read, for every tile, and when all is written; raises
            to stop.

    Raises:
        CtsegError: as for `ctseg predict`.
        Problem: a scan beyond the limits.
    """
    check()
    folder = upload.parent
    scan = upload
    if upload.name == SERIES:
        scan = unpack(upload, folder / "series", largest=limits.size, check=check)
        upload.unlink()
    options = {"series": wanted.series, "spacing": wanted.spacing}
    ref = ImageRef(scan, frozen({name: text for name, text in options.items() if text is not None}))
    _check_size(ref, limits)
    check()
    summary = predict_folder(
        model,
        [Item("scan", (ref,))],
        wanted.request(folder),
        execution=Execution(fit=MemoryOptions(limits.memory), overlapped=False),
        listener=Listener(on_progress=lambda *_: check(), on_say=lambda _: check()),
    )
    for error in summary.failed.values():
        raise error
    done = summary.done[0]
    return Predicted(Path(done["output"]), tuple(done["notes"]))


def _check_size(ref: ImageRef, limits: Limits) -> None:
    """Reject a scan that unpacks to more than the limit, by its header."""
    with closing(open_ref(ref)) as source:
        voxels = math.prod(source.geometry.shape_zyx) * source.channels
        size, what = voxels * source.dtype.itemsize, "voxels"
    if ref.path.name in NIFTI:  # what precedes the voxels is unpacked, too
        size, what = size + read_nifti_header(ref.path).offset, "voxels and bytes before them"
    if size > limits.size:
        raise Problem(
            413,
            f"The scan has {size / 1e9:.3g} GB of {what}; this server takes {limits.size / 1e9:.3g} GB.",
        )


def _writes(path: Path) -> bool:
    try:
        return writer_format(path) is not None
    except BadInput:
        return False
