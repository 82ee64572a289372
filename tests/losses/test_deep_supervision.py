"""Deep supervision."""

from __future__ import annotations

import pytest
import torch

from ctseg.losses.deep import DeepSupervision, level_weights, nearest
from tests.losses.by_name import ce


def test_weights_halve_and_the_lowest_is_nought():
    assert level_weights(1) == (1.0,)
    assert level_weights(2) == (1.0, 0.0)
    assert level_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))


def test_targets_are_sampled_at_the_nearest_centres():
    values = torch.arange(8).reshape(1, 1, 1, 8)
    assert nearest(values, (1, 1, 4)).flatten().tolist() == [1, 3, 5, 7]
    assert nearest(values[..., :6], (1, 1, 2)).flatten().tolist() == [1, 4]
    like = torch.rand(1, 2, 4, 6, 10)
    theirs = torch.nn.functional.interpolate(like, (2, 3, 4), mode="nearest-exact")
    assert torch.equal(nearest(like, (2, 3, 4)), theirs)


def test_levels_are_weighed_and_masked_and_the_lowest_gets_a_gradient_of_zero():
    torch.manual_seed(0)
    levels = [torch.randn(1, 2, n, n, n, requires_grad=True) for n in (8, 4, 2)]
    target = torch.randint(0, 2, (1, 8, 8, 8))
    mask, weight = torch.rand(1, 8, 8, 8) > 0.2, torch.rand(1, 8, 8, 8)
    value = DeepSupervision(ce)(tuple(levels), target, weight=weight, mask=mask)
    half = slice(1, None, 2)
    expected = 2 / 3 * ce(levels[0], target, weight=weight, mask=mask)
    expected = expected + 1 / 3 * ce(
        levels[1],
        target[:, half, half, half],
        weight=weight[:, half, half, half],
        mask=mask[:, half, half, half],
    )
    assert torch.allclose(value, expected)
    value.backward()
    assert levels[1].grad.abs().sum() > 0
    assert torch.equal(levels[2].grad, torch.zeros_like(levels[2]))


def test_a_single_tensor_passes_straight_through():
    logits, target = torch.randn(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    assert torch.equal(DeepSupervision(ce)(logits, target), ce(logits, target))
