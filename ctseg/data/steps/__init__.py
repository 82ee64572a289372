"""The typed steps of preprocessing, one file a family. Each step that moves voxels has its inverse."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from ctseg import plugins
from ctseg.config import PreprocessConfig
from ctseg.config.checking import fill_dataclass
from ctseg.data.steps.axes import Orient, Transpose
from ctseg.data.steps.base import OnValues, Record, Step, keeps_grid, per_channel
from ctseg.data.steps.case_intensity import NormaliseCase, RescaleCase
from ctseg.data.steps.crop import Crop, CropToBody
from ctseg.data.steps.intensity import Clip, Normalise, Rescale
from ctseg.data.steps.pad import CropOrPad, PadToMultiple
from ctseg.data.steps.resample import Downscale, Resample, Resampling
from ctseg.data.steps.target import NormaliseTarget
from ctseg.errors import ConfigError, PluginError

__all__ = [
    "Clip",
    "Crop",
    "CropOrPad",
    "CropToBody",
    "Downscale",
    "Normalise",
    "NormaliseCase",
    "NormaliseTarget",
    "OnValues",
    "Orient",
    "PadToMultiple",
    "Record",
    "Resample",
    "Resampling",
    "Rescale",
    "RescaleCase",
    "Step",
    "Transpose",
    "foreign_steps",
    "keeps_grid",
    "parse_step",
    "per_channel",
    "step_to_dict",
]

METHODS = (
    "fit", "fit_parts", "grid", "image", "weight", "label", "input_box", "part", "track_axes",
)  # fmt: skip


def parse_step(data: Mapping[str, Any], *, package: str | None = None) -> Step:
    """A step from its plain form, e.g. `{"kind": "clip", "low": [-160], "high": [240]}`.

    Args:
        package: whose step is meant where two plugins claim the kind.

    Raises:
        UnknownName: no step of that kind.
        NameClash: two plugins claim the kind.
        ConfigError: an unknown option or an impossible value.
        PluginError: a plugin gives something else than a step.
    """
    options = dict(data)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        known = ", ".join(plugins.registry().entries("step"))
        raise ConfigError("A preprocessing step needs a kind.", hint=f"Kinds: {known}")
    entry = plugins.registry().get("step", kind, package=package)
    step: Step = fill_dataclass(_class_of(entry), options, owner=kind)
    return step


def _class_of(entry: plugins.Registered) -> type[Any]:
    found: Any = entry.spec.load()
    lacks = [name for name in (*METHODS, "fits", "local") if not hasattr(found, name)]
    problem = ""
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        problem = "is no dataclass"
    elif getattr(found, "kind", None) != entry.spec.name:
        problem = f"has the kind {getattr(found, 'kind', None)!r}"
    elif lacks:
        problem = f"lacks {', '.join(lacks)}"
    if problem:
        raise PluginError(
            f"The class of the step '{entry.spec.name}' from the plugin {entry.plugin.owner} {problem}."
        )
    return cast("type[Any]", found)


def foreign_steps(config: PreprocessConfig) -> dict[str, plugins.PluginInfo]:
    """The plugins of the steps that do not ship with ctseg, by kind."""
    table = plugins.registry().entries("step")
    kinds = dict.fromkeys(str(step.get("kind")) for step in config.steps)
    found = {kind: table[kind].plugin for kind in kinds if kind in table}
    return {kind: plugin for kind, plugin in found.items() if plugin.module != plugins.BUILTIN}


def step_to_dict(step: Step) -> dict[str, Any]:
    """The plain form of a step; `channels` is left out where the step is for all of them."""
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(step).items()
        if not (name == "channels" and not value)
    }
    return {"kind": step.kind, **options}
