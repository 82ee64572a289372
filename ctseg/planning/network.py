"""The options of the network, and the patch that it accepts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ctseg import plugins
from ctseg.errors import BadInput
from ctseg.planning.choices import Budget
from ctseg.specs import ArchitectureSpec, Constraints, NetworkPlan, Zyx


def choose_options(
    spec: ArchitectureSpec, given: Mapping[str, Any], network: NetworkPlan, budget: Budget
) -> tuple[dict[str, Any], str]:
    """What the network's own plan makes of patch, spacing and budget, with what the user set on top."""
    assert spec.from_plan is not None
    features = given.get("features")  # a plugin's network may mean a single number by it
    is_list = isinstance(features, list | tuple)
    if is_list:
        suggested = tuple(features or ())
    else:
        depth = max(2, min(6, int(math.log2(max(network.patch_zyx) / 4)) + 1))
        suggested = tuple(min(budget.max_features, budget.features * 2**i) for i in range(depth))
    config = spec.from_plan(dataclasses.replace(network, features=suggested))
    planned = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if is_list and len(suggested) != len(planned.get("features", ())):
        for key in ("kernels_zyx", "strides_zyx", "blocks_per_level"):
            planned.pop(key, None)  # they belong to another depth
    return planned | dict(given), "fitted to patch and spacing by the network's own plan"


def complete_options(
    spec: ArchitectureSpec, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Constraints]:
    """Every option of the network, and what it demands of patches with them."""
    config = plugins.make_config(spec, options)
    named = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return plain(named), spec.constraints_for(config)


def fit_patch(patch: Zyx, constraints: Constraints, name: str, *, asked: bool) -> tuple[Zyx, str]:
    """The patch, rounded up to what the network accepts.

    Args:
        name: of the network.
        asked: whether the user named the patch; then it is not changed.

    Raises:
        BadInput: the network does not accept the patch that the user named.
    """
    fitted = constraints.fit(patch)
    if asked and fitted != patch:
        raise BadInput(
            f"The patch {patch} does not suit {name}: sizes must be multiples of "
            f"{constraints.stride_zyx} (z, y, x), {constraints.min_tile_zyx} at least.",
            hint=f"For example: --patch {','.join(map(str, fitted))}",
        )
    return fitted, f"{patch} rounded up to what {name} accepts"


def plain(value: Any) -> Any:
    """Tuples as lists, as TOML and JSON give them back; without what is None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
