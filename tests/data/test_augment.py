"""Augmentation: what moves together, what stays, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ctseg.config import AugmentConfig
from ctseg.data.augment import _move, augment, blur, centre, draw, gamma, margin, rotation
from ctseg.data.keyed import AUGMENT, generator

OFF = {
    "rotation": 0, "scale": 0, "noise": 0, "blur": 0, "brightness": 0, "contrast": 0,
    "gamma": 0, "low_resolution": 0,
}  # fmt: skip
PATCH = (12, 14, 16)


def scan(seed=0, shape=PATCH, channels=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn((2, channels, *shape), generator=g)


def test_nothing_happens_where_nothing_may():
    image, target = scan(), torch.randint(-1, 3, (2, 1, *PATCH))
    out, marks = augment(image, target, AugmentConfig(**OFF), PATCH, seed=0, step=0)
    torch.testing.assert_close(out, image)
    torch.testing.assert_close(marks, target)
    assert margin(AugmentConfig(**OFF), PATCH) == (0, 0, 0)
    assert margin(AugmentConfig(preset="none"), PATCH) == (0, 0, 0)


def test_image_and_target_move_together():
    """The label is the image's sign in large blocks, so that it can be read off the moved image."""
    config = AugmentConfig(**{**OFF, "rotation": 1, "scale": 1}, mirror_axes=("z", "x"))
    blocks = torch.ones(2, 1, 24, 24, 24)
    blocks[:, :, 12:] = -1
    target = (blocks < 0).to(torch.int16)
    moved, marks = augment(blocks, target, config, (16, 16, 16), seed=3, step=1)
    known = (marks >= 0) & (moved.abs() > 0.2)
    assert known.float().mean() > 0.8
    assert ((moved < 0) == (marks == 1))[known].all()


def test_the_same_key_gives_the_same_batch_and_each_sample_its_own():
    config = AugmentConfig(rotation=1, noise=1, mirror_axes=("z", "y", "x"))
    image, target = scan(), torch.zeros((2, 1, *PATCH), dtype=torch.int16)
    one, _ = augment(image, target, config, PATCH, seed=1, step=5)
    two, _ = augment(image, target, config, PATCH, seed=1, step=5)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    later, _ = augment(image, target, config, PATCH, seed=1, step=6)
    assert not torch.equal(one, later)
    second, _ = augment(image[1:], target[1:], config, PATCH, seed=1, step=5, first_index=1)
    torch.testing.assert_close(second[0], one[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_is_exact(axis):
    image = scan(shape=(9, 9, 9))
    angles = [0.0, 0.0, 0.0]
    angles[axis] = np.pi / 2
    turn = draw(AugmentConfig(**OFF), generator(0, 0, 0, AUGMENT))
    turn = type(turn)(**{**vars(turn), "affine": rotation(angles)})
    got, _ = _move(image, torch.zeros_like(image).short(), [turn, turn], (9, 9, 9), (1, 1, 1))
    planes = [a for a in range(3) if a != axis]
    either = [np.rot90(image[0, 0].numpy(), k, planes) for k in (1, 3)]
    assert any(np.allclose(got[0, 0].numpy(), turned, atol=1e-4) for turned in either)


def test_rotations_turn_millimetres():
    """In an anisotropic scan a ball in mm stays a ball in mm."""
    spacing = np.array([3.0, 1.0, 1.0])
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (15, 45, 45)), indexing="ij")
    ball = torch.from_numpy(((z * 3) ** 2 + y**2 + x**2 < 15**2).astype(np.float32))[
        None, None
    ].repeat(2, 1, 1, 1, 1)
    turn = draw(AugmentConfig(**OFF), generator(0, 0, 0, AUGMENT))
    turn = type(turn)(**{**vars(turn), "affine": rotation([0.3, 0.7, -0.5])})
    got, _ = _move(ball, torch.zeros_like(ball).short(), [turn, turn], (15, 45, 45), spacing)
    dice = 2 * ((got > 0.5) & (ball > 0.5)).sum() / ((got > 0.5).sum() + (ball > 0.5).sum())
    assert dice > 0.95


def test_outside_the_scan_is_ignored():
    config = AugmentConfig(**{**OFF, "scale": 1}, scale_range=(0.5, 0.5))
    _, marks = augment(
        scan(), torch.ones((2, 1, *PATCH), dtype=torch.int16), config, PATCH, seed=0, step=0
    )
    assert (marks == -1).any()
    assert (marks == 1).any()
    assert set(marks.unique().tolist()) == {-1, 1}


def test_blur_agrees_with_scipy():
    image = scan()[0]
    expected = ndimage.gaussian_filter(image[0].numpy(), 0.8, mode="nearest", truncate=3 / 0.8)
    np.testing.assert_allclose(blur(image, 0.8)[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("exponent", [0.7, 1.5, -0.7])
def test_gamma_keeps_mean_and_deviation(exponent):
    image = scan(channels=2)[0]
    out = gamma(image, exponent)
    axes = (1, 2, 3)
    torch.testing.assert_close(out.mean(axes), image.mean(axes), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.std(axes), image.std(axes), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(out, image)


def test_each_intensity_transform_changes_the_image_and_not_the_target():
    target = torch.randint(0, 3, (2, 1, *PATCH))
    for name in ("noise", "blur", "brightness", "contrast", "gamma", "low_resolution"):
        config = AugmentConfig(**{**OFF, name: 1})
        out, marks = augment(scan(), target, config, PATCH, seed=2, step=0)
        assert not torch.allclose(out, scan()), name
        assert torch.isfinite(out).all(), name
        torch.testing.assert_close(marks, target)


def test_probabilities_hold():
    config = AugmentConfig(noise=0.2)
    hits = sum(draw(config, generator(0, s, 0, AUGMENT)).noise > 0 for s in range(1000))
    assert 150 < hits < 250


def test_centre():
    x = torch.arange(7.0).view(1, 1, 1, 1, 7)
    assert centre(x, (1, 1, 3)).flatten().tolist() == [2, 3, 4]


def test_weight_maps_move_but_keep_their_values():
    config = AugmentConfig(rotation=1, noise=1, gamma=1, contrast=1)
    image = torch.cat([scan(), torch.full((2, 1, *PATCH), 5.0)], 1)
    target = torch.zeros((2, 1, *PATCH), dtype=torch.int16)
    out, _ = augment(image, target, config, PATCH, seed=0, step=0, maps=1)
    torch.testing.assert_close(out[:, 1], image[:, 1])
    assert not torch.allclose(out[:, 0], image[:, 0])
