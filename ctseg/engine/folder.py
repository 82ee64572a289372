"""Many scans, one model: loaded once, finished cases skipped, failures reported case by case."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ctseg
from ctseg.engine.inputs import Item
from ctseg.engine.pairs import PREDICTIONS
from ctseg.engine.request import Request
from ctseg.engine.scan import Wanted, predict_scan
from ctseg.engine.segmenter import Segmenter
from ctseg.errors import BadInput, CtsegError, FileProblem
from ctseg.files import disk_errors, write_text
from ctseg.volume.io import format_of, writer_format


@dataclass
class Summary:
    """What came of a folder.

    Attributes:
        done: a record a scan: output, seconds and volumes in ml.
        skipped: ids that were there already.
        failed: cause by id.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, CtsegError] = field(default_factory=dict)


def predict_folder(
    segmenter: Segmenter,
    items: Sequence[Item],
    request: Request,
    *,
    on_progress: Callable[[float, float, str], None] | None = None,
) -> Summary:
    """Predict every scan; one that fails does not keep the others.

    A folder of outputs gets `predictions.json` with model, checksum, settings, times and volumes.

    Raises:
        BadInput: one output file for several scans, or a name that cannot be written.
        FileProblem: the output's place cannot be written.
    """
    targets = outputs(items, request)
    segmenter.written_labels(request.labels)  # an unknown label is refused before anything is done
    single = targets_file(request)
    with disk_errors(request.output):
        (request.output.parent if single else request.output).mkdir(parents=True, exist_ok=True)
    summary = Summary()
    for number, item in enumerate(items):
        if request.skip_existing and targets[item.id].exists():
            summary.skipped.append(item.id)
            continue

        def on_tiles(done: int, total: int, at: int = number, name: str = item.id) -> None:
            if on_progress:
                on_progress(at + done / total, len(items), name)

        try:
            summary.done.append(predict_one(segmenter, item, targets[item.id], request, on_tiles))
        except FileProblem as error:
            if error.__cause__ is not None and isinstance(error.__cause__, OSError) and not single:
                _record(segmenter, request, summary)  # a full disk fails every scan that follows
            summary.failed[item.id] = error
        except CtsegError as error:
            summary.failed[item.id] = error
        if not single:
            _record(segmenter, request, summary)
    return summary


def predict_one(
    segmenter: Segmenter,
    item: Item,
    target: Path,
    request: Request,
    on_tiles: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Predict one scan, write it whole, and say what it holds."""
    begun = time.monotonic()
    product = segmenter.product(probabilities=request.probabilities, labels=request.labels)
    labels = () if request.probabilities else segmenter.written_labels(request.labels)
    counts = Counts()
    on_slab = counts.add if labels else None
    geometry = predict_scan(
        segmenter,
        item.images,
        [Wanted(target, product, labels, on_slab=on_slab)],
        on_tiles=on_tiles,
    )
    ml = geometry.voxel_volume_mm3 / 1000
    return {
        "case": item.id,
        "input": [str(ref.path) for ref in item.images],
        "output": str(target),
        "seconds": round(time.monotonic() - begun, 3),
        "volumes_ml": {label.name: counts.of(label.value) * ml for label in labels},
    }


class Counts:
    """How many voxels have each value, of a label map that comes slab by slab."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, slab: NDArray[Any]) -> None:
        if slab.dtype.itemsize <= 2:
            found = np.bincount(slab.ravel())
            pairs = [(int(v), int(found[v])) for v in np.flatnonzero(found)]
        else:
            values, counts = np.unique(slab, return_counts=True)
            pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
        for value, count in pairs:
            self._counts[value] = self._counts.get(value, 0) + count

    def of(self, value: int) -> int:
        return self._counts.get(value, 0)


def targets_file(request: Request) -> bool:
    """Whether the output names one volume, be it a store that is a folder, rather than a folder of them."""
    try:
        spec = writer_format(request.output)
    except BadInput:
        return False
    return not request.output.is_dir() or spec.recognise(request.output)


def outputs(items: Sequence[Item], request: Request) -> dict[str, Path]:
    """Where each scan's result goes.

    Raises:
        BadInput: several scans for one file, or an output that is one of the inputs.
    """
    if targets_file(request):
        if len(items) != 1:
            raise BadInput(
                f"{len(items)} scans cannot all be written to {request.output}.",
                hint="Give a folder with -o.",
            )
        found = {items[0].id: request.output}
    else:
        if request.output.suffix and not request.output.exists():
            writer_format(request.output)  # says which suffixes there are
        found = {
            item.id: request.output / f"{item.id}{suffix_for(item, request)}" for item in items
        }
    inputs = {ref.path.resolve() for item in items for ref in item.images}
    for target in found.values():
        if target.resolve() in inputs:
            raise BadInput(
                f"The result would replace the scan {target}.", hint="Choose another place with -o."
            )
    return found


def suffix_for(item: Item, request: Request) -> str:
    """The suffix asked for, or that of the input's format; NIfTI where that cannot be written."""
    if request.suffix:
        suffix = request.suffix if request.suffix.startswith(".") else f".{request.suffix}"
        writer_format(Path(f"x{suffix}"))
        return suffix
    if request.probabilities:
        return ".h5"
    spec = format_of(item.path)
    writable = spec is not None and spec.writer is not None and spec.suffixes
    return spec.suffixes[0] if spec is not None and writable else ".nii.gz"


def _record(segmenter: Segmenter, request: Request, summary: Summary) -> None:
    """Write `predictions.json`; what an earlier call left there about other scans is kept."""
    path = request.output / PREDICTIONS
    earlier: list[dict[str, Any]] = []
    if path.is_file():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8")).get("cases", [])
        except (ValueError, AttributeError):
            earlier = []
    now = {record["case"] for record in summary.done}
    settings = segmenter.settings
    card = segmenter.card
    document = {
        "ctseg_version": ctseg.__version__,
        "model": card.name or card.architecture,
        "tensors_sha256": [member.tensors_sha256 for member in card.members],
        "task": card.task.model_dump(mode="json"),
        "settings": {
            "tile_zyx": list(settings.tile_zyx),
            "overlap": settings.overlap,
            "blend": settings.blend,
            "mirror_axes": ["zyx"[a] for a in settings.mirror_axes],
            "precision": segmenter.runtime.precision,
            "device": str(segmenter.runtime.device),
            "labels": None if request.labels is None else list(request.labels),
        },
        "cases": [c for c in earlier if c.get("case") not in now] + summary.done,
        "failed": {name: error.message for name, error in summary.failed.items()},
    }
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False))
