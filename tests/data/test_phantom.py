"""The phantom: the same for the same seed, on an oblique grid, and no task for a threshold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ctseg.data.inspection.dataset import inspect_dataset
from ctseg.data.phantom import PHANTOM_LABELS, make_phantom, write_phantom_dataset
from ctseg.data.readers.find import open_dataset
from ctseg.data.threshold_baseline import threshold_baseline
from ctseg.errors import BadInput, FileProblem
from ctseg.volume.volume import Volume

Pair = tuple[Volume, Volume]


@pytest.fixture(scope="module")
def phantoms() -> list[Pair]:
    return [make_phantom(seed) for seed in range(5)]


def tiny(seed: int) -> Pair:
    return make_phantom(seed, shape_zyx=(12, 20, 24), spacing_xyz=(9, 9, 13))


def test_the_same_seed_gives_the_same_voxels(phantoms: list[Pair]) -> None:
    again = make_phantom(1)
    for one, two in zip(phantoms[1], again, strict=True):
        np.testing.assert_array_equal(one.array, two.array)
        assert one.geometry == two.geometry
    shapes = {p.geometry for p, _ in phantoms}
    assert len(shapes) == 5


def test_grid_and_types(phantoms: list[Pair]) -> None:
    for image, label in phantoms:
        assert image.array.dtype == np.int16
        assert label.array.dtype == np.uint8
        assert image.geometry == label.geometry
        assert set(np.unique(label.array)) == set(PHANTOM_LABELS.values())
        assert image.spacing_xyz[2] > 1.3 * image.spacing_xyz[0]
        off = np.abs(image.geometry.matrix - np.eye(3))
        assert 0.02 < off.max() < 0.4
        assert image.geometry.orientation == "LPS"


def test_without_variation_only_the_anatomy_differs() -> None:
    one, two = (make_phantom(seed, vary=False)[0] for seed in (1, 2))
    assert one.geometry == two.geometry
    assert one.array.shape == (40, 72, 88)
    assert (one.array != two.array).mean() > 0.5


def test_anatomy(phantoms: list[Pair]) -> None:
    for image, label in phantoms:
        means = {n: image.array[label.array == v].mean() for n, v in PHANTOM_LABELS.items()}
        assert means["lungs"] < -700
        assert means["bone"] > 250
        assert abs(means["liver"] - means["spleen"]) < 12
        assert 25 < means["liver"] - means["lesion"] < 50
        centre = {
            n: image.geometry.position(np.argwhere(label.array == v).mean(0)[::-1])
            for n, v in PHANTOM_LABELS.items()
        }
        assert (
            centre["liver"][0] < centre["spleen"][0]
        )  # the liver is on the right: x runs to the left
        assert centre["lungs"][2] > centre["liver"][2]  # lungs lie nearer to the head
        lesion = label.array == PHANTOM_LABELS["lesion"]
        assert lesion.sum() >= 150
        rim = ndimage.binary_dilation(lesion) & ~lesion
        assert (
            label.array[rim] == PHANTOM_LABELS["liver"]
        ).mean() > 0.7  # it lies within the liver


def test_noise_is_as_asked() -> None:
    quiet, _ = make_phantom(3, noise_hu=0)
    loud, label = make_phantom(3, noise_hu=12)
    noise = (loud.array.astype(float) - quiet.array)[label.array == PHANTOM_LABELS["liver"]]
    assert 11 < noise.std() < 19
    assert abs(noise.mean()) < 2


def test_no_threshold_finds_the_organs(phantoms: list[Pair]) -> None:
    best = threshold_baseline(phantoms[:3], phantoms[3:], PHANTOM_LABELS)
    assert set(best) == set(PHANTOM_LABELS) - {"background"}
    for name in ("liver", "spleen", "lesion"):
        assert best[name].dice < 0.6
        assert best[name].train_dice < 0.6
    assert best["bone"].dice > 0.8


def test_baseline_is_the_best_of_all_intervals() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (6, 7, 8)).astype(np.uint8)
    array = (rng.normal(0, 30, label.shape) + 40 * label).round().astype(np.int16)
    pair = [(Volume.from_array(array), Volume.from_array(label))]
    best = threshold_baseline(pair, pair, {"background": 0, "thing": 1})["thing"]
    edges = range(-150, 200, 5)
    oracle = max(
        2 * (f & (label == 1)).sum() / (f.sum() + label.sum())
        for low in edges
        for high in edges
        if (f := (array >= low) & (array < high)).any()
    )
    assert best.train_dice == pytest.approx(oracle)
    assert best.dice == pytest.approx(oracle)


def test_baseline_without_cases() -> None:
    with pytest.raises(BadInput):
        threshold_baseline([], [], {"a": 1})
    empty = Volume.from_array(np.zeros((2, 2, 2), np.uint8))
    result = threshold_baseline([(empty, empty)], [(empty, empty)], {"a": 1})
    assert np.isnan(result["a"].dice)


def test_data_set(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    folder = write_phantom_dataset(
        tmp_path / "one", cases=5, unseen=2, seed=4, make=tiny,
        progress=lambda done, all_: steps.append((done, all_)),
    )  # fmt: skip
    assert steps[-1] == (7, 7)
    found = open_dataset(folder)
    assert (found.reader, len(found.cases), len(found.unlabelled)) == ("decathlon", 5, 2)
    assert len(found.splits) == 5
    assert sorted(v for _, val in found.splits for v in val) == [c.id for c in found.cases]
    assert len(list((folder / "labelsTs").iterdir())) == 2
    assert [
        p for p in inspect_dataset(found).all_problems if "everywhere" in p or "grid" in p
    ] == []
    other = write_phantom_dataset(tmp_path / "two", cases=5, unseen=2, seed=4, make=tiny)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert file.read_bytes() == (other / file.relative_to(folder)).read_bytes()
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"]["5"] == "lesion"
    assert content["numTraining"] == 5


def test_a_data_set_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken(seed: int) -> Pair:
        if seed == 3:
            raise RuntimeError("no more")
        return tiny(seed)

    with pytest.raises(RuntimeError, match="no more"):
        write_phantom_dataset(tmp_path / "data", cases=5, make=broken)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("keep")
    with pytest.raises(FileProblem, match="holds something"):
        write_phantom_dataset(tmp_path / "data", cases=5, make=tiny)
    with pytest.raises(BadInput, match="at least 5"):
        write_phantom_dataset(tmp_path / "other", cases=4, make=tiny)
