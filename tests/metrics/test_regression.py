"""Errors of float maps, by hand and by counting in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ctseg.errors import BadInput
from ctseg.metrics.regression import errors, mae, mse, psnr

TARGET = np.array([[[0.0, 1.0, 2.0, 4.0]]], np.float32)
MADE = np.array([[[0.0, 2.0, 2.0, 1.0]]], np.float32)


def test_by_hand() -> None:
    assert mse(MADE, TARGET) == pytest.approx((1 + 9) / 4)
    assert mae(MADE, TARGET) == pytest.approx((1 + 3) / 4)
    assert psnr(MADE, TARGET) == pytest.approx(10 * math.log10(16 / 2.5))
    assert psnr(MADE, TARGET, data_range=255) == pytest.approx(10 * math.log10(255**2 / 2.5))


def test_masked_and_ignored_voxels_do_not_count() -> None:
    mask = np.array([[[1, 1, 1, 0]]], np.uint8)
    assert mse(MADE, TARGET, mask) == pytest.approx(1 / 3)
    ignored = np.where(mask > 0, TARGET, np.float32(np.nan))
    assert errors(MADE, ignored) == errors(MADE, TARGET, mask)
    stacked = errors(np.stack([MADE, MADE]), np.stack([TARGET, TARGET]), mask)
    assert stacked.voxels == 6 and stacked.mse == pytest.approx(1 / 3)


def test_what_is_no_number_is_none() -> None:
    nothing = np.zeros_like(MADE)
    assert mse(MADE, TARGET, nothing) is None and mae(MADE, TARGET, nothing) is None
    assert psnr(MADE, TARGET, nothing) is None
    assert psnr(TARGET, TARGET) is None  # infinite
    assert psnr(MADE, nothing) is None  # a flat target has no range
    assert mse(TARGET, TARGET) == 0


def test_slabs_do_not_change_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 3, 7, 5, 6))
    whole = errors(one, two)
    monkeypatch.setattr("ctseg.volume.distinct_values.SLAB_VOXELS", 50)
    parts = errors(one, two)
    assert parts.mse == pytest.approx(np.mean((one - two) ** 2)) == pytest.approx(whole.mse)
    assert (parts.low, parts.high) == (two.min(), two.max())


def test_bad_maps_are_refused() -> None:
    with pytest.raises(BadInput, match="shape"):
        mse(MADE, TARGET[..., 1:])
    with pytest.raises(BadInput, match="NaN"):
        mse(np.full_like(MADE, np.nan), TARGET)
