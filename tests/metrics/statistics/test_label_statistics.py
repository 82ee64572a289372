"""Statistics of labels from slabs of any thickness equal those of NumPy and SciPy on whole arrays."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from scipy import ndimage

from ctseg.data.stream import InMemory
from ctseg.metrics.statistics import gather
from ctseg.metrics.statistics.gather import LabelStatistics
from ctseg.metrics.statistics.summary import as_csv, as_json
from ctseg.metrics.statistics.value_counts import ValueCounts, quantiles
from ctseg.specs import Label
from ctseg.volume.geometry import Geometry

SHAPE = (17, 21, 19)
TURN = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, -1.0))
GEOMETRY = Geometry(SHAPE, (0.7, 0.8, 2.5), (-30.0, 12.5, 100.0), TURN)
NAMES = ("p5", "p25", "median", "p75", "p95")


def blobs(seed: int = 0) -> np.ndarray:
    """A map of a few labels in several parts, of values that do not follow each other."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    cuts = np.quantile(noise, (0.5, 0.7, 0.85, 0.95))
    return np.array([0, 7, 2, 300, 5], np.uint16)[np.digitize(noise, cuts)]


def scan(kind: str, seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 300, (1, *SHAPE))
    return values.astype(np.float32) if kind == "float" else values.round().astype(kind)


def measured(image: np.ndarray, mask: np.ndarray, thickness: int, labels=None):
    statistics = LabelStatistics(InMemory(image, GEOMETRY), labels)
    for start in range(0, len(mask), thickness):
        statistics.add(mask[start : start + thickness])
    return [one.plain() for one in statistics.result()]


def check(told: dict, inside: np.ndarray, image: np.ndarray) -> None:
    """Hold the numbers of a label against whole arrays."""
    voxels = np.argwhere(inside)
    assert told["voxels"] == len(voxels)
    assert told["volume_mm3"] == pytest.approx(len(voxels) * 0.7 * 0.8 * 2.5, rel=1e-9)
    assert told["volume_ml"] == pytest.approx(told["volume_mm3"] / 1000, rel=1e-9)
    np.testing.assert_allclose(told["centroid_zyx"], voxels.mean(0), rtol=1e-9)
    place = np.asarray(TURN) @ (voxels.mean(0)[::-1] * (0.7, 0.8, 2.5)) + (-30.0, 12.5, 100.0)
    np.testing.assert_allclose(told["centroid_xyz_mm"], place, rtol=1e-9)
    assert told["box_zyx"] == np.stack([voxels.min(0), voxels.max(0) + 1], 1).tolist()
    parts, count = ndimage.label(inside, np.ones((3, 3, 3)))
    assert told["parts"] == count
    assert told["largest_part_voxels"] == np.bincount(parts.ravel())[1:].max()
    edge = inside.copy()
    edge[1:-1, 1:-1, 1:-1] = False
    assert told["at_edge"] == edge.any()
    for values, channel in zip(told["values"], image, strict=True):
        own = channel[inside].astype(np.float64)
        for name, expected in zip(NAMES, np.percentile(own, (5, 25, 50, 75, 95)), strict=True):
            assert values[name] == pytest.approx(expected, rel=1e-9), name
        for name in ("mean", "std", "min", "max"):
            assert values[name] == pytest.approx(getattr(own, name)(), rel=1e-9), name


@pytest.mark.parametrize("kind", ["int16", "uint8", "int32", "float"])
@pytest.mark.parametrize("thickness", [1, 4, 17])
def test_numbers_equal_those_of_whole_arrays(kind: str, thickness: int, monkeypatch) -> None:
    monkeypatch.setattr(gather, "PIECE_VOXELS", 3 * 21 * 19)
    monkeypatch.setattr(gather, "SCAN_BYTES", 7 * 21 * 19 * 4)
    mask, image = blobs(), scan(kind)
    told = measured(image, mask, thickness)
    assert [(one["name"], one["value"]) for one in told] == [
        (f"label {v}", v) for v in (2, 5, 7, 300)
    ]
    for one in told:
        check(one, mask == one["value"], image)


def test_regions_that_contain_others_and_labels_without_voxels() -> None:
    """The parts of a region are those of all of its voxels, whichever label they have."""
    mask, image = blobs(), np.concatenate([scan("int16"), scan("int16", 2)])
    labels = {
        Label("whole", (2, 7, 300), 7): frozenset((2, 7, 300)),
        Label("core", (2, 300), 2): frozenset((2, 300)),
        Label("rim", (7,), 7): frozenset((7,)),
        Label("none", (9,), 9): frozenset((9,)),
    }
    whole, core, rim, none = measured(image, mask, 5, labels)
    check(whole, np.isin(mask, (2, 7, 300)), image)
    check(core, np.isin(mask, (2, 300)), image)
    check(rim, mask == 7, image)
    assert none["voxels"] == 0 == none["volume_ml"] == none["parts"]
    assert none["values"] == [] and none["box_zyx"] is None and none["centroid_xyz_mm"] is None
    assert not none["at_edge"]


def test_only_boxes_around_labels_are_read() -> None:
    read = []

    class Watched(InMemory):
        def box(self, box):
            read.append(box)
            return super().box(box)

    mask = np.zeros(SHAPE, np.uint8)
    mask[5:8, 3:7, 2:9] = 1
    statistics = LabelStatistics(Watched(scan("int16"), GEOMETRY))
    for start in range(0, 17, 4):
        statistics.add(mask[start : start + 4])
    assert read == [((5, 8), (3, 7), (2, 9))]
    assert LabelStatistics(InMemory(scan("int16"), GEOMETRY)).result() == []


def test_percentiles_of_many_values_have_a_known_error() -> None:
    values = np.random.default_rng(0).normal(0, 300, 60_000)
    groups = np.repeat([0, 1, 2], 20_000)
    counts = ValueCounts(most=5_000)
    for part in np.array_split(np.arange(60_000), 7):
        counts.add(groups[part], values[part])
    assert 0 < counts.error < 0.01
    shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    for chosen in ([0], [1, 2]):
        found = quantiles(*counts.of(chosen), shares)
        expected = np.quantile(values[np.isin(groups, chosen)], shares)
        assert (np.abs(found - expected) <= 1.01 * counts.error * np.abs(expected) + 1e-6).all()
    exact = ValueCounts()
    exact.add(groups, values.astype(np.float32))
    assert exact.error == 0
    own = values[groups == 1].astype(np.float32)
    np.testing.assert_array_equal(
        quantiles(*exact.of([1]), shares), np.quantile(own.astype(np.float64), shares)
    )
    assert exact.of([5])[0].size == 0


def test_files_have_one_row_for_each_label_and_columns_for_each_channel() -> None:
    mask = blobs()
    for image, ends in (
        (scan("int16"), [""]),
        (np.tile(scan("uint8"), (2, 1, 1, 1)), ["_0", "_1"]),
    ):
        statistics = LabelStatistics(
            InMemory(image, GEOMETRY), {Label('a "b", c', (2,), 2): frozenset((2,))}
        )
        statistics.add(mask)
        found = statistics.result()
        (row,) = csv.DictReader(io.StringIO(as_csv("case", found, channels=len(image))))
        data = json.loads(as_json("case", found, channels=len(image), error=0.0))
        (told,) = data["labels"]
        assert data["channels"] == len(image) and data["percentile_error"] == 0
        assert (row["case"], row["label"], row["value"]) == ("case", 'a "b", c', "2")
        for end, values in zip(ends, told["values"], strict=True):
            assert {name: float(row[f"{name}{end}"]) for name in values} == values
        assert [int(row[f"{a}_{e}"]) for a in "zyx" for e in ("start", "stop")] == [
            end for span in told["box_zyx"] for end in span
        ]
        assert float(row["centroid_x_mm"]) == told["centroid_xyz_mm"][0]
        assert row["at_edge"] == str(told["at_edge"]).lower()
    (unsized,) = statistics.result(calibrated=False)
    assert unsized.plain()["volume_ml"] is None is unsized.plain()["centroid_xyz_mm"]
    assert unsized.plain()["voxels"] == (mask == 2).sum()
