"""How a search starts and goes on: what its folder keeps of its plan, its space and what the user gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctseg.config import RunConfig, dump_config, load_config, override, parse_duration
from ctseg.config.augment import AugmentConfig
from ctseg.config.checking import parse_json
from ctseg.engine.training.job import Reporter
from ctseg.errors import BadInput
from ctseg.files import write_text
from ctseg.temporary import held
from ctseg_optuna.prepare import planned
from ctseg_optuna.space import Space, as_settings, parameter_of, planned_space, read_space

BASE, SPACE, START = "base.toml", "space.json", "start.json"
"""The planned configuration, the search space, and what the user gave: the split of the data, and the settings."""


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        folder: of the study; it is continued if it holds one.
        time: seconds for all trials of this process.
        run_time: time of a trial, as `train.time` takes it; None for that of a search that goes on, which takes no
            other, or for what `config` says.
        trials: most trials of this process.
        space: file of the search space; around the plan without one.
        storage: of the study, as Optuna takes it; a file in the folder by default.
        settings: of the run file, as `key=value`, which are fixed; a search that goes on takes no others.
        device: on which this process trains; None for that of `config`.
    """

    folder: Path
    time: float
    run_time: str | None = None
    trials: int | None = None
    space: Path | None = None
    storage: str | None = None
    settings: tuple[str, ...] = ()
    device: str | None = None


def set_up(config: RunConfig | None, how: Search, reporter: Reporter) -> tuple[RunConfig, Space]:
    """The planned configuration and the space of the study, made by the first process."""
    folder = how.folder
    if config is None and not (folder / BASE).is_file():
        raise BadInput(
            f"{folder} holds no search that can go on.",
            hint=f"Start one: ctseg tune DATA -o {folder}",
        )
    if folder.is_dir() and not (folder / BASE).is_file() and any(folder.iterdir()):
        raise BadInput(
            f"{folder} is not empty and no search.", hint="Choose another place with -o."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder) as free:
        if not free:
            raise BadInput(
                f"Another process is setting up the search in {folder}.",
                hint="Start this one again when the other one's first trial has begun.",
            )
        if (folder / BASE).is_file():
            base, space = load_config(folder / BASE), _read_space(folder)
            _check_same(config, how, base, space)
            return base, space
        assert config is not None
        base = planned(config, reporter)
        fixed = {setting.partition("=")[0].strip() for setting in how.settings}
        if config.augment != AugmentConfig(preset=config.augment.preset):
            fixed.add("augment.preset")  # another preset would replace what the user chose
        space = read_space(how.space) if how.space else planned_space(base, fixed)
        if not space:
            raise BadInput("Every setting is fixed; there is nothing to search for.")
        override(
            base, as_settings({key: _first(one) for key, one in space.items()})
        )  # unknown keys
        write_text(folder / SPACE, json.dumps(_space_document(space), indent=2) + "\n")
        start = {"train": config.data.train, "val": config.data.val, "set": how.settings}
        write_text(folder / START, json.dumps(start, indent=2) + "\n")
        write_text(folder / BASE, dump_config(base))
    return base, space


def _check_same(config: RunConfig | None, how: Search, base: RunConfig, space: Space) -> None:
    """Refuse what a search that goes on would ignore."""
    other = ""
    if config is not None and Path(config.data.path).resolve() != Path(base.data.path).resolve():
        other = f"on {base.data.path}, not on {config.data.path}"
    elif config is not None and config.data.fold != base.data.fold:
        other = f"on fold {base.data.fold}, not on fold {config.data.fold}"
    elif (
        how.run_time
        and base.train.time
        and parse_duration(how.run_time) != parse_duration(base.train.time)
    ):
        other = f"with trials of {base.train.time}, not of {how.run_time}"
    elif how.settings and sorted(how.settings) != sorted(started(how.folder)["set"]):
        other = "with other settings (--set)"
    elif how.space and _space_document(read_space(how.space)) != _space_document(space):
        other = f"of the space in {how.folder / SPACE}, not of {how.space}"
    if other:
        raise BadInput(
            f"{how.folder} holds a search {other}.",
            hint=f"Choose another place with -o, or go on as it began: ctseg tune -o {how.folder}",
        )


def started(folder: Path) -> dict[str, tuple[str, ...]]:
    """What the user gave: `train` and `val` of the data, and `set`."""
    path = folder / START
    document = _read(path) if path.is_file() else {}  # earlier searches have none
    found = {key: document.get(key, []) for key in ("train", "val", "set")}
    for words in found.values():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise BadInput(f"{path} is damaged.", hint="Begin a new search with -o.")
    return {key: tuple(words) for key, words in found.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        return dict(document)
    except (OSError, TypeError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be read: {error}.", hint="Begin a new search with -o."
        ) from error


def _first(parameter: Any) -> Any:
    values = getattr(parameter, "values", None)
    return parameter.low if values is None else values[0]


def _space_document(space: Space) -> dict[str, Any]:
    return {
        key: list(one.values) if hasattr(one, "values")
        else {"low": one.low, "high": one.high, "log": one.log}
        for key, one in space.items()
    }  # fmt: skip


def _read_space(folder: Path) -> Space:
    path = folder / SPACE
    return {key: parameter_of(key, value, path) for key, value in _read(path).items()}
