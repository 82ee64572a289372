"""pytorch-3dunet's transforms of a scan as steps of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctseg.data.steps import Normalise, NormaliseCase, Rescale, RescaleCase, Step
from ctseg.errors import BadInput

KNOWN = ("Standardize", "Normalize", "PercentileNormalizer", "ToTensor")
RANDOM = (
    "RandomFlip", "RandomRotate90", "RandomRotate", "RandomContrast", "ElasticDeformation", "GaussianBlur3D",
    "AdditiveGaussianNoise", "AdditivePoissonNoise",
)  # fmt: skip
"""Augmentation, which a configuration of training lists among them."""
PATCHES = "statistics of each patch: those of the whole scan are taken (global_normalization)"
OTHER_VERSIONS = (
    "Normalize over all channels together, as versions but 1.8.7 to 1.9.3 do even with channelwise"
)


def steps_of(settings: Mapping[str, Any]) -> tuple[list[Step], list[str]]:
    """The steps, and what could not be taken over.

    Raises:
        BadInput: a transform that has no counterpart here.
    """
    loaders = settings.get("loaders") or {}
    phase: Mapping[str, Any] = next(
        (loaders[key] for key in ("test", "val", "train") if loaders.get(key)), {}
    )
    listed = (phase.get("transformer") or {}).get("raw") or []
    whole = bool(loaders.get("global_normalization", False))
    steps: list[Step] = []
    left_out: list[str] = []
    for transform in listed:
        name = transform.get("name") if isinstance(transform, dict) else None
        if name in RANDOM:
            continue
        if name not in KNOWN:
            raise BadInput(
                f"The configuration asks for the transform '{name}', which has no counterpart here.",
                hint=f"Known: {', '.join(KNOWN)}",
            )
        step, without = _step(name, transform, whole)
        if step is not None:
            steps.append(step)
        left_out += without
    return steps, list(dict.fromkeys(left_out))


def _step(name: str, given: Mapping[str, Any], whole: bool) -> tuple[Step | None, list[str]]:
    """The step, and what it leaves out; only Standardize takes the statistics of `global_normalization`."""
    own = bool(given.get("channelwise", False))
    if name == "Standardize":
        if given.get("mean") is not None and given.get("std") is not None:
            return Normalise((float(given["mean"]),), (float(given["std"]),)), []
        return NormaliseCase(joint=whole or not own), [] if whole else [PATCHES]
    if name == "Normalize":
        low, high = given.get("min_value"), given.get("max_value")
        bottom = 0.0 if given.get("norm01") else -1.0
        if low is not None and high is not None:
            return Rescale(float(low), float(high), to_low=bottom, to_high=1.0, clip=True), []
        if low is not None or high is not None:
            raise BadInput(
                "Normalize has one of min_value and max_value; it must have both or none."
            )
        step = RescaleCase(to_low=bottom, to_high=1.0, joint=not own)
        return step, [PATCHES, OTHER_VERSIONS] if own else [PATCHES]
    if name == "PercentileNormalizer":
        low, high = given.get("pmin"), given.get("pmax")
        if low is None or high is None:
            raise BadInput(
                "PercentileNormalizer is given no pmin and pmax, without which it cannot run."
            )
        ends = (float(low), float(high))
        return RescaleCase(ends, to_low=0.0, to_high=1.0, clip=False, joint=not own), [PATCHES]
    if given.get("normalize"):
        return RescaleCase(to_low=0.0, to_high=1.0, joint=True), [PATCHES]
    return None, []
