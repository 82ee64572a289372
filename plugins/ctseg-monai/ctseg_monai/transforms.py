"""MONAI's dictionary transforms before the network, as steps of ctseg.

MONAI holds a scan as [C, X, Y, Z], ctseg as [C, Z, Y, X]. The first step turns the array, so that the network sees it
as it did in training, and sizes of patches keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.data.steps import (
    Crop,
    CropOrPad,
    Normalise,
    NormaliseCase,
    Orient,
    PadToMultiple,
    Resample,
    Rescale,
    RescaleCase,
    Step,
    Transpose,
)
from ctseg.errors import BadInput

HARMLESS = {
    "LoadImaged", "EnsureChannelFirstd", "AddChanneld", "AsChannelFirstd", "EnsureTyped", "ToTensord", "ToDeviced",
    "CastToTyped", "Identityd", "DeleteItemsd", "SelectItemsd", "CopyItemsd",
}  # fmt: skip
"""Transforms that read the scan, or change neither its voxels nor its values."""
KNOWN = (
    "LoadImaged", "EnsureChannelFirstd", "EnsureTyped", "Orientationd", "Spacingd", "ScaleIntensityRanged",
    "ScaleIntensityRangePercentilesd", "ScaleIntensityd", "NormalizeIntensityd", "CropForegroundd", "SpatialPadd",
    "DivisiblePadd",
)  # fmt: skip
NETWORK_INPUT = "image"
"""The item that MONAI's evaluators give to the network."""
LAST_AXIS_FIRST = Transpose(order_zyx=(2, 1, 0))


def name_of(transform: Any, where: str) -> str:
    """The class of a transform, with a `d` at its end however it is spelt.

    Raises:
        BadInput: one that the bundle brings itself, or no transform.
    """
    target = transform.get("_target_") if isinstance(transform, dict) else None
    if not isinstance(target, str):
        raise BadInput(f"{where} holds {str(transform)[:100]!r} where a transform is expected.")
    name = target.rsplit(".", 1)[-1]
    if "." in target and not target.startswith("monai.transforms."):
        raise BadInput(
            f"{where} asks for the transform '{target}', code of its own, which was not run.",
            hint=f"Known: {', '.join(KNOWN)}",
        )
    for ending in ("Dict", "D"):
        if name.endswith(ending) and not name.endswith("3D"):
            return f"{name.removesuffix(ending)}d"
    return name


def active(transforms: Any, where: str) -> list[dict[str, Any]]:
    """The transforms of a list that are not disabled.

    Raises:
        BadInput: no list.
    """
    if not isinstance(transforms, list):
        raise BadInput(f"{where} is no list of transforms.")
    return [t for t in transforms if not (isinstance(t, dict) and t.get("_disabled_"))]


def steps_of(transforms: Sequence[Mapping[str, Any]], key: str, where: str) -> list[Step]:
    """The steps of a list of transforms.

    Args:
        key: of the scan among the keys of each transform; transforms of other keys are left out.

    Raises:
        BadInput: a transform, or an argument of it, that has no counterpart here.
    """
    steps: list[Step] = []
    turned = False
    for place, transform in enumerate(transforms):
        name = name_of(transform, where)
        if name == "CopyItemsd":
            _check_copies(transform, key, transforms[place + 1 :], where)
        if name != "CropForegroundd" and key not in _keys(transform):
            continue
        arguments = _Arguments(name, transform, where)
        if name in HARMLESS:
            if name == "LoadImaged" and arguments.given.get("dtype", "float32") not in (
                None, "float32", "float",
            ):  # fmt: skip
                arguments.refuse("dtype")
            continue
        if name == "Orientationd":
            steps.append(_oriented(arguments, turned))
            turned = True
            continue
        if not turned and name in _ON_THE_GRID:
            steps.append(LAST_AXIS_FIRST)
            turned = True
        if name not in _STEPS:
            raise BadInput(
                f"{where} asks for the transform '{name}', which has no counterpart here.",
                hint=f"Known: {', '.join(KNOWN)}",
            )
        steps.append(_STEPS[name](arguments))
    return steps if turned else [LAST_AXIS_FIRST, *steps]


def _keys(transform: Mapping[str, Any]) -> list[str]:
    keys = transform.get("keys", [])
    return [keys] if isinstance(keys, str) else list(keys)


def _check_copies(
    transform: Mapping[str, Any], key: str, later: Sequence[Mapping[str, Any]], where: str
) -> None:
    """Accept copies that the network never sees.

    Raises:
        BadInput: something else takes the place of the scan, or a copy of the scan is worked on instead of it.
    """
    keys, times = _keys(transform), int(transform.get("times") or 1)
    given = transform.get("names") or [f"{k}_{i}" for k in keys for i in range(times)]
    names = [given] if isinstance(given, str) else list(given)
    copies = {name for i, name in enumerate(names) if keys[i % len(keys)] == key}
    changed = [t for t in later if copies & {*_keys(t)} and name_of(t, where) not in HARMLESS]
    if key in names or changed or (NETWORK_INPUT in copies and key != NETWORK_INPUT):
        raise BadInput(
            f"{where}: CopyItemsd copies {', '.join(keys)} to {', '.join(map(str, names))}; known are copies that "
            "neither replace the scan nor are transformed.",
        )


class _Arguments:
    """The arguments of one transform."""

    def __init__(self, name: str, given: Mapping[str, Any], where: str) -> None:
        self.name, self.given, self.where = name, given, where

    def get(self, key: str, default: Any = None) -> Any:
        return self.given.get(key, default)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.given.get(key, default)
        return value.lower() == "true" if isinstance(value, str) else bool(value)

    def only(self, key: str, *known: Any) -> None:
        if self.get(key, known[0]) not in known:
            self.refuse(key)

    def refuse(self, key: str) -> None:
        raise BadInput(
            f"{self.where}: {self.name} has {key} {self.get(key)!r}, which has no counterpart here."
        )


def _one(value: Any) -> Any:
    """An argument that may be given once for each key."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _oriented(a: _Arguments, turned: bool) -> Step:
    codes = a.get("axcodes") or ("RAS" if a.flag("as_closest_canonical") else "")
    codes = "".join(codes).upper()
    if len(codes) != 3:
        a.refuse("axcodes")
    if turned:
        raise BadInput(
            f"{a.where}: {a.name} comes after a transform that changes the grid; known is the other order."
        )
    return Orient(to=codes[::-1])


def _resample(a: _Arguments) -> Step:
    a.only("scale_extent", False)
    a.only("diagonal", False)
    a.only("padding_mode", "border", ["border"])
    mode = _one(a.get("mode", "bilinear"))
    if isinstance(mode, list):  # one for each key, the scan's first
        mode = mode[0]
    order = {"bilinear": 1, "nearest": 0, 1: 1, 0: 0}.get(mode)
    if order is None:
        a.refuse("mode")
    pixdim = a.get("pixdim")
    if isinstance(pixdim, int | float):
        pixdim = [pixdim] * 3
    if not isinstance(pixdim, list) or len(pixdim) != 3:
        a.refuse("pixdim")
    # the steps before have turned the array: its last axis is the scan's z
    first, second, third = (max(float(p), 0.0) for p in pixdim)
    return Resample(
        spacing_xyz=(third, second, first), order=order, coarse_order=order, align="first", coarse="never"
    )  # fmt: skip


def _range(a: _Arguments) -> Step:
    low, high = float(a.get("a_min")), float(a.get("a_max"))
    to_low, to_high = a.get("b_min"), a.get("b_max")
    if to_low is None or to_high is None:
        to_low, to_high = 0.0, 1.0
    return Rescale(low, high, float(to_low), float(to_high), clip=a.flag("clip"))


def _percentiles(a: _Arguments) -> Step:
    a.only("relative", False)
    ends = float(a.get("lower")), float(a.get("upper"))
    to_low, to_high = float(a.get("b_min")), float(a.get("b_max"))
    joint = not a.flag("channel_wise")
    return RescaleCase(ends, to_low=to_low, to_high=to_high, clip=a.flag("clip"), joint=joint)


def _scale(a: _Arguments) -> Step:
    a.only("factor", None)
    low, high = a.get("minv", 0.0), a.get("maxv", 1.0)
    if low is None or high is None:
        a.refuse("minv")
    joint = not a.flag("channel_wise")
    return RescaleCase(to_low=float(low), to_high=float(high), clip=False, joint=joint)


def _normalise(a: _Arguments) -> Step:
    subtrahend, divisor = a.get("subtrahend"), a.get("divisor")
    nonzero, joint = a.flag("nonzero"), not a.flag("channel_wise")
    if subtrahend is None and divisor is None:
        return NormaliseCase(nonzero=nonzero, joint=joint)
    if nonzero or subtrahend is None or divisor is None:
        a.refuse("subtrahend")
    mean, std = (
        tuple(map(float, v)) if isinstance(v, list) else (float(v),) for v in (subtrahend, divisor)
    )
    return Normalise(mean, std)


def _crop(a: _Arguments) -> Step:
    a.only("select_fn", None)
    a.only("channel_indices", None)
    a.only("k_divisible", 1, [1, 1, 1])
    margin = _one(a.get("margin", 0))
    margins = [margin] * 3 if isinstance(margin, int) else margin
    z, y, x = (int(m) for m in margins)
    if max(z, y, x) and not a.flag("allow_smaller", True):
        a.refuse("allow_smaller")
    return Crop(above=0.0, margin_zyx=(z, y, x))


def _pad(a: _Arguments) -> Step:
    a.only("method", "symmetric")
    a.only("mode", "constant", ["constant"])
    size = a.get("spatial_size")
    sizes = [size] * 3 if isinstance(size, int) else size
    z, y, x = (max(int(s), 0) for s in sizes)
    value = (float(a.get("value", 0.0)),)
    return CropOrPad(shape_zyx=(z, y, x), value=value, crop=False, larger="back")


def _divisible(a: _Arguments) -> Step:
    a.only("method", "symmetric")
    a.only("mode", "constant", ["constant"])
    k = a.get("k")
    z, y, x = (int(s) for s in ([k] * 3 if isinstance(k, int) else k))
    return PadToMultiple(of_zyx=(z, y, x), value=(float(a.get("value", 0.0)),), larger="back")


_ON_THE_GRID = {
    "Spacingd": _resample,
    "CropForegroundd": _crop,
    "SpatialPadd": _pad,
    "DivisiblePadd": _divisible,
}
_STEPS = {
    **_ON_THE_GRID,
    "ScaleIntensityRanged": _range,
    "ScaleIntensityRangePercentilesd": _percentiles,
    "ScaleIntensityd": _scale,
    "NormalizeIntensityd": _normalise,
}
