"""Losses against MONAI's published test values, sums by hand, and properties."""

from __future__ import annotations

import math

import pytest
import torch

import ctseg
from ctseg.errors import BadInput, ConfigError
from ctseg.losses.config import CrossEntropyConfig, DiceConfig
from tests.losses.by_name import bce, bce_dice, ce, dice, dice_ce


def grid(values: list) -> torch.Tensor:
    """[B, C, N] or [B, N] as [B, C, 1, 1, N] or [B, 1, 1, N]."""
    tensor = torch.tensor(values)
    return tensor.unflatten(-1, (1, 1, -1))


ONE = ([[[1.0, -1.0, -1.0, 1.0]]], [[[1.0, 0.0, 1.0, 1.0]]])
TWO = ([[[1.0, -1.0, -1.0, 1.0]]] * 2, [[[1.0, 1.0, 1.0, 1.0]], [[1.0, 0.0, 1.0, 0.0]]])
THREE = ([[[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]],)
ONEHOT = [[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]]


# tests/losses/test_dice_loss.py of MONAI 1.6
@pytest.mark.parametrize(
    ("logits", "target", "options", "expected"),
    [
        (*ONE, {"smooth": 1e-6}, 0.307576),
        (*TWO, {"smooth": 1e-4}, 0.416657),
        (*ONE, {"squared": True}, 0.178337),
        (*THREE, ONEHOT, {"smooth": 1e-4}, 0.435050),
        (*THREE, [[1, 0, 0], [1, 1, 0]], {"smooth": 1e-4, "include_background": True}, 0.383713),
    ],
)
def test_dice_has_monais_published_values(logits, target, options, expected):
    value = dice(grid(logits), grid(target), **options)
    assert value.item() == pytest.approx(expected, rel=1e-5)


# tests/losses/test_dice_ce_loss.py of MONAI 1.6: -1 + log(1 + e)
def test_cross_entropy_has_monais_published_value():
    logits = grid([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    assert ce(logits, grid([[0, 0, 1], [0, 1, 0]])).item() == pytest.approx(0.3133, abs=1e-4)


def test_dice_without_background_by_hand():
    # softmax of (log 3, 0) is (3/4, 1/4) at both voxels; class 1 stands at the second
    logits = grid([[[math.log(3)] * 2, [0.0, 0.0]]])
    value = dice(logits, grid([[0, 1]]), smooth=1e-9)
    assert value.item() == pytest.approx(1 - 2 * 0.25 / (0.5 + 1))


def test_dice_over_the_batch_sums_first_by_hand():
    p = [[[0.2, 0.4]], [[0.9, 0.9]]]
    logits = grid(p).logit()
    target = grid([[[0.0, 0.0]], [[1.0, 1.0]]])
    over_batch = dice(logits, target, batch=True, smooth=1e-9)
    assert over_batch.item() == pytest.approx(1 - 2 * 1.8 / (2.4 + 2), rel=1e-5)
    per_sample = dice(logits, target, smooth=1e-9)
    assert per_sample.item() == pytest.approx((1 + (1 - 3.6 / 3.8)) / 2, rel=1e-5)


def test_class_weights_by_hand():
    logits = grid([[[0.0, 0.0], [0.0, 0.0]]])
    target = grid([[0, 1]])
    assert ce(logits, target, class_weights=(1, 3)).item() == pytest.approx(math.log(2))
    logits = grid([[[math.log(3), math.log(3)], [0.0, 0.0]]])
    weighted = ce(logits, target, class_weights=(1, 3)).item()
    assert weighted == pytest.approx((math.log(4 / 3) + 3 * math.log(4)) / 4)
    # Dice of class 0: 2 * .75 / (1.5 + 1), of class 1: 2 * .25 / (0.5 + 1)
    weighted = dice(logits, target, include_background=True, class_weights=(1, 3)).item()
    assert weighted == pytest.approx(1 - (0.6 + 3 / 3) / 4, abs=1e-4)
    probabilities = grid([[[0.25], [0.5]]])
    weighted = bce(probabilities.logit(), grid([[[1.0], [1.0]]]), class_weights=(1, 3)).item()
    assert weighted == pytest.approx((math.log(4) + 3 * math.log(2)) / 4)


def test_class_weights_weigh_alike_with_and_without_a_mask():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 2, 3, 4), torch.randint(0, 3, (2, 2, 3, 4))
    everywhere = torch.ones(target.shape, dtype=torch.bool)
    plain = ce(logits, target, class_weights=(1, 2, 3))
    assert torch.allclose(plain, ce(logits, target, class_weights=(1, 2, 3), mask=everywhere))


def test_combined_losses_are_their_parts():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 2, 3, 4), torch.randint(0, 3, (2, 2, 3, 4))
    weight = torch.rand(target.shape)
    mask = torch.rand(target.shape) > 0.3
    both = dice_ce(logits, target, weight=weight, mask=mask, dice_weight=2.0, ce_weight=0.5)
    parts = 2 * dice(logits, target, weight=weight, mask=mask)
    parts = parts + 0.5 * ce(logits, target, weight=weight, mask=mask)
    assert torch.allclose(both, parts)
    channels = torch.rand(logits.shape)
    both = bce_dice(logits, channels, weight=weight, mask=mask, alpha=0.3, beta=2.0)
    parts = 0.3 * bce(logits, channels, weight=weight, mask=mask)
    parts = parts + 2 * dice(logits, channels, weight=weight, mask=mask)
    assert torch.allclose(both, parts)


FUNCTIONS = [
    (ce, "classes"),
    (dice, "classes"),
    (dice_ce, "classes"),
    (bce, "channels"),
    (dice, "channels"),
    (bce_dice, "channels"),
]


@pytest.mark.parametrize(("function", "kind"), FUNCTIONS)
def test_a_voxel_of_weight_two_counts_as_two_voxels(function, kind):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 1, 1, 4)
    target = torch.randint(0, 3, (1, 1, 1, 4)) if kind == "classes" else torch.rand(logits.shape)
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0]).reshape(1, 1, 1, 4)
    twice = torch.tensor([0, 1, 1, 2, 3])
    weighted = function(logits, target, weight=weight)
    assert torch.allclose(weighted, function(logits[..., twice], target[..., twice]))


@pytest.mark.parametrize(("function", "kind"), FUNCTIONS)
def test_half_precision_logits_are_summed_in_float(function, kind):
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 40, 40, 40).bfloat16()
    target = torch.randint(0, 2, (1, 40, 40, 40))
    if kind == "channels":
        target = torch.stack((target, 1 - target), 1).float()
    value = function(logits, target)
    assert value.dtype == torch.float32
    assert torch.allclose(value, function(logits.double(), target).float(), atol=1e-5)


def test_a_batch_that_is_masked_altogether_is_finite_and_flat():
    logits = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
    target = torch.full((1, 2, 2, 2), -1)
    mask = torch.zeros((1, 2, 2, 2), dtype=torch.bool)
    value = dice_ce(logits, target, mask=mask)
    value.backward()
    assert value.isfinite()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(1, 2, 2, 2, dtype=torch.int64),
        torch.zeros(2, 2, 2, 2),
        torch.zeros(2, 1, 2, 2, 2),
        torch.zeros(2, 1, 2, 2, 2, dtype=torch.int64),
    ],
    ids=lambda t: f"{tuple(t.shape)}-{t.dtype}",
)
def test_targets_of_a_wrong_shape_are_refused(target):
    with pytest.raises(BadInput, match="shape"):
        dice(torch.zeros(2, 3, 2, 2, 2), target)


def test_wrong_options_are_refused():
    logits, target = torch.zeros(1, 3, 1, 1, 2), torch.zeros(1, 1, 1, 2, dtype=torch.int64)
    with pytest.raises(BadInput, match="2 numbers for 3"):
        ce(logits, target, class_weights=(1, 2))
    with pytest.raises(ConfigError, match="class_weights"):
        CrossEntropyConfig(class_weights=(-1.0, 2.0))
    with pytest.raises(ConfigError, match="smooth"):
        DiceConfig(smooth=0.0)


def test_a_loss_says_what_it_is():
    assert "smooth" in repr(ctseg.create_loss("dice"))
