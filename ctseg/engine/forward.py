"""One network on a batch of tiles: precision, mirrored views, and what happens when the memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctseg.engine.runtime import Runtime
from ctseg.engine.settings import Settings
from ctseg.errors import RunFailed


class TileTooLarge(RunFailed):
    """One tile does not fit the memory of the device."""


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
        settings: Settings,
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
        outs, first = [], 0
        while first < len(tiles_bczyx):
            part = tiles_bczyx[first : first + self.limit]
            try:
                outs.append(self._mean(part))
                first += len(part)
            except torch.OutOfMemoryError:
                if self.limit == 1:
                    size = " x ".join(map(str, tiles_bczyx.shape[2:]))
                    raise TileTooLarge(
                        f"A tile of {size} voxels does not fit the memory of {self.runtime.device}.",
                        hint="Use a smaller one: --tile Z,Y,X",
                    ) from None
                if self.runtime.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.limit = max(min(self.limit, len(part)) // 2, 1)
                if self._on_note:
                    self._on_note(f"Memory was short: {self.limit} tile(s) at a time from here on.")
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _mean(self, tiles: torch.Tensor) -> torch.Tensor:
        """The mean over the views, as many of them at a time as the batch allows."""
        together = max(self.limit // len(tiles), 1)
        total: torch.Tensor | None = None
        for first in range(0, len(self.views), together):
            views = self.views[first : first + together]
            flipped = [tiles.flip([2 + a for a in axes]) if axes else tiles for axes in views]
            x = flipped[0] if len(flipped) == 1 else torch.cat(flipped)
            with torch.inference_mode(), self.runtime.autocast():
                out = self.network(self.runtime.tensor(x)).float()
            for axes, part in zip(views, out.split(len(tiles)), strict=True):
                back = part.flip([2 + a for a in axes]) if axes else part
                total = back if total is None else total + back
        assert total is not None
        return total if len(self.views) == 1 else total / len(self.views)
