"""The check of a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ctseg.specs import LossSpec, TaskKind
from ctseg.testing.options import check_options, require

HUGE = 3e4
"""Logits of this magnitude fit float16; their square and their exponential overflow."""


def check_loss(spec: LossSpec, *, config: Any = None, detached: bool = False) -> None:
    """Check that a loss fulfils the contract of `ctseg.specs.LossSpec`, for every task it claims.

    The loss is a finite scalar, lower for a perfect than for a wrong prediction; its gradients are right in float64;
    voxels outside the mask have no effect; weights have an effect; absent classes and empty masks give finite values;
    bfloat16 and float16 logits are summed in float32, and huge ones stay finite.

    Args:
        config: options to check with; the defaults if omitted.
        detached: whether the loss detaches a part from its gradient, as `wce` does with its weights. The gradient then
            differs from that of the values, and is only checked to lead downhill.
    """
    check_options(spec.name, spec.config)
    require(spec.tasks, f"{spec.name}: tasks is empty; name those that the loss serves")
    loss = spec.build(spec.config() if config is None else config)
    for kind in sorted(spec.tasks):
        name = f"{spec.name} ({kind})"
        _check_loss_of_task(name, loss, kind)
        _check_precision(name, loss, kind)
        _check_gradient(name, loss, kind, detached)


def _check_loss_of_task(name: str, loss: Callable[..., torch.Tensor], kind: TaskKind) -> None:
    torch.manual_seed(0)
    shape = (2, 3, 4, 5, 6)
    logits, target, good = _example(kind, shape)

    value = loss(logits, target)
    require(value.ndim == 0, f"{name}: gives shape {tuple(value.shape)}, a scalar is expected")
    require(value.isfinite(), f"{name}: gives {value.item()} for ordinary logits")
    perfect, wrong = loss(good, target), loss(-good, target)
    require(
        perfect < value < wrong,
        f"{name}: a perfect prediction costs {perfect:.4g}, a random one {value:.4g} and a wrong one "
        f"{wrong:.4g}; the costs must be in this order",
    )

    mask = torch.rand(2, *shape[2:]) > 0.3
    spread = mask if kind == "classes" else mask[:, None].expand(shape)
    leaf = logits.clone().requires_grad_()
    masked = loss(leaf, target, mask=mask)
    masked.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    outside = ~mask[:, None].expand(shape)
    require(leaf.grad[outside].abs().max() == 0, f"{name}: voxels outside the mask have a gradient")
    require(leaf.grad[~outside].abs().max() > 0, f"{name}: voxels inside the mask have no gradient")
    changed = loss(torch.where(outside, -logits, logits), target.where(spread, 1), mask=mask)
    require(torch.allclose(changed, masked), f"{name}: values outside the mask change the loss")

    ones = torch.ones(mask.shape, dtype=logits.dtype)
    require(
        torch.allclose(loss(logits, target, weight=ones), value),
        f"{name}: a weight of 1 everywhere changes the loss",
    )
    require(
        torch.allclose(loss(logits, target, weight=mask.to(logits.dtype)), masked),
        f"{name}: a weight of 0 gives another loss than being outside the mask",
    )
    leaf = logits.clone().requires_grad_()
    nothing = loss(leaf, target, mask=torch.zeros_like(mask))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    require(
        nothing.isfinite() and leaf.grad.isfinite().all(),
        f"{name}: the loss of a batch that is masked altogether is not finite",
    )
    leaf = logits.clone().requires_grad_()
    empty = loss(leaf, torch.zeros_like(target))
    empty.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    require(empty.isfinite(), f"{name}: gives {empty.item()} where every label but one is absent")
    require(
        leaf.grad.isfinite().all(),
        f"{name}: its gradient is not finite where every label but one is absent",
    )


def _check_precision(name: str, loss: Callable[..., torch.Tensor], kind: TaskKind) -> None:
    logits, target, _ = _example(kind, (2, 3, 4, 5, 6))
    for dtype in (torch.bfloat16, torch.float16):
        rounded, called = logits.to(dtype), str(dtype).removeprefix("torch.")
        half, full = loss(rounded, target).double(), loss(rounded.float(), target).double()
        require(
            torch.allclose(half, full, rtol=1e-3),
            f"{name}: {called} logits give {half:.5g}, the same in float32 {full:.5g}",
        )
        for sign in (HUGE, -HUGE):
            leaf = (logits.sign() * sign).to(dtype).requires_grad_()
            value = loss(leaf, target)
            value.backward()  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            require(
                value.isfinite() and leaf.grad.isfinite().all(),
                f"{name}: {called} logits of {HUGE:g} give {value.item()} or an infinite gradient",
            )


def _check_gradient(
    name: str, loss: Callable[..., torch.Tensor], kind: TaskKind, detached: bool
) -> None:
    logits, target, _ = _example(kind, (1, 3, 2, 2, 3))
    leaf = logits.requires_grad_()
    if not detached:
        ok = torch.autograd.gradcheck(lambda x: loss(x, target), leaf, raise_exception=False)
        require(ok, f"{name}: its gradient in float64 is not that of its values")
        return
    value = loss(leaf, target)
    value.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    lower = loss(leaf.detach() - 1e-2 * leaf.grad / leaf.grad.norm(), target)
    require(lower < value, f"{name}: a step against its gradient raises it")


def _example(
    kind: TaskKind, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random logits, a target, and logits that are right everywhere (negated: wrong everywhere); float64."""
    logits = torch.randn(shape, dtype=torch.float64)
    if kind == "regression":
        target = 3 + torch.rand(shape, dtype=torch.float64)
        return logits, target, target.clone()
    if kind == "channels":
        target = torch.randint(0, 2, shape).double()
        return logits, target, 40 * target - 20
    classes = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    right = torch.nn.functional.one_hot(classes, shape[1]).movedim(-1, 1)
    return logits, classes, 40.0 * right.double() - 20
