"""Losses against the values that MONAI's own tests publish (tests/losses of MONAI 1.6). MONAI is not needed."""

from __future__ import annotations

import pytest
import torch

from tests.losses.by_name import cldice, dice, focal, generalized_dice, tversky


def maps(values: list) -> torch.Tensor:
    """[B, C, N] as [B, C, 1, 1, N], or [B, C, H, W] as [B, C, 1, H, W]."""
    x = torch.tensor(values)
    return x[:, :, None, None] if x.ndim == 3 else x[:, :, None]


ONE = ([[[1.0, -1.0, -1.0, 1.0]]], [[[1.0, 0.0, 1.0, 1.0]]])
TWO = ([[[1.0, -1.0, -1.0, 1.0]]] * 2, [[[1.0, 1.0, 1.0, 1.0]], [[1.0, 0.0, 1.0, 0.0]]])
THREE = [[[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
ONE_HOT = [[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]]
CLASSES = torch.tensor([[1, 0, 0], [1, 1, 0]])[:, None, None]
HALVES = {"alpha": 0.5, "beta": 0.5}


# test_dice_loss.py; what it passes through other activations than ours is left out
@pytest.mark.parametrize(
    ("logits", "target", "options", "expected"),
    [
        (*ONE, {"smooth": 1e-6}, 0.307576),
        (*TWO, {"smooth": 1e-4}, 0.416657),
        (THREE, ONE_HOT, {"smooth": 1e-4}, 0.435050),
        (*ONE, {"squared": True}, 0.178337),
    ],
)
def test_dice(logits, target, options, expected):
    assert dice(maps(logits), maps(target), **options).item() == pytest.approx(expected, rel=1e-5)


def test_dice_sample_by_sample_and_of_exclusive_classes():
    expected = [[0.296529, 0.415136], [0.599976, 0.428559]]
    for sample, values in enumerate(expected):
        one = slice(sample, sample + 1)
        for channel, value in enumerate(values):
            weights = [float(channel == i) for i in range(2)]
            found = dice(maps(THREE)[one], maps(ONE_HOT)[one], smooth=1e-4, class_weights=weights)
            assert found.item() == pytest.approx(value, rel=1e-5)
    value = dice(maps(THREE), CLASSES, smooth=1e-4, include_background=True).item()
    assert value == pytest.approx(0.383713, rel=1e-5)
    assert 4 * value == pytest.approx(1.534853, rel=1e-5)  # their sum over samples and classes


# test_tversky_loss.py, to its own tolerance; test_losses_peers.py compares to 1e-5
@pytest.mark.parametrize(
    ("logits", "target", "options", "expected"),
    [
        (*ONE, {**HALVES, "smooth": 1e-6}, 0.307576),
        (*TWO, {**HALVES, "smooth": 1e-4}, 0.416657),
        (THREE, ONE_HOT, {**HALVES, "smooth": 1e-4}, 0.435050),
        (THREE, ONE_HOT, {**HALVES, "batch": True}, 0.422979),
        (*ONE, {"alpha": 0.3, "beta": 0.7, "smooth": 1e-6}, 0.3589),
        (*ONE, {"alpha": 0.7, "beta": 0.3, "smooth": 1e-6}, 0.247366),
    ],
)
def test_tversky(logits, target, options, expected):
    value = tversky(maps(logits), maps(target), **options).item()
    assert value == pytest.approx(expected, rel=1e-4)


def test_tversky_of_exclusive_classes():
    value = tversky(maps(THREE), CLASSES, **HALVES, smooth=1e-4, include_background=True)
    assert value.item() == pytest.approx(0.383713, rel=1e-4)


# test_generalized_dice_loss.py; MONAI leaves a single channel alone
@pytest.mark.parametrize(
    ("logits", "target", "options", "expected"),
    [
        (*ONE, {"smooth": 1e-6, "complement": False}, 0.307576),
        (*TWO, {"smooth": 1e-4, "complement": False}, 0.416597),
        (THREE, ONE_HOT, {"smooth": 1e-4}, 0.469964),
    ],
)
def test_generalized_dice(logits, target, options, expected):
    assert generalized_dice(maps(logits), maps(target), **options).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_generalized_dice_of_exclusive_classes():
    value = generalized_dice(maps(THREE), CLASSES, smooth=1e-4)
    assert value.item() == pytest.approx(0.414507, rel=1e-5)
    for sample, expected in enumerate((0.273476, 0.555539)):
        one = slice(sample, sample + 1)
        value = generalized_dice(maps(THREE)[one], CLASSES[one], smooth=1e-4)
        assert value.item() == pytest.approx(expected, rel=1e-5)


# test_focal_loss.py; with softmax MONAI averages over the three one-hot channels, two of which are 0
def test_focal():
    logits = maps([[[[1.0, 1.0], [0.5, 0.0]]] * 3])
    target = torch.tensor([[[[0, 1], [2, 0]]]])
    one_hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert focal(logits, one_hot).item() == pytest.approx(0.34959, abs=5e-6)
    assert focal(logits, one_hot, alpha=0.8).item() == pytest.approx(0.08423, abs=5e-6)
    assert focal(logits, target).item() / 3 == pytest.approx(0.16276, abs=5e-6)
    assert focal(logits, target, alpha=0.8).item() / 3 == pytest.approx(0.08138, abs=5e-6)
    foreground = focal(logits[:, 1:], one_hot[:, 1:])
    assert foreground.item() == pytest.approx(0.36498, abs=5e-6)


# test_cldice_loss.py; their tolerance, since MONAI adds 1e-4 to the denominator of the harmonic mean
@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        (
            [[[[1.0, -1.0], [-1.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]]],
            [[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]],
            0.192777,
        ),
    ],
)
def test_cldice(logits, target, expected):
    value = cldice(maps(logits), maps(target), alpha=1.0, smooth=1e-5).item()
    assert value == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_cldice_of_exclusive_classes():
    logits = maps([[[[2.0, 0.0], [0.0, 2.0]], [[-2.0, 0.0], [0.0, -2.0]]]])
    target = torch.tensor([[[[0, 1], [1, 0]]]])
    value = cldice(logits, target, alpha=1.0, smooth=1e-5, include_background=True).item()
    assert value == pytest.approx(0.148760, abs=1e-4, rel=1e-4)
