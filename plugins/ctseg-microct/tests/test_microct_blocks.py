"""Blocks of any size give the results of the whole volume, and of independent packages."""

import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import label, regionprops

from ctseg.errors import BadInput
from ctseg.volume.io import open_volume, write
from ctseg.volume.volume import Volume
from ctseg_microct import basics, correlation, thickness
from ctseg_microct.boundary import give_boundary
from ctseg_microct.clusters import cluster_counts
from ctseg_microct.grains import part_grains
from ctseg_microct.measure import Wanted, measure
from ctseg_microct.objects import measure_objects
from ctseg_microct.orientation import orientation
from ctseg_microct.parts import number_parts
from ctseg_microct.phantoms import blobs, phases_of, sphere
from ctseg_microct.phases import read_phases

DATA = Path(os.environ.get("CTSEG_TEST_DATA", "../shared/data")) / "weave_microct"
SMALL, LARGE = 2**18, 2**27


def same(one, two, rel=1e-9):
    """Equal but for the rounding of sums."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key, value in one.items():
            same(value, two[key], rel)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            same(a, b, rel)
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=rel, abs=1e-9)
    else:
        assert one == two


def packing(edge, radius, seed=1):
    """Balls on a jittered lattice that touch."""
    rng = np.random.default_rng(seed)
    out = np.zeros((edge,) * 3, np.uint8)
    z, y, x = np.ogrid[:edge, :edge, :edge]
    centres = []
    for place in np.ndindex(*(edge // (2 * radius),) * 3):
        c = (np.array(place) + 0.5) * 2 * radius + rng.uniform(-0.4, 0.4, 3)
        centres.append(c)
        out[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 <= (radius + 0.5) ** 2] = 1
    return out, np.array(centres)


@pytest.mark.parametrize("edge", [5, 16, 128])
def test_windows_of_blocks_equal_those_of_the_whole(monkeypatch, edge):
    monkeypatch.setattr(basics, "BLOCK_CELLS", edge)
    index = np.random.default_rng(0).random((30, 33, 82)) < 0.3
    cells = index.reshape(30, 33, 41, 2).mean(-1)  # as long along x as along y and z
    rows = basics.windows(phases_of(index, (0.5, 1.0, 1.0)))[1]
    for row, width in zip(rows, (1, 2, 3, 4, 6, 8, 11), strict=True):
        step = max(1, width // 2)
        every = np.lib.stride_tricks.sliding_window_view(cells, (width,) * 3)
        shares = every[::step, ::step, ::step].mean(axis=(3, 4, 5))
        assert (row["edge"], row["windows"]) == (pytest.approx(width), shares.size)
        assert row["mean"] == pytest.approx(shares.mean(), abs=1e-12)
        assert row["deviation"] == pytest.approx(shares.std(), abs=1e-12)


def test_windows_of_a_flat_map_take_the_memory_of_a_block():
    phases = phases_of(np.random.default_rng(0).random((4, 600, 600)) < 0.3)
    tracemalloc.start()
    try:
        rows = basics.windows(phases)[1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row["edge"] for row in rows] == [1, 2]
    assert peak < 8e6  # with eight bytes a voxel for each of two labels it would be over 23e6


@pytest.mark.parametrize("planes", [1, 2, 5])
def test_surfaces_of_slabs_equal_the_whole(monkeypatch, planes):
    small = phases_of(blobs(12, 1.5), (1.0, 1.0, 1.5))
    whole = basics.fractions(small)
    monkeypatch.setattr("ctseg_microct.phases.SLAB_VOXELS", planes * 12 * 12)
    same(basics.fractions(small), whole)


def test_thickness_of_blocks_equals_the_whole():
    phases = phases_of(blobs(40), (1.0, 1.0, 1.5))
    whole = thickness.thickness(phases, 1, 12.0, 2**30)
    same(thickness.thickness(phases, 1, 12.0, 2**20), whole)


def test_clusters_of_blocks_equal_the_whole_and_the_sum_over_labels():
    index = blobs(28, 1.5, share=0.25)
    phases = phases_of(index)
    parts = number_parts(phases)
    lags = correlation.lags_up_to(index.shape, (1.0,) * 3, 6.0)
    found = cluster_counts(parts, 1, lags, LARGE)
    assert np.array_equal(found, cluster_counts(parts, 1, lags, 5000))
    numbers = label(index, connectivity=1)
    for step in ((0, 0, 0), (0, 2, -3), (4, -1, 3)):
        grid = [np.arange(max(0, -s), 28 - max(0, s)) for s in step]
        one = numbers[np.ix_(*grid)]
        two = numbers[np.ix_(*(g + s for g, s in zip(grid, step, strict=True)))]
        assert found[step[0], step[1] + 6, step[2] + 6] == ((one == two) & (one > 0)).sum()


def test_grains_are_the_balls_of_a_packing_for_any_block():
    index, centres = packing(48, 8)
    assert label(index, connectivity=1).max() < 10  # they touch
    phases = phases_of(index)
    one = part_grains(phases, 1, 0.7, 10.0, 2**30)
    assert len(one.size) == len(centres) == 27
    assert np.abs(one.size / (4 / 3 * np.pi * 8.5**3) - 1).max() < 0.1
    numbers = one.map.copy()
    assert len({int(numbers[tuple(c.astype(int))]) for c in centres}) == 27
    other = part_grains(phases, 1, 0.7, 10.0, 2**21)
    assert np.array_equal(other.map, numbers)
    assert np.array_equal(other.box, one.box)


def test_a_boundary_class_parts_grains():
    index = np.ones((10, 12, 30), np.uint8)
    index[:, :, 9:11] = 2
    index[:, :, 20] = 2
    index[:2] = 0
    grains = give_boundary(phases_of(index), 2, LARGE)
    assert grains.phase.tolist() == [1, 1, 1]
    assert grains.size[0] == 8 * 12 * 10  # to the middle of the wall of two voxels
    assert grains.size.sum() == 8 * 12 * 30
    assert not grains.map[:2].any()


def test_objects_equal_those_of_skimage():
    index = blobs(40, 2.0, share=0.2)
    phases = phases_of(index, (2.0, 2.0, 2.0))
    found = measure_objects(phases, number_parts(phases), SMALL)
    whole = measure_objects(phases, number_parts(phases), LARGE)
    same({k: v.tolist() for k, v in found.items()}, {k: v.tolist() for k, v in whole.items()})
    own = found["label"] == "label_1"
    expected = regionprops(label(index, connectivity=1), spacing=(2.0,) * 3)
    order = np.lexsort([[p.slice[k].start for p in expected] for k in range(3)])
    mine = np.flatnonzero(own)[np.lexsort([found[f"first_{a}"][own] for a in "zyx"])]
    assert len(expected) == own.sum() > 10
    for at, p in zip(mine, (expected[k] for k in order), strict=True):
        assert found["voxels"][at] == p.num_pixels
        assert [found[f"centre_{a}"][at] for a in "zyx"] == pytest.approx(p.centroid)
        if p.num_pixels > 200:  # skimage leaves out the extent of a voxel
            assert found["axis_long"][at] == pytest.approx(p.axis_major_length, rel=0.03)


def layers(thick):
    """Layers of two labels, 40 slices."""
    return np.broadcast_to((np.arange(40) // thick % 2 == 0)[:, None, None], (40, 40, 40))


@pytest.mark.parametrize(
    ("topics", "memory", "more"),
    [
        (("correlation",), 2**19, {}),
        (("thickness",), 2**19, {}),
        (("objects",), 2**21, {"split": "0.7"}),
    ],
)
def test_a_reach_beyond_the_memory_is_refused_before_anything_is_measured(topics, memory, more):
    phases = phases_of(layers(20), (0.01,) * 3)
    said: list[str] = []

    def run(reach, memory):
        measure(phases, Wanted(topics, reach, memory=memory, say=said.append, **more))

    with pytest.raises(BadInput, match="up to 30 voxels need blocks of") as caught:
        run(0.3, memory)
    assert said == []
    allowed, fits = re.search(r"--memory (\d+)M or .*--reach ([\d.]+)", caught.value.hint).groups()
    assert 0.01 < float(fits) < 0.2
    run(float(fits), memory)
    run(0.3, int(allowed) * 10**6 // 2)


def test_a_long_reach_costs_no_memory_where_phases_are_thin():
    found = measure(phases_of(layers(2)), Wanted(("thickness",), 30.0, memory=2**19))
    assert found.phases["label_1"]["thickness"]["largest"] == 4  # the first layer is cut


def scan_of(tmp_path, array, spacing_xyz=(1.0, 1.0, 1.0), name="scan.nii"):
    write(Volume.from_array(array, spacing_xyz=spacing_xyz), tmp_path / name)
    return open_volume(tmp_path / name)


def test_fibres_have_their_direction_for_any_block(tmp_path):
    spacing = (1.0, 1.0, 2.0)
    direction = np.array([1.0, 2.0, 2.0]) / 3
    z, y, x = np.meshgrid(np.arange(24) * 2.0, np.arange(40.0), np.arange(40.0), indexing="ij")
    points = np.stack([x, y, z], -1)
    u = np.cross(direction, [0, 0, 1.0])
    u /= np.linalg.norm(u)
    v = np.cross(direction, u)
    grey = (np.cos(points @ u * 0.7) * np.cos(points @ v * 0.7)).astype(np.float32)
    phases = phases_of(np.ones((24, 40, 40)), spacing)
    source = scan_of(tmp_path, grey, spacing)
    whole = orientation(phases, source, 2**30)[1]
    assert abs(np.dot(whole["main_direction"], direction)) > 0.995
    assert whole["shares"][0] > 0.97
    assert np.trace(whole["tensor"]) == pytest.approx(1)
    same(orientation(phases, source, 2**23)[1], whole, 1e-6)


def test_vectors_give_the_tensor_of_their_directions(tmp_path):
    index = np.zeros((8, 8, 8), np.uint8)
    index[4:] = 1
    vectors = np.zeros((6, 8, 8, 8), np.float32)
    vectors[0], vectors[5] = 3.0, -2.0  # x in the first label, -z in the second one
    found = orientation(phases_of(index), scan_of(tmp_path, vectors, name="v.nrrd"), LARGE)
    assert np.diag(found[0]["tensor"]) == pytest.approx([1, 0, 0])
    assert np.diag(found[1]["tensor"]) == pytest.approx([0, 0, 1])
    assert np.array(found[1]["pole_figure"])[0].sum() == pytest.approx(1)


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="weave is not there")
def test_weave_agrees_with_skimage():
    with open_volume(DATA / "label.tif") as source:
        volume = source.read()[0]
        phases = read_phases(source)
    results = measure(phases, Wanted(topics=("fractions", "connectivity", "objects")))
    for value, (name, row) in enumerate(results.phases.items()):
        mask = volume == value
        assert row["fractions"]["fraction"] == pytest.approx(mask.mean())
        numbers = label(mask, connectivity=1)
        assert row["connectivity"]["parts"] == numbers.max()
        own = results.objects["label"] == name
        assert sorted(results.objects["voxels"][own]) == sorted(np.bincount(numbers.ravel())[1:])


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="weave is not there")
def test_weave_agrees_with_porespy():
    porespy = pytest.importorskip("porespy")
    with open_volume(DATA / "label.tif") as source:
        phases = read_phases(source)
    mask = np.asarray(phases.index) == 0
    radii = thickness.radii_up_to(thickness.largest_radius(phases, 0, 37.0, LARGE))
    found = thickness.thickness(phases, 0, 37.0, LARGE)
    peer = porespy.filters.local_thickness(mask, sizes=[r - 1e-4 for r in radii])
    mean = 2 * float(peer[mask].mean()) * min(phases.spacing_zyx)
    assert found["mean"] == pytest.approx(mean, rel=0.02)


@pytest.mark.slow
def test_a_256_cube_in_blocks_equals_the_whole():
    index = blobs(256, 4.0, share=0.4)
    index[sphere((256,) * 3, 60.0) > 0] = 1
    phases = phases_of(index, (0.01, 0.01, 0.01))
    topics = ("fractions", "connectivity", "correlation", "thickness", "objects")
    blocks = measure(phases, Wanted(topics=topics, reach=0.12, split="0.7", memory=2**26))
    phases = phases_of(index, (0.01, 0.01, 0.01))
    whole = measure(phases, Wanted(topics=topics, reach=0.12, split="0.7", memory=2**32))
    same(blocks.phases, whole.phases)
    assert np.array_equal(blocks.numbered.map, whole.numbered.map)
    same(
        {k: v.tolist() for k, v in blocks.objects.items()},
        {k: v.tolist() for k, v in whole.objects.items()},
    )
