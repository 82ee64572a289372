"""The box of the body found slab by slab, against the body found in the whole scan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctseg.data.steps import Crop, CropToBody
from ctseg.volume.geometry import Geometry


def whole_box(step: CropToBody, scan: np.ndarray, grid: Geometry) -> list[list[int]]:
    """From the mask of the body (SciPy's label and morphology on the whole array)."""
    body = step.body(scan)
    out = []
    for axis, size in enumerate(body.shape):
        hit = np.flatnonzero(body.any(tuple(a for a in range(3) if a != axis)))
        low, high = (hit[0], hit[-1] + 1) if hit.size else (0, size)
        margin = int(np.ceil(step.margin_mm / grid.spacing_zyx[axis]))
        out.append([max(int(low) - margin, 0), min(int(high) + margin, size)])
    return out


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**32),
    st.sampled_from([0.3, 0.7, 0.9]),
    st.tuples(*[st.sampled_from([1, 3, 5])] * 3),
    st.integers(1, 5),
    st.sampled_from([0.0, 1.5]),
)
def test_the_body_is_the_same_slab_by_slab(shape, seed, share, opening, planes, margin):
    rng = np.random.default_rng(seed)
    scan = np.where(rng.random((2, *shape)) < share, 0, -1000).astype(np.int16)
    grid = Geometry(shape, (1.0, 2.0, 1.5))
    step = CropToBody(margin_mm=margin, opening_zyx=opening)
    expected = whole_box(step, scan, grid)
    assert step.fit(scan, grid)["box_zyx"] == expected
    parts = [(z, scan[:, z : z + planes]) for z in range(0, shape[0], planes)]
    assert step.fit_parts(lambda: iter(parts), grid)["box_zyx"] == expected


def test_a_large_scan_in_memory_is_looked_at_in_slabs(monkeypatch):
    """A body of two halves that only one slab joins."""
    monkeypatch.setattr("ctseg.volume.distinct_values.SLAB_VOXELS", 3 * 20 * 20)
    scan = np.full((1, 20, 20, 20), -1000, np.float32)
    scan[0, 2:18, 3:6, 4:9] = scan[0, 5:19, 12:15, 4:9] = 0
    scan[0, 10, 3:15, 5] = 0
    scan[0, :, 18, 18] = 50  # a table, longer than both
    grid = Geometry((20, 20, 20))
    assert CropToBody().fit(scan, grid)["box_zyx"] == [[2, 19], [3, 15], [4, 9]]
    assert Crop(-500).fit(scan, grid)["box_zyx"] == [[0, 20], [3, 19], [4, 19]]


@pytest.mark.real_data
def test_the_body_of_a_real_scan(real_data):
    from ctseg.data.load import load_image
    from ctseg.data.readers.find import open_dataset

    dataset = open_dataset(real_data / "sts_ct", None)
    case = next(case for case in dataset.cases if case.id == "sts_002")
    scan = load_image(case)
    for opening in ((1, 1, 1), (3, 5, 5)):
        step = CropToBody(margin_mm=5, opening_zyx=opening)
        expected = whole_box(step, scan.czyx, scan.geometry)
        parts = [(z, scan.czyx[:, z : z + 7]) for z in range(0, scan.czyx.shape[1], 7)]
        found = step.fit_parts(lambda some=parts: iter(some), scan.geometry)
        assert found["box_zyx"] == expected == step.fit(scan.czyx, scan.geometry)["box_zyx"]
