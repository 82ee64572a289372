"""Measures a network's activation memory for one tile."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch.multiprocessing import reductions

from ctseg.engine.inference.forward import logits_of
from ctseg.engine.model.runtime import Runtime
from ctseg.specs import Constraints, Zyx

OVERHEAD_BYTES = 48 * 2**20
"""Memory of the convolution library besides tensors, on a CPU; measured with networks of 0.1 to 1 GB a tile."""
OVERHEAD_FACTOR = 1.15
"""Further overhead, relative to the size of the tensors."""
PROBE = 3
"""On a CPU the measured tile has a third of the size along each axis, and takes a twenty-seventh of the time."""

_ref: Any = reductions.StorageWeakRef
_known: weakref.WeakKeyDictionary[torch.nn.Module, dict[object, int]] = weakref.WeakKeyDictionary()


def activation_bytes(
    network: torch.nn.Module,
    tile_zyx: Zyx,
    *,
    in_channels: int,
    runtime: Runtime,
    constraints: Constraints,
) -> int:
    """Peak memory of one tile on the device, including input and fp32 output, excluding weights.

    On CUDA the tile is run and the allocator's peak is read. On a CPU a small tile is run, the inputs and outputs of
    modules are tracked, and their peak is extrapolated in proportion to the voxels. Results are cached for each
    network, tile and precision.

    Args:
        network: in eval mode on the runtime's device.

    Raises:
        RuntimeError: CUDA has too little memory for the tile (`torch.OutOfMemoryError`).
    """
    key = (tile_zyx, in_channels, runtime.precision, str(runtime.device))
    known = _known.setdefault(network, {})
    if key not in known:
        if runtime.device.type == "cuda":
            known[key] = _on_cuda(network, tile_zyx, in_channels, runtime)
        else:
            probe = ("voxel", *key[1:])
            if probe not in known:
                known[probe] = _per_voxel(network, tile_zyx, in_channels, runtime, constraints)
            tensors = known[probe] * math.prod(tile_zyx) / 1000
            known[key] = int(OVERHEAD_FACTOR * tensors) + OVERHEAD_BYTES
    return known[key]


def _on_cuda(network: torch.nn.Module, tile: Zyx, channels: int, runtime: Runtime) -> int:
    device = runtime.device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _run(network, tile, channels, runtime)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _per_voxel(
    network: torch.nn.Module, tile: Zyx, channels: int, runtime: Runtime, constraints: Constraints
) -> int:
    """Activation memory for each voxel, in thousandths of a byte."""
    fixed = constraints.fixed_tile_zyx is not None
    for part in (1,) if fixed else (PROBE, 2, 1):
        z, y, x = (min(max(math.ceil(n / part), 8), n) for n in tile)
        probe = constraints.fit((max(z, min(tile[0], 2 * constraints.context_slices + 1)), y, x))
        try:
            live = _Live(network)
            with live:
                _run(network, probe, channels, runtime)
            return math.ceil(1000 * live.peak / math.prod(probe))
        except (RuntimeError, ValueError):  # some networks reject a deepest level of one voxel
            if part == 1:
                raise
    raise AssertionError


def _run(network: torch.nn.Module, tile: Zyx, channels: int, runtime: Runtime) -> None:
    x = torch.zeros((1, channels, *tile), device=runtime.device)
    with torch.inference_mode(), runtime.autocast():
        logits_of(network(runtime.tensor(x)), x)


class _Live:
    """Tracks the inputs and outputs of leaf modules, and the peak size of those that are alive together."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._leaves = [m for m in network.modules() if not list(m.children())]
        if network not in self._leaves:
            self._leaves.append(network)
        own = [*network.parameters(), *network.buffers()]
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._sizes: dict[Any, int] = {}
        self.peak = 0

    def __enter__(self) -> _Live:
        self._hooks = [
            hook
            for leaf in self._leaves
            for hook in (
                leaf.register_forward_pre_hook(lambda *arguments: self._track(arguments[1])),
                leaf.register_forward_hook(lambda *arguments: self._track(arguments[2])),
            )
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _track(self, value: Any) -> None:
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._own:
                    self._sizes.setdefault(_ref(storage), storage.nbytes())
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._sizes.values()))
