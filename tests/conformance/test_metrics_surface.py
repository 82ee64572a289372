"""Surface metrics against DeepMind's surface-distance, on its published cases and on random structures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import ctseg
from ctseg.metrics.elements import areas
from ctseg.metrics.surface import SurfaceDistances, surface_distances


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    pytest.importorskip("surface_distance")
    from surface_distance import metrics

    return metrics  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer was written for NumPy 1 and an older SciPy."""
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)


pytestmark = pytest.mark.filterwarnings("ignore:Please:DeprecationWarning")


def _structures(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Two smooth random structures that resemble each other, on an anisotropic grid."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(9, 30, 3))
    spacing = tuple(rng.uniform(0.4, 3.5, 3))
    sigma = rng.uniform(1, 3)
    one = gaussian_filter(rng.normal(size=shape), sigma)
    two = one + rng.uniform(0.2, 1.5) * gaussian_filter(rng.normal(size=shape), sigma)
    return one > 0.5 * one.std(), two > 0.5 * two.std(), spacing  # type: ignore[return-value]


def _compare(found: SurfaceDistances, peer: ModuleType, theirs: dict[str, np.ndarray]) -> None:
    exact = {"rel": 1e-9, "abs": 1e-12}
    for percent in (50, 95, 100):
        expected = peer.compute_robust_hausdorff(theirs, percent)
        assert found.hausdorff(percent) == pytest.approx(expected, **exact)
    to_pred, to_gt = peer.compute_average_surface_distance(theirs)
    assert found.reference.mean == pytest.approx(to_pred, **exact)
    assert found.predicted.mean == pytest.approx(to_gt, **exact)
    for tolerance in (0.0, 0.7, 1.0, 2.5, 9.0):
        expected = peer.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert found.dice(tolerance) == pytest.approx(expected, **exact)
        overlaps = peer.compute_surface_overlap_at_tolerance(theirs, tolerance)
        assert found.overlap(tolerance) == pytest.approx(overlaps[::-1], **exact)


@pytest.mark.parametrize("seed", range(20))
def test_random_structures_on_anisotropic_grids(seed: int, peer: ModuleType) -> None:
    one, two, spacing = _structures(seed)
    theirs = peer.compute_surface_distances(two, one, spacing)
    found = surface_distances(one, two, spacing)
    assert found is not None
    _compare(found, peer, theirs)


def test_structures_far_apart(peer: ModuleType) -> None:
    one, two = np.zeros((2, 12, 40, 60), bool)
    one[2:5, 3:7, 2:9] = True
    two[8:11, 30:38, 40:58] = True
    theirs = peer.compute_surface_distances(two, one, (2.5, 0.7, 0.9))
    found = surface_distances(one, two, (2.5, 0.7, 0.9))
    assert found is not None
    _compare(found, peer, theirs)


def test_areas_of_every_state(peer: ModuleType) -> None:
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

    for spacing in ((1, 1, 1), (0.5, 0.7, 3.0), (2.0, 1.1, 0.3)):
        expected = create_table_neighbour_code_to_surface_area(spacing)
        assert areas(spacing) == pytest.approx(expected, rel=1e-12)


@pytest.mark.real_data
def test_real_structures(peer: ModuleType, real_data: Path) -> None:
    """Two hippocampi: the front part of one against that of another, cropped to a common shape."""
    files = sorted((real_data / "Dataset004_Hippocampus" / "labelsTr").glob("*.nii.gz"))[:2]
    volumes = [ctseg.read(file) for file in files]
    shape = np.min([v.array.shape[-3:] for v in volumes], axis=0)
    spacing = volumes[0].geometry.spacing_zyx
    corner = tuple(slice(0, int(n)) for n in shape)
    for value in (1, 2):
        one, two = (v.array.reshape(v.array.shape[-3:])[corner] == value for v in volumes)
        found = surface_distances(one, two, spacing)
        assert found is not None
        _compare(found, peer, peer.compute_surface_distances(two, one, spacing))
