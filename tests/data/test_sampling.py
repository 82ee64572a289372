"""Patches: what is drawn, and what is cut."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ctseg.data import keyed
from ctseg.data.pipeline import Trail
from ctseg.data.places import places
from ctseg.data.prepared import Prepared
from ctseg.data.sampling import batch, cut, draw, reflect
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry

TASK = classes_task({"large": 1, "tiny": 2})


def case(shape=(20, 24, 28), seed=0) -> Prepared:
    rng = np.random.default_rng(seed)
    target = np.zeros((1, *shape), np.int16)
    target[0, 2:12, 3:15, 4:16] = 1
    target[0, 15, -1, 25] = 2  # a single voxel
    geometry = Geometry(shape)
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    return Prepared("a", image, target, places(TASK, target), Trail((), geometry, geometry))


def test_labels_are_drawn_alike_however_small_they_are():
    cases, hits = [case()], {1: 0, 2: 0}
    for index in range(400):
        place = draw(cases, (1, 1, 1), 1.0, keyed.generator(0, 0, index, keyed.SAMPLE))
        hits[int(cases[0].target[(0, *place.start_zyx)])] += 1
    assert stats.binomtest(hits[2], 400, 0.5).pvalue > 1e-3


def test_the_foreground_share_is_kept():
    cases = [case()]
    drawn = [
        draw(cases, (1, 1, 1), 0.3, keyed.generator(1, 0, i, keyed.SAMPLE)) for i in range(600)
    ]
    background = (cases[0].target == 0).mean()
    expected = 0.3 + 0.7 * (1 - background)
    hits = sum(cases[0].target[(0, *p.start_zyx)] > 0 for p in drawn)
    assert stats.binomtest(int(hits), 600, expected).pvalue > 1e-3


def test_patches_stay_inside_where_the_scan_is_large_enough():
    cases = [case((20, 6, 28))]
    for index in range(50):
        place = draw(cases, (8, 10, 8), 0.5, keyed.generator(0, 1, index, keyed.SAMPLE))
        z, y, x = place.start_zyx
        assert 0 <= z <= 12
        assert y == -2  # centred: the axis is shorter than the patch
        assert 0 <= x <= 20


@pytest.mark.parametrize("start", [(0, 0, 0), (-3, 2, -1), (5, 6, 7), (-2, -2, -2)])
def test_cut_reflects_like_numpy(start):
    array = np.random.default_rng(0).normal(size=(2, 8, 9, 10))
    got = cut(array, start, (6, 6, 6), None)
    padded = np.pad(array, [(0, 0), (9, 9), (9, 9), (9, 9)], mode="reflect")
    z, y, x = (s + 9 for s in start)
    np.testing.assert_array_equal(got, padded[:, z : z + 6, y : y + 6, x : x + 6])


def test_cut_marks_what_lies_outside():
    array = np.ones((1, 4, 4, 4), np.int16)
    got = cut(array, (-1, 0, 2), (4, 4, 4), -1)
    assert (got[0, 0] == -1).all()
    assert (got[0, 1:, :, :2] == 1).all()
    assert (got[0, :, :, 2:] == -1).all()
    assert (cut(array, (9, 9, 9), (2, 2, 2), -1) == -1).all()


def test_reflect_of_a_single_voxel():
    np.testing.assert_array_equal(reflect(np.arange(-3, 4), 1), 0)


def test_a_batch_depends_on_seed_and_step_alone():
    cases = [case(seed=i) for i in range(3)]
    options = {"size": 4, "rule": 0.5, "margin_zyx": (1, 2, 1)}
    one = batch(cases, (8, 8, 8), seed=7, step=3, **options)
    batch(cases, (8, 8, 8), seed=7, step=2, **options)
    two = batch(cases, (8, 8, 8), seed=7, step=3, **options)
    assert one[0].shape == (4, 1, 10, 12, 10)
    assert one[1].shape == (4, 1, 10, 12, 10)
    assert one[2] is None
    for a, b in zip(one[:2], two[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    other = batch(cases, (8, 8, 8), seed=8, step=3, **options)
    assert not np.array_equal(one[0], other[0])


def test_keys_do_not_meet():
    seen = {
        keyed.seed_for(seed, step, index, purpose)
        for seed in range(3)
        for step in range(3)
        for index in range(3)
        for purpose in range(4)
    }
    assert len(seen) == 108


def test_weights_come_along_and_are_one_where_a_case_has_none():
    import dataclasses

    plain = case()
    weight = np.full((1, 20, 24, 28), 3, np.float32)
    options = {"size": 12, "rule": 0.5, "seed": 0, "step": 0}
    drawn = batch([plain, dataclasses.replace(plain, weight=weight)], (4, 4, 4), **options)[2]
    assert drawn is not None
    assert drawn.shape == (12, 1, 4, 4, 4)
    assert set(np.unique(drawn)) == {1, 3}
