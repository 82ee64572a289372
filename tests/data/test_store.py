"""The prepared store, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import ctseg
from ctseg.config import DataConfig
from ctseg.data.load import as_label
from ctseg.data.pipeline import Pipeline, tracks_of
from ctseg.data.splits import fold_cases, split
from ctseg.data.steps import NormaliseCase, Orient
from ctseg.data.store import Store, cache_folder
from ctseg.errors import BadInput, CtsegError, GeometryMismatch, UnknownName
from ctseg.specs import Case, DataSet, ImageRef
from ctseg.task import classes_task
from ctseg.volume.distinct_values import distinct_values
from ctseg.volume.volume import Volume

TASK = classes_task({"organ": 1})


@pytest.fixture
def case(tmp_path: Path) -> Case:
    rng = np.random.default_rng(0)
    spacing = (1.0, 1.5, 2.0)
    image = Volume.from_array(rng.normal(size=(6, 7, 8)).astype(np.float32), spacing_xyz=spacing)
    label = Volume.from_array((image.array > 0).astype(np.uint8), spacing_xyz=spacing)
    ctseg.write(image, tmp_path / "image.nii.gz")
    ctseg.write(label, tmp_path / "label.nii.gz")
    return Case("a", (ImageRef(tmp_path / "image.nii.gz"),), ImageRef(tmp_path / "label.nii.gz"))


def store(tmp_path: Path) -> Store:
    return Store(Pipeline([Orient(), NormaliseCase()]), TASK, tmp_path / "store")


def test_a_case_is_made_once_and_again_when_its_file_changes(case, tmp_path):
    first = store(tmp_path).case(case)
    assert first.image.dtype == np.float32
    np.testing.assert_allclose(first.image.mean(), 0, atol=1e-5)
    assert first.target.shape == (1, 6, 7, 8)
    made = next((tmp_path / "store").rglob("image.npy")).stat().st_mtime_ns
    store(tmp_path).case(case)
    assert next((tmp_path / "store").rglob("image.npy")).stat().st_mtime_ns == made
    ones = Volume.from_array(np.ones((6, 7, 8), np.uint8), spacing_xyz=(1.0, 1.5, 2.0))
    ctseg.write(ones, tmp_path / "label.nii.gz")
    os.utime(tmp_path / "label.nii.gz", ns=(1, 1))
    assert (store(tmp_path).case(case).target == 1).all()


def test_a_region_of_a_case_is_kept_beside_the_whole(case, tmp_path):
    """Statistics of the scan are those of the region, as in a prediction."""
    pipeline = Pipeline([Orient(), NormaliseCase()])
    whole = store(tmp_path).case(case)
    image, label = (ctseg.read(ref.path).array for ref in (case.images[0], case.label))
    for box in (((1, 5), (0, 7), (3, 8)), ((0, 3), (2, 6), (0, 8))):
        part = Store(pipeline, TASK, tmp_path / "store", regions={"a": box}).case(case)
        own = tuple(slice(a, b) for a, b in box)
        cut = image[own].astype(np.float64)
        expected = (cut - cut.mean()) / cut.std()
        np.testing.assert_allclose(part.image[0], expected, atol=1e-5)
        assert np.array_equal(part.target[0], label[own])
        assert part.applied.source.shape_zyx == image.shape
    nothing = Store(pipeline, TASK, tmp_path / "store", regions={"a": None}).case(case)
    assert not any(track.inside.any() for track in tracks_of(nothing.applied))
    again = Store(pipeline, TASK, tmp_path / "store", regions={"b": None}).case(case)
    assert np.array_equal(again.image, whole.image)
    assert len(list((tmp_path / "store").rglob("case.json"))) == 4


def test_nothing_half_made_is_left_or_used(case, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctseg.data.store.save_array", broken)
    with pytest.raises(CtsegError, match="disk is full"):
        store(tmp_path).case(case)
    assert not list((tmp_path / "store").rglob("*.json"))
    assert not list((tmp_path / "store").rglob(".making*"))
    monkeypatch.undo()
    assert store(tmp_path).case(case).id == "a"


def test_nan_in_a_scan_is_refused(case, tmp_path):
    bad = np.ones((6, 7, 8), np.float32)
    bad[0, 0, 0] = np.nan
    ctseg.write(Volume.from_array(bad, spacing_xyz=(1.0, 1.5, 2.0)), case.images[0].path)
    with pytest.raises(BadInput, match="NaN"):
        store(tmp_path).case(case)


def test_a_label_on_another_grid_is_refused(case, tmp_path):
    other = Volume.from_array(np.ones((6, 7, 8), np.uint8), spacing_xyz=(1.0, 1.5, 2.5))
    ctseg.write(other, tmp_path / "label.nii.gz")
    with pytest.raises(GeometryMismatch, match="spacing"):
        store(tmp_path).case(case)


def test_a_value_beyond_the_classes_is_refused(case, tmp_path):
    label = np.full((6, 7, 8), 9, np.uint8)
    ctseg.write(Volume.from_array(label, spacing_xyz=(1.0, 1.5, 2.0)), tmp_path / "label.nii.gz")
    with pytest.raises(BadInput, match="label value 9"):
        store(tmp_path).case(case)


def test_fractional_labels_are_refused():
    with pytest.raises(BadInput, match="fractional"):
        as_label(np.array([[[[0.5]]]]), TASK, where="x")
    assert as_label(np.array([[[[1.0]]]]), TASK, where="x").dtype == np.int64
    with pytest.raises(BadInput, match="channels"):
        as_label(np.zeros((2, 1, 1, 1), np.uint8), TASK, where="x")


def test_labels_with_nan_are_told_so():
    for odd in (np.nan, np.inf):
        with pytest.raises(BadInput, match="NaN, infinite"):
            as_label(np.array([[[[odd, 1.0]]]]), TASK, where="x")


def test_distinct():
    assert distinct_values(np.array([[5, -2, 5]])) == [-2, 5]
    assert distinct_values(np.array([0, 10**7])) == [0, 10**7]


def test_the_cache_can_be_placed(monkeypatch, tmp_path):
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def dataset(count: int, groups: int | None = None, **fields) -> DataSet:
    cases = tuple(
        Case(f"c{i}", (ImageRef(Path(f"c{i}")),), group=f"g{i % groups}" if groups else None)
        for i in range(count)
    )
    return DataSet("set", Path("set"), "test", cases, **fields)


def test_folds_cover_every_case_once_and_keep_groups_together():
    made = dataset(23, groups=9)
    held = [fold_cases(made, fold)[1] for fold in range(5)]
    assert sorted(i for fold in held for i in fold) == sorted(c.id for c in made.cases)
    for fold in range(5):
        train, val = fold_cases(made, fold)
        of = {c.id: c.group for c in made.cases}
        assert not {of[i] for i in train} & {of[i] for i in val}
    assert fold_cases(made, 2) == fold_cases(made, 2)


def test_there_are_no_more_folds_than_cases():
    made = dataset(3)
    held = [fold_cases(made, fold)[1] for fold in range(3)]
    assert sorted(i for fold in held for i in fold) == ["c0", "c1", "c2"]
    with pytest.raises(BadInput, match="folds 0 to 2; fold 3 is none"):
        fold_cases(made, 3)


def test_given_splits_count():
    made = dataset(4, splits=((("c0", "c1"), ("c2",)),))
    assert fold_cases(made, 0) == (("c0", "c1"), ("c2",))
    with pytest.raises(BadInput, match="folds 0 to 0"):
        fold_cases(made, 1)


def test_named_cases_override_the_fold():
    made = dataset(5)
    train, val = split(made, DataConfig(val=("c1",)), {})
    assert [c.id for c in val] == ["c1"]
    assert len(train) == 4
    with pytest.raises(UnknownName, match="c9"):
        split(made, DataConfig(val=("c9",)), {})
    with pytest.raises(BadInput, match="train and validate"):
        split(made, DataConfig(val=("c1",), train=("c1", "c2")), {})
    with pytest.raises(BadInput, match="fold 7"):
        split(made, DataConfig(fold=7), {})


def test_one_volume_is_split_along_z():
    made = dataset(1)
    train, val = split(made, DataConfig(), {"c0": 150})
    assert [c.images[0].slices for c in train] == [(0, 100)]
    assert [c.images[0].slices for c in val] == [(100, 150)]
    train, val = split(made, DataConfig(val_slices="40:60"), {"c0": 150})
    assert [c.images[0].slices for c in train] == [(0, 40), (60, 150)]
    assert val[0].id == "c0_40_60"
    for bad in ("0:150", "60:40", "200:300"):
        with pytest.raises(BadInput, match="leave nothing"):
            split(made, DataConfig(val_slices=bad), {"c0": 150})
    with pytest.raises(BadInput, match="has no fold 3"):
        split(made, DataConfig(fold=3), {"c0": 150})
    two = dataset(2)
    with pytest.raises(BadInput, match=r"divides a single volume; .* has 2 cases"):
        split(two, DataConfig(val_slices="40:60"), {})
    with pytest.raises(BadInput, match="one case only"):
        fold_cases(made, 0)


def test_masks_and_weights_are_prepared(case, tmp_path):
    spacing = (1.0, 1.5, 2.0)
    inside = np.zeros((6, 7, 8), np.uint8)
    inside[:3] = 1
    ctseg.write(Volume.from_array(inside, spacing_xyz=spacing), tmp_path / "mask.nii.gz")
    weight = np.full((6, 7, 8), 2.5, np.float32)
    ctseg.write(Volume.from_array(weight, spacing_xyz=spacing), tmp_path / "weight.nii.gz")
    refs = {name: ImageRef(tmp_path / f"{name}.nii.gz") for name in ("mask", "weight")}
    made = store(tmp_path).case(dataclasses.replace(case, **refs))
    assert (made.target[0, 3:] == -1).all()
    assert (made.target[0, :3] >= 0).all()
    assert made.weight is not None
    np.testing.assert_allclose(made.weight, 2.5)
    ctseg.write(Volume.from_array(-weight, spacing_xyz=spacing), tmp_path / "weight.nii.gz")
    with pytest.raises(BadInput, match="negative"):
        store(tmp_path).case(dataclasses.replace(case, **refs))
