"""Objects numbered slab by slab."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ctseg.engine.postprocess import find_instances
from ctseg.errors import BadInput

RANK = {6: 1, 18: 2, 26: 3}


def some_map(seed: int, shape: tuple[int, int, int], share: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < share, rng.integers(1, 4, shape), 0).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.tuples(*[st.integers(1, 8)] * 3), st.sampled_from([0.1, 0.3, 0.8]),
    st.sampled_from([6, 18, 26]), st.integers(1, 3), st.integers(1, 3),
)  # fmt: skip
def test_numbers_are_scipys(seed, shape, share, connectivity, planes, least):
    labels = some_map(seed, shape, share)
    structure = ndimage.generate_binary_structure(3, RANK[connectivity])
    expected, count = ndimage.label(labels, structure)
    sizes = np.bincount(expected.ravel(), minlength=count + 1)
    kept = np.flatnonzero(sizes[1:] >= least) + 1
    names = np.zeros(count + 1, int)
    names[kept] = np.arange(1, len(kept) + 1)
    out = np.full(shape, 9, np.uint16)
    found = find_instances(
        labels, joined=True, connectivity=connectivity, min_voxels=least,
        slab_bytes=planes * 2 * shape[1] * shape[2],
    )  # fmt: skip
    found.write(out)
    assert found.count == len(kept)
    np.testing.assert_array_equal(out, names[expected])


def test_labels_apart_or_joined():
    labels = np.zeros((4, 3, 12), np.uint8)
    labels[:, 1, 1:4] = 3
    labels[:, 1, 4:6] = 1  # touches the first
    labels[2:, 1, 8:10] = 7
    apart = find_instances(labels, slab_bytes=1)
    assert apart.count == 3 and apart.dtype == np.uint16
    assert apart.values.tolist() == [3, 1, 7] and apart.voxels.tolist() == [12, 8, 4]
    joined = find_instances(labels, joined=True)
    assert joined.count == 2 and joined.voxels.tolist() == [20, 4]
    some = find_instances(labels, values=[7, 3])
    assert some.values.tolist() == [3, 7]
    out = np.empty(labels.shape, np.uint32)
    some.write(out)
    assert (out[:, 1, 1:4] == 1).all() and (out[2:, 1, 8:10] == 2).all() and out.sum() == 12 + 8
    both = find_instances(labels, values=[1, 3], joined=True)
    assert both.count == 1 and both.voxels.tolist() == [20]
    large = find_instances(labels, min_voxels=8)
    assert large.values.tolist() == [3, 1]
    assert find_instances(np.zeros((2, 2, 2), np.uint8)).count == 0


def test_the_map_itself_may_take_the_numbers():
    labels = some_map(0, (9, 8, 7), 0.2).astype(np.uint16)
    out = np.empty(labels.shape, np.uint16)
    found = find_instances(labels, slab_bytes=400)
    found.write(out)
    seen = []
    found.write(labels, progress=seen.append)
    np.testing.assert_array_equal(labels, out)
    assert sum(seen) == 9


def test_numbers_that_do_not_fit_are_refused_before_anything_is_written():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[::2, ::2, ::2] = 1
    for dtype in (np.int8, np.uint8):
        out = np.full(labels.shape, 5, dtype)
        if np.iinfo(dtype).max >= 125:
            found = find_instances(labels, connectivity=6)
            found.write(out)
            assert found.count == 125
    labels = np.zeros((13, 13, 13), np.uint8)
    labels[::2, ::2, ::2] = 1
    out = np.full(labels.shape, 5, np.uint8)
    with pytest.raises(BadInput, match=r"343 objects cannot be numbered in uint8.\n.*uint16"):
        find_instances(labels).write(out)
    assert (out == 5).all()
    with pytest.raises(BadInput, match="cannot be numbered in float32"):
        find_instances(labels).write(out.astype(np.float32))
    with pytest.raises(BadInput, match=r"need a map of \(13, 13, 13\) voxels, not \(1, 13, 13\)"):
        find_instances(labels).write(out[:1])
    with pytest.raises(BadInput, match="No label is named"):
        find_instances(labels, values=[])
    with pytest.raises(BadInput, match="label map"):
        find_instances(labels.astype(np.float32))


def test_more_than_65535_objects_need_more_than_16_bits():
    labels = np.zeros((101, 101, 60), np.uint8)
    labels[::2, ::2, ::2] = 1
    found = find_instances(labels, connectivity=6)
    assert found.count == 51 * 51 * 30 and found.dtype == np.uint32
