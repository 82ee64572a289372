"""What a search may change: keys of the run file, each with its choices or its range."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import Trial

from ctseg import plugins
from ctseg.config import RunConfig
from ctseg.config.settings import read_toml
from ctseg.errors import ConfigError
from ctseg.specs import training_only

WIDTHS = (0.5, 0.75, 1.0, 1.5)
"""Factors of the planned widths."""
PATCHES = (0.75, 1.0, 1.25)
"""Factors of each side of the planned patch."""
RATES = 4.0
"""The learning rate is searched from the planned one over this to the planned one times this."""
LOSSES = {"dice_ce": ("dice_ce", "dice_topk", "tversky")}
"""Losses that are tried beside the planned one."""
AUGMENTATION = {"gentle": ("gentle", "none"), "nnunet": ("nnunet", "gentle")}
"""Presets that are tried beside the planned one: those of less."""
NORMS = ("instance", "group", "batch")


@dataclass(frozen=True)
class Choices:
    """Some values, of any kind that a run file can hold."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        texts = [json.dumps(value) for value in self.values]
        return json.loads(trial.suggest_categorical(name, texts))

    def other(self, stored: Any, draw: np.random.Generator) -> Any:
        """Another choice than the stored one, as the study stores it."""
        others = [text for text in map(json.dumps, self.values) if text != stored]
        return others[draw.integers(len(others))]

    def as_parameter(self, value: Any) -> Any:
        """The value as the study stores it; None if it is none of the choices."""
        text = json.dumps(value)
        return text if text in [json.dumps(own) for own in self.values] else None


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, uniform in their logarithm with `log`, whole with `whole`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Trial, name: str) -> float | int:
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def other(self, stored: float, draw: np.random.Generator) -> float | int:
        """A number a quarter of the range above or below."""
        ends = [math.log(v) if self.log else v for v in (self.low, self.high)]
        step = (-1) ** draw.integers(2) * (ends[1] - ends[0]) / 4
        here = math.log(stored) if self.log else stored
        there = here + step if ends[0] <= here + step <= ends[1] else here - step
        value = math.exp(there) if self.log else float(there)
        return round(value) if self.whole else value

    def as_parameter(self, value: Any) -> Any:
        """The value as the study stores it; None if it lies outside."""
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return value if inside else None


Space = Mapping[str, Choices | Range]


def read_space(path: Path) -> dict[str, Choices | Range]:
    """A search space from a TOML file: `"train.lr" = {low = 1e-4, high = 1e-2, log = true}`, or a list of choices.

    Raises:
        FileProblem: the file is missing or no TOML.
        ConfigError: a range without ends, or a key without choices.
    """
    space = {
        key: parameter_of(key, value, path)
        for key, value in read_toml(path, "search space").items()
    }
    if not space:
        raise ConfigError(
            f"{path} names nothing to search for.",
            hint='A line is: "train.lr" = {low = 1e-4, high = 1e-2, log = true}',
        )
    return space


def parameter_of(key: str, value: Any, path: Path) -> Choices | Range:
    """Choices from a list, a range from a table with `low`, `high` and perhaps `log`."""
    if isinstance(value, list) and len(value) > 1:
        return Choices(tuple(value))
    if isinstance(value, dict) and {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        low, high, log = value["low"], value["high"], value.get("log", False)
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
        if (
            numbers
            and isinstance(log, bool)
            and math.isfinite(high - low)
            and low < high
            and (low > 0 or not log)
        ):
            return Range(low, high, log, whole=isinstance(low, int) and isinstance(high, int))
    raise ConfigError(
        f"{path}: {key} = {json.dumps(value, default=str)} is no list of two choices at least, and no range.",
        hint=f'"{key}" = [1, 2]   or   "{key}" = {{low = 1e-4, high = 1e-2, log = true}} (quotes around the key)',
    )


def planned_space(config: RunConfig, fixed: set[str]) -> dict[str, Choices | Range]:
    """Augmentation, convolutions, batch, learning rate, width, patch, loss and normalisation around a plan.

    What is likelier to help comes first.

    Args:
        config: complete.
        fixed: keys of the run file that the user set.
    """
    options, train = config.model.options, config.train
    assert train.lr and train.batch_size and train.patch_zyx
    spec = plugins.architecture(config.model.architecture)
    space: dict[str, Choices | Range] = {}
    if config.augment.preset in AUGMENTATION:
        space["augment.preset"] = Choices(AUGMENTATION[config.augment.preset])
    if options.get("convs_per_level") == 2:  # fewer make more steps
        levels = len(options["features"])
        encoder = Choices(([], [1] + [2] * (levels - 1), [1] * levels))
        for name, tried in (
            ("encoder_convs", encoder),
            ("decoder_convs", Choices(([], [1] * (levels - 1)))),
        ):
            if (
                list(options.get(name, [0])) in tried.values
            ):  # else the network has none, or the user's own
                space[f"model.options.{name}"] = tried
    batch = train.batch_size
    space["train.batch_size"] = _choices([max(1, batch // 2), batch, 2 * batch], batch)
    space["train.lr"] = Range(train.lr / RATES, train.lr * RATES, log=True)
    if isinstance(options.get("features"), list | tuple):
        widths = {tuple(_width(f * n) for n in options["features"]) for f in WIDTHS}
        space["model.options.features"] = _choices([*widths], list(options["features"]))
    unread = training_only(spec.config)
    constraints = spec.constraints_for(
        plugins.make_config(spec, {k: v for k, v in options.items() if k not in unread})
    )
    if constraints.fixed_tile_zyx is None and constraints.dims == 3:
        z, y, x = train.patch_zyx
        sizes = [constraints.fit((_side(f * z), _side(f * y), _side(f * x))) for f in PATCHES]
        space["train.patch_zyx"] = _choices([list(size) for size in sizes], list(train.patch_zyx))
    if config.loss.name in LOSSES and not config.loss.options:
        space["loss.name"] = Choices(LOSSES[config.loss.name])
    if isinstance(options.get("deep_supervision"), bool):
        space["model.options.deep_supervision"] = Choices((False, True))
    if options.get("norm") in NORMS:
        space["model.options.norm"] = Choices(NORMS)
    kept = {key: one for key, one in space.items() if key not in fixed}
    return {
        key: one for key, one in kept.items() if not isinstance(one, Choices) or len(one.values) > 1
    }


def _width(value: float) -> int:
    """A width that processors like: a multiple of 8."""
    return max(8, 8 * round(value / 8))


def _side(value: float) -> int:
    return max(1, round(value))


def _choices(values: list[Any], planned: Any) -> Choices:
    """The different values in order, the planned one among them."""
    texts = dict.fromkeys(json.dumps(value) for value in [*values, planned])
    return Choices(tuple(sorted(json.loads(text) for text in texts)))


def values_of(config: RunConfig, space: Space) -> dict[str, Any]:
    """The values that a configuration has for the keys of a space, as a study stores them, without those outside."""
    data = config.model_dump(mode="json")
    found = {}
    for key, parameter in space.items():
        value: Any = data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        stored = parameter.as_parameter(value)
        if stored is not None:
            found[key] = stored
    return found


def as_settings(values: Mapping[str, Any]) -> list[str]:
    """Values as `--set` takes them."""
    return [f"{key}={_toml(value)}" for key, value in values.items()]


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
