"""Bringing logits back to the grid of the scan as nnU-Net's export does."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ctseg.engine.inference.resample_logits import (
    argmax_at,
    confidence,
    interpolate,
    last_positive_at,
)
from ctseg.volume.resample import centres

pytestmark = pytest.mark.filterwarnings("ignore")

LOW, TARGET = (12, 26, 23), (9, 41, 47)
SPACING = ((1.5, 1.5, 1.5), (2.0, 0.95, 0.73))
"""Of the logits and of the scan, z y x; too even for nnU-Net to take the coarse axis apart."""


def smooth_logits(classes: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.standard_normal((classes, *LOW)), (0, 2, 2, 2))
    return torch.from_numpy(60 * fields).float()


def positions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y, x = (centres(n, m) for n, m in zip(LOW, TARGET, strict=True))
    return z, y, x


def nnunet_export(logits: torch.Tensor, labels: dict, order: list[int] | None, probabilities: bool):
    """nnU-Net's own function with the resampling that its plans name; the objects hold just what it reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export = pytest.importorskip("nnunetv2.inference.export_prediction")
        resampling = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
        handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    fn = partial(
        resampling.resample_data_or_seg_to_shape,
        is_seg=False, order=1, order_z=0, force_separate_z=None,
    )  # fmt: skip
    plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    configuration = SimpleNamespace(spacing=list(SPACING[0]), resampling_fn_probabilities=fn)
    properties = {
        "spacing": list(SPACING[1]),
        "shape_after_cropping_and_before_resampling": TARGET,
        "shape_before_cropping": TARGET,
        "bbox_used_for_cropping": [[0, n] for n in TARGET],
    }
    threads = torch.get_num_threads()
    return export.convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, handling.LabelManager(labels, order), properties,
        return_probabilities=probabilities, num_threads_torch=threads,
    )  # fmt: skip


def test_labels_and_confidence_are_those_of_nnunet():
    logits = smooth_logits(17)
    names = {"background": 0} | {f"organ {k}": k for k in range(1, 17)}
    theirs, probabilities = nnunet_export(logits, names, None, True)
    fine = np.sort(interpolate(logits, positions()).numpy(), axis=0)
    clear = fine[-1] - fine[-2] > 2e-5
    assert clear.mean() > 0.999
    found = argmax_at(logits, positions())
    np.testing.assert_array_equal(found.numpy()[clear], theirs[clear])
    sure = confidence(logits, positions())
    np.testing.assert_allclose(sure.numpy(), probabilities.max(0), rtol=0, atol=1e-5)


def test_regions_are_those_of_nnunet():
    logits = smooth_logits(3, seed=1)
    names = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    theirs = nnunet_export(logits, names, [1, 2, 3], False)
    fine = interpolate(logits, positions()).numpy()
    clear = (np.abs(fine) > 2e-5).all(0)
    found = last_positive_at(logits, positions())
    np.testing.assert_array_equal(found.numpy()[clear], theirs[clear])
    assert set(np.unique(theirs)) == {0, 1, 2, 3}


def test_values_are_those_of_torch_and_of_monai():
    """Both interpolate with the outer faces in place; torch finds positions in float32, so it is less exact."""
    logits = smooth_logits(2)
    ours = interpolate(logits, positions())
    torchs = torch.nn.functional.interpolate(logits[None], size=TARGET, mode="trilinear")[0]
    torch.testing.assert_close(ours, torchs, rtol=0, atol=2e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transforms = pytest.importorskip("monai.transforms")
    resize = transforms.Resize(TARGET, mode="trilinear", align_corners=False, anti_aliasing=False)
    theirs = torch.as_tensor(np.asarray(resize(logits)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
