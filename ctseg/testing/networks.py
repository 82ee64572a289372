"""The check of a network."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import safetensors.torch
import torch

from ctseg.specs import ArchitectureSpec, Constraints, NetworkPlan, Zyx
from ctseg.testing.options import check_options, require

HALF_PRECISION_ERROR = 0.1
"""Largest error of bfloat16 logits, as a share of the logits' norm, that a sound network shows."""


def check_architecture(
    spec: ArchitectureSpec, *, config: Any = None, in_channels: int = 2, out_channels: int = 3
) -> None:
    """Check that a network keeps to the contract of `ctseg.specs.ArchitectureSpec`.

    Shapes at the sizes its constraints allow; one tensor in evaluation and, with deep supervision, a tuple in
    training; a gradient for every parameter; a safetensors round trip; the same weights from the same seed; cases
    of a batch independent of each other; bfloat16 and channels-last agreeing with plain float32.

    Args:
        config: the options to check with; the defaults when left out. Choose small ones for a large network.
    """
    check_options(spec.name, spec.config)
    config = spec.config() if config is None else config
    constraints = spec.constraints_for(config)
    _check_constraints(spec.name, constraints)

    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        return spec.build(config, in_channels=in_channels, out_channels=out_channels)

    net = build()
    smallest = torch.randn(1, in_channels, *_tile(constraints, larger=False))
    with torch.no_grad():
        _check_logits(spec.name, net.eval()(smallest), smallest, out_channels)
    x = torch.randn(2, in_channels, *_tile(constraints, larger=True))
    _check_training(spec.name, net.train(), x, out_channels)
    _check_evaluation(spec.name, build().eval(), build().eval(), x, out_channels)
    _check_plan(spec, in_channels, out_channels)
    if getattr(config, "deep_supervision", None) is False:
        deep = dataclasses.replace(config, deep_supervision=True)
        deep_net = spec.build(deep, in_channels=in_channels, out_channels=out_channels)
        levels = _check_training(spec.name, deep_net.train(), x, out_channels)
        require(levels > 1, f"{spec.name}: deep_supervision gives a single tensor in training")
        with torch.no_grad():
            _check_logits(spec.name, deep_net.eval()(x), x, out_channels)


def _check_constraints(name: str, constraints: Constraints) -> None:
    strides, smallest = constraints.stride_zyx, constraints.min_tile_zyx
    require(min(strides) >= 1, f"{name}: stride_zyx is {strides}; each is at least 1")
    require(min(smallest) >= 1, f"{name}: min_tile_zyx is {smallest}; each is at least 1")
    fixed = constraints.fixed_tile_zyx
    if fixed is not None:
        fits = all(f % s == 0 and f >= m for f, s, m in zip(fixed, strides, smallest, strict=True))
        require(fits, f"{name}: fixed_tile_zyx {fixed} breaks its own stride or smallest tile")


def _tile(constraints: Constraints, *, larger: bool) -> Zyx:
    """The smallest tile allowed, or one that is larger and longer along x."""
    if constraints.fixed_tile_zyx is not None:
        return constraints.fixed_tile_zyx
    sides = []
    for axis, stride in enumerate(constraints.stride_zyx):
        side = max(stride, constraints.min_tile_zyx[axis], 1)
        if larger:
            side = max(side, 2 * stride, 8) + (stride if axis == 2 else 0)
        sides.append(math.ceil(side / stride) * stride)
    if constraints.dims == 2:
        sides[0] = 2 * constraints.context_slices + 1
    return sides[0], sides[1], sides[2]


def _check_logits(name: str, logits: Any, x: torch.Tensor, out_channels: int) -> None:
    require(
        isinstance(logits, torch.Tensor),
        f"{name}: in evaluation it returns {type(logits).__name__}, one tensor is due",
    )
    expected = (x.shape[0], out_channels, *x.shape[2:])
    require(
        tuple(logits.shape) == expected,
        f"{name}: {tuple(x.shape)} in, {tuple(logits.shape)} out, {expected} is due",
    )
    require(logits.isfinite().all(), f"{name}: logits of {tuple(x.shape)} are not finite")


def _check_training(name: str, net: torch.nn.Module, x: torch.Tensor, out_channels: int) -> int:
    """Check one step of training; returns the number of outputs."""
    output = net(x)
    levels = (output,) if isinstance(output, torch.Tensor) else tuple(output)
    _check_logits(name, levels[0], x, out_channels)
    for finer, coarser in itertools.pairwise(levels):
        require(
            coarser.shape[:2] == finer.shape[:2]
            and all(c <= f for c, f in zip(coarser.shape, finer.shape, strict=True)),
            f"{name}: outputs in training are {[tuple(y.shape) for y in levels]}, finest first is due",
        )
    total = torch.stack([level.float().square().mean() for level in levels]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    for key, parameter in net.named_parameters():
        if parameter.requires_grad:
            require(parameter.grad is not None, f"{name}: no gradient reaches '{key}'")
            assert parameter.grad is not None
            require(
                parameter.grad.isfinite().all(), f"{name}: the gradient of '{key}' is not finite"
            )
    return len(levels)


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
            off <= 1e-3 * scale,
            f"{name}: in evaluation a case depends on the others in its batch (off by {off:.3g})",
        )
        _check_round_trip(name, net, twin, x)
        channels_last = x.contiguous(memory_format=torch.channels_last_3d)
        off = float((net(channels_last) - plain).abs().max())
        require(
            off <= 1e-3 * scale,
            f"{name}: channels-last input gives other logits (off by {off:.3g} of {scale:.3g})",
        )
        with torch.autocast("cpu", torch.bfloat16):
            half = net(channels_last).float()
        require(half.isfinite().all(), f"{name}: logits in bfloat16 are not finite")
        error = float((half - plain).norm() / plain.norm())
        require(
            error <= HALF_PRECISION_ERROR,
            f"{name}: bfloat16 is {error:.1%} off float32; at most {HALF_PRECISION_ERROR:.0%} is due",
        )


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
            f"{spec.name}: from_plan gives {type(config).__name__}, {spec.config.__name__} is due",
        )
        _check_constraints(spec.name, spec.constraints_for(config))
