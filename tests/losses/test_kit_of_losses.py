"""The kit finds losses that fail in half precision, at empty classes, or in a part that they hold constant."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from ctseg import plugins, testing
from ctseg.losses.voxels import known_classes, weighted_mean
from tests.losses.by_name import ce, wce

SPEC = plugins.loss("ce")


def check(loss, **options) -> None:
    testing.check_loss(dataclasses.replace(SPEC, build=lambda _: loss), **options)


def naive(logits, target, *, weight=None, mask=None):
    """Softmax by hand: huge logits overflow."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    powers = logits.exp()
    p = powers / powers.sum(1, keepdim=True)
    values = -p.gather(1, known_classes(target, mask)[:, None])[:, 0].clamp_min(1e-30).log()
    return weighted_mean(values, weight if mask is None else mask.to(values))


def rootless(logits, target, *, weight=None, mask=None):
    """The root of what was hit of each class: its slope is infinite where a class is absent, or all is masked."""
    p = (logits if logits.dtype == torch.float64 else logits.float()).softmax(1)
    one_hot = functional.one_hot(known_classes(target, mask), 3).movedim(-1, 1).to(p)
    counts = torch.ones_like(p[:, :1]) if mask is None else mask[:, None].to(p)
    counts = counts if weight is None else counts * weight[:, None]
    hit = (p * one_hot * counts).sum((0, 2, 3, 4))
    return (1 - hit.sum() / counts.sum().clamp_min(1)) - 1e-3 * hit.clamp_min(0).sqrt().sum()


@pytest.mark.parametrize(
    ("loss", "complaint"), [(naive, "infinite gradient"), (rootless, "not finite")]
)
def test_losses_that_are_not_safe_are_found_out(loss, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check(loss)


def test_a_part_held_constant_must_be_declared_and_must_lead_downhill():
    with pytest.raises(AssertionError, match="its gradient in float64"):
        check(wce)
    check(wce, detached=True)

    def uphill(logits, target, *, weight=None, mask=None):
        value = ce(logits, target, weight=weight, mask=mask)
        return 2 * value.detach() - value

    with pytest.raises(AssertionError, match="against its gradient raises it"):
        check(uphill, detached=True)
