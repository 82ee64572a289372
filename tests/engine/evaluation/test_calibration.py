"""A fitted temperature, against the one that the data were drawn with, a grid search, and scikit-free formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctseg.engine.evaluation.calibration import LogitSample, fit_temperature, log_loss


def drawn(temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn with the probabilities softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (40_000, 4)).astype(np.float32)
    noise = rng.gumbel(
        size=logits.shape
    )  # the maximum of logits plus Gumbel noise is a draw from the softmax
    return logits, (logits / temperature + noise).argmax(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_data_is_found(temperature):
    logits, classes = drawn(temperature)
    found = fit_temperature([(logits[:1000], classes[:1000]), (logits[1000:], classes[1000:])])
    assert found is not None and found.voxels == 40_000
    assert found.temperature == pytest.approx(temperature, rel=0.03)
    grid = np.exp(np.linspace(np.log(0.2), np.log(5), 200))
    best = min(log_loss(logits / np.float32(t), classes) for t in grid)
    assert found.after <= best + 1e-6 <= found.before + 1e-5


def test_the_loss_is_that_of_torch():
    logits, classes = drawn(1.0)
    expected = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(classes))
    assert log_loss(logits, classes) == pytest.approx(float(expected), rel=1e-5)
    both = (logits > 1).astype(np.int8)
    expected = functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(both).float()
    )
    assert log_loss(logits, both) == pytest.approx(float(expected), rel=1e-5)


def test_independent_labels_have_one_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (40_000, 2)).astype(np.float32)
    known = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits / 2))).astype(np.int8)
    found = fit_temperature([(logits, known)])
    assert found is not None
    assert found.temperature == pytest.approx(2, rel=0.03)


def test_nothing_is_fitted_to_nothing():
    assert fit_temperature([(np.zeros((0, 2), np.float32), np.zeros(0, int))]) is None


@pytest.mark.parametrize("channels", [False, True])
def test_a_sample_does_not_depend_on_the_pieces(channels):
    rng = np.random.default_rng(0)
    target = rng.integers(-1, 3, (10, 12, 14))
    if channels:
        target = np.stack([target > 0, target > 1]).astype(np.int8) - (target < 0)
    logits = rng.normal(size=(3, 6, 8, 10)).astype(np.float32)
    box = ((2, 8), (3, 11), (4, 14))
    taken = []
    for axis, sizes in ((0, (6,)), (0, (1, 5)), (2, (3, 3, 4))):
        sample, start = LogitSample(target, box, 0.5), 0
        for size in sizes:
            part = np.take(logits, range(start, start + size), axis + 1)
            sample.put(axis, start, part)
            start += size
        scores, known = sample.taken()
        order = np.argsort(scores[:, 0])
        taken.append((scores[order], known[order]))
        inside = target[..., 2:8, 3:11, 4:14].reshape(-1, 6 * 8 * 10).T
        where = {float(a): b for a, b in zip(logits[0].ravel(), inside, strict=True)}
        assert all(
            np.array_equal(np.ravel(k), where[float(s[0])])
            for s, k in zip(scores, known, strict=True)
        )
    assert all(
        np.array_equal(a, b) for one in taken[1:] for a, b in zip(one, taken[0], strict=True)
    )
    counted = (inside >= 0).all(1).sum()
    assert 0.35 * counted < len(taken[0][0]) < 0.65 * counted
