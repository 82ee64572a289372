"""The typed steps of preprocessing, one file a family. Each step that moves voxels has its inverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctseg.config.checking import fill_dataclass
from ctseg.data.steps.axes import Orient, Transpose
from ctseg.data.steps.base import OnValues, Record, Step, keeps_grid, per_channel
from ctseg.data.steps.case_intensity import NormaliseCase, RescaleCase
from ctseg.data.steps.crop import Crop, CropToBody
from ctseg.data.steps.intensity import Clip, Normalise, Rescale
from ctseg.data.steps.pad import CropOrPad, PadToMultiple
from ctseg.data.steps.resample import Downscale, Resample, Resampling
from ctseg.data.steps.target import NormaliseTarget
from ctseg.errors import ConfigError, UnknownName

__all__ = [
    "STEPS",
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
    "keeps_grid",
    "parse_step",
    "per_channel",
    "step_to_dict",
]

STEPS: Mapping[str, Any] = {
    step.kind: step
    for step in (
        Orient, Transpose, Crop, CropToBody, CropOrPad, PadToMultiple, Resample, Downscale,
        Clip, Normalise, NormaliseCase, Rescale, RescaleCase, NormaliseTarget,
    )
}  # fmt: skip


def parse_step(data: Mapping[str, Any]) -> Step:
    """A step from its plain form, e.g. `{"kind": "clip", "low": [-160], "high": [240]}`.

    Raises:
        UnknownName: no step of that kind.
        ConfigError: an unknown option or an impossible value.
    """
    options = dict(data)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError("A preprocessing step needs a kind.", hint=f"Kinds: {', '.join(STEPS)}")
    if kind not in STEPS:
        raise UnknownName("preprocessing step", kind, STEPS)
    step: Step = fill_dataclass(STEPS[kind], options, owner=kind)
    return step


def step_to_dict(step: Step) -> dict[str, Any]:
    """The plain form of a step; `channels` is left out where the step is for all of them."""
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(step).items()
        if not (name == "channels" and not value)
    }
    return {"kind": step.kind, **options}
