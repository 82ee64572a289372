"""The transforms of `[augment.extra]`: registered by name, applied after the built-in ones.

Whether one happens and its random numbers depend on the sample's seed and on its name, so that another transform
changes neither.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from ctseg import plugins
from ctseg.config.augment import PROBABILITY, AugmentConfig
from ctseg.errors import ConfigError, PluginError
from ctseg.extension_specs import Augment, AugmentationSpec
from ctseg.plugin_guard import named


@dataclass(frozen=True)
class ExtraTransform:
    """One transform with its options.

    Attributes:
        what: the transform and its plugin, for messages.
    """

    name: str
    probability: float
    augment: Augment
    what: str


@dataclass(frozen=True)
class DrawnTransform:
    """A transform that happens to one sample."""

    transform: ExtraTransform
    seed: int
    spacing_zyx: tuple[float, ...]

    def apply(self, image: torch.Tensor, target: torch.Tensor) -> None:
        """Change image [C, Z, Y, X] and target [T, Z, Y, X] in place.

        Raises:
            PluginError: the transform raises, or returns something of another shape or type.
        """
        rng, what = np.random.default_rng([self.seed, 1]), self.transform.what
        z, y, x = self.spacing_zyx
        result = self.transform.augment(image, target, rng=rng, spacing_zyx=(z, y, x))
        if not isinstance(result, tuple) or len(result) != 2:
            raise PluginError(f"{what} returned {type(result).__name__}, not image and target.")
        for new, old in zip(result, (image, target), strict=True):
            if not isinstance(new, torch.Tensor) or _kind(new) != _kind(old):
                raise PluginError(
                    f"{what} must return tensors of the shapes and types that it takes: "
                    f"it returned {_kind(new)} for {_kind(old)}."
                )
            if new is not old:
                old.copy_(new)


def _kind(tensor: Any) -> str:
    shape = tuple(getattr(tensor, "shape", ()))
    return f"{getattr(tensor, 'dtype', type(tensor).__name__)} {shape}"


def extra_transforms(config: AugmentConfig) -> tuple[ExtraTransform, ...]:
    """The transforms that the configuration names, in its order.

    Raises:
        UnknownName: nobody provides one of them.
        ConfigError: an option that it does not have, or an impossible value.
    """
    find = plugins.registry().get
    return tuple(
        _built(find("augmentation", name), json.dumps(options, sort_keys=True))
        for name, options in config.extra.items()
    )


def draw_extra(
    config: AugmentConfig, seed: int, spacing_zyx: Sequence[float]
) -> tuple[DrawnTransform, ...]:
    """The transforms that happen to one sample."""
    drawn = []
    for transform in extra_transforms(config) if config.extra else ():
        rng = np.random.default_rng([seed, zlib.crc32(transform.name.encode())])
        own = int(rng.integers(2**63 - 1))
        if rng.random() < transform.probability:
            drawn.append(DrawnTransform(transform, own, tuple(spacing_zyx)))
    return tuple(drawn)


@functools.lru_cache(maxsize=64)
def _built(entry: plugins.Registered, options: str) -> ExtraTransform:
    spec = cast(AugmentationSpec, entry.spec)
    name = spec.name
    given = json.loads(options)
    probability = float(given.pop(PROBABILITY))
    try:
        augment = spec.build(plugins.make_config(spec, given))
    except ConfigError as error:
        error.message = f"[augment.extra.{name}]: {error.message}"
        raise
    what = f"The augmentation '{name}' from the plugin {entry.plugin.owner}"
    return ExtraTransform(name, probability, cast(Augment, named(augment, what, None)), what)
