"""Parts of label maps against connected-components-3d and nnU-Net."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from ctseg.engine.evaluation.case_maps import CaseMaps
from ctseg.engine.evaluation.suggest_cleanup import suggest_rules as suggest
from ctseg.engine.postprocess import PostprocessRule, find_instances, postprocess
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume


def peer(module: str) -> Any:
    """A peer's module; the test is skipped where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module)


def blobs(seed: int, share: float = 0.2) -> np.ndarray:
    """Smooth blobs of four labels that touch each other."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((24, 30, 34)), 1.2)
    values = ndimage.gaussian_filter(rng.standard_normal(field.shape), 3)
    ranks = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values) + 1
    return np.where(field > np.quantile(field, 1 - share), ranks, 0).astype(np.uint8)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("joined", [False, True])
def test_instances_are_cc3ds(connectivity, joined):
    cc3d = peer("cc3d")
    labels = blobs(0, 0.35)
    image = (labels > 0).astype(np.uint8) if joined else labels
    theirs, count = cc3d.connected_components(image, connectivity=connectivity, return_N=True)
    out = np.zeros(labels.shape, np.uint32)
    found = find_instances(
        labels, joined=joined, connectivity=connectivity, slab_bytes=5 * 30 * 34 * 2
    )
    found.write(out)
    assert found.count == count
    pairs = np.unique(np.stack((out.ravel(), theirs.ravel())), axis=1)
    assert pairs.shape[1] == count + 1  # one of theirs for each of ours, and the background
    statistics = cc3d.statistics(theirs)["voxel_counts"]
    ours = find_instances(labels, joined=joined, connectivity=connectivity).voxels
    assert sorted(ours.tolist()) == sorted(statistics[1:].tolist())


def test_dust_is_cc3ds():
    cc3d = peer("cc3d")
    labels = blobs(1)
    theirs = cc3d.dust(labels, threshold=12, connectivity=26)
    rule = PostprocessRule(label="*", min_size_voxels=12)
    names = {f"label_{n}": n for n in range(1, 5)}
    postprocess(labels, names, [rule], geometry=Geometry(labels.shape), slab_bytes=6000)
    np.testing.assert_array_equal(labels, theirs)


@pytest.mark.parametrize("label", ["*", ("one", "two", "three", "four"), "two", ("one", "three")])
def test_the_largest_part_is_nnunets(label, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, ".")
    module = peer("nnunetv2.postprocessing.remove_connected_components")
    names = {"one": 1, "two": 2, "three": 3, "four": 4}
    labels = blobs(2, 0.25)
    expected = labels
    if label == "*":
        for value in names.values():
            expected = module.remove_all_but_largest_component_from_segmentation(expected, value)
    else:
        values = [names[name] for name in ([label] if isinstance(label, str) else label)]
        expected = module.remove_all_but_largest_component_from_segmentation(labels, values)
    rule = PostprocessRule(label=label, keep_largest=1)
    found = labels.copy()
    postprocess(found, names, [rule], geometry=Geometry(labels.shape), slab_bytes=6000)
    assert (found != labels).any()
    np.testing.assert_array_equal(found, expected)


def test_suggested_rules_are_nnunets(tmp_path, monkeypatch):
    """nnU-Net decides over files; its decision and ours over the same cases."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    module = peer("nnunetv2.postprocessing.remove_connected_components")
    task = classes_task({"one": 1, "two": 2, "three": 3})
    rng = np.random.default_rng(3)
    pairs = []
    for index in range(3):
        reference = np.zeros((10, 24, 24), np.uint8)
        reference[2:8, 3:10, 3:10] = 1
        reference[2:8, 10:14, 3:10] = 2
        reference[2:8, 3:10, 14:20] = reference[2:4, 16:20, 16:20] = 3  # two right parts
        predicted = reference.copy()
        y, x = rng.integers(3, 9, 2)
        predicted[3:5, 10 + index : 12 + index, 8:10] = 1
        predicted[4, 12, 4] = 1  # a stray one within the second label
        predicted[2, y, x] = 0
        pairs.append((predicted, reference))
    maps = [[Volume.from_array(array) for array in pair] for pair in pairs]
    found = suggest(task, [CaseMaps(predicted, reference, "a") for predicted, reference in maps])
    expected = _decided_by_nnunet(module, task, pairs)
    assert [tuple(task_value(task, n) for n in rule.names) for rule in found.rules] == expected


def task_value(task: Any, name: str) -> int:
    return next(label.value for label in task.foreground if label.name == name)


def _decided_by_nnunet(module: Any, task: Any, pairs: Any) -> list[tuple[int, ...]]:
    """The steps of `determine_postprocessing` with nnU-Net's own removal and Dice, without its files and processes."""
    metrics = peer("nnunetv2.evaluation.evaluate_predictions")
    values = [label.value for label in task.foreground]

    def dice(some: Any) -> dict[int, float]:
        out = {}
        for value in values:
            found = []
            for predicted, reference in some:
                tp, fp, fn, _ = metrics.compute_tp_fp_fn_tn(reference == value, predicted == value)
                found.append(2 * tp / (2 * tp + fp + fn))
            out[value] = float(np.mean(found))
        return out

    remove = module.remove_all_but_largest_component_from_segmentation
    chosen: list[tuple[int, ...]] = []
    base = dice(pairs)
    trial = [(remove(p, values), r) for p, r in pairs]
    after = dice(trial)
    if np.mean(list(after.values())) > np.mean(list(base.values())) and not any(
        after[v] < base[v] for v in values
    ):
        chosen.append(tuple(values))
        pairs, base = trial, after
    for value in values:
        trial = [(remove(p, value), r) for p, r in pairs]
        after = dice(trial)
        if after[value] > base[value]:
            chosen.append((value,))
            pairs, base = trial, after
    return chosen
