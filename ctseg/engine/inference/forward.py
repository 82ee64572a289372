"""One network on a batch of tiles: precision, mirrored views, and what happens when the memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctseg.engine.inference.tiling_settings import TilingSettings
from ctseg.engine.model.runtime import Runtime
from ctseg.errors import RunFailed


class TileTooLarge(RunFailed):
    """One tile does not fit the memory of the device."""


_NO_ROOM = (
    "can't allocate memory",  # main memory
    "not enough memory",  # on Windows
    "backend out of memory",  # MPS
    "CUDA error: out of memory",  # beside what torch itself allocates
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says in errors that have no type of their own."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on CUDA, on MPS, or in main memory (where Linux rather ends the process)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_ROOM)


def release(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class Forward:
    """Fp32 logits of tiles, the mean over mirrored views.

    Args:
        network: in eval mode on the runtime's device.
        on_note: told when the batch was halved.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        runtime: Runtime,
        settings: TilingSettings,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.network, self.runtime, self.views = network, runtime, settings.views
        self.limit = max(settings.batch_size, 1)
        self._on_note = on_note

    def __call__(self, tiles_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to fp32 [B, K, Z, Y, X].

        Raises:
            TileTooLarge: a single tile does not fit.
        """
        outs: list[torch.Tensor] = []
        first = 0
        while first < len(tiles_bczyx):
            part = tiles_bczyx[first : first + self.limit]
            out = self._tried(part)
            if out is None:  # not in the handler, whose traceback keeps the tensors of the attempt
                release(self.runtime.device)
                self._halve(part)
            else:
                outs.append(out)
                first += len(part)
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _tried(self, tiles: torch.Tensor) -> torch.Tensor | None:
        """Logits, or None where there was no room for them."""
        try:
            return self._mean(tiles)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return None

    def _halve(self, tiles: torch.Tensor) -> None:
        """Put fewer tiles and views together from here on."""
        together = min(self.limit, len(tiles) * len(self.views))
        if together == 1:
            size = " x ".join(map(str, tiles.shape[2:]))
            raise TileTooLarge(
                f"A tile of {size} voxels does not fit the memory of {self.runtime.device}.",
                hint="Use a smaller one: --tile Z,Y,X",
            )
        self.limit = together // 2
        if self._on_note:
            self._on_note(f"Memory was short: {self.limit} tile(s) at a time from here on.")

    def _mean(self, tiles: torch.Tensor) -> torch.Tensor:
        """The mean over the views, as many of them at a time as the batch allows."""
        together = max(self.limit // len(tiles), 1)
        total: torch.Tensor | None = None
        for first in range(0, len(self.views), together):
            views = self.views[first : first + together]
            flipped = [tiles.flip([2 + a for a in axes]) if axes else tiles for axes in views]
            x = flipped[0] if len(flipped) == 1 else torch.cat(flipped)
            with torch.inference_mode():
                with self.runtime.autocast():
                    out = self.network(self.runtime.tensor(x)).float()
                for axes, part in zip(views, out.split(len(tiles)), strict=True):
                    back = part.flip([2 + a for a in axes]) if axes else part
                    total = back if total is None else total.add_(back)
                del out, part, back
        assert total is not None
        with torch.inference_mode():
            return total if len(self.views) == 1 else total.div_(len(self.views))
