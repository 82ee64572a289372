"""Overlap, surface Dice and Hausdorff distance as MONAI's; adapted Rand error and topology as scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ctseg.metrics.case import MetricSettings, score_labels
from ctseg.metrics.catalogue import DEFAULT
from ctseg.metrics.centreline import centreline_dice
from ctseg.metrics.instances import adapted_rand, contingency
from ctseg.metrics.pairs import MapPair
from ctseg.metrics.skeleton import skeleton
from ctseg.metrics.surface import surface_distances
from ctseg.task import classes_task

SPACING = (2.5, 0.8, 1.1)


def _maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth maps of three labels that resemble each other."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(4, 14, 26, 22)), (0, 2, 2, 2))
    moved = fields + 0.4 * gaussian_filter(rng.normal(size=fields.shape), (0, 2, 2, 2))
    return fields.argmax(0).astype(np.uint8), moved.argmax(0).astype(np.uint8)


def _one_hot(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([array == v for v in (1, 2, 3)]))[None].float()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_overlap_and_surface_dice_are_those_of_monai(seed: int) -> None:
    metrics = pytest.importorskip("monai.metrics")
    one, two = _maps(seed)
    task = classes_task({"a": 1, "b": 2, "c": 3})
    found = score_labels(
        task, MapPair(one, two, SPACING), MetricSettings(DEFAULT, tolerance_mm=1.2)
    )
    stacks = _one_hot(one), _one_hot(two)
    expected = {
        "dice": metrics.compute_dice(*stacks),
        "iou": metrics.compute_iou(*stacks),
        "surface_dice": metrics.compute_surface_dice(
            *stacks, [1.2] * 3, include_background=True, spacing=SPACING, use_subvoxels=True
        ),
    }
    for name, values in expected.items():
        ours = [item.values[name] for item in found]
        assert ours == pytest.approx(values[0].tolist(), rel=1e-5), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("axis", "steps"), [(0, 1), (1, 3), (2, 2)])
def test_the_hausdorff_distance_of_a_moved_block_is_that_of_monai(axis: int, steps: int) -> None:
    """MONAI takes the outermost voxels for the surface: only for shapes such as these the definitions agree."""
    metrics = pytest.importorskip("monai.metrics")
    block = np.zeros((16, 20, 18), bool)
    block[4:10, 5:13, 4:11] = True
    moved = np.roll(block, steps, axis)
    found = surface_distances(moved, block, SPACING)
    stacks = (torch.from_numpy(mask)[None, None].float() for mask in (moved, block))
    expected = metrics.compute_hausdorff_distance(*stacks, include_background=True, spacing=SPACING)
    assert found is not None
    assert found.hausdorff() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_adapted_rand_is_that_of_scikit_image(seed: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 60, (3, 5, 6)), np.ones((4, 5, 3), int))
    made = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(0, 90, truth.shape))
    made[made == 7] = 12
    found = adapted_rand(contingency(made, truth))
    assert found is not None
    error, by_truth, by_made = metrics.adapted_rand_error(truth, made)
    assert found.error == pytest.approx(error, rel=1e-9)
    # scikit-image documents precision as the share of the test image's pairs, and returns it in the other place
    assert (found.precision, found.recall) == pytest.approx((by_made, by_truth), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_thinning_keeps_what_scikit_image_counts(seed: int) -> None:
    measure = pytest.importorskip("skimage.measure")
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(24, 30, 28)), 2.5)
    for mask in (field > field.std(), np.abs(field) < 0.3 * field.std()):
        line = skeleton(mask)
        assert measure.euler_number(line, 3) == measure.euler_number(mask, 3)
        parts = [measure.label(m, connectivity=3).max() for m in (mask, line)]
        assert parts[0] == parts[1]
        assert not (line & ~mask).any() and line.sum() < 0.2 * mask.sum()


def test_centreline_dice_of_tubes_is_that_of_scikit_images_skeletons() -> None:
    morphology = pytest.importorskip("skimage.morphology")
    z, y, x = np.ogrid[:40, :48, :48]
    tubes = []
    for radius, bend in ((3.4, 7.0), (2.6, 9.0)):
        centre_y, centre_x = 24 + bend * np.sin(z / 9), 22 + 6 * np.cos(z / 7)
        tubes.append((y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2)
    one, two = tubes
    two[18:22] = False
    precision = two[morphology.skeletonize(one) > 0].mean()
    recall = one[morphology.skeletonize(two) > 0].mean()
    expected = 2 * precision * recall / (precision + recall)
    assert centreline_dice(one, two) == pytest.approx(expected, abs=0.02)
