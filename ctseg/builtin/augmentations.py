"""The built-in augmentations beyond those that have keys of their own in `[augment]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctseg.extension_specs import Augment, AugmentationSpec
from ctseg.hookspecs import hookimpl


def _rings(config: Any) -> Augment:
    from ctseg.data.augment.rings import Rings

    return Rings(config)


@hookimpl
def ctseg_augmentations() -> Sequence[AugmentationSpec]:
    """Artefacts of CT."""
    from ctseg.data.augment_options import RingsConfig

    return [
        AugmentationSpec(
            name="rings",
            build=_rings,
            config=RingsConfig,
            summary="ring artefacts of miscalibrated detector elements, about an axis along z",
        )
    ]
