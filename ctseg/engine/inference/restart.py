"""`restarting`: predicts a scan again with smaller tiles if it does not fit the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ctseg.engine.inference.forward import TileTooLarge, out_of_memory, release
from ctseg.engine.inference.model import Model
from ctseg.errors import RunFailed

T = TypeVar("T")


def restarting(model: Model, call: Callable[[Model], T]) -> tuple[T, Model]:
    """Call a function with the model; if a tile does not fit the device, note it and call again with smaller tiles.

    The tile never changes within a scan, since normalisation layers depend on it, so the call starts from scratch.

    Args:
        call: predicts one scan; cleans up after itself if it fails.

    Returns:
        the result of the call, and the model with the settings that it used, for its record.

    Raises:
        RunFailed: even the smallest tile does not fit.
    """
    original = model
    while True:
        try:
            return call(model), model
        except (RunFailed, RuntimeError, MemoryError) as error:
            if not isinstance(error, TileTooLarge) and not out_of_memory(error):
                raise
            smaller = model.shrink(original)
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
