"""Temperature and rules that are fitted to validation cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctseg.data.load import load_image
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.training.cross_validation import out_of_fold
from ctseg.engine.training.validate import score, validation_cases
from ctseg.metrics.report import Report
from ctseg.specs import Case, ImageRef
from ctseg.volume.io import read, write


def masked(case: Case, folder: Path) -> tuple[Case, int]:
    """The case with a mask of a part of the scan, and the number of its voxels."""
    assert case.label is not None
    label = read(case.label.path)
    inside = np.zeros(label.geometry.shape_zyx, np.uint8)
    inside[:, :, :7] = 1
    mask = folder / f"{case.id}.nii.gz"
    write(replace(label, array=inside), mask)
    return replace(case, mask=ImageRef(mask)), int(inside.sum())


def test_voxels_outside_the_mask_of_a_case_do_not_count(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    config, cases = validation_cases(run)
    parts = [masked(case, tmp_path) for case in cases]
    cases = tuple(case for case, _ in parts)
    monkeypatch.setattr(out_of_fold, "validation_cases", lambda _: (config, cases))
    model = NetworkModel.from_files([run / "best.safetensors"], device="cpu", precision="fp32")
    found = out_of_fold.fit([(model, run)])
    assert found.calibration is not None and found.cleanup is not None
    assert found.calibration.voxels == sum(voxels for _, voxels in parts)
    segmenter = Segmenter.of(model)
    scored = [score(model.task, case, segmenter.predict(load_image(case))) for case in cases]
    assert found.cleanup.before == pytest.approx(Report(tuple(scored)).dice)
