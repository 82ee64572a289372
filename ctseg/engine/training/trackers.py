"""Services that show the numbers of a run besides its folder: `train.trackers`."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctseg import plugins
from ctseg.config import RunConfig
from ctseg.config.checking import parse_json
from ctseg.errors import BadInput
from ctseg.extension_specs import Tracker, TrackerSpec
from ctseg.files import write_text

IDS = "trackers.json"
"""In the run folder: the id that each service gave the run, so that a resumed run goes on in it."""
PROJECT = "ctseg"
MOST_TEXT = 500
"""Longest value of a parameter that MLflow takes, whatever its store."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse unknown trackers, and those whose package is not installed.

    Raises:
        UnknownName: with the nearest one.
        BadInput: with what to install.
    """
    for name in names:
        spec: TrackerSpec = plugins.registry().get("tracker", name).spec
        if importlib.util.find_spec(spec.needs) is None:
            raise BadInput(
                f"The tracker '{name}' needs the package {spec.needs}, which is not installed.",
                hint=f'Install it: pip install "{spec.install}"',
            )


class Trackers:
    """The trackers of a run. One that fails is left out from then on; the training goes on.

    Args:
        say: told of a tracker that fails.
    """

    def __init__(self, folder: Path, config: RunConfig, say: Callable[[str], None]) -> None:
        self._say = say
        self._open: dict[str, Tracker] = {}
        if not config.train.trackers:
            return
        known, data = _ids(folder), config.model_dump(mode="json")
        for name in config.train.trackers:
            spec: TrackerSpec = plugins.registry().get("tracker", name).spec
            try:
                self._open[name] = spec.open(folder, data, known.get(name))
            except Exception as error:
                self._failed(name, error)
        ids = {name: tracker.run_id for name, tracker in self._open.items()}
        write_text(folder / IDS, json.dumps(known | ids))

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Give all of them a line of `log.jsonl`."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.write(kind, fields)
            except Exception as error:
                del self._open[name]
                self._failed(name, error)

    def close(self) -> None:
        for name, tracker in self._open.items():
            try:
                tracker.close()
            except Exception as error:
                self._failed(name, error)
        self._open.clear()

    def _failed(self, name: str, error: Exception) -> None:
        text = " ".join(str(error).split())
        self._say(
            f"Warning: {name} gets no numbers of this run any more: {type(error).__name__}: {text}"
        )


def _ids(folder: Path) -> dict[str, str]:
    try:
        content = parse_json((folder / IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}


def numbers_of(kind: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of `log.jsonl`, with names such as `dice/liver` and, between validations, `step/loss`."""
    prefix = "step/" if kind == "step" else ""

    def flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from flat(f"{name}/{key}", inner)
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)

    pairs = (pair for key, value in fields.items() if key != "step" for pair in flat(key, value))
    return dict(pairs)


class Wandb:
    """Weights & Biases: a run of the project `ctseg` (or $WANDB_PROJECT), named after the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], run_id: str | None) -> None:
        import os

        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=folder.name,
            dir=str(folder),
            id=run_id,
            resume="allow" if run_id else None,
            config=dict(config),
        )
        self.run_id = str(self._run.id)

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        if "step" in fields:
            self._run.log(numbers_of(kind, fields), step=int(fields["step"]))

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow: a run of the experiment `ctseg` (or $MLFLOW_EXPERIMENT_NAME), named after the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], run_id: str | None) -> None:
        import os

        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient()
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
            found = self._client.get_experiment_by_name(name)
            place = found.experiment_id if found else self._client.create_experiment(name)
            run = self._client.create_run(place, run_name=folder.name)
            run_id = str(run.info.run_id)
            for section, values in config.items():
                for key, value in values.items() if isinstance(values, Mapping) else [("", values)]:
                    text = str(value)[:MOST_TEXT]
                    self._client.log_param(run_id, f"{section}.{key}".strip("."), text)
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id = run_id

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        for name, value in numbers_of(kind, fields).items():
            allowed = "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)
            self._client.log_metric(self.run_id, allowed, value, step=int(fields.get("step", 0)))

    def close(self) -> None:
        self._client.set_terminated(self.run_id)
