"""A scan that does not fit the device starts anew with smaller tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ctseg.engine.inference.forward import TileTooLarge, out_of_memory, release
from ctseg.engine.inference.model import Model
from ctseg.errors import RunFailed

T = TypeVar("T")


def restarting(model: Model, call: Callable[[Model], T]) -> tuple[T, Model]:
    """Call with the model; where a tile does not fit the device, say so and start anew with smaller ones.

    The tile never changes within a scan, since normalisation layers see it: the call begins from the start.

    Args:
        call: predicts one scan and leaves nothing behind if it fails.

    Returns:
        what the call gave, and the model with the settings that it had then, which belong into its record.

    Raises:
        RunFailed: not even the smallest tile fits.
    """
    asked = model
    while True:
        try:
            return call(model), model
        except (RunFailed, RuntimeError, MemoryError) as error:
            if not isinstance(error, TileTooLarge) and not out_of_memory(error):
                raise
            smaller = model.shrink(asked)
            if smaller is None:
                if isinstance(error, TileTooLarge):
                    raise
                raise TileTooLarge(
                    f"The memory of {model.runtime.device} is too small.",
                    hint="Use a smaller tile: --tile Z,Y,X",
                ) from error
        release(model.runtime.device)
        old, new = (" x ".join(map(str, s.settings.tile_zyx)) for s in (model, smaller))
        model = smaller
        if model.on_note:
            model.on_note(
                f"Memory was short: the scan starts anew with tiles of {new} instead of {old} voxels (z, y, x)."
            )
