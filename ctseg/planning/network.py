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
    spec: ArchitectureSpec, user_options: Mapping[str, Any], network: NetworkPlan, budget: Budget
) -> tuple[dict[str, Any], str]:
    """The options that the network's own plan derives from patch, spacing and budget, overridden by the user's.

    Args:
        user_options: options that the user set.
    """
    assert spec.from_plan is not None
    features = user_options.get("features")  # a plugin's network may define it as a single number
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
    return planned | dict(user_options), "fitted to patch and spacing by the network's own plan"


def complete_options(
    spec: ArchitectureSpec, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Constraints]:
    """Every option of the network, and its constraints on patches."""
    config = plugins.make_config(spec, options)
    named = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return plain(named), spec.constraints_for(config)


def fit_patch(
    patch: Zyx, constraints: Constraints, name: str, *, set_by_user: bool
) -> tuple[Zyx, str]:
    """The patch, rounded up to sizes that the network accepts.

    Args:
        name: name of the network.
        set_by_user: whether the user set the patch, which is then checked instead of rounded.

    Raises:
        BadInput: the network does not accept the patch that the user set.
    """
    fitted = constraints.fit(patch)
    if set_by_user and fitted != patch:
        raise BadInput(
            f"The patch {patch} does not suit {name}: its size (z, y, x) must be {constraints.sizes}.",
            hint=f"For example: --patch {','.join(map(str, fitted))}",
        )
    return fitted, f"{patch} rounded up to what {name} accepts"


def plain(value: Any) -> Any:
    """Tuples as lists, as TOML and JSON return them; entries that are None are left out."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
