"""Choices that differ for a regression: the scale of its targets, its grid and its augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.config import AugmentConfig
from ctseg.data.steps import NormaliseTarget
from ctseg.specs import ArchitectureSpec, Task

OWN_GRID = (0.0, 0.0, 0.0)
"""Spacing setting that keeps every scan on its own grid, since a coarser one would lose what is to be predicted."""
OF_THE_SCAN_ALONE = (
    "noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted", "shift", "cut_out",
)  # fmt: skip
"""Transforms that change a scan but not its target."""
TURNING = ("rotation", "turns", "elastic")
"""Transforms after which the components of a vector would have to turn as well."""


def choose_target_scale(
    targets: Sequence[Mapping[str, float]],
) -> tuple[NormaliseTarget, str]:
    """The step that normalises the targets, channel by channel.

    Args:
        targets: mean and deviation of each channel, as in the fingerprint.
    """
    scale = NormaliseTarget(
        tuple(float(f"{t['mean']:.6g}") for t in targets),
        tuple(float(f"{t['std']:.6g}") if t["std"] > 0 else 1.0 for t in targets),
    )
    reason = "learnt in deviations from their mean, channel by channel; predictions come back in the targets' unit"
    return scale, reason


def scale_to_dict(scale: NormaliseTarget) -> dict[str, Any]:
    """The scale as `plan.json` shows it."""
    return dataclasses.asdict(scale)


def choose_disabled_transforms(given: AugmentConfig, task: Task) -> tuple[dict[str, Any], str]:
    """The transforms to switch off so that targets stay correct; the user's settings are kept.

    Transforms of intensities alone are switched off, since the target would have to change with them. With several
    output channels, so are those that turn or mirror: the channels may be components of a vector, which stay unturned.
    """
    off: dict[str, Any] = {
        name: 0.0 for name in OF_THE_SCAN_ALONE if getattr(given, name, 0.0) is None
    }
    reason = "they would change the scan and not its target"
    if task.out_channels > 1:
        off |= {name: 0.0 for name in TURNING if getattr(given, name, 0.0) is None}
        if given.mirror_axes is None:
            off["mirror_axes"] = ()
        reason += "; nothing turns or mirrors, since several channels may be a vector, which would turn too"
    return off, reason


def loses_level(spec: ArchitectureSpec, options: Mapping[str, Any]) -> bool:
    """Whether the network's normalisation removes the mean of each patch, and with it the level to be predicted."""
    default = {field.name: field.default for field in dataclasses.fields(spec.config)}.get("norm")
    return default == "instance" and not {"norm", "layer_order"} & set(options)


def choose_norm() -> tuple[str, str]:
    return "none", "instance normalisation would take away the level of the values"
