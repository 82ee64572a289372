"""Patches: what is drawn, and what is cut."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from scipy import stats

from ctseg.config import parse_config
from ctseg.data.patch_centres import BACKGROUND, PLACES, VALID, CentreCollector, patch_centres
from ctseg.data.pipeline import AppliedPipeline
from ctseg.data.prepared_case import Prepared
from ctseg.data.rng import SAMPLE, generator, seed_for
from ctseg.data.sampling import Rule, check_rule, cut, draw, patch, reflect, rule_of
from ctseg.errors import BadInput, ConfigError, FileProblem, RunFailed, UnknownName
from ctseg.specs import Label, Task
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry
from tests.data.plain_batch import batch

TASK = classes_task({"large": 1, "tiny": 2})
ONE = (1, 1, 1)


def made(target: np.ndarray, task: Task = TASK, seed: int = 0) -> Prepared:
    shape = target.shape[1:]
    image = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    geometry = Geometry(shape)
    return Prepared(
        f"c{seed}",
        image,
        target,
        patch_centres(task, target),
        AppliedPipeline((), geometry, geometry),
    )


def labelled(shape=(20, 24, 28)) -> np.ndarray:
    target = np.zeros((1, *shape), np.int16)
    target[0, 2:12, 3:15, 4:16] = 1
    target[0, 15, -1, 25] = 2  # a single voxel
    return target


def case(shape=(20, 24, 28), seed=0) -> Prepared:
    return made(labelled(shape), seed=seed)


def drawn(cases, patch_zyx, rule, count, seed=0):
    return [
        draw(cases, patch_zyx, rule, generator(seed, 0, index, SAMPLE)) for index in range(count)
    ]


def values_at_centres(cases, found) -> np.ndarray:
    return np.array([cases[p.case].target[(0, *p.centre_zyx)] for p in found])


# ---------------------------------------------------------------- what is drawn


def test_centres_follow_label_probabilities_however_small_a_label_is():
    """The issue's figures: {0: 0.2, 1: 0.3, 2: 0.5} over 10,000 patches, one label of a single voxel."""
    lacking = labelled()
    lacking[lacking == 2] = 0  # a case without the tiny label is passed over when that is drawn
    cases = [case(), made(lacking, seed=1)]
    config = parse_config({"train": {"label_probabilities": {"0": 0.2, "1": 0.3, "2": 0.5}}})
    found = drawn(cases, (8, 8, 8), rule_of(config.train, TASK), 10_000)
    values = values_at_centres(cases, found)
    counts = np.bincount(values, minlength=3)
    assert stats.chisquare(counts, [2000, 3000, 5000]).pvalue > 1e-3
    assert {p.case for p, v in zip(found, values, strict=True) if v == 2} == {0}
    others = np.bincount([p.case for p, v in zip(found, values, strict=True) if v == 1])
    assert stats.chisquare(others).pvalue > 1e-3  # cases that have the label are drawn alike
    for place in found[:200]:
        assert place.centre_zyx is not None
        for c, s in zip(place.centre_zyx, place.start_zyx, strict=True):
            assert s <= c < s + 8  # the voxel is in its patch


def test_labels_are_drawn_alike_however_small_they_are():
    cases = [case()]
    values = values_at_centres(cases, drawn(cases, ONE, 1.0, 400))
    assert stats.binomtest(int((values == 2).sum()), 400, 0.5).pvalue > 1e-3
    assert (values > 0).all()


def test_the_foreground_share_is_kept():
    cases = [case()]
    found = drawn(cases, ONE, 0.3, 600, seed=1)
    background = (cases[0].target == 0).mean()
    hits = sum(cases[0].target[(0, *p.start_zyx)] > 0 for p in found)
    assert stats.binomtest(int(hits), 600, 0.3 + 0.7 * (1 - background)).pvalue > 1e-3


def test_a_case_without_labels_does_not_lower_the_share():
    cases = [case(), made(np.zeros((1, 20, 24, 28), np.int16), seed=1)]
    found = drawn(cases, ONE, 0.5, 600)
    centred = sum(p.group is not None for p in found)
    assert stats.binomtest(centred, 600, 0.5).pvalue > 1e-3
    nothing = [made(np.zeros((1, 8, 8, 8), np.int16))]
    assert drawn(nothing, (4, 4, 4), 1.0, 3)[0].group is None


def test_positive_and_negative_patches_have_the_ratio_asked_for():
    cases = [case()]
    config = parse_config({"train": {"positive_negative": [3, 1]}})
    values = values_at_centres(cases, drawn(cases, ONE, rule_of(config.train, TASK), 1000))
    assert stats.binomtest(int((values > 0).sum()), 1000, 0.75).pvalue > 1e-3


def test_ignored_voxels_are_never_centres():
    """Sparse labels: only three slices are drawn, by a hand that left out part of them."""
    target = np.full((1, 30, 16, 16), -1, np.int16)
    target[0, [4, 15, 26], 2:14] = 0
    target[0, 15, 4:6, 4:6] = 1
    cases = [made(target)]
    for rule in (0.0, 0.5, Rule(positive=0.5), Rule(labels=((0, 0.5), (1, 0.5)))):
        values = values_at_centres(cases, drawn(cases, (4, 4, 4), rule, 200))
        assert (values >= 0).all()
    assert len(cases[0].groups[VALID]) == 3 * 12 * 16


def test_patches_with_little_foreground_are_drawn_again():
    target = np.zeros((1, 40, 40, 40), np.int16)
    target[0, 10:30, 10:30, 10:30] = 1
    cases = [made(target)]
    rule = Rule(foreground=0.0, min_foreground=0.4, slack=0.0)
    for place in drawn(cases, (8, 8, 8), rule, 30):
        assert (cut(target, place.start_zyx, (8, 8, 8), -1) > 0).mean() > 0.4
    slack = Rule(foreground=0.0, min_foreground=0.999, slack=1.0)
    assert drawn(cases, (8, 8, 8), slack, 30) != drawn(cases, (8, 8, 8), rule, 30)
    impossible = Rule(foreground=1.0, min_foreground=0.99, slack=0.0)  # the best of many is taken
    for place in drawn(cases, (24, 24, 24), impossible, 5):
        share = (cut(target, place.start_zyx, (24, 24, 24), -1) > 0).mean()
        assert share > 0.4


def test_rules_that_cannot_be_are_refused():
    cases = [case()]
    task = classes_task({"large": 1, "tiny": 2, "absent": 3})

    def rule(**fields):
        return rule_of(parse_config({"train": fields}).train, task)

    assert rule(label_probabilities={"large": 3, "background": 1}).labels == (
        (0, 0.25),
        (1, 0.75),
    )
    with pytest.raises(UnknownName, match="Did you mean 'large'"):
        rule(label_probabilities={"larg": 1})
    with pytest.raises(BadInput, match="'absent'"):
        check_rule(rule(label_probabilities={"absent": 1}), cases, task)
    check_rule(rule(label_probabilities={"tiny": 1}), cases, task)
    with pytest.raises(ConfigError, match="Both"):
        rule(label_probabilities={"tiny": 1}, positive_negative=[1, 1])
    with pytest.raises(ConfigError, match="not all 0"):
        rule(label_probabilities={"tiny": 0})
    with pytest.raises(ConfigError, match="not both 0"):
        rule(positive_negative=[0, 0])
    nothing = [made(np.zeros((1, 4, 4, 4), np.int16))]
    with pytest.raises(BadInput, match="positive_negative"):
        check_rule(rule(positive_negative=[1, 1]), nothing, task)


def test_regions_that_overlap_are_labels_too():
    task = Task("channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2)))
    target = np.zeros((2, 10, 10, 10), np.int8)
    target[0, 2:8, 2:8, 2:8] = 1
    target[1, 4, 4, 4] = 1
    cases = [made(target, task)]
    assert {g: len(p) for g, p in cases[0].groups.items()} == {0: 784, 1: 216, 2: 1}
    for place in drawn(cases, (2, 2, 2), Rule(labels=((2, 1.0),)), 5):
        assert place.centre_zyx == (4, 4, 4)


def test_patches_stay_inside_where_the_scan_is_large_enough():
    cases = [case((20, 6, 28))]
    for place in drawn(cases, (8, 10, 8), 0.5, 50):
        z, y, x = place.start_zyx
        assert 0 <= z <= 12
        assert y == -2  # centred: the axis is shorter than the patch
        assert 0 <= x <= 20


# ---------------------------------------------------------------- places


def test_places_are_even_and_the_same_in_slabs_of_any_size():
    """Each voxel of a large label is kept with the same probability (chi-square over the slices)."""
    target = np.zeros((1, 40, 32, 32), np.int16)
    target[0, :, 8:24] = 1
    for thickness in (40, 7, 1):
        collector = CentreCollector(TASK, limit=4000)
        for start in range(0, 40, thickness):
            collector.add(target[:, start : start + thickness], start)
        found = collector.result()
        own = found[found[:, 0] == 1][:, 1:]
        assert len(own) == len(np.unique(own, axis=0)) == 4000
        assert (target[0][tuple(own.T)] == 1).all()
        assert stats.chisquare(np.bincount(own[:, 0], minlength=40)).pvalue > 1e-3
        background = found[found[:, 0] == BACKGROUND][:, 1:]
        assert (target[0][tuple(background.T)] == 0).all()
    assert (np.diff(found[:, 0]) >= 0).all()


def test_a_small_label_is_kept_whole():
    found = patch_centres(TASK, labelled())
    assert (found[found[:, 0] == 2][:, 1:] == [[15, 23, 25]]).all()
    assert (np.bincount(found[:, 0])[1:] == [10 * 12 * 12, 1]).all()
    assert (found[:, 0] == BACKGROUND).sum() == PLACES
    assert (found[:, 0] != VALID).all()


def test_populations_beyond_the_hypergeometric_limit_are_drawn_too(monkeypatch):
    monkeypatch.setattr("ctseg.data.patch_centres._EXACT", 100)
    collector = CentreCollector(TASK, limit=50)
    for start in range(0, 40, 4):
        collector.add(np.zeros((1, 4, 8, 8), np.int16), start)
    found = collector.result()
    assert len(found) == 50
    assert found[:, 1].max() > 25
    assert found[:, 1].min() < 15


# ---------------------------------------------------------------- what is cut


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
        seed_for(seed, step, index, purpose)
        for seed in range(3)
        for step in range(3)
        for index in range(3)
        for purpose in range(4)
    }
    assert len(seen) == 108


def test_weights_come_along_and_are_one_where_a_case_has_none():
    plain = case()
    weight = np.full((1, 20, 24, 28), 3, np.float32)
    options = {"size": 12, "rule": 0.5, "seed": 0, "step": 0}
    found = batch([plain, dataclasses.replace(plain, weight=weight)], (4, 4, 4), **options)[2]
    assert found is not None
    assert found.shape == (12, 1, 4, 4, 4)
    assert set(np.unique(found)) == {1, 3}


def test_float_targets_are_nan_outside():
    target = np.ones((2, 4, 4, 4), np.float32)
    task = Task("regression", (Label("a", (), 0), Label("b", (), 1)))
    ready = made(target, task)
    assert ready.labels == ()
    got = patch(ready, (-1, 0, 0), (4, 4, 4))[1]
    assert np.isnan(got[:, 0]).all()
    assert (got[:, 1:] == 1).all()


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (FileProblem("scan.h5 cannot be read"), FileProblem),
        (OSError(116, "Stale file handle"), RunFailed),
    ],
)
def test_what_cannot_be_read_any_more_is_named(raised, kind):
    class Gone:
        shape, dtype = (1, 8, 8, 8), np.dtype(np.float32)

        def __getitem__(self, key):
            raise raised

    with pytest.raises(kind, match=r"Case c0.*(scan\.h5|Stale)"):
        patch(dataclasses.replace(case(), image=Gone()), (0, 0, 0), (4, 4, 4))


def test_a_case_without_files_travels_as_it_is():
    ready = case()
    there = pickle.loads(pickle.dumps(ready))
    np.testing.assert_array_equal(there.image, ready.image)
    np.testing.assert_array_equal(there.places, ready.places)
