"""`predictions.json`: what predicted the scans of a folder, with which settings, and what came of each."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctseg.config.checking import parse_json
from ctseg.engine.evaluation.matching import PREDICTIONS
from ctseg.engine.inference.cascade import Cascade
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.model import Model, name_of
from ctseg.engine.prediction.provenance import (
    made_otherwise,
    model_digest,
    other_input,
    providers_of,
)
from ctseg.engine.prediction.request import Request
from ctseg.errors import FileProblem
from ctseg.files import disk_errors, write_text
from ctseg.temporary import held
from ctseg.version import __version__
from ctseg.volume.file_state import is_in_state

if TYPE_CHECKING:
    from ctseg.engine.prediction.case_job import CaseJob

HEADER = (
    "ctseg_version",
    "model",
    "model_digest",
    "tensors_sha256",
    "providers",
    "task",
    "settings",
)
PATIENCE = 5.0
"""Seconds after which a record is written although another process keeps the folder, as a training does."""


@dataclass
class _Lines:
    """Scans by name: what came of them, and why they failed."""

    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class PredictionRecord:
    """The record of a folder; what other calls left there stays unless a scan is predicted anew.

    Several processes may write it at a time: each adds its own scans to what is there then. A scan of a call with
    another model or other settings keeps them under `made_with`, with its task where that is another one, too.

    Args:
        folder: of the predictions.
        on_say: told where an earlier record is damaged and put aside.
    """

    def __init__(
        self,
        folder: Path,
        model: Model,
        request: Request,
        on_say: Callable[[str], None] | None = None,
    ) -> None:
        self._path = folder / PREDICTIONS
        self._header: dict[str, Any] = json.loads(json.dumps(header(model, request)))
        self._on_say = on_say
        self._new = _Lines()  # not written yet
        with _kept(folder):
            self._known = self._read()

    def done(self, case: dict[str, Any]) -> None:
        """A scan was predicted; that it failed before is forgotten."""
        self._new.failed.pop(case["case"], None)
        self._new.cases.pop(case["case"], None)
        self._new.cases[case["case"]] = case

    def failed(self, name: str, cause: str) -> None:
        """A scan failed; an earlier result of it is still there and stays in the record."""
        self._new.failed[name] = cause

    def write(self) -> None:
        """Add what is new and replace the file: a reader sees the old one or the new one.

        Raises:
            FileProblem: the place cannot be written.
        """
        with _kept(self._path.parent):
            lines = self._read()
            for name, case in self._new.cases.items():
                lines.failed.pop(name, None)
                lines.cases.pop(name, None)
                lines.cases[name] = case
            lines.failed |= self._new.failed
            document = {
                **self._header, "cases": list(lines.cases.values()), "failed": lines.failed,
            }  # fmt: skip
            write_text(self._path, json.dumps(document, indent=2, ensure_ascii=False))
        self._known, self._new = lines, _Lines()

    def is_changed(self, case: CaseJob) -> bool:
        """Whether something else wrote the main result of a scan since it was predicted, an editor for example."""
        line, main = self._known.cases.get(case.id, {}), case.places.main
        named = Path(str(line.get("output"))).name == main.name and not _is_empty(main)
        return named and "made" in line and not is_in_state(main, line["made"])

    def reason_to_redo(self, case: CaseJob) -> str | None:
        """Why the results of a scan that are there are not those that are asked for; None where they are."""
        empty = next((path for path in case.places.all if _is_empty(path)), None)
        if empty is not None:
            return f"{empty.name} is empty"
        line = self._known.cases.get(case.id)
        if line is None:
            return f"{PREDICTIONS} does not say what made it"
        if Path(str(line.get("output"))).name != case.places.main.name:
            return f"{PREDICTIONS} names another file of it"
        beside = line.get("beside")
        missing = set(case.places.names()) - set(beside if isinstance(beside, dict) else ())
        if missing:
            return f"its output of {min(missing)} was made by another call"
        made_with = line.get("made_with", self._header)
        why = made_otherwise(made_with if isinstance(made_with, dict) else {}, self._header)
        if why is not None:
            return why
        if "made_from" not in line:  # of an earlier version
            return _older_than_input(case)
        return other_input(line, case.images)

    def _read(self) -> _Lines:
        """What the file holds now; scans of other models or settings say so under `made_with`."""
        try:
            earlier = parse_json(self._path.read_text(encoding="utf-8"))
            cases = {_name(case): dict(case) for case in earlier.get("cases", [])}
            failed = {str(name): str(why) for name, why in dict(earlier.get("failed", {})).items()}
        except FileNotFoundError:
            return _Lines()
        except OSError as error:
            raise FileProblem(f"{self._path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._put_aside(error)
            return _Lines()
        before = {name: earlier.get(name) for name in HEADER}
        for case in cases.values():
            given = case.pop("made_with", before)
            if not isinstance(given, dict):
                case["made_with"] = given
            elif {"task": self._header["task"], **given} != self._header:
                made_with = {"task": before["task"], **given}
                if made_with["task"] in (None, self._header["task"]):
                    del made_with["task"]
                case["made_with"] = made_with
        return _Lines(cases, failed)

    def _put_aside(self, error: Exception) -> None:
        """Keep a damaged record under another name, so that nothing of it is lost."""
        aside = self._path.with_name(f"{PREDICTIONS}.damaged")
        with disk_errors(self._path):
            self._path.replace(aside)
        if self._on_say:
            self._on_say(
                f"{self._path} is damaged ({error}); it is kept as {aside.name}, and a new one is begun."
            )


def _name(case: Any) -> str:
    name = case["case"]
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name of a scan")
    return name


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the record meanwhile; a process that ends, however it does, lets it go."""
    until = time.monotonic() + PATIENCE
    while True:
        with held(folder) as free:
            if free or time.monotonic() > until:
                yield
                return
        time.sleep(0.01)


def _is_empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0


def _older_than_input(case: CaseJob) -> str | None:
    made = case.places.main.stat().st_mtime
    newer = any(ref.path.stat().st_mtime > made for ref in case.images)
    return "its scan was written anew since" if newer else None


def header(model: Model, request: Request) -> dict[str, Any]:
    """Model, checksums and settings."""
    card, settings = model.card, model.settings
    rules = card.predict.postprocess if request.rules is None else request.rules
    return {
        "ctseg_version": __version__,
        "model": name_of(model),
        "model_digest": model_digest(model),
        "tensors_sha256": [member.tensors_sha256 for member in card.members],
        "providers": providers_of(model),
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
            "backend": model.runtime.backend,
            "labels": None if request.labels is None else list(request.labels),
            "dtype": request.dtype,
            **_where(model),
            "postprocess": [rule.model_dump(mode="json", exclude_none=True) for rule in rules],
        },
    }


def _where(model: Model) -> dict[str, Any]:
    """The part of scans that is looked at, where it is not all of them; of several models, by each of them."""
    if isinstance(model, Ensemble):
        members = [_where(one) for one in model.models]
        return {"members": members} if any(members) else {}
    if not isinstance(model, Cascade):
        return {}
    stages = [
        {"model": name_of(stage.model), "margin_mm": stage.margin_mm,
         "labels": None if stage.labels is None else list(stage.labels)}
        for stage in model.stages
    ]  # fmt: skip
    region = model.region
    return {"region": None if region is None else [list(r) for r in region], "stages": stages}
