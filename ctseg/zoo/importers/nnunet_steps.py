"""nnU-Net's preprocessing as steps of ours, in its order: reader, transposition, crop, intensities, resampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.data.steps import (
    Clip,
    Crop,
    Normalise,
    NormaliseCase,
    Orient,
    Resample,
    RescaleCase,
    Step,
    Transpose,
)
from ctseg.errors import BadInput

READERS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "NaturalImage2DIO": None,
    "Tiff3DIO": None,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}
"""Readers and the orientation that they turn scans to."""
SPLINE, TORCH, NONE = (
    "resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack",
)  # fmt: skip
_SEPARATE = {None: "auto", True: "always", False: "never"}
SMALLEST_STD = 1e-8


def steps_of(plans: Mapping[str, Any], settings: Mapping[str, Any], channels: int) -> list[Step]:
    """The steps of one configuration.

    Args:
        plans: the whole of plans.json.
        settings: its configuration, with what it inherits.
        channels: of a scan.

    Raises:
        BadInput: a class or function that has no counterpart here, by name.
    """
    _known("preprocessor", settings.get("preprocessor_name", ""), ["DefaultPreprocessor"])
    _known("label manager", plans.get("label_manager", "LabelManager"), ["LabelManager"])
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    _known("reader", reader, list(READERS))
    steps: list[Step] = []
    orientation = READERS[reader]
    if orientation:
        steps.append(Orient(to=orientation))
    z, y, x = (int(axis) for axis in plans.get("transpose_forward", (0, 1, 2)))
    if (z, y, x) != (0, 1, 2):
        steps.append(Transpose(order_zyx=(z, y, x)))
    steps.append(Crop(nonzero=True))
    steps += _intensities(plans, settings, channels)
    return [*steps, *_resampling(settings)]


def _known(what: str, name: Any, known: Sequence[str]) -> None:
    if name not in known:
        raise BadInput(
            f"The plans ask for the {what} '{name}', which has no counterpart here.",
            hint=f"Known: {', '.join(known)}",
        )


def _intensities(
    plans: Mapping[str, Any], settings: Mapping[str, Any], channels: int
) -> list[Step]:
    schemes, masked = settings["normalization_schemes"], settings["use_mask_for_norm"]
    if len(schemes) != channels or len(masked) != channels:
        raise BadInput(
            f"The plans normalise {len(schemes)} channels; dataset.json names {channels}."
        )
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, (scheme, mask) in enumerate(zip(schemes, masked, strict=True)):
        with_mask = bool(mask) and scheme == "ZScoreNormalization"
        groups.setdefault((scheme, with_mask), []).append(index)
    steps: list[Step] = []
    # nnU-Net finds the zeros of the mask before it normalises any channel
    for (scheme, mask), group in sorted(groups.items(), key=lambda item: not item[0][1]):
        chosen = () if len(group) == channels else tuple(group)
        if scheme == "CTNormalization":
            steps += _hounsfield(plans, group, chosen)
        elif scheme == "ZScoreNormalization":
            steps.append(NormaliseCase(nonzero=mask, filled=mask, channels=chosen))
        elif scheme == "RescaleTo01Normalization":
            steps.append(RescaleCase(to_low=0.0, to_high=1.0, channels=chosen))
        elif scheme == "RGBTo01Normalization":
            steps.append(Normalise(mean=(0.0,), std=(255.0,), channels=chosen))
        else:
            _known("normalisation", scheme, ["NoNormalization", *SCHEMES])
    return steps


SCHEMES = (
    "CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "RGBTo01Normalization",
)  # fmt: skip


def _hounsfield(
    plans: Mapping[str, Any], group: Sequence[int], chosen: tuple[int, ...]
) -> list[Step]:
    """Clip to the percentiles of the foreground, then its mean and deviation."""
    table = plans.get("foreground_intensity_properties_per_channel")
    if table is None:
        table = plans.get("foreground_intensity_properties_by_modality", {})
    found = [table[str(index)] for index in group]

    def numbers(key: str) -> tuple[float, ...]:
        if any(one[key] is None for one in found):
            raise BadInput(
                f"The plans know no '{key}' of the foreground, which CT is normalised by."
            )
        return tuple(float(one[key]) for one in found)

    std = tuple(max(one, SMALLEST_STD) for one in numbers("std"))
    return [
        Clip(numbers("percentile_00_5"), numbers("percentile_99_5"), channels=chosen),
        Normalise(numbers("mean"), std, channels=chosen),
    ]


def _resampling(settings: Mapping[str, Any]) -> list[Step]:
    """How scans reach the target spacing, and logits the scan's own again."""
    data, back = (settings[f"resampling_fn_{key}"] for key in ("data", "probabilities"))
    _known("resampling of scans", data, [SPLINE, TORCH, NONE])
    _known("resampling of probabilities", back, [SPLINE, TORCH, NONE])
    if NONE in (data, back):
        if data != back:
            raise BadInput(
                "The plans resample scans but not probabilities, or the other way round."
            )
        _check_labels(settings, None)
        return []
    forward = _Way(data, settings.get("resampling_fn_data_kwargs") or {})
    return_ = _Way(back, settings.get("resampling_fn_probabilities_kwargs") or {})
    if return_.order != 1:
        raise BadInput(f"The plans resample probabilities with order {return_.order}; known is 1.")
    if return_.coarse_order not in (0, 1):
        raise BadInput(
            f"The plans resample probabilities with order_z {return_.coarse_order}; known are 0 and 1."
        )
    _check_labels(settings, forward)
    linear = return_.coarse_order == 1 or return_.separate == "never"
    if not linear and return_.separate != forward.separate:
        raise BadInput(
            "The plans force a separate axis (force_separate_z) for scans and not for probabilities, or the other way "
            "round."
        )
    spacing = [float(value) for value in settings["spacing"]]
    z, y, x = (0.0, *spacing) if len(spacing) == 2 else spacing
    return [
        Resample(
            spacing_xyz=(x, y, z),
            order=forward.order,  # type: ignore[arg-type]
            coarse_order=forward.coarse_order,  # type: ignore[arg-type]
            kernel="spline",
            coarse=forward.separate,  # type: ignore[arg-type]
            clip=forward.order == 3,
            back_coarse_order=1 if linear else 0,
        )
    ]


def _check_labels(settings: Mapping[str, Any], scans: _Way | None) -> None:
    """In a cascade, labels of the first stage must go to the network's grid as ctseg takes them there.

    Other configurations resample labels in training only.

    Args:
        scans: how they are resampled; None if they are not.
    """
    if not settings.get("previous_stage"):
        return
    name, kwargs = settings["resampling_fn_seg"], settings.get("resampling_fn_seg_kwargs") or {}
    _known("resampling of labels", name, [NONE] if scans is None else [SPLINE, TORCH])
    if scans is None:
        return
    way = _Way(name, {**kwargs, "is_seg": False})
    along = way.coarse_order == min(scans.coarse_order, 1) or way.separate == "never"
    if not kwargs.get("is_seg") or way.order != 1 or way.separate != scans.separate or not along:
        raise BadInput(
            f"The plans resample the labels of the first stage with {kwargs}; known is linear interpolation of each "
            "label (is_seg, order 1), with the separate axis of the scans."
        )


class _Way:
    """One resampling function with its arguments."""

    def __init__(self, name: str, kwargs: Mapping[str, Any]) -> None:
        force = kwargs.get("force_separate_z", False if name == SPLINE else None)
        if force not in _SEPARATE:
            raise BadInput(f"The plans set force_separate_z to {force!r}.")
        if kwargs.get("separate_z_anisotropy_threshold", 3) != 3:
            raise BadInput("The plans set a separate_z_anisotropy_threshold other than 3.")
        if kwargs.get("is_seg"):
            raise BadInput("The plans resample scans or probabilities as if they were labels.")
        self.separate = _SEPARATE[force]
        if name == TORCH:
            modes = kwargs.get("mode", "linear"), kwargs.get("aniso_axis_mode", "nearest-exact")
            if modes != ("linear", "nearest-exact"):
                raise BadInput(f"The plans resample by {name} with the modes {modes}.")
            self.order, self.coarse_order = 1, 0
            return
        self.order, self.coarse_order = kwargs.get("order", 3), kwargs.get("order_z", 0)
        if self.order not in (0, 1, 3) or self.coarse_order not in (0, 1, 3):
            raise BadInput(
                f"The plans resample with the orders {self.order} and {self.coarse_order}; known are 0, 1 and 3."
            )
        if self.separate != "never" and self.coarse_order > self.order:
            raise BadInput(
                f"The plans resample the coarse axis with a higher order ({self.coarse_order}) than the others."
            )
