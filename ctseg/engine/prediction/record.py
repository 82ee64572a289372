"""`predictions.json`: what predicted the scans of a folder, with which settings, and what came of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctseg.engine.evaluation.matching import PREDICTIONS
from ctseg.engine.inference.cascade import Cascade
from ctseg.engine.inference.model import Model, name_of
from ctseg.engine.prediction.request import Request
from ctseg.files import write_text
from ctseg.version import __version__

HEADER = ("ctseg_version", "model", "tensors_sha256", "task", "settings")


class PredictionRecord:
    """The record of a folder; what earlier calls left there stays unless a scan is predicted anew.

    A scan of an earlier call with another model or other settings keeps them under `made_with`.

    Args:
        folder: of the predictions.
    """

    def __init__(self, folder: Path, model: Model, request: Request) -> None:
        self._path = folder / PREDICTIONS
        self._header = header(model, request)
        self._cases: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, str] = {}
        self._read()

    def done(self, case: dict[str, Any]) -> None:
        """A scan was predicted; that it failed before is forgotten."""
        self._failed.pop(case["case"], None)
        self._cases.pop(case["case"], None)
        self._cases[case["case"]] = case

    def failed(self, name: str, cause: str) -> None:
        """A scan failed; an earlier result of it is still there and stays in the record."""
        self._failed[name] = cause

    def write(self) -> None:
        """Replace the file: a reader sees the old one or the new one.

        Raises:
            FileProblem: the place cannot be written.
        """
        document = {**self._header, "cases": list(self._cases.values()), "failed": self._failed}
        write_text(self._path, json.dumps(document, indent=2, ensure_ascii=False))

    def _read(self) -> None:
        try:
            earlier = json.loads(self._path.read_text(encoding="utf-8"))
            cases = {case["case"]: case for case in earlier.get("cases", [])}
            failed = dict(earlier.get("failed", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # there is none, or it is of no use
        before = {name: earlier.get(name) for name in HEADER}
        if before != json.loads(json.dumps(self._header)):
            made_with = {name: before[name] for name in HEADER if name != "task"}
            cases = {name: {"made_with": made_with, **case} for name, case in cases.items()}
        self._cases, self._failed = cases, failed


def header(model: Model, request: Request) -> dict[str, Any]:
    """Model, checksums and settings."""
    card, settings = model.card, model.settings
    rules = card.predict.postprocess if request.rules is None else request.rules
    return {
        "ctseg_version": __version__,
        "model": name_of(model),
        "tensors_sha256": [member.tensors_sha256 for member in card.members],
        "task": card.task.model_dump(mode="json"),
        "settings": {
            "tile_zyx": list(settings.tile_zyx),
            "overlap": settings.overlap,
            "blend": settings.blend,
            "mirror_axes": ["zyx"[axis] for axis in settings.mirror_axes],
            "batch_size": settings.batch_size,
            "skip_air": settings.skip_air,
            "precision": model.runtime.precision,
            "device": str(model.runtime.device),
            "labels": None if request.labels is None else list(request.labels),
            "dtype": request.dtype,
            **_where(model),
            "postprocess": [rule.model_dump(mode="json", exclude_none=True) for rule in rules],
        },
    }


def _where(model: Model) -> dict[str, Any]:
    """The part of scans that is looked at, where it is not all of them."""
    if not isinstance(model, Cascade):
        return {}
    stages = [
        {"model": name_of(stage.model), "margin_mm": stage.margin_mm,
         "labels": None if stage.labels is None else list(stage.labels)}
        for stage in model.stages
    ]  # fmt: skip
    region = model.region
    return {"region": None if region is None else [list(r) for r in region], "stages": stages}
