"""`Forward`: runs one network on batches of tiles, with precision, mirrored views and handling of full memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ctseg.engine.inference.tiling_settings import TilingSettings
from ctseg.engine.model.runtime import Precision, Runtime
from ctseg.engine.model.threads import follow_cores
from ctseg.errors import BadInput, RunFailed

Compute = Callable[[torch.Tensor], torch.Tensor]
"""Computes tiles [B, C, Z, Y, X] to what the network returns for them."""


class TileTooLarge(RunFailed):
    """One tile does not fit in the memory of the device."""


_OUT_OF_MEMORY = (
    "can't allocate memory",  # main memory
    "not enough memory",  # on Windows
    "bad_alloc",  # OpenVINO
    "backend out of memory",  # MPS
    "CUDA error: out of memory",  # outside torch's own allocator
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Texts of torch's out-of-memory errors that are plain RuntimeErrors."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed on CUDA, on MPS, or in main memory (where Linux usually kills the process)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Return the memory that torch caches to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def by_torch(network: torch.nn.Module, runtime: Runtime) -> Compute:
    """The computation of a network by PyTorch."""

    def compute(tiles_bczyx: torch.Tensor) -> torch.Tensor:
        with runtime.autocast():
            found: torch.Tensor = network(runtime.tensor(tiles_bczyx))
        return found

    return compute


def logits_of(output: Any, tiles_bczyx: torch.Tensor) -> torch.Tensor:
    """The output of a network for tiles, as fp32 logits [B, K, Z, Y, X].

    Raises:
        BadInput: the output is not a tensor of logits of the tiles' size.
    """
    if not isinstance(output, torch.Tensor):
        text = f"The network returns a {type(output).__name__}, not a tensor of logits"
        if isinstance(output, Mapping):
            text += f" (its keys are {', '.join(map(repr, output))})"
        elif isinstance(output, (tuple, list)):
            text += f" (it has {len(output)} elements)"
        raise BadInput(
            f"{text}.",
            hint="Wrap it in a module whose forward returns only the logits at full resolution.",
        )
    batch, _, *size = tiles_bczyx.shape
    shape = list(output.shape)
    if len(shape) != 5 or shape[:1] + shape[2:] != [batch, *size] or not shape[1]:
        raise BadInput(
            f"The network returns a tensor of shape {shape} for tiles of shape {list(tiles_bczyx.shape)}.",
            hint=f"Logits have a channel for each class and the size of the tile: [{batch}, classes, "
            f"{', '.join(map(str, size))}]",
        )
    if not output.is_floating_point():
        raise BadInput(
            f"The network returns {str(output.dtype).removeprefix('torch.')} values, but logits are floating-point.",
            hint="Return the input of softmax or sigmoid; labels cannot be averaged where tiles overlap.",
        )
    return output.float()


def not_finite(network: torch.nn.Module, precision: Precision) -> RunFailed:
    """The error for a network whose logits are NaN or infinite, with the likely cause."""
    text = "The network gave NaN or infinite values"
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return RunFailed(
                f"{text}, and so are some in its weights '{name}'.",
                hint="The weights are damaged, or their training failed: download or train them again.",
            )
    hint = "Its weights may be damaged, or the scan differs from those that it was trained on."
    if precision != "fp32":
        hint = (
            f"Activations may exceed the range of {precision}: predict with --precision fp32 (in Python "
            "precision='fp32'). If that does not help, the weights may be damaged."
        )
    return RunFailed(f"{text}.", hint=hint)


class Forward:
    """Computes fp32 logits of tiles, averaged over mirrored views.

    Args:
        network: in eval mode on the runtime's device.
        on_note: called with a note when the batch is halved.
        compute: what computes the network, in place of PyTorch.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        runtime: Runtime,
        settings: TilingSettings,
        on_note: Callable[[str], None] | None = None,
        compute: Compute | None = None,
    ) -> None:
        self.network, self.runtime, self.views = network, runtime, settings.views
        self._compute = compute or by_torch(network, runtime)
        self.limit = max(settings.batch_size, 1)
        self._on_note = on_note

    def __call__(self, tiles_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to fp32 [B, K, Z, Y, X].

        Raises:
            TileTooLarge: a single tile does not fit.
            BadInput: the network returns something else than logits.
        """
        outs: list[torch.Tensor] = []
        first = 0
        while first < len(tiles_bczyx):
            part = tiles_bczyx[first : first + self.limit]
            out = self._try(part)
            if out is None:  # outside the handler, whose traceback holds the tensors of the attempt
                release(self.runtime.device)
                self._halve(part)
            else:
                outs.append(out)
                first += len(part)
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _try(self, tiles: torch.Tensor) -> torch.Tensor | None:
        """The logits, or None if the memory does not suffice."""
        try:
            return self._mean(tiles)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return None

    def _halve(self, tiles: torch.Tensor) -> None:
        """Halve the number of tiles and views in a batch."""
        together = min(self.limit, len(tiles) * len(self.views))
        if together == 1:
            size = " x ".join(map(str, tiles.shape[2:]))
            raise TileTooLarge(
                f"A tile of {size} voxels does not fit the memory of {self.runtime.device}.",
                hint="Use a smaller tile: --tile Z,Y,X",
            )
        self.limit = together // 2
        if self._on_note:
            self._on_note(f"Memory was short: from now on {self.limit} tile(s) at a time.")

    def _mean(self, tiles: torch.Tensor) -> torch.Tensor:
        """The mean over the views, with as many views at a time as the batch allows."""
        follow_cores()
        together = max(self.limit // len(tiles), 1)
        total: torch.Tensor | None = None
        for first in range(0, len(self.views), together):
            views = self.views[first : first + together]
            flipped = [tiles.flip([2 + a for a in axes]) if axes else tiles for axes in views]
            x = flipped[0] if len(flipped) == 1 else torch.cat(flipped)
            with torch.inference_mode():
                out = logits_of(self._compute(x), x)
                for axes, part in zip(views, torch.split(out, len(tiles)), strict=True):
                    unflipped = part.flip([2 + a for a in axes]) if axes else part
                    total = unflipped if total is None else total.add_(unflipped)
                del out, part, unflipped
        assert total is not None
        with torch.inference_mode():
            return total if len(self.views) == 1 else total.div_(len(self.views))
