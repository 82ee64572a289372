"""The slice of each case that a report shows: the one that differs most, with its scan, whatever the axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctseg
from ctseg.engine.evaluation.evaluate import evaluate
from ctseg.metrics.aligned import AlignedCase
from ctseg.report.html.case_slices import PIXELS, CaseSlices, most_different
from ctseg.specs import ImageRef, Label, Task
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume

RED, GREEN = (255, 0, 0), (0, 255, 0)
TASK = Task(
    "classes",
    (Label("background", (0,), 0), Label("a", (1,), 1, RED), Label("b", (2,), 2, GREEN)),
    ignore=9,
)
TURNS = {
    "axial": np.eye(3),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
}


def maps() -> tuple[np.ndarray, np.ndarray]:
    """A reference and a prediction that misses much of slice 5, in axes z, y, x of space."""
    reference = np.zeros((9, 24, 20), np.uint8)
    reference[2:8, 4:16, 4:12] = 1
    reference[2:8, 16:20, 4:12] = 2
    prediction = reference.copy()
    prediction[5, 4:16, 4:12] = 0
    prediction[3, 4, 4] = 0
    return reference, prediction


def stored(array: np.ndarray, turn: np.ndarray) -> Volume:
    """The same voxels of space with other array axes."""
    order = [
        int(np.abs(turn[:, 2 - axis]).argmax()) for axis in range(3)
    ]  # space axis x=0 of array z, y, x
    moved = array.transpose([2 - space for space in order])
    flips = tuple(slice(None, None, int(turn[space, 2 - axis])) for axis, space in enumerate(order))
    geometry = Geometry(
        moved.shape, tuple(np.abs(np.array([1.0, 1.5, 3.0]) @ np.abs(turn))), direction=turn
    )
    return Volume(np.ascontiguousarray(moved[flips]), geometry)


def aligned(
    task: Task | None, prediction: Volume, reference: Volume, **options: Any
) -> AlignedCase:
    images = options.get("images", ())
    return AlignedCase("c", task, prediction.array, reference.array, reference.geometry, images)


def is_red(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) - picture[..., 1] > 60


@pytest.mark.parametrize("name", TURNS)
def test_the_axial_slice_that_differs_most_is_shown(name: str, tmp_path: Path) -> None:
    reference, prediction = (stored(one, TURNS[name]) for one in maps())
    hu = np.random.default_rng(0).normal(size=(9, 24, 20)).astype(np.float32)
    hu[5] = np.linspace(0, 100, 20)  # darker at the patient's right
    scan = stored(hu, TURNS[name])
    ctseg.write(Volume(scan.array, reference.geometry), tmp_path / "scan.nii.gz")
    case = aligned(TASK, prediction, reference, images=(ImageRef(tmp_path / "scan.nii.gz"),))
    slices = CaseSlices()
    slices.add(case)
    tiles = slices.tiles("c")
    assert list(tiles) == ["scan", "reference", "prediction"]
    rows, columns = tiles["scan"].shape
    assert max(rows, columns) == PIXELS
    assert rows / columns == pytest.approx(24 * 1.5 / 20, rel=0.02)
    assert (np.diff(tiles["scan"][rows // 2].astype(int)) >= 0).all()
    assert is_red(tiles["reference"]).any() and not is_red(tiles["prediction"]).any()
    found = np.argwhere(is_red(tiles["reference"]))
    scale = columns / 20
    np.testing.assert_allclose(
        found.min(0) / scale, (4 * 1.5, 4), atol=0.3
    )  # nearer the front and the right
    assert slices.colours == {"a": RED, "b": GREEN}
    assert slices.tiles("unknown") == {}


def test_ignored_voxels_are_no_difference_and_equal_maps_show_foreground() -> None:
    reference, prediction = maps()
    reference[5] = 9
    case = aligned(TASK, Volume.from_array(prediction), Volume.from_array(reference))
    assert most_different(case, 0) == 3
    same = Volume.from_array(maps()[0])
    assert most_different(aligned(TASK, same, same), 0) == 2


def test_a_scan_that_is_gone_leaves_the_labels() -> None:
    reference, prediction = (Volume.from_array(one) for one in maps())
    slices = CaseSlices()
    slices.add(aligned(TASK, prediction, reference, images=(ImageRef(Path("gone.nii.gz")),)))
    tiles = slices.tiles("c")
    assert list(tiles) == ["reference", "prediction"] and is_red(tiles["reference"]).any()


def test_another_prediction_is_shown_on_the_same_slice() -> None:
    reference, prediction = maps()
    other = reference.copy()
    other[2] = 0
    slices = CaseSlices()
    one, two, three = (Volume.from_array(array) for array in (prediction, reference, other))
    slices.add_other(aligned(TASK, three, two))  # of a case that is not known
    slices.add(aligned(TASK, one, two))
    slices.add_other(aligned(TASK, three, two))
    tiles = slices.tiles("c")
    np.testing.assert_array_equal(tiles["other"], tiles["reference"])
    shifted = Volume.from_array(other[4:], origin_xyz=(0.0, 0.0, 4.0))
    slices.add_other(
        aligned(TASK, shifted, Volume.from_array(reference[4:], origin_xyz=(0.0, 0.0, 4.0)))
    )
    np.testing.assert_array_equal(slices.tiles("c")["other"], tiles["other"])


@pytest.mark.parametrize("kind", ["instances", "channels", "regression"])
def test_other_tasks(kind: str) -> None:
    reference, prediction = (one.astype(np.int32) for one in maps())
    task: Task | None = None
    if kind == "channels":
        task = Task("channels", (Label("a", (1,), 1), Label("b", (2,), 2)), stacked=True)
        reference, prediction = (
            np.stack([one == 1, one == 2]).astype(np.uint8) for one in (reference, prediction)
        )
    elif kind == "regression":
        task = Task("regression", (Label("density", (), 0),))
        reference, prediction = reference.astype(np.float32), prediction.astype(np.float32)
        reference[0] = np.nan
    slices = CaseSlices()
    slices.add(aligned(task, Volume.from_array(prediction), Volume.from_array(reference)))
    tiles = slices.tiles("c")
    assert (tiles["reference"] != tiles["prediction"]).any()
    assert tiles["reference"].ndim == (2 if kind == "regression" else 3)


def test_evaluations_show_their_cases() -> None:
    reference, prediction = (Volume.from_array(one) for one in maps())
    seen: list[AlignedCase] = []
    evaluate(
        prediction, reference, task=classes_task({"a": 1, "b": 2}), slices=(2, 8), look=seen.append
    )
    assert seen[0].geometry.shape_zyx == (6, 24, 20)
    assert seen[0].geometry.origin_xyz == (0.0, 0.0, 2.0)
    assert most_different(seen[0], 0) == 3
