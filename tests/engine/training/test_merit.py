"""By which validation the best weights are kept: nothing found where nothing is counts as right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ctseg
from ctseg.engine.evaluation.evaluate import CaseMaps, evaluate_case
from ctseg.engine.training.validate import merit
from ctseg.metrics.report import CaseResult, Report
from ctseg.task import classes_task
from ctseg.volume.volume import Volume

TASK = classes_task({"tumour": 1})


def ball(voxels: int) -> np.ndarray:
    flat = np.zeros(6**3, np.uint8)
    flat[:voxels] = 1
    return flat.reshape(6, 6, 6)


def report(*pairs: tuple[int, int]) -> Report:
    """A report of cases (voxels predicted, voxels of the reference), each within the other."""

    def case(number: int, predicted: int, reference: int) -> CaseResult:
        maps = (Volume.from_array(ball(n)) for n in (predicted, reference))
        return evaluate_case(TASK, CaseMaps(*maps, str(number)))

    return Report(tuple(case(i, *pair) for i, pair in enumerate(pairs)))


def test_where_all_are_healthy_finding_nothing_is_best():
    assert merit(report((0, 0), (0, 0))) == 1.0
    assert merit(report((5, 0), (0, 0))) == 0.5
    assert merit(report((5, 0), (1, 0))) == 0.0


def test_where_all_have_the_label_it_is_the_mean_dice():
    both = report((10, 30), (20, 20))  # 2 * 10 / 40 and 1
    assert merit(both) == pytest.approx(0.75)
    assert merit(both) == pytest.approx(both.mean_dice)
    assert merit(report((0, 30))) == 0.0


def test_healthy_and_sick_count_alike():
    """Half the mean Dice of those with the label, half the share of those without it that are right."""
    assert merit(report((10, 30), *[(0, 0)] * 3, (4, 0))) == pytest.approx(0.5 * 0.5 + 0.5 * 0.75)
    blind = merit(report((0, 30), *[(0, 0)] * 9))
    careful = merit(report((10, 30), *[(0, 0)] * 7, *[(1, 0)] * 2))
    assert blind == 0.5 < careful


def test_maps_without_any_label_agree(tmp_path):
    """As `ctseg.evaluate` sees two empty files, of which it learns no labels."""
    for name, voxels in (("healthy", 0), ("invented", 9)):
        ctseg.write(Volume.from_array(ball(voxels)), tmp_path / f"{name}.nii.gz")

    def compared(name: str) -> Any:
        return ctseg.evaluate(tmp_path / f"{name}.nii.gz", tmp_path / "healthy.nii.gz")

    assert merit(compared("healthy")) == 1.0 > merit(compared("invented")) == 0.0
