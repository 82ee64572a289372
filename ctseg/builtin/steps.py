"""The built-in preprocessing steps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from ctseg.extension_specs import StepSpec
from ctseg.hookspecs import hookimpl

STEPS = (
    ("orient", "axes", "Orient", "flip and permute axes to the order of the patient, LPS"),
    ("transpose", "axes", "Transpose", "permute axes as they are stored"),
    ("crop", "crop", "Crop", "crop to the box of voxels above a threshold"),
    ("crop_to_body", "crop", "CropToBody", "crop to the body, without table and cushions"),
    ("crop_or_pad", "pad", "CropOrPad", "crop or pad to a size"),
    ("pad_to_multiple", "pad", "PadToMultiple", "pad to multiples of a size"),
    ("resample", "resample", "Resample", "resample to a spacing"),
    ("downscale", "resample", "Downscale", "average blocks of voxels"),
    ("clip", "intensity", "Clip", "clip to a range"),
    ("normalise", "intensity", "Normalise", "subtract a mean and divide by a deviation, both fixed"),
    ("normalise_case", "case_intensity", "NormaliseCase", "the same with the scan's own mean and deviation"),
    ("rescale", "intensity", "Rescale", "map a fixed range onto another"),
    ("rescale_case", "case_intensity", "RescaleCase", "map two percentiles of the scan onto a range"),
    ("normalise_target", "target", "NormaliseTarget", "normalise the target of a regression"),
)  # fmt: skip


def _load(module: str, name: str) -> Callable[[], type[Any]]:
    def load() -> type[Any]:
        found = getattr(importlib.import_module(f"ctseg.data.steps.{module}"), name)
        return cast("type[Any]", found)

    return load


@hookimpl
def ctseg_steps() -> Sequence[StepSpec]:
    """Axes, crops, padding, resampling and intensities."""
    return [StepSpec(kind, _load(module, name), text) for kind, module, name, text in STEPS]
