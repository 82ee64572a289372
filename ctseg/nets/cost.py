"""The cost of a network for one patch: parameters, operations and memory, counted on tensors without data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing import reductions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ctseg.specs import Zyx

_weak: Any = reductions.StorageWeakRef


@dataclass(frozen=True)
class Cost:
    """The cost of one patch at batch 1 in float32; bfloat16 stores a little more than half of the activations.

    Attributes:
        parameters: number of trainable parameters.
        weight_bytes: bytes of parameters and buffers.
        flops: floating-point operations of a forward pass (a multiplication and an addition are two) in
            convolutions and matrix products.
        inference_bytes: peak memory of tensors in a forward pass, including the input, without the weights.
        training_bytes: bytes that a training step stores in the forward pass for the backward pass.
        step_bytes: peak memory of tensors in a training step, including gradients, without the weights and the
            optimizer's state.
    """

    parameters: int
    weight_bytes: int
    flops: int
    inference_bytes: int
    training_bytes: int
    step_bytes: int


def measure(build: Callable[[], torch.nn.Module], patch_zyx: Zyx, *, in_channels: int) -> Cost:
    """The cost of a network for one patch.

    Operators run on meta tensors, which have shapes but no data. Networks that read values are run on the CPU
    with real data. Memory is that of tensors: workspace inside an operator, such as that of a convolution, comes
    on top. bfloat16 on a CPU may need a little less of all of these (see `ctseg.nets.cpu.fused_upsample`).

    Args:
        build: creates the network.
        patch_zyx: patch size in voxels.
    """
    try:
        with torch.device("meta"):
            net = build()
        return _measure(net, torch.empty(1, in_channels, *patch_zyx, device="meta"))
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
        return _measure(build(), torch.zeros(1, in_channels, *patch_zyx))


def _measure(net: torch.nn.Module, x: torch.Tensor) -> Cost:
    weights = [*net.parameters(), *net.buffers()]
    net.eval()
    flops = forward_flops(net, x)
    with torch.no_grad():
        inference = _peak(lambda: net(x), x, weights)
    net.train()
    saved = _saved_bytes(net, x, weights)

    def step() -> None:
        output = net(x)
        levels = (output,) if isinstance(output, torch.Tensor) else tuple(output)
        torch.stack([level.float().mean() for level in levels]).sum().backward()  # type: ignore[no-untyped-call]

    return Cost(
        parameters=sum(p.numel() for p in net.parameters()),
        weight_bytes=sum(t.numel() * t.element_size() for t in weights),
        flops=flops,
        inference_bytes=inference,
        training_bytes=saved,
        step_bytes=_peak(step, x, weights),
    )


def forward_flops(net: torch.nn.Module, x: torch.Tensor) -> int:
    """Floating-point operations of a forward pass in convolutions and matrix products; x may be on the meta device."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    return int(counter.get_total_flops())


def _saved_bytes(net: torch.nn.Module, x: torch.Tensor, weights: list[torch.Tensor]) -> int:
    """Bytes of all tensors that autograd stores, each storage once, without the weights."""
    left_out = {t.untyped_storage()._cdata for t in weights}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in left_out:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(x)  # alive until the end, so that no storage's address is reused
    del output
    return sum(saved.values())


class _LiveStorages(TorchDispatchMode):
    """Tracks the storages that are alive after each operator."""

    def __init__(self, left_out: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left_out = {t.untyped_storage()._cdata for t in left_out}
        self.sizes: dict[Any, int] = {}
        self.peak = 0

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.left_out:
            self.sizes.setdefault(_weak(storage), storage.nbytes())

    def fit(self) -> None:
        self.sizes = {ref: size for ref, size in self.sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.sizes.values()))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        self.fit()
        return output


def _peak(run: Callable[[], Any], x: torch.Tensor, weights: list[torch.Tensor]) -> int:
    """Peak bytes held by tensors while `run` runs."""
    live = _LiveStorages(weights)
    with live:
        live.add(x)
        live.fit()
        run()
    return live.peak
