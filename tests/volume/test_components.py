"""Streamed connected parts against SciPy on the whole array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ctseg.volume import components
from ctseg.volume.components import find_parts, largest_part, paint_parts, planes_at_once
from ctseg.volume.joining import Joining
from ctseg.volume.run_lengths import find_runs

RANK = {6: 1, 18: 2, 26: 3}


def spiral(depth: int = 15, side: int = 9) -> np.ndarray:
    """Two threads wound around each other along z: two parts, which no slab sees as wholes."""
    ring = [(1, x) for x in range(1, side - 2)] + [(y, side - 2) for y in range(1, side - 2)]
    ring += [(side - 1 - y, side - 1 - x) for y, x in ring]  # round and back to the start
    out = np.zeros((depth, side, side), np.uint8)
    for z in range(depth):
        for step in range(4 * z, 4 * z + 5):
            for half in (0, len(ring) // 2):
                out[(z, *ring[(step + half) % len(ring)])] = 1
    return out


def comb(depth: int = 8) -> np.ndarray:
    """Teeth along z that only the last plane joins."""
    out = np.zeros((depth, 5, 11), np.uint8)
    out[:, 1:4, ::2] = 1
    out[-1, 2] = 1
    return out


def stairs() -> np.ndarray:
    """Voxels that touch by corners, by edges, and not at all, across planes."""
    out = np.zeros((7, 8, 8), np.uint8)
    for i in range(7):
        out[i, i, i] = 1
        out[i, 7 - i, 0] = 2
    out[2:5, 6, 5:8] = 3
    out[5, 6, 1] = 3
    return out


def whole(labels: np.ndarray, connectivity: int) -> np.ndarray:
    """Parts of equal value numbered from 1 in the order of their first voxels, by SciPy."""
    structure = ndimage.generate_binary_structure(3, RANK[connectivity])
    found = np.zeros(labels.shape, np.int64)
    for value in np.unique(labels[labels != 0]):
        parts, count = ndimage.label(labels == value, structure)
        found[parts > 0] = parts[parts > 0] + found.max()
        assert count
    numbers, first = np.unique(found[found > 0], return_index=True)
    order = np.zeros(found.max() + 1, np.int64)
    order[numbers[np.argsort(first)]] = np.arange(1, len(numbers) + 1)
    return order[found]


def slab_bytes(array: np.ndarray, planes: int) -> int:
    budget = planes * array.shape[1] * array.shape[2] * (array.dtype.itemsize + 1)
    assert planes_at_once(array, budget) == planes
    return budget


def numbered(labels: np.ndarray, connectivity: int, planes: int) -> np.ndarray:
    out = labels.astype(np.int32)
    parts = find_parts(out, lambda v: v, connectivity, slab_bytes=slab_bytes(out, planes))
    sizes = np.bincount(whole(labels, connectivity).ravel())[1:]
    np.testing.assert_array_equal(parts.size, sizes)
    paint_parts(out, parts, np.ones(len(parts), bool), np.arange(1, len(parts) + 1))
    return out


@pytest.mark.parametrize("planes", [1, 2, 3, 99])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("make", [spiral, comb, stairs])
def test_parts_that_only_borders_of_slabs_join(make, connectivity, planes):
    labels = make()
    expected = whole(labels, connectivity)
    assert make is stairs or expected.max() == {spiral: 2, comb: 1}[make]
    np.testing.assert_array_equal(numbered(labels, connectivity, planes), expected)


@st.composite
def maps(draw, most: int = 3) -> np.ndarray:
    """Small maps, from nearly empty to full."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=3, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(1, draw(st.integers(1, most)) + 1, shape)
    labels = values * (rng.random(shape) < draw(st.sampled_from([0.1, 0.3, 0.6, 0.95])))
    return labels.astype(draw(st.sampled_from(["u1", "u2", "i4", ">u2"])))


@settings(max_examples=60, deadline=None)
@given(maps(), st.sampled_from([6, 18, 26]), st.integers(1, 3))
def test_parts_are_scipys(labels, connectivity, planes):
    expected = whole(labels, connectivity)
    np.testing.assert_array_equal(numbered(labels, connectivity, planes), expected)


@settings(max_examples=40, deadline=None)
@given(maps(), st.integers(1, 3))
def test_neighbours_and_borders(labels, planes):
    """The graph of parts against one made voxel by voxel."""
    values = labels.astype(np.int32) + 1
    budget = slab_bytes(values, planes)
    parts = find_parts(values, lambda v: v, 6, slab_bytes=budget, neighbours=True)
    numbers = whole(values, 6) - 1
    pairs = set()
    for axis in range(3):
        one, two = np.moveaxis(numbers, axis, 0)[:-1], np.moveaxis(numbers, axis, 0)[1:]
        pairs |= {tuple(sorted(p)) for p in zip(one.ravel(), two.ravel(), strict=True)}
    assert {tuple(p) for p in parts.neighbours.tolist()} == {p for p in pairs if p[0] != p[1]}
    inner = numbers[1:-1, 1:-1, 1:-1]
    at_border = {
        n for n in range(len(parts)) if (inner == n).sum() < np.count_nonzero(numbers == n)
    }
    assert set(np.flatnonzero(parts.at_border).tolist()) == at_border


def test_ragged_maps_are_taken_in_thinner_slabs(monkeypatch):
    """Half of a random map's voxels begin a run: fewer planes at a time, the same parts."""
    rng = np.random.default_rng(0)
    labels = (rng.random((24, 16, 16)) < 0.5).astype(np.uint8)
    labels[8:16] = 0  # smooth in between: slabs grow again
    monkeypatch.setattr(components, "FEW_RUNS", 800)
    monkeypatch.setattr(components, "RUN_BYTES", 10**9)
    parts = find_parts(labels, lambda v: v, 6, slab_bytes=slab_bytes(labels, 24))
    thick = [slab.stop - slab.start for slab in parts.slabs]
    assert sum(thick) == 24 and min(thick) < 8 <= max(thick)
    np.testing.assert_array_equal(parts.size, np.bincount(whole(labels, 6).ravel())[1:])


def test_runs_are_found_again_where_memory_does_not_keep_them(monkeypatch):
    labels = stairs()
    kept = numbered(labels, 26, 2)
    monkeypatch.setattr("ctseg.volume.joining.KEPT_RUN_BYTES", 10**9)
    np.testing.assert_array_equal(numbered(labels, 26, 2), kept)


def test_slabs_must_follow_on_each_other():
    joining = Joining((4, 3, 3), lambda v: v)
    runs = find_runs(np.ones((1, 3, 3), np.uint8), lambda v: v)
    joining.add(0, runs)
    with pytest.raises(ValueError, match="from 2 cannot follow one that ends at 1"):
        joining.add(2, runs)


def test_too_many_parts_are_refused(monkeypatch):
    monkeypatch.setattr("ctseg.volume.joining.MOST_PARTS", 3)
    labels = np.zeros((4, 3, 9), np.uint8)
    labels[::2, 1, ::2] = 1
    with pytest.raises(ValueError, match="more than 3 parts: it is noise"):
        find_parts(labels, lambda v: v, 6, slab_bytes=1)


# ---------------------------------------------------------------- the largest part of a mask


@settings(max_examples=60, deadline=None)
@given(maps(), st.integers(1, 3), st.sampled_from([6, 26]))
def test_largest_part_is_scipys(labels, planes, connectivity):
    mask = labels > 0
    slabs = ((z, mask[z : z + planes]) for z in range(0, len(mask), planes))
    found = largest_part(slabs, connectivity)
    parts = whole(mask.astype(np.uint8), connectivity)
    sizes = np.bincount(parts.ravel())
    if len(sizes) == 1:
        assert found.voxels == 0 and found.box_zyx is None
        return
    best = int(sizes[1:].argmax()) + 1  # of equals the first, as CropToBody always chose
    assert found.voxels == sizes[best]
    box = ndimage.find_objects(parts)[best - 1]
    assert found.box_zyx == tuple((part.start, part.stop) for part in box)


def test_no_slab_at_all_has_no_part():
    assert largest_part(iter(())).box_zyx is None
