"""Rules followed slab by slab, against SciPy on the whole array."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ctseg.engine.postprocess import PostprocessRule, postprocess
from ctseg.errors import BadInput
from ctseg.specs import Label, Task
from ctseg.volume.geometry import Geometry

LABELS = {"a": 1, "b": 2, "c": 5}
RANK = {6: 1, 18: 2, 26: 3}


def keep_parts(
    labels: np.ndarray, values: list[int], *, keep=None, least=1, connectivity=26
) -> np.ndarray:
    """By SciPy, the map without the parts of a mask that are too small, or beyond the largest ones."""
    structure = ndimage.generate_binary_structure(3, RANK[connectivity])
    parts, count = ndimage.label(np.isin(labels, values), structure)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    ranked = sorted(
        range(1, count + 1), key=lambda n: (-sizes[n], n)
    )  # SciPy's order is that of first voxels
    kept = [n for n in ranked[:keep] if sizes[n] >= least]
    return np.where((parts > 0) & ~np.isin(parts, kept), 0, labels)


def fill(labels: np.ndarray, targets: dict[int, list[int]], mode: str) -> np.ndarray:
    """By SciPy, the map with background that a target encloses as the target's; the smallest enclosure wins.

    Args:
        targets: values of each mask, by the value that is written.
    """
    if mode == "slices":
        return np.stack([_fill(plane, targets) for plane in labels])
    return _fill(labels, targets)


def _fill(labels: np.ndarray, targets: dict[int, list[int]]) -> np.ndarray:
    best, out = np.full(labels.shape, np.inf), labels.copy()
    for written, values in targets.items():
        mask = np.isin(labels, values)
        enclosed = ndimage.binary_fill_holes(mask) & ~mask
        rooms, _ = ndimage.label(enclosed)
        sizes = np.bincount(rooms.ravel())[rooms]
        here = enclosed & (labels == 0) & (sizes < best)
        best[here], out[here] = sizes[here], written
    return out


def cleaned(labels: np.ndarray, rules, *, planes: int = 99, task=LABELS, spacing=(1, 1, 1)):
    """A copy of the map after the rules, worked on some planes at a time, and the report."""
    out = labels.copy()
    budget = planes * labels.shape[1] * labels.shape[2] * (labels.dtype.itemsize + 1)
    some = [
        rule if isinstance(rule, PostprocessRule) else PostprocessRule(**rule) for rule in rules
    ]
    report = postprocess(
        out, task, some, geometry=Geometry(labels.shape, spacing), slab_bytes=budget
    )
    return out, report


@st.composite
def maps(draw) -> np.ndarray:
    shape = tuple(draw(st.lists(st.integers(1, 8), min_size=3, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.choice(draw(st.sampled_from([[1], [1, 2], [1, 2, 5, 9]])), shape)
    share = draw(st.sampled_from([0.2, 0.5, 0.75, 0.9, 0.97]))
    labels = np.where(rng.random(shape) < share, values, 0)
    return labels.astype(draw(st.sampled_from(["u1", "u2", "i4"])))


targets = st.sampled_from(["a", "b", "c", "*", ("a", "b"), ("c", "a")])


def groups(label) -> list[list[int]]:
    if label == "*":
        return [[value] for value in LABELS.values()]
    return [[LABELS[name] for name in ([label] if isinstance(label, str) else label)]]


@settings(max_examples=80, deadline=None)
@given(
    maps(), targets, st.sampled_from([None, 1, 2]), st.sampled_from([None, 2, 5]),
    st.sampled_from([6, 18, 26]), st.integers(1, 3),
)  # fmt: skip
def test_parts_are_kept_as_scipy_keeps_them(labels, label, keep, least, connectivity, planes):
    if keep is None and least is None:
        keep = 1
    rule = {
        "label": label, "keep_largest": keep, "min_size_voxels": least, "connectivity": connectivity
    }  # fmt: skip
    found, report = cleaned(labels, [rule], planes=planes)
    expected = labels
    for values in groups(label):
        expected = keep_parts(
            expected, values, keep=keep, least=least or 1, connectivity=connectivity
        )
    np.testing.assert_array_equal(found, expected)
    gone = sum(entry["voxels_removed"] for entry in report.values())
    assert gone == np.count_nonzero(found != labels)
    assert found.dtype == labels.dtype


@settings(max_examples=120, deadline=None)
@given(maps(), targets, st.sampled_from(["3d", "slices"]), st.integers(1, 3))
def test_holes_are_filled_as_scipy_fills_them(labels, label, mode, planes):
    found, report = cleaned(labels, [{"label": label, "fill_holes": mode}], planes=planes)
    expected = fill(labels, {values[0]: values for values in groups(label)}, mode)
    np.testing.assert_array_equal(found, expected)
    filled = sum(entry["voxels_filled"] for entry in report.values())
    assert filled == np.count_nonzero(found != labels)


@settings(max_examples=30, deadline=None)
@given(maps(), st.integers(1, 3))
def test_rules_of_different_labels_are_followed_together(labels, planes):
    """First all parts, then all holes: what is taken out of a hole of another label is filled."""
    rules = [
        {"label": "a", "keep_largest": 1, "fill_holes": "3d"},
        {"label": "b", "min_size_voxels": 3, "fill_holes": "slices", "connectivity": 6},
        {"label": "c", "keep_largest": 2, "fill_holes": "3d"},
        {"label": ("a", "b"), "keep_largest": 1},  # a and b were dealt with: a new round
    ]
    found, _ = cleaned(labels, rules, planes=planes)
    expected = keep_parts(labels, [1], keep=1)
    expected = keep_parts(expected, [2], least=3, connectivity=6)
    expected = keep_parts(expected, [5], keep=2)
    expected = fill(expected, {1: [1], 5: [5]}, "3d")
    expected = fill(expected, {2: [2]}, "slices")
    expected = keep_parts(expected, [1, 2], keep=1)
    np.testing.assert_array_equal(found, expected)


def shells() -> np.ndarray:
    """From outside in: a, background, b, background; and a hollow a whose wall is c on one side."""
    out = np.zeros((11, 11, 24), np.uint8)
    out[1:10, 1:10, 1:10] = 1
    out[2:9, 2:9, 2:9] = 0
    out[3:8, 3:8, 3:8] = 2
    out[4:7, 4:7, 4:7] = 0
    out[2:9, 2:9, 13:20] = 1
    out[4:7, 4:7, 15:19] = 0
    out[2:9, 2:9, 19] = 5
    return out


@pytest.mark.parametrize("planes", [1, 2, 3, 11])
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a"), ("*",)])
def test_the_innermost_label_gets_a_hole(order, planes):
    rules = [{"label": name, "fill_holes": "3d"} for name in order]
    found, report = cleaned(shells(), rules, planes=planes)
    assert (found[2, 2:9, 2:9] == 1).all() and (found[4:7, 4:7, 4:7] == 2).all()
    assert (found[4:7, 4:7, 15:19] == 0).all()  # a and c together enclose it, neither does alone
    assert report["b"] == {"holes_filled": 1, "voxels_filled": 27, "ml_filled": 0.027}
    assert report["a"]["voxels_filled"] == 7**3 - 5**3


def test_a_label_encloses_what_lies_within_another_one():
    """Background in the middle of b, which lies in a: with a rule for a alone it becomes a; b stays b."""
    labels = shells()
    found, _ = cleaned(labels, [{"label": "a", "fill_holes": "3d"}])
    assert (found[4:7, 4:7, 4:7] == 1).all()
    assert ((found == 2) == (labels == 2)).all()
    joined, _ = cleaned(labels, [{"label": ("a", "c"), "fill_holes": "3d"}])
    assert (joined[4:7, 4:7, 15:19] == 1).all()  # of two joined labels the first is written


def test_a_tunnel_is_a_hole_in_slices_only():
    labels = np.zeros((6, 7, 7), np.uint8)
    labels[:, 1:6, 1:6] = 1
    labels[:, 3, 3] = 0
    assert (cleaned(labels, [{"label": "a", "fill_holes": "3d"}])[0] == labels).all()
    found, report = cleaned(labels, [{"label": "a", "fill_holes": "slices"}], planes=2)
    assert (found[:, 3, 3] == 1).all() and (found[:, 0] == 0).all()
    assert report["a"]["holes_filled"] == 6


def test_of_equal_parts_the_first_met_stays():
    labels = np.zeros((9, 4, 4), np.uint8)
    labels[7:9, 0, 0] = labels[1:3, 3, 3] = labels[4:6, 0, 3] = 1
    for planes in (1, 2, 9):
        found, report = cleaned(labels, [{"label": "a", "keep_largest": 1}], planes=planes)
        assert np.flatnonzero(found.any((1, 2))).tolist() == [1, 2]
        assert report["a"]["parts"] == 3 and report["a"]["parts_removed"] == 2


def test_millilitres_follow_the_spacing():
    """Four voxels of 5 mm3 are 0.02 ml, which is not less than 0.02 ml."""
    labels = np.zeros((3, 5, 9), np.uint8)
    labels[1, 1:3, 1:3] = 1
    labels[1, 1, 5:8] = 1
    rule = {"label": "a", "min_size_ml": 0.02}
    found, report = cleaned(labels, [rule], spacing=(1, 2, 2.5))
    assert (found[1, 1:3, 1:3] == 1).all() and not found[1, 1, 5:8].any()
    assert report["a"]["ml_removed"] == pytest.approx(0.015)
    json.dumps(report)


# ---------------------------------------------------------------- regions, sources, refusals


def test_nested_regions_fall_back_to_what_they_lie_in():
    """Whole tumour > core: a stray core within the whole becomes whole, a stray whole goes with all in it."""
    task = Task("channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2)))
    labels = np.zeros((4, 6, 16), np.uint8)
    labels[:, 1:5, 1:10] = 1
    labels[1:3, 2:4, 2:5] = 2  # 12 voxels
    labels[1, 2, 7:9] = 2  # a stray core
    labels[1, 1:3, 13] = 2  # a stray whole that is all core
    rules = [{"label": "*", "keep_largest": 1}]
    found, report = cleaned(labels, rules, task=task)
    assert (found[1, 2, 7:9] == 1).all() and not found[1, 1:3, 13].any()
    assert (found[1:3, 2:4, 2:5] == 2).all()
    assert report["whole"]["voxels_removed"] == 2 == report["core"]["voxels_removed"]


def test_a_hole_of_nested_regions_becomes_the_region_around_it():
    task = Task("channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2)))
    labels = np.zeros((7, 9, 12), np.uint8)
    labels[1:6, 1:8, 1:11] = 1
    labels[2:5, 2:7, 2:6] = 2
    labels[3, 3:6, 3:5] = 0
    labels[3, 4, 8] = 0
    found, report = cleaned(labels, [{"label": "*", "fill_holes": "3d"}], task=task)
    assert (found[3, 3:6, 3:5] == 2).all() and found[3, 4, 8] == 1
    assert report["whole"]["voxels_filled"] == 1 and report["core"]["voxels_filled"] == 6


def test_of_nested_regions_the_outer_one_is_cleaned_up_first():
    """The larger core lies in a stray whole: it goes with it, and the other core stays."""
    task = Task("channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2)))
    labels = np.zeros((5, 9, 16), np.uint8)
    labels[:, 1:8, 1:9] = 1
    labels[2, 3, 3:5] = 2
    labels[1:3, 2:5, 12:14] = 2
    found, _ = cleaned(labels, [{"label": "*", "keep_largest": 1}], task=task)
    assert not found[:, :, 10:].any() and (found[2, 3, 3:5] == 2).all()


def test_many_labels_take_two_passes(monkeypatch):
    """117 labels are cleaned up together, not one after the other."""
    from ctseg.engine.postprocess import parts

    calls = []
    original = parts.find_parts
    monkeypatch.setattr(parts, "find_parts", lambda *a, **k: calls.append(1) or original(*a, **k))
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 40, 40), np.uint8)
    labels[:, 2:38, 2:38] = np.arange(118).repeat(12)[: 36 * 36].reshape(36, 36) % 118
    stray = rng.integers(0, 118, labels.shape) * (rng.random(labels.shape) < 0.02)
    labels = np.where(stray > 0, stray, labels).astype(np.uint8)
    names = {f"organ_{n}": n for n in range(1, 118)}
    some = [{"label": name, "keep_largest": 1} for name in names]
    each, _ = cleaned(labels, some, task=names)
    every, report = cleaned(labels, [{"label": "*", "keep_largest": 1}], task=names)
    assert len(calls) == 2 and len(report) == 117
    np.testing.assert_array_equal(each, every)
    for value in (1, 57, 117):
        kept = keep_parts(labels, [value], keep=1) == value
        np.testing.assert_array_equal(every == value, kept)


def test_files_and_views_are_changed_in_place(tmp_path):
    labels = shells()
    rules = [
        PostprocessRule(label="*", fill_holes="3d"),
        PostprocessRule(label="c", keep_largest=1),
    ]
    expected, _ = cleaned(labels, rules)
    grid, small = Geometry(labels.shape), 4 * 11 * 24
    mapped = np.memmap(tmp_path / "map.raw", np.uint8, "w+", shape=labels.shape)
    mapped[:] = labels
    postprocess(mapped, LABELS, rules, geometry=grid, slab_bytes=small)
    np.testing.assert_array_equal(mapped, expected)
    view = np.asfortranarray(labels)
    postprocess(view, LABELS, rules, geometry=grid, slab_bytes=small)
    np.testing.assert_array_equal(view, expected)
    with h5py.File(tmp_path / "map.h5", "w") as file:
        data = file.create_dataset("label", data=labels, chunks=(3, 5, 7))
        postprocess(data, LABELS, rules, geometry=grid, slab_bytes=small)
        np.testing.assert_array_equal(data[:], expected)


def test_the_progress_of_all_passes_adds_up():
    labels = shells()
    out, seen = labels.astype(np.uint16), []
    rules = [PostprocessRule(label="*", keep_largest=1, fill_holes="3d")]
    postprocess(
        out, LABELS, rules, geometry=Geometry(labels.shape), slab_bytes=1500,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    np.testing.assert_array_equal(out, cleaned(labels, rules)[0])
    assert seen[-1] == (4 * 11, 4 * 11)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    out = labels.copy()
    assert postprocess(out, LABELS, [], geometry=Geometry(labels.shape)) == {}
    np.testing.assert_array_equal(out, labels)


def test_an_empty_map_stays_empty():
    labels = np.zeros((3, 4, 5), np.uint8)
    found, report = cleaned(labels, [{"label": "*", "keep_largest": 1, "fill_holes": "3d"}])
    assert not found.any() and report["a"]["parts"] == 0 == report["a"]["voxels_filled"]


def test_what_is_no_label_map_is_refused():
    rules, grid = [PostprocessRule(label="b", fill_holes="3d")], Geometry((2, 3, 4))
    with pytest.raises(BadInput, match=r"not in one of shape \(2, 3, 4\) and type float32"):
        postprocess(np.zeros((2, 3, 4), np.float32), LABELS, rules, geometry=grid)
    with pytest.raises(BadInput, match=r"The map has \(2, 3, 5\) voxels, its geometry \(2, 3, 4\)"):
        postprocess(np.zeros((2, 3, 5), np.uint8), LABELS, rules, geometry=grid)
    with pytest.raises(BadInput, match="'b' is written as 2, which a map of bool cannot hold"):
        postprocess(np.zeros((2, 3, 4), bool), LABELS, rules, geometry=grid)


@pytest.mark.real_data
def test_predicted_organs_of_a_real_scan(real_data):
    import ctseg

    volume = ctseg.read(real_data / "abdomen_ct" / "organs_predicted.nii.gz")
    labels = volume.array.astype(np.uint8)
    task = {f"organ_{n}": int(n) for n in np.unique(labels[labels > 0])}
    rule = PostprocessRule(label="*", keep_largest=1, fill_holes="3d")
    found, geometry = labels.copy(), volume.geometry
    report = postprocess(found, task, [rule], geometry=geometry, slab_bytes=2**20)
    expected = labels
    for value in task.values():
        expected = keep_parts(expected, [value], keep=1)
    kept = fill(expected, {value: [value] for value in task.values()}, "3d")
    np.testing.assert_array_equal(found, kept)
    assert sum(entry["parts_removed"] for entry in report.values()) > 0
    again = found.copy()
    postprocess(again, task, [rule], geometry=geometry)
    np.testing.assert_array_equal(again, found)
