"""The two public window functions, NumPy and torch alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctseg
from ctseg.engine.inference import tiling
from ctseg.errors import BadInput

sizes = st.tuples(*[st.integers(1, 20)] * 3)


@settings(max_examples=60, deadline=None)
@given(shape=sizes, window=sizes, stride=st.none() | sizes)
def test_padded_windows_fit_cover_and_hold_the_volume(shape, window, stride):
    array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    padded, inside = ctseg.pad_to_windows(array, window, stride_zyx=stride)
    np.testing.assert_array_equal(padded[(slice(None), *inside)], array)
    at = ctseg.window_coordinates(padded, window, stride_zyx=stride)
    assert len(set(at)) == len(at)
    covered = np.zeros(padded.shape[1:], int)
    for z, y, x in at:
        part = covered[z : z + window[0], y : y + window[1], x : x + window[2]]
        assert part.shape == window
        part += 1
    if stride is None or all(s <= w for s, w in zip(stride, window, strict=True)):
        assert covered.min() >= 1
    if stride is not None:  # every step is a whole one
        assert all(p % s == 0 for start in at for p, s in zip(start, stride, strict=True))
    as_torch, also_inside = ctseg.pad_to_windows(torch.from_numpy(array), window, stride_zyx=stride)
    assert also_inside == inside
    np.testing.assert_array_equal(as_torch.numpy(), padded)
    assert ctseg.window_coordinates(as_torch, window, stride_zyx=stride) == at


@settings(max_examples=30, deadline=None)
@given(shape=sizes, window=sizes, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_windows_lie_where_tiles_do(shape, window, overlap):
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    padded, _ = ctseg.pad_to_windows(array, window)
    np.testing.assert_array_equal(padded, tiling.pad(array, window))
    starts = [tiling.starts(n, w, overlap) for n, w in zip(padded.shape[1:], window, strict=True)]
    got = ctseg.window_coordinates(padded, window, overlap=overlap)
    assert got == [(z, y, x) for z in starts[0] for y in starts[1] for x in starts[2]]


def test_a_number_can_be_put_around():
    padded, inside = ctseg.pad_to_windows(np.ones((2, 3, 4), np.int16), (4, 3, 8), value=-7)
    assert padded.dtype == np.int16
    assert padded.shape == (4, 3, 8)
    assert (padded == -7).sum() == 4 * 3 * 8 - 24
    assert (padded[inside] == 1).all()
    tensor, _ = ctseg.pad_to_windows(torch.ones(2, 3, 4), (4, 3, 8), value=-7)
    np.testing.assert_array_equal(tensor.numpy(), padded)


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="smaller than a window") as raised:
        ctseg.window_coordinates((8, 8, 8), (16, 8, 8))
    assert "pad_to_windows" in str(raised.value)
    with pytest.raises(BadInput, match="three sizes"):
        ctseg.window_coordinates((8, 8, 8), (0, 8, 8))
    with pytest.raises(BadInput, match="three axes"):
        ctseg.pad_to_windows(np.zeros((8, 8)), (4, 4, 4))
    with pytest.raises(BadInput, match="stride"):
        ctseg.pad_to_windows(np.zeros((8, 8, 8)), (4, 4, 4), stride_zyx=(1, 0, 1))
