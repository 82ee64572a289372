"""Labels drawn in a few slices, resampled: what was drawn is found again, and nothing is invented."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ctseg.data.lazy import encode_czyx
from ctseg.data.patch_centres import CentreCollector
from ctseg.data.pipeline import Pipeline, follow_label
from ctseg.data.steps import CropOrPad, Downscale, Orient, PadToMultiple, Resample
from ctseg.data.store import Store
from ctseg.data.targets import target_of
from ctseg.specs import Case, ImageRef, Label, Task
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry

IGNORE = 9
TASK = classes_task({"organ": 1, "tumour": 2}, ignore=IGNORE)
DRAWN = (2, 7, 11, 16, 20, 25, 30, 34)


def sparse(axis: int = 0) -> np.ndarray:
    """[1, 40, 24, 20] with eight drawn slices: background, an organ, and a tumour within it."""
    label = np.full((40, 24, 20), IGNORE, np.uint8)
    plane = np.zeros((24, 20), np.uint8)
    plane[6:18, 5:15] = 1
    plane[10:14, 8:12] = 2
    label[list(DRAWN)] = plane
    return np.moveaxis(label, 0, axis)[None]


def moved(label: np.ndarray, step: Resample | Downscale, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    grid = Geometry(label.shape[1:], spacing)
    scan = np.zeros(label.shape, np.float32)
    _, applied = Pipeline([step]).image(scan, grid)
    return follow_label(applied, label, IGNORE)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [0.4, 0.9, 1.3, 1.7, 2.0, 2.6, 3.3])
@pytest.mark.parametrize("coarse", ["auto", "never"])
def test_every_drawn_slice_survives_resampling_along_its_axis(axis, spacing, coarse):
    wanted = [1.0, 1.0, 1.0]
    wanted[2 - axis] = spacing
    out = moved(sparse(axis), Resample(tuple(wanted), coarse=coarse))[0]
    slices = np.moveaxis(out, axis, 0)
    n = len(slices)
    for z in DRAWN:  # the centre of an old voxel in new ones, extents being equal
        near = min(int(np.floor((z + 0.5) * n / 40 - 0.5 + 0.5)), n - 1)
        np.testing.assert_array_equal(slices[near], sparse()[0, DRAWN[0]])
    known = [z for z in range(n) if (slices[z] != IGNORE).any()]
    for z in known:  # none is invented: a drawn slice lies within half a voxel of either grid
        at = (z + 0.5) * 40 / n - 0.5
        reach = max(0.5, 0.5 * 40 / n) + 1e-6
        assert min(abs(at - drawn) for drawn in DRAWN) <= reach


def test_shares_of_ignored_voxels_do_not_outvote_labels():
    """0.4 ignored, 0.3 of each label: labelled, by the stronger of the labels, not ignored."""
    label = np.array([0, 1, 2, IGNORE, IGNORE, 0], np.uint8).reshape(1, 1, 1, 6)
    out = moved(label, Resample((1.5, 1.0, 1.0)))  # centres at 0.25, 1.75, 3.25, 4.75
    assert out.ravel().tolist() == [0, 2, IGNORE, 0]


def test_a_point_is_found_where_no_voxel_is_interpolated_from_it():
    label = np.full((1, 30, 30, 30), IGNORE, np.uint8)
    label[0, 10, 14, 19] = 2  # between the centres 1, 4, 7, ... of voxels three times as large
    out = moved(label, Resample((3.0, 3.0, 3.0)))[0]
    assert [tuple(map(int, at)) for at in np.argwhere(out != IGNORE)] == [(3, 4, 6)]
    assert out[3, 4, 6] == 2


def test_blocks_keep_what_was_drawn_in_them():
    out = moved(sparse(), Downscale((4, 1, 1)))[0]
    known = {z for z in range(10) if (out[z] != IGNORE).any()}
    assert known == {z // 4 for z in DRAWN}
    np.testing.assert_array_equal(out[0], sparse()[0, 2])


def test_labels_without_ignored_voxels_are_resampled_as_before():
    label = (np.random.default_rng(0).random((1, 12, 12, 12)) > 0.6).astype(np.uint8)
    step = Resample((1.3, 0.7, 2.1))
    whole = step.label(label, Geometry(label.shape[1:]), {})
    np.testing.assert_array_equal(moved(label, step), whole)


@pytest.mark.parametrize("kind", ["classes", "channels"])
def test_slices_named_by_a_mask_survive_as_those_of_an_ignore_value(kind):
    with_ignore, grid = sparse(), Geometry((40, 24, 20))
    mask = with_ignore != IGNORE
    label = np.where(mask, with_ignore, 0).astype(np.uint8)
    task = dataclasses.replace(TASK, kind=kind, ignore=None)
    if kind == "channels":
        labels = (Label("organ", (1, 2), 1), Label("tumour", (2,), 2))
        task = dataclasses.replace(task, labels=labels)
    _, applied = Pipeline([Resample((1.0, 1.0, 2.6))]).image(label.astype(np.float32), grid)
    by_mask = target_of(task, label, mask, applied)
    by_value = target_of(dataclasses.replace(task, ignore=IGNORE), with_ignore, None, applied)
    np.testing.assert_array_equal(by_mask, by_value)
    assert ((by_mask >= 0).all(0).any((1, 2))).sum() == len(DRAWN)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("classes", (Label("solid", (1,), 1), Label("pore", (0,), 0))),
        ("channels", (Label("solid", (1,), 1), Label("pore", (0,), 2))),
        ("classes", TASK.labels),
    ],
)
def test_what_a_step_pads_is_labelled_by_nobody(kind, labels):
    """Padding is neither pore, where 0 means that, nor background."""
    label = np.random.default_rng(0).integers(0, 2, (1, 4, 5, 6)).astype(np.uint8)
    _, applied = Pipeline([Orient(), CropOrPad((6, 5, 4)), PadToMultiple((1, 8, 1))]).image(
        label.astype(np.float32), Geometry((4, 5, 6))
    )
    task = Task(kind, labels)
    out = target_of(task, label, None, applied)
    assert out.shape[1:] == (6, 8, 4)
    inside = np.s_[:, 1:5, 1:6]
    np.testing.assert_array_equal(out[inside], encode_czyx(task, label[..., 1:5]))
    assert (out == -1).sum() == len(out) * (6 * 8 * 4 - 4 * 5 * 4)


def test_unknown_values_do_not_eat_known_ones_of_a_regression():
    """A plane of 3 beside NaN stays 3 where it is interpolated, and a ramp between known voxels stays a ramp."""
    values = np.full((1, 8, 1, 1), np.nan, np.float32)
    values[0, 2] = 3.0
    values[0, 4:, 0, 0] = np.arange(4)
    task = Task("regression", (Label("value", (), 1),))
    _, applied = Pipeline([Resample((1.0, 1.0, 0.5))]).image(
        np.zeros((1, 8, 1, 1), np.float32), Geometry((8, 1, 1))
    )
    out = target_of(task, values, None, applied).ravel()
    assert np.isnan(out[:4]).all()
    np.testing.assert_allclose(out[4:6], 3.0)
    assert np.isnan(out[6:8]).all()
    at = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    expected = ndimage.map_coordinates(np.arange(4.0), [at[9:] - 4], order=1, mode="nearest")
    np.testing.assert_allclose(out[9:], expected, atol=1e-6)


def test_a_slab_of_ignored_voxels_and_background_is_collected():
    target = np.full((1, 4, 5, 6), -1, np.int16)
    target[0, 2] = 0
    collector = CentreCollector(TASK)
    collector.add(target, 10)
    found = collector.result()
    assert sorted(np.unique(found[:, 0]).tolist()) == [-1, 0]
    assert np.unique(found[:, 1]).tolist() == [12]
    assert len(found) == 2 * 5 * 6


def test_drawn_slices_reach_the_prepared_store(tmp_path):
    label = sparse()[0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    for name, array in (("image", label.astype(np.float32)), ("label", label)):
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), tmp_path / f"{name}.nii")
    case = Case("a", (ImageRef(tmp_path / "image.nii"),), ImageRef(tmp_path / "label.nii"))
    made = Store(Pipeline([Resample((1.0, 1.0, 1.7))]), TASK, tmp_path / "store").case(case)
    assert int((np.asarray(made.target[0]) >= 0).any((1, 2)).sum()) == len(DRAWN)
    assert set(made.groups) == {-1, 0, 1, 2}
