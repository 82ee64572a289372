"""The losses beyond cross-entropy and Dice: by hand, against each other, and what their options do."""

from __future__ import annotations

import math

import pytest
import torch

from ctseg import create_loss
from ctseg.errors import BadInput, ConfigError
from ctseg.losses.cldice import soft_skeleton
from ctseg.losses.distance import distance_to, signed_distance, squared_distances
from tests.losses.by_name import (
    bce,
    boundary,
    ce,
    cldice,
    dice,
    dice_topk,
    focal,
    focal_tversky,
    generalized_dice,
    mse,
    smooth_l1,
    tversky,
    wce,
    weighted_smooth_l1,
)


def line(values: list) -> torch.Tensor:
    """[B, C, N] or [B, N] as [B, C, 1, 1, N] or [B, 1, 1, N]."""
    return torch.tensor(values).unflatten(-1, (1, 1, -1))


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, class indices, channels, and a mask."""
    torch.manual_seed(0)
    shape = (2, 3, 4, 5, 6)
    mask = torch.rand(2, 4, 5, 6) > 0.3
    return torch.randn(shape), torch.randint(0, 3, (2, 4, 5, 6)), torch.rand(shape).round(), mask


# ---------------------------------------------------------------- cross-entropies


def test_wce_by_hand():
    # p of class 1 is 1/4 everywhere, so w = (1/4) / (3/4) and (3/4) / (1/4)
    logits = line([[[math.log(3)] * 4, [0.0] * 4]])
    value = wce(logits, line([[0, 0, 0, 1]])).item()
    assert value == pytest.approx((math.log(4 / 3) + 3 * math.log(4)) / (1 + 3))


def test_wce_looks_at_voxels_that_count_only(tensors):
    logits, target, _, mask = tensors
    part = wce(logits[:, :, :2], target[:, :2])
    upper = torch.zeros_like(mask)
    upper[:, :2] = True
    assert torch.allclose(wce(logits, target, mask=upper), part)


def test_a_factor_of_the_positive_part_counts_missed_voxels_more():
    logits = line([[[0.25, 0.5]]]).logit()
    value = bce(logits, line([[[1.0, 0.0]]]), pos_weight=(3.0,)).item()
    assert value == pytest.approx((3 * math.log(4) + math.log(2)) / 2)
    with pytest.raises(BadInput, match="pos_weight has 2 numbers for 1"):
        bce(logits, line([[[1.0, 0.0]]]), pos_weight=(3.0, 1.0))


def test_a_sum_is_the_mean_times_the_voxels_that_count(tensors):
    logits, _, target, mask = tensors
    total = bce(logits, target, mask=mask, reduction="sum")
    assert torch.allclose(total, bce(logits, target, mask=mask) * 3 * mask.sum())


def test_means_by_sample_weigh_samples_alike(tensors):
    logits, target, channels, mask = tensors
    mask[0] = False
    mask[0, 0, 0, 0] = True
    for function, wanted in ((ce, target), (focal, target), (bce, channels), (mse, channels)):
        apart = [
            function(logits[i : i + 1], wanted[i : i + 1], mask=mask[i : i + 1]) for i in (0, 1)
        ]
        value = function(logits, wanted, mask=mask, batch=False)
        assert torch.allclose(value, torch.stack(apart).mean()), function.__name__
    mask[0] = False  # a sample that is unlabelled altogether is left out
    value = ce(logits, target, mask=mask, batch=False)
    assert torch.allclose(value, ce(logits[1:], target[1:], mask=mask[1:]))


def test_focal_without_focus_is_cross_entropy(tensors):
    logits, target, channels, mask = tensors
    options = {"mask": mask, "class_weights": (1, 2, 3)}
    assert torch.allclose(focal(logits, target, gamma=0, **options), ce(logits, target, **options))
    assert torch.allclose(
        focal(logits, channels, gamma=0, **options), bce(logits, channels, **options)
    )


def test_topk_keeps_the_worst_of_the_voxels_that_count():
    p = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    logits = torch.stack((line([p]).log(), (1 - line([p])).log()), 1)
    target = torch.zeros(1, 1, 1, 10, dtype=torch.int64)
    worst = dice_topk(logits, target, dice_weight=0.0, k=20).item()
    assert worst == pytest.approx(-(math.log(0.1) + math.log(0.05)) / 2)
    mask = torch.ones_like(target, dtype=torch.bool)
    mask[..., 5:] = False
    worst = dice_topk(logits, target, dice_weight=0.0, k=20, mask=mask).item()
    assert worst == pytest.approx(-math.log(0.5))
    weight = mask.float() * 3
    assert dice_topk(logits, target, dice_weight=0.0, k=20, weight=weight).item() == pytest.approx(
        worst
    )


# ---------------------------------------------------------------- overlaps


def test_generalized_dice_by_hand():
    # volumes 3 and 1, so the weights are 1/9 and 1
    logits = line([[[math.log(3)] * 4, [0.0] * 4]])
    value = generalized_dice(logits, line([[0, 0, 0, 1]])).item()
    expected = 1 - 2 * (2.25 / 9 + 0.25) / ((3 + 3) / 9 + (1 + 1))
    assert value == pytest.approx(expected)


def test_generalized_dice_of_one_channel_counts_the_background_too(tensors):
    logits, _, channels, mask = tensors
    one, target = logits[:, :1], channels[:, :1]
    two = torch.cat((one, -one), 1), torch.cat((target, 1 - target), 1)
    value = generalized_dice(one, target, mask=mask)
    assert torch.allclose(value, generalized_dice(*two, mask=mask), rtol=1e-5)


def test_an_absent_class_of_a_large_patch_weighs_and_stays_finite():
    logits = torch.zeros(1, 3, 32, 32, 32, requires_grad=True)
    target = torch.zeros(1, 32, 32, 32, dtype=torch.int64)
    target[:, :2] = 1
    value = generalized_dice(logits, target)
    value.backward()
    assert 0 < value.item() < 1
    assert logits.grad[:, 2].abs().min() > 0  # what is predicted of it costs


def test_tversky_halves_are_dice_and_weights_move_it(tensors):
    logits, target, _, mask = tensors
    value = tversky(logits, target, alpha=0.5, beta=0.5, mask=mask, smooth=1e-9)
    assert torch.allclose(value, dice(logits, target, mask=mask, smooth=1e-9))
    timid = torch.full((1, 2, 1, 1, 4), 0.0)
    timid[:, 1] = -2.0
    target = line([[1, 1, 0, 0]])
    assert tversky(timid, target, alpha=0.1, beta=0.9) > tversky(timid, target, alpha=0.9, beta=0.1)


def test_focal_tversky_is_a_power_of_tversky(tensors):
    logits, target, _, _ = tensors
    one = tversky(logits[:1, :2], target[:1].clamp_max(1))
    value = focal_tversky(logits[:1, :2], target[:1].clamp_max(1), gamma=2)
    assert torch.allclose(value, one.sqrt())


# ---------------------------------------------------------------- centrelines and boundaries


def test_a_thick_rod_has_its_axis_as_skeleton():
    rod = torch.zeros(1, 1, 9, 9, 20)
    rod[:, :, 2:7, 2:7, :] = 1
    skeleton = soft_skeleton(rod, 3)
    assert skeleton.sum() > 0
    assert skeleton[0, 0, 4, 4, 5:15].min() == 1
    skeleton[0, 0, 4, 4] = 0
    assert skeleton[..., 5:15].sum() == 0


def test_a_broken_vessel_costs_more_than_a_thin_one():
    vessel = torch.zeros(1, 1, 7, 7, 24)
    vessel[:, :, 2:5, 2:5] = 1
    thin, broken = torch.zeros_like(vessel), vessel.clone()
    thin[:, :, 3, 2:5], thin[:, :, 2:5, 3] = 1, 1
    broken[..., 8:18] = 0
    costs = [cldice(40 * p - 20, vessel, alpha=1.0, smooth=1e-3).item() for p in (thin, broken)]
    assert costs[0] < 0.01
    assert costs[1] > 0.2
    half = cldice(40 * broken - 20, vessel).item()
    assert half == pytest.approx(
        (dice(40 * broken - 20, vessel).item() + cldice(40 * broken - 20, vessel, alpha=1.0).item())
        / 2
    )


@pytest.mark.parametrize("spacing_zyx", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.1)])
def test_both_ways_to_measure_distances_agree(spacing_zyx):
    torch.manual_seed(0)
    voxels = torch.rand(2, 2, 7, 9, 8) > 0.97
    voxels[1, 1] = False
    expected = distance_to(voxels, spacing_zyx)
    assert expected[1, 1].isinf().all()
    assert torch.allclose(squared_distances(voxels, spacing_zyx).sqrt(), expected)


def test_distances_to_a_plane_by_hand():
    inside = line([[[False, False, True, True, True, False]]]).bool()
    assert signed_distance(inside).flatten().tolist() == [2, 1, 0, -1, 0, 1]
    mm = signed_distance(inside, spacing_zyx=(1.0, 1.0, 0.5))
    assert mm.flatten().tolist() == [1, 0.5, 0, -0.5, 0, 0.5]
    known = line([[True, True, True, True, True, False]]).bool()
    assert signed_distance(inside, known).flatten().tolist() == [2, 1, 0, -1, -2, 1]
    assert signed_distance(torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)).abs().sum() == 0


def test_boundary_by_hand():
    logits = torch.zeros(1, 1, 1, 1, 6)
    target = line([[[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]]])
    value = boundary(logits, target, boundary_weight=1.0, region_weight=0.0).item()
    assert value == pytest.approx(0.5 * (2 + 1 - 1 + 1) / 6)
    both = boundary(logits, target, boundary_weight=0.1).item()
    assert both == pytest.approx(0.1 * value + generalized_dice(logits, target).item())


# ---------------------------------------------------------------- regression


def test_ignored_targets_may_be_nan(tensors):
    prediction, _, _, mask = tensors
    prediction = prediction.clone().requires_grad_()
    target = torch.randn(prediction.shape)
    held = target.masked_fill(~mask[:, None], math.nan)
    for function in (mse, smooth_l1, weighted_smooth_l1):
        value = function(prediction, held, mask=mask)
        assert torch.equal(value, function(prediction, target, mask=mask))
        value.backward()
        assert prediction.grad.isfinite().all()
    with pytest.raises(BadInput, match="floating point"):
        mse(prediction, torch.zeros(2, 4, 5, 6, dtype=torch.int64))


def test_weighted_smooth_l1_by_hand():
    prediction, target = line([[[0.0, 0.0]]]), line([[[0.5, 3.0]]])
    assert weighted_smooth_l1(
        prediction, target, threshold=1.0, factor=0.1
    ).item() == pytest.approx((0.1 * 0.125 + 2.5) / 2)
    above = weighted_smooth_l1(prediction, target, threshold=1.0, factor=0.1, below=False)
    assert above.item() == pytest.approx((0.125 + 0.1 * 2.5) / 2)
    assert smooth_l1(prediction, target, beta=0.1).item() == pytest.approx((0.45 + 2.95) / 2)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("focal", {"gamma": -1.0}, "gamma"),
        ("focal", {"alpha": 1.5}, "alpha"),
        ("bce", {"pos_weight": [-1.0]}, "pos_weight"),
        ("bce", {"reduction": "none"}, "reduction"),
        ("tversky", {"alpha": 0.0, "beta": 0.0}, "alpha"),
        ("tversky", {"alpha": -0.1}, "alpha"),
        ("dice_ce", {"dice_weight": 0.0, "ce_weight": 0.0}, "one is above 0"),
        ("dice_topk", {"ce_weight": -1.0}, "ce_weight"),
        ("bce_dice", {"alpha": -1.0}, "alpha"),
        ("boundary", {"region_weight": 0.0, "boundary_weight": 0.0}, "one is above 0"),
        ("ce", {"class_weights": [math.nan, 1.0]}, "class_weights"),
        ("focal", {"gamma": math.nan}, "gamma"),
        ("dice_ce", {"ce_weight": math.inf}, "ce_weight"),
        ("bce", {"pos_weight": [math.inf]}, "pos_weight"),
        ("focal_tversky", {"gamma": 0.0}, "gamma"),
        ("dice_topk", {"k": 0.0}, "percentage"),
        ("cldice", {"alpha": 2.0}, "alpha"),
        ("cldice", {"iterations": -1}, "iterations"),
        ("cldice", {"smooth": 0.0}, "smooth"),
        ("boundary", {"spacing_zyx": [1.0, 0.0, 1.0]}, "spacing_zyx"),
        ("smooth_l1", {"beta": 0.0}, "beta"),
        ("weighted_smooth_l1", {"factor": -1.0}, "factor"),
        ("bce_dice", {"pos_weight": [0.0]}, "pos_weight"),
    ],
)
def test_impossible_options_are_refused(name, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        create_loss(name, **options)


def test_long_sums_over_voxels_keep_their_digits():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 64, 96, 96)
    target = (torch.rand(1, 64, 96, 96) > 0.7).long()
    assert dice(logits, target).item() == pytest.approx(
        dice(logits.double(), target).item(), abs=1e-6
    )


@pytest.mark.parametrize("name", ["ce", "dice_ce", "dice_topk", "wce", "focal"])
def test_a_batch_of_voxels_that_weigh_nothing_is_finite(name):
    """The background weighs 0, and a patch holds nothing else."""
    logits = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    loss = create_loss(name, class_weights=(0.0, 1.0))
    value = loss(logits, torch.zeros(1, 3, 3, 3, dtype=torch.int64))
    value.backward()
    assert value.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["cldice", "boundary"])
def test_batches_are_summed_or_samples_averaged(name, tensors):
    logits, target, _, mask = tensors
    mask[0, :3] = False
    apart = create_loss(name)
    each = [apart(logits[i : i + 1], target[i : i + 1], mask=mask[i : i + 1]) for i in (0, 1)]
    assert torch.allclose(apart(logits, target, mask=mask), torch.stack(each).mean())
    together = create_loss(name, batch=True)
    assert torch.allclose(together(logits[:1], target[:1]), apart(logits[:1], target[:1]))
    assert not torch.allclose(together(logits, target, mask=mask), torch.stack(each).mean())


def test_weights_and_masks_of_another_shape_are_refused(tensors):
    logits, target, _, mask = tensors
    with pytest.raises(BadInput, match="mask has shape"):
        ce(logits, target, mask=mask[:, None])
    with pytest.raises(BadInput, match="weight has shape"):
        dice(logits, target, weight=mask[:1].float())
