"""The check of a network."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import safetensors.torch
import torch

from ctseg.engine.model.runtime import Runtime, repeatable
from ctseg.specs import ArchitectureSpec, Constraints, NetworkPlan, Zyx
from ctseg.testing.options import check_options, require
from ctseg.testing.overfit import check_overfits

HALF_PRECISION_ERROR = 0.1
"""Largest error of a sound network's bfloat16 logits, relative to the logits' norm."""
SAME = 1e-3
"""Largest difference, relative to the largest logit, between computations that should agree."""
MANY_VOXELS = 2**17
"""Patches with more voxels are not enlarged."""
CPU_BF16 = Runtime(torch.device("cpu"), "bf16", channels_last=True, reason="check")


def check_architecture(
    spec: ArchitectureSpec,
    *,
    config: Any = None,
    in_channels: int = 2,
    out_channels: int = 3,
    overfit: bool = True,
) -> None:
    """Check that a network fulfils the contract of `ctseg.specs.ArchitectureSpec`.

    The checks: output shapes at the smallest tile, at a fixed one and at multiples of the stride; for a slice-wise
    network no more context than it claims; one tensor in evaluation and, with deep supervision, a tuple in training,
    finest first; a gradient for every parameter, in float32 and bfloat16; a safetensors round trip; equal weights and
    gradients from equal seeds; cases of a batch independent of each other; bfloat16 and channels-last agreeing with
    plain float32; and a Dice of 0.9 after overfitting one patch.

    Args:
        config: options to check with; the defaults if omitted. Choose small ones for a large network.
        overfit: whether to train on one patch, which takes most of the time (seconds, for a small network).
    """
    check_options(spec.name, spec.config)
    config = spec.config() if config is None else config
    constraints = spec.constraints_for(config)
    _check_constraints(spec.name, constraints)

    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        return spec.build(config, in_channels=in_channels, out_channels=out_channels)

    net = build()
    _check_sizes(spec.name, net.eval(), constraints, in_channels, out_channels)
    sides = tile(constraints, larger=True)
    if math.prod(sides) > MANY_VOXELS:
        sides = tile(constraints, larger=False)
    x = torch.randn(2, in_channels, *sides)
    _check_training(spec.name, net.train(), x, out_channels)
    _check_evaluation(spec.name, build().eval(), build().eval(), x, out_channels)
    _check_same_gradients(spec.name, net, build().train(), x)
    _check_half_precision(spec.name, build(), x)
    _check_plan(spec, in_channels, out_channels)
    if getattr(config, "deep_supervision", None) is False:
        deep = dataclasses.replace(config, deep_supervision=True)
        deep_net = spec.build(deep, in_channels=in_channels, out_channels=out_channels)
        levels = _check_training(spec.name, deep_net.train(), x, out_channels)
        require(levels > 1, f"{spec.name}: deep_supervision gives a single tensor in training")
        with torch.no_grad():
            _check_logits(spec.name, deep_net.eval()(x), x, out_channels)
    if overfit:
        check_overfits(spec.name, build(), constraints, sides, in_channels, out_channels)


def _check_constraints(name: str, constraints: Constraints) -> None:
    strides, smallest = constraints.stride_zyx, constraints.min_tile_zyx
    require(min(strides) >= 1, f"{name}: stride_zyx is {strides}; each must be at least 1")
    require(min(smallest) >= 1, f"{name}: min_tile_zyx is {smallest}; each must be at least 1")
    context, fixed = constraints.context_slices, constraints.fixed_tile_zyx
    require(context >= 0, f"{name}: context_slices is {context}; it must be at least 0")
    if fixed is not None:
        fits = all(f % s == 0 and f >= m for f, s, m in zip(fixed, strides, smallest, strict=True))
        require(fits, f"{name}: fixed_tile_zyx {fixed} breaks its own stride or smallest tile")
    depth = (fixed or smallest)[0]
    require(
        depth > 2 * context,
        f"{name}: its smallest tile has {depth} slices; a context of {context} on either side needs "
        f"{2 * context + 1}",
    )


def tile(constraints: Constraints, *, larger: bool) -> Zyx:
    """The smallest tile allowed, or one that is larger and longer along x."""
    if constraints.fixed_tile_zyx is not None:
        return constraints.fixed_tile_zyx
    sides = []
    for axis, stride in enumerate(constraints.stride_zyx):
        side = max(stride, constraints.min_tile_zyx[axis], 1)
        if larger and axis == 0 and constraints.dims == 2:
            side += 2 * stride
        elif larger:
            side = max(side, 2 * stride, 8) + (stride if axis == 2 else 0)
        sides.append(math.ceil(side / stride) * stride)
    return sides[0], sides[1], sides[2]


def _check_sizes(
    name: str, net: torch.nn.Module, constraints: Constraints, in_channels: int, out_channels: int
) -> None:
    """Check logits at the smallest tile, and at one that is a stride longer along z and y."""
    smallest = tile(constraints, larger=False)
    sizes = [smallest]
    if constraints.fixed_tile_zyx is None:
        z, y, _ = constraints.stride_zyx
        sizes.append((smallest[0] + z, smallest[1] + y, smallest[2]))
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(1, in_channels, *size)
            try:
                logits = net(x)
            except (RuntimeError, ValueError, AssertionError) as error:
                raise AssertionError(
                    f"{name}: its constraints allow a tile of {size}, which it refuses: {error}"
                ) from error
            _check_logits(name, logits, x, out_channels)
        if constraints.dims == 2 and constraints.fixed_tile_zyx is None:
            _check_context(name, net, constraints, in_channels)


def _check_context(
    name: str, net: torch.nn.Module, constraints: Constraints, in_channels: int
) -> None:
    """Check that a slice's logits depend on no slice beyond the context."""
    context = constraints.context_slices
    depth, y, x = tile(constraints, larger=True)
    tiles = torch.randn(1, in_channels, depth, y, x)
    changed = tiles.clone()
    changed[:, :, -1] += 1
    before, after = net(tiles), net(changed)
    off = (after - before).abs().amax((0, 1, 3, 4)) / before.abs().max()
    far = off[: depth - 1 - context]
    require(
        far.max() <= SAME,
        f"{name}: a slice changes with one that is more than {context} slices away; its constraints "
        "claim less (context_slices)",
    )
    require(
        off[depth - 1 - context] > 0,
        f"{name}: a slice depends on fewer than the {context} slices that its constraints claim (context_slices)",
    )


def _check_logits(name: str, logits: Any, x: torch.Tensor, out_channels: int) -> None:
    require(
        isinstance(logits, torch.Tensor),
        f"{name}: in evaluation it returns {type(logits).__name__}, one tensor is expected",
    )
    expected = (x.shape[0], out_channels, *x.shape[2:])
    require(
        tuple(logits.shape) == expected,
        f"{name}: {tuple(x.shape)} in, {tuple(logits.shape)} out, {expected} is expected",
    )
    require(logits.isfinite().all(), f"{name}: logits of {tuple(x.shape)} are not finite")


def _backward(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A training step without its update, set up as in `ctseg train`; returns the outputs, finest first."""
    torch.manual_seed(1)  # dropout and the like
    with repeatable(x.device):
        output = net(x)
        levels = (output,) if isinstance(output, torch.Tensor) else tuple(output)
        total = torch.stack([level.float().square().mean() for level in levels]).sum()
        total.backward()  # type: ignore[no-untyped-call]
    return levels


def _check_training(name: str, net: torch.nn.Module, x: torch.Tensor, out_channels: int) -> int:
    """Check one step of training; returns the number of outputs."""
    levels = _backward(net, x)
    _check_logits(name, levels[0], x, out_channels)
    for finer, coarser in itertools.pairwise(levels):
        require(
            coarser.shape[:2] == finer.shape[:2]
            and all(c <= f for c, f in zip(coarser.shape, finer.shape, strict=True)),
            f"{name}: outputs in training are {[tuple(y.shape) for y in levels]}, finest first is expected",
        )
    _check_gradients(name, net)
    return len(levels)


def _check_gradients(name: str, net: torch.nn.Module, where: str = "") -> None:
    for key, parameter in net.named_parameters():
        if parameter.requires_grad:
            require(parameter.grad is not None, f"{name}: no gradient reaches '{key}'{where}")
            assert parameter.grad is not None
            require(
                parameter.grad.isfinite().all(),
                f"{name}: the gradient of '{key}' is not finite{where}",
            )


def _check_same_gradients(
    name: str, net: torch.nn.Module, twin: torch.nn.Module, x: torch.Tensor
) -> None:
    """Check that equal seeds give equal gradients, as resumed runs need; `net` has been through a step already."""
    _backward(twin, x)
    pairs = zip(net.named_parameters(), twin.parameters(), strict=True)
    for (key, one), two in pairs:
        same = one.grad is None or two.grad is None or torch.equal(one.grad, two.grad)
        require(same, f"{name}: the same seed and input give '{key}' another gradient")


def _check_evaluation(
    name: str, net: torch.nn.Module, twin: torch.nn.Module, x: torch.Tensor, out_channels: int
) -> None:
    with torch.no_grad():
        plain = net(x)
        _check_logits(name, plain, x, out_channels)
        scale = float(plain.abs().max())
        state, other = net.state_dict(), twin.state_dict()
        same = all(torch.equal(state[key], other[key]) for key in state)
        require(same, f"{name}: the same seed gives other weights")
        require(torch.equal(net(x), plain), f"{name}: the same input gives other logits")
        alone = net(x[:1])
        off = float((alone - plain[:1]).abs().max())
        require(
            off <= SAME * scale,
            f"{name}: in evaluation a case depends on the others in its batch (off by {off:.3g})",
        )
        _check_round_trip(name, net, twin, x)
        channels_last = x.contiguous(memory_format=torch.channels_last_3d)
        for placed, whose in ((False, "input"), (True, "weights and input")):
            if placed:
                net = CPU_BF16.place(net)
            off = float((net(channels_last) - plain).abs().max())
            require(
                off <= SAME * scale,
                f"{name}: channels-last {whose} give other logits (off by {off:.3g} of {scale:.3g})",
            )
        with CPU_BF16.autocast():
            half = net(channels_last).float()
        require(half.isfinite().all(), f"{name}: logits in bfloat16 are not finite")
        error = float((half - plain).norm() / plain.norm())
        require(
            error <= HALF_PRECISION_ERROR,
            f"{name}: bfloat16 is {error:.1%} off float32; at most {HALF_PRECISION_ERROR:.0%} is allowed",
        )


def _check_half_precision(name: str, net: torch.nn.Module, x: torch.Tensor) -> None:
    """Check a training step as the engine does it on a CPU with bfloat16."""
    net = CPU_BF16.place(net.train())
    with CPU_BF16.autocast():
        _backward(net, CPU_BF16.tensor(x))
    _check_gradients(name, net, " in bfloat16")


def _check_round_trip(
    name: str, net: torch.nn.Module, twin: torch.nn.Module, x: torch.Tensor
) -> None:
    try:
        data = safetensors.torch.save(net.state_dict())
    except RuntimeError as error:
        raise AssertionError(f"{name}: safetensors cannot hold its weights: {error}") from error
    for tensor in twin.state_dict().values():
        tensor.zero_()
    twin.load_state_dict(safetensors.torch.load(data), strict=True)
    require(torch.equal(twin(x), net(x)), f"{name}: weights read back give other logits")


def _check_plan(spec: ArchitectureSpec, in_channels: int, out_channels: int) -> None:
    if spec.from_plan is None:
        return
    for patch, spacing in (((64, 64, 64), (1.0, 1.0, 1.0)), ((16, 96, 96), (5.0, 0.8, 0.8))):
        config = spec.from_plan(NetworkPlan(patch, spacing, in_channels, out_channels))
        require(
            isinstance(config, spec.config),
            f"{spec.name}: from_plan gives {type(config).__name__}, {spec.config.__name__} is expected",
        )
        _check_constraints(spec.name, spec.constraints_for(config))
