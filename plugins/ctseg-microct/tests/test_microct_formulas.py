"""Measurements of media whose descriptors are known in closed form."""

import numpy as np
import pytest

from ctseg_microct import basics
from ctseg_microct.correlation import correlation_length, lags_up_to, pair_counts
from ctseg_microct.objects import measure_objects
from ctseg_microct.parts import connectivity, number_parts
from ctseg_microct.phantoms import overlapping_spheres, phases_of, sphere
from ctseg_microct.thickness import thickness

MEMORY = 2**26


def test_layers_have_the_s2_of_the_triangle_wave():
    period, thick, n = 16, 6, 96
    layers = (np.arange(n) % period < thick).astype(np.uint8)
    index = np.broadcast_to(layers[:, None, None], (n, 40, 40))
    phases = phases_of(index)
    lags = lags_up_to(phases.shape_zyx, phases.spacing_zyx, 20.0)
    counts = pair_counts(phases.index, 1, lags, MEMORY)
    lag = np.arange(17)
    # over whole periods: two layers overlap by `thick - r`, and by `r - (period - thick)` with the next one
    exact = (np.maximum(thick - lag, 0) + np.maximum(lag - (period - thick), 0)) / period
    found = lags.along(counts, 0)[:17]
    window = np.array([(layers[: n - r] & layers[r:]).mean() for r in lag])
    assert found == pytest.approx(window, abs=1e-12)
    assert found == pytest.approx(exact, abs=0.035)  # the border cuts a period
    assert lags.along(counts, 1) == pytest.approx(layers.mean(), abs=1e-12)


@pytest.mark.slow
@pytest.mark.slow
def test_overlapping_spheres_have_the_s2_of_the_formula():
    edge, radius, count = 256, 8.0, 6000
    total = []
    for seed in range(2):
        phases = phases_of(overlapping_spheres(edge, radius, count, seed))
        lags = lags_up_to(phases.shape_zyx, phases.spacing_zyx, 20.0)
        total.append(lags.radial(pair_counts(phases.index, 0, lags, 2**28)))
    r = np.minimum(lags.distance / (2 * radius), 1)
    union = 4 / 3 * np.pi * radius**3 * (1 + 1.5 * r - 0.5 * r**3)
    exact = np.exp(-count / edge**3 * union)  # the void: no centre in the union of two balls
    assert np.mean(total, 0) == pytest.approx(exact, rel=0.01)


def test_s2_equals_scipy_on_uneven_voxels():
    from scipy.signal import correlate

    index = (np.random.default_rng(1).random((20, 17, 23)) < 0.4).astype(np.uint8)
    lags = lags_up_to(index.shape, (0.5, 0.25, 0.3), 1.5)
    assert lags.reach == (3, 6, 5)
    found = pair_counts(index, 1, lags, MEMORY)
    full = correlate(index.astype(float), index.astype(float), mode="full", method="fft")
    cut = full[19:23, 16 - 6 : 16 + 7, 22 - 5 : 22 + 6]
    assert np.array_equal(found, np.round(cut))
    again = pair_counts(index, 1, lags, 2000)  # many blocks
    assert np.array_equal(found, again)
    assert lags.radial(found)[0] == pytest.approx(index.mean())


def test_correlation_length_of_an_exponential():
    distance = np.arange(30.0)
    s2 = 0.3**2 + (0.3 - 0.09) * np.exp(-distance / 6)
    assert correlation_length(distance, s2, 0.3) == pytest.approx(6, rel=0.01)
    assert correlation_length(distance, np.full(30, 0.3), 0.3) is None


def test_surface_and_shape_of_a_ball_on_uneven_voxels():
    spacing = (0.5, 1.0, 1.0)
    index = sphere((61, 32, 33), 12.0, spacing)
    phases = phases_of(index, (1.0, 1.0, 0.5))
    area = 4 * np.pi * 12.0**2
    found = basics.fractions(phases)[1]
    assert found["surface"] == pytest.approx(area, rel=0.02)
    assert found["contact"] == {"label_0": found["surface"]}
    columns = measure_objects(phases, number_parts(phases), MEMORY)
    ball = {key: value[columns["label"] == "label_1"][0] for key, value in columns.items()}
    assert ball["surface"] == pytest.approx(found["surface"])
    assert ball["sphericity"] == pytest.approx(1, abs=0.02)
    assert [ball[f"centre_{a}"] for a in "xyz"] == pytest.approx([16, 15.5, 15])
    assert ball["axis_long"] == pytest.approx(24, rel=0.02)
    assert not ball["cut_by_edge"]


def test_axes_of_an_ellipsoid_point_along_it():
    z, y, x = np.ogrid[-20:21, -30:31, -30:31]
    u, v = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    index = ((u / 24) ** 2 + (v / 12) ** 2 + (z / 8) ** 2 <= 1).astype(np.uint8)
    phases = phases_of(index)
    columns = measure_objects(phases, number_parts(phases), MEMORY)
    at = int(np.flatnonzero(columns["label"] == "label_1")[0])
    assert [columns[f"axis_{n}"][at] for n in ("long", "middle", "short")] == pytest.approx(
        [48, 24, 16], rel=0.03
    )
    direction = [columns[f"direction_{a}"][at] for a in "xyz"]
    assert np.abs(direction) == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 0], abs=0.01)


def test_lineal_path_of_layers():
    layers = np.array([1, 1, 1, 0, 0, 1, 1, 0])
    phases = phases_of(np.broadcast_to(layers[:, None, None], (8, 3, 4)))
    path = basics.lineal_path(basics.chords(phases, 0)[1], 12, 3)
    assert path == pytest.approx([5 / 8, 3 / 7, 1 / 6, 0])
    across = basics.lineal_path(basics.chords(phases, 2)[1], 24, 2)
    assert across == pytest.approx([5 / 8] * 3)


def test_thickness_of_layers_and_of_a_ball():
    layers = np.zeros((40, 24, 24), np.uint8)
    layers[4:10], layers[16:30] = 1, 1
    found = thickness(phases_of(layers, (0.1, 0.1, 0.1)), 1, 20.0, MEMORY)
    shares = {
        round(row["diameter"], 6): row["share"] for row in found["distribution"] if row["voxels"]
    }
    assert shares == pytest.approx({0.6: 6 / 20, 1.4: 14 / 20})
    ball = thickness(phases_of(sphere((41, 41, 41), 15.2)), 1, 30.0, MEMORY)
    assert ball["median"] == pytest.approx(30.4, abs=2)
    cut = thickness(phases_of(sphere((41, 41, 41), 15.2)), 1, 6.0, MEMORY)
    assert cut["largest"] == pytest.approx(12)
    assert cut["share_at_limit"] > 0.9


def test_percolation_of_a_tube():
    index = np.zeros((9, 8, 7), np.uint8)
    index[:, 3:5, 3] = 1
    index[0, 0, 0] = 1
    phases = phases_of(index)
    found = connectivity(phases, number_parts(phases))[1]
    assert found["parts"] == 2
    assert found["percolating_share"] == pytest.approx({"z": 18 / 19, "y": 0, "x": 0})
    assert found["largest_share"] == pytest.approx(18 / 19)


def test_windows_of_a_random_medium_spread_as_the_root_of_their_volume():
    index = (np.random.default_rng(0).random((64, 64, 64)) < 0.3).astype(np.uint8)
    rows = basics.windows(phases_of(index))[1]
    for row in rows[:6]:
        assert row["mean"] == pytest.approx(0.3, abs=0.01)
        assert row["deviation"] == pytest.approx(np.sqrt(0.21 / row["edge"] ** 3), rel=0.1)
    assert basics.representative(rows) == pytest.approx(11, abs=3)
