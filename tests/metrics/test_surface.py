"""Surface distances: surface-distance's published cases, SciPy's distance maps, and areas by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from ctseg.errors import BadInput
from ctseg.metrics import nearest
from ctseg.metrics.elements import areas
from ctseg.metrics.surface import SurfaceDistances, surface_distances


def _found(*args: object) -> SurfaceDistances:
    found = surface_distances(*args)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_two_voxels_2_mm_apart() -> None:
    """From surface_distance_test.py of google-deepmind/surface-distance."""
    truth, made = np.zeros((2, 128, 128, 128), bool)
    truth[50, 60, 70] = made[50, 60, 72] = True
    found = _found(made, truth, (3, 2, 1))
    assert (found.predicted.mean, found.reference.mean, found.mean) == (1.5, 1.5, 1.5)
    assert (found.hausdorff(100), found.hausdorff(95)) == (2, 2)
    assert found.overlap(1) == (0.5, 0.5) and found.dice(1) == 0.5


def test_two_blocks_of_which_one_is_a_slice_longer() -> None:
    """From surface_distance_test.py of google-deepmind/surface-distance, to its three places."""
    truth, made = np.zeros((2, 100, 100, 100), bool)
    truth[:50] = made[:51] = True
    found = _found(made, truth, (2, 1, 1))
    assert (found.reference.mean, found.predicted.mean) == pytest.approx((0.322, 0.339), abs=5e-4)
    assert (found.hausdorff(100), found.hausdorff(95)) == (2, 2)
    assert found.overlap(1)[::-1] == pytest.approx((0.842, 0.830), abs=5e-4)
    assert found.dice(1) == pytest.approx(0.836, abs=5e-4)


def test_a_distance_of_the_tolerance_counts_where_the_spacing_is_rounded() -> None:
    """Five voxels of 0.2 mm, which float32 makes a little longer."""
    truth, made = np.zeros((2, 20, 20, 20), bool)
    truth[8:12, 8:12, 4:8] = made[8:12, 8:12, 9:13] = True
    rounded = (float(np.float32(0.2)),) * 3
    assert rounded[0] > 0.2
    found = [_found(made, truth, spacing).dice(1) for spacing in (rounded, (0.2,) * 3)]
    assert found == pytest.approx([1, 1])


def test_areas_by_hand() -> None:
    z, y, x = spacing = (3.0, 2.0, 0.5)
    table = areas(spacing)
    assert table[0] == table[255] == 0
    corner = math.hypot(y * x, z * x, z * y) / 8  # a triangle over half of each edge
    assert table[0b1] == table[0b10000000] == pytest.approx(corner)
    assert table[0b11110000] == pytest.approx(y * x)  # two slices: a whole face across z
    assert table[0b10101010] == pytest.approx(z * y)
    assert np.array_equal(table, table[::-1])  # a state and its complement


def test_a_large_ball_has_nearly_its_surface() -> None:
    z, y, x = np.ogrid[-30:31, -30:31, -30:31]
    ball = z**2 + y**2 + x**2 <= 25**2
    area = _found(ball, ball, (1, 1, 1)).predicted.area
    assert area == pytest.approx(4 * math.pi * 25**2, rel=0.1)


@pytest.mark.parametrize("limit", ["MOST_OFFSETS", "BUDGET", "AT_ONCE", "CHUNK", None])
def test_every_way_of_searching_gives_the_distances_of_a_distance_map(
    limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        monkeypatch.setattr(
            nearest, limit, {"MOST_OFFSETS": 20, "BUDGET": 2, "AT_ONCE": 0, "CHUNK": 40}[limit]
        )
    nearest._offsets.cache_clear()
    rng = np.random.default_rng(5)
    spacing = (2.1, 0.7, 1.3) if limit != "AT_ONCE" else (40.0, 0.2, 0.3)
    one, two = gaussian_filter(rng.normal(size=(2, 15, 22, 18)), (0, 2, 2, 2)) > 0.08
    grid = nearest.SearchGrid(one.shape, spacing)
    marks, places = grid.marked(two)
    points = grid.marked(one)[1]
    rank, distances = nearest.nearest(points, marks, places, grid)
    expected = distance_transform_edt(~two, sampling=spacing)[one]
    assert distances[rank] == pytest.approx(expected, rel=1e-12)
    assert (np.diff(distances) > 0).all()
    nearest._offsets.cache_clear()


def test_surface_that_touches_voxels_that_do_not_count_is_left_out() -> None:
    truth, made = np.zeros((2, 8, 8, 20), bool)
    truth[2:6, 2:6, 2:12] = True
    made[2:6, 2:6, 2:16] = True
    valid = np.ones(truth.shape, bool)
    valid[..., 10:] = False  # both go on into the unknown: there they are not told apart
    found = _found(made, truth, (1, 1, 1), valid)
    assert found.hausdorff() == 0
    assert (
        found.predicted.area
        == found.reference.area
        < _found(truth, truth, (1, 1, 1)).reference.area
    )
    assert _found(made, truth, (1, 1, 1)).hausdorff() == 4
    assert surface_distances(made, truth, (1, 1, 1), np.zeros_like(valid)) is None


def test_an_empty_map_has_no_surface() -> None:
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert surface_distances(empty, full, (1, 1, 1)) is None
    assert surface_distances(empty, empty, (1, 1, 1)) is None
    assert _found(full, full, (1, 1, 1)).dice(0) == 1  # a structure ends where the scan ends


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match="shapes"):
        surface_distances(np.ones((3, 3, 3)), np.ones((3, 3, 4)), (1, 1, 1))
