"""What a prediction writes beside its label map, held against NumPy and SciPy on whole arrays."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from scipy.stats import entropy

import ctseg
from ctseg.card import Card, Provider, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.data.stream import InMemory
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.prediction.leftovers import remove_leftovers
from ctseg.engine.prediction.outputs import Outputs, check_request
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.uncertainty import UncertaintySums, largest_apart
from ctseg.errors import BadInput, DiskFull, UnknownName
from ctseg.volume.formats.hdf5 import disk
from ctseg.volume.formats.hdf5.open import chunk_of
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader
from ctseg.volume.io import open_writer

CPU = choose("cpu", "fp32")
LABELS = [
    {"name": "background", "values": [0], "value": 0},
    {"name": "bright", "values": [1], "value": 1, "colour": [200, 10, 30]},
    {"name": "dark", "values": [2], "value": 4},
]
REGIONS = [
    {"name": "whole", "values": [1, 2], "value": 1},
    {"name": "core", "values": [2], "value": 2},
]
STACKED = [
    {"name": "first", "values": [1], "value": 1},
    {"name": "second", "values": [2], "value": 2},
]
RESAMPLED = ({"kind": "orient"}, {"kind": "resample", "spacing_xyz": [1.9, 1.9, 1.9]})


class Levels(torch.nn.Module):
    """Logits of each voxel by itself, a * value + b for each output."""

    def __init__(self, *lines: tuple[float, float]) -> None:
        super().__init__()
        self.lines = lines

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([a * x + b for a, b in self.lines], 1)


CLASSES = Levels((0.0, 0.0), (0.2, -4.0), (-0.2, -4.0))


def model(net=CLASSES, labels=LABELS, kind="classes", steps=(), **more):
    predict = {k: more.pop(k) for k in ("postprocess",) if k in more}
    task = {"kind": kind, "labels": labels, "stacked": more.pop("stacked", False)}
    card = Card(
        name="levels.v1", architecture="unet3d", provider=Provider(package="ctseg"), in_channels=1,
        out_channels=len(labels), channels=("CT",), task=TaskConfig.model_validate(task),
        preprocess=PreprocessConfig(steps=tuple(steps)),
        predict=PredictConfig(tile_zyx=(8, 8, 8), **predict), training_data=TrainingData(name="x"),
        **more,
    )  # fmt: skip
    return Segmenter(card, [net], CPU)


@pytest.fixture
def scan(tmp_path):
    array = np.random.default_rng(0).normal(0, 3, (14, 17, 12)).astype(np.float32)
    array[2:7, 3:9, 2:8] = 50
    array[4, 5, 4] = 0  # a hole
    array[10:12, 12:15, 8:11] = 50  # a second, smaller part
    array[8:13, 1:5, 1:5] = -50
    volume = ctseg.Volume.from_array(
        array, spacing_xyz=(1.0, 1.5, 2.0), origin_xyz=(3.0, -4.0, 5.0), direction=np.diag([1.0, -1, -1])
    )  # fmt: skip
    ctseg.write(volume, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def softmax(x):
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def resampled_logits(segmenter, volume):
    """Logits of the preprocessed scan, at the place of each voxel of the scan: SciPy asks where its centre lies."""
    stream = segmenter.model.open(InMemory(volume.czyx, volume.geometry))
    low = stream.read(0, stream.shape_czyx[1])
    logits = np.concatenate([a * low + b for a, b in segmenter.networks[0].lines]).astype(float)
    source, target = volume.geometry, stream.applied.target
    index = np.indices(source.shape_zyx).reshape(3, -1)[::-1]
    points = source.matrix @ (index * np.array(source.spacing_xyz)[:, None])
    points += (np.array(source.origin_xyz) - np.array(target.origin_xyz))[:, None]
    at = (np.linalg.inv(target.matrix) @ points / np.array(target.spacing_xyz)[:, None])[::-1]
    found = [ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in logits]
    return np.stack(found).reshape(-1, *source.shape_zyx)


def test_probabilities_and_confidence_are_those_of_resampled_logits(scan, tmp_path):
    segmenter = model(steps=RESAMPLED, temperature=1.7)
    out = tmp_path / "out" / "mask.nrrd"
    told = segmenter.predict_file(scan, out, probabilities=True, confidence=True, dtype="float64")
    expected = softmax(resampled_logits(segmenter, ctseg.read(scan)) / 1.7)
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "mask.nrrd", "mask_confidence.nrrd", "mask_probabilities.h5",
    ]  # fmt: skip
    with h5py.File(out.parent / "mask_probabilities.h5") as file:
        stored = file["probabilities"]
        assert stored.dtype == np.float64
        np.testing.assert_allclose(stored[:], expected, atol=2e-5)
        assert json.loads(stored.attrs["channels"]) == ["background", "bright", "dark"]
        assert json.loads(stored.attrs["labels"]) == {"background": 0, "bright": 1, "dark": 4}
        assert json.loads(stored.attrs["colours"]) == {"bright": [200, 10, 30]}
    shares = ctseg.read(out.parent / "mask_probabilities.h5")
    assert shares.geometry.agrees(ctseg.read(scan).geometry)
    sure = ctseg.read(out.parent / "mask_confidence.nrrd").array
    np.testing.assert_allclose(sure, expected.max(0), atol=2e-5)
    clear = np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] > 1e-4
    labels = ctseg.read(out).array
    np.testing.assert_array_equal(labels[clear], np.array([0, 1, 4])[expected.argmax(0)][clear])
    assert told["beside"]["probabilities"] == str(out.parent / "mask_probabilities.h5")
    assert told["volumes_ml"]["dark"] == pytest.approx((labels == 4).sum() * 3 / 1000)


def test_the_uncertainty_is_the_entropy_of_the_probabilities(scan, tmp_path):
    segmenter = model(steps=RESAMPLED, temperature=1.7)
    told = segmenter.predict_file(scan, tmp_path / "mask.nii.gz", uncertainty=True)
    shares = softmax(resampled_logits(segmenter, ctseg.read(scan)) / 1.7)
    expected = entropy(shares, base=3, axis=0)
    found = ctseg.read(tmp_path / "mask_uncertainty.nii.gz").array
    np.testing.assert_allclose(found, expected, atol=2e-5)
    record = told["uncertainty"]
    assert record["mean"] == pytest.approx(expected.mean(), abs=1e-5)
    labelled = (ctseg.read(tmp_path / "mask.nii.gz").array > 0).sum()
    assert record["per_labelled_voxel"] == pytest.approx(expected.sum() / labelled, abs=1e-4)
    along = {"z": (1, 2), "y": (0, 2), "x": (0, 1)}
    for axis, others in along.items():
        assert record["slices"][axis][0] == expected.sum(others).argmax()


def test_the_uncertainty_of_overlapping_labels_is_that_of_the_least_certain(scan, tmp_path):
    segmenter = model(Levels((0.1, 0.0), (0.3, 1.0)), REGIONS, "channels")
    segmenter.predict_file(scan, tmp_path / "mask.nrrd", uncertainty=True, dtype="float64")
    values = ctseg.read(scan).array.astype(np.float64)
    p = 1 / (1 + np.exp(-np.stack([0.1 * values, 0.3 * values + 1])))
    expected = entropy(np.stack([p, 1 - p]), base=2, axis=0).max(0)
    found = ctseg.read(tmp_path / "mask_uncertainty.nrrd").array
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_uncertain_slices_lie_apart():
    sums = np.array([0, 1, 9, 8, 7, 0, 0, 3, 2, 0] * 4, float)  # of 40 slices, 2 apart
    assert largest_apart(sums, 3) == [2, 12, 22]
    assert largest_apart(sums[:10]) == [2, 3, 4, 7, 8]  # of 10 slices, neighbours
    assert largest_apart(np.zeros(9)) == []
    empty = UncertaintySums()
    empty.add(np.zeros((4, 3, 2), np.float16))
    none = {"z": [], "y": [], "x": []}
    assert empty.record(0) == {"mean": 0.0, "per_labelled_voxel": None, "slices": none}


@pytest.mark.parametrize("suffix", [".h5", ".nii.gz", ".nrrd", ".mha", ".tif"])
def test_probabilities_in_half_precision_go_into_every_format(scan, tmp_path, suffix):
    segmenter = model()
    exact = segmenter.probabilities(ctseg.read(scan)).array
    request = Request(
        tmp_path / "out", probabilities=True, dtype="float16", probabilities_suffix=suffix
    )
    outputs = Outputs(segmenter.model, request, request.output / "scan.nii.gz")
    predict(segmenter, scan, outputs)
    path = request.output / "probabilities" / f"scan{suffix}"
    options = {"channels": "last"} if suffix == ".nii.gz" else {}
    shares = ctseg.read(path, **options)
    assert shares.array.dtype == (np.float16 if suffix in (".h5", ".tif") else np.float32)
    np.testing.assert_allclose(shares.array.astype(np.float32), exact, atol=2**-11)


def predict(segmenter, scan, outputs):
    from ctseg.engine.prediction.scan_job import predict_scan
    from ctseg.specs import ImageRef

    predict_scan(segmenter.model, [ImageRef(scan)], outputs.results)
    return outputs.record()


RULES = (PostprocessRule(label="bright", keep_largest=1, fill_holes="3d"),)


@pytest.mark.parametrize("rules", [(), RULES])
@pytest.mark.parametrize("steps", [(), RESAMPLED])
def test_masks_are_the_labels_one_by_one(scan, tmp_path, rules, steps):
    """Post-processed ones, too; with a scan that the network sees the other way round, which has to wait."""
    segmenter = model(steps=steps)
    out = tmp_path / "out.nii"
    segmenter.predict_file(scan, out, masks=True, rules=rules)
    labels = ctseg.read(out).array
    assert sorted(p.name for p in (tmp_path / "out_masks").iterdir()) == ["bright.nii", "dark.nii"]
    union = np.zeros_like(labels)
    for name, value in (("bright", 1), ("dark", 4)):
        mask = ctseg.read(tmp_path / "out_masks" / f"{name}.nii").array
        assert mask.dtype == np.uint8
        union += mask * np.uint8(value)
    np.testing.assert_array_equal(union, labels)
    np.testing.assert_array_equal(labels, segmenter.predict(ctseg.read(scan), rules=rules).array)


def test_rules_of_the_card_are_followed_unless_told_otherwise(scan, tmp_path):
    segmenter = model(postprocess=RULES)
    array = ctseg.read(scan).array
    plain = np.where(array > 20, 1, np.where(array < -20, 4, 0))
    parts, count = ndimage.label(plain == 1, np.ones((3, 3, 3)))
    assert count == 2
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    cleaned = np.where(ndimage.binary_fill_holes(largest), 1, np.where(plain == 4, 4, 0))
    told = segmenter.predict_file(scan, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(ctseg.read(tmp_path / "a.nii.gz").array, cleaned)
    np.testing.assert_array_equal(segmenter.predict(ctseg.read(scan)).array, cleaned)
    assert told["postprocess"]["bright"]["parts_removed"] == 1
    assert told["postprocess"]["bright"]["voxels_filled"] == 1
    segmenter.predict_file(scan, tmp_path / "b.nii.gz", rules=())
    np.testing.assert_array_equal(ctseg.read(tmp_path / "b.nii.gz").array, plain)
    assert "postprocess" not in segmenter.predict_file(scan, tmp_path / "b.nii.gz", rules=())


def test_a_choice_of_labels_is_made_after_the_rules(scan, tmp_path):
    """Together the two labels have one largest part, which one of them alone would not tell."""
    rules = (PostprocessRule(label=("dark", "bright"), keep_largest=1),)
    segmenter = model()
    whole = segmenter.predict(ctseg.read(scan), rules=rules).array
    told = segmenter.predict_file(scan, tmp_path / "a.nii.gz", rules=rules, labels=["dark"],
                                  masks=True, probabilities=True)  # fmt: skip
    some = ctseg.read(tmp_path / "a.nii.gz").array
    np.testing.assert_array_equal(some, np.where(whole == 4, 4, 0))
    assert not some.any() and (segmenter.predict(ctseg.read(scan)).array == 4).any()
    assert list(told["volumes_ml"]) == list(told["beside"]["masks"]) == ["dark"]
    assert ctseg.read(tmp_path / "a_probabilities.h5").array.shape[0] == 14  # one channel


def test_masks_of_regions_follow_a_map_that_rules_changed(scan, tmp_path):
    """Regions lie in each other; what leaves the map leaves every mask, what is filled joins those around it."""
    net = Levels((1.0, -20.0), (1.0, -40.0))
    segmenter = model(net, REGIONS, "channels")
    array = ctseg.read(scan).array
    array[2:7, 3:6, 2:8] -= 20  # whole, but not core
    array[4, 5, 4] = 0
    volume = ctseg.Volume(array, ctseg.read(scan).geometry)
    ctseg.write(volume, tmp_path / "other.nii.gz")
    rules = (PostprocessRule(label="whole", keep_largest=1, fill_holes="3d"),)
    told = segmenter.predict_file(
        tmp_path / "other.nii.gz", tmp_path / "out.nii.gz", masks=True, rules=rules
    )
    parts, _ = ndimage.label(array > 20, np.ones((3, 3, 3)))
    kept = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    masks = {n: ctseg.read(tmp_path / "out_masks" / f"{n}.nii.gz").array for n in ("whole", "core")}
    np.testing.assert_array_equal(masks["whole"], ndimage.binary_fill_holes(kept))
    np.testing.assert_array_equal(masks["core"], kept & (array > 40))
    labels = ctseg.read(tmp_path / "out.nii.gz").array
    np.testing.assert_array_equal(labels, np.where(masks["core"], 2, masks["whole"]))
    assert told["volumes_ml"]["whole"] == pytest.approx(masks["whole"].sum() * 3 / 1000)


def test_rules_look_at_masks_that_overlap_one_by_one(scan, tmp_path):
    """In the map the second label cuts the first in two; its mask is one part all the same."""
    array = np.zeros((6, 9, 20), np.float32)
    array[1:5, 2:6, 1:14] = 30  # first
    array[1:5, 2:6, 6:8] = 50  # both: in the map the second
    array[1:5, 7:9, 16:19] = 30  # first, smaller than either half
    volume = ctseg.Volume.from_array(array)
    ctseg.write(volume, tmp_path / "crossed.nii.gz")
    segmenter = model(Levels((1.0, -20.0), (1.0, -40.0)), STACKED, "channels", stacked=True)
    rules = (PostprocessRule(label="first", keep_largest=1),)
    out = tmp_path / "out.h5"
    told = segmenter.predict_file(
        tmp_path / "crossed.nii.gz", out, masks=True, rules=rules, instances=True
    )
    expected = array > 20
    expected[:, 7:] = False
    np.testing.assert_array_equal(ctseg.read(tmp_path / "out_masks" / "first.h5").array, expected)
    np.testing.assert_array_equal(
        ctseg.read(tmp_path / "out_masks" / "second.h5").array, array > 40
    )
    labels = ctseg.read(out, dataset="/label").array
    np.testing.assert_array_equal(labels, np.where(array > 40, 2, expected))
    np.testing.assert_array_equal(segmenter.predict(volume, rules=rules).array, labels)
    assert told["postprocess"]["first"]["parts_removed"] == 1
    assert told["instances"]["first"]["count"] == 2  # as the map shows them
    joined = (PostprocessRule(label=("first", "second"), min_size_voxels=30),)
    labels = segmenter.predict(volume, rules=joined).array
    np.testing.assert_array_equal(labels, np.where(array > 40, 2, expected))


def test_objects_are_numbered_and_listed(scan, tmp_path):
    segmenter = model()
    told = segmenter.predict_file(scan, tmp_path / "out.nii.gz", instances=True, masks=True)
    labels = ctseg.read(tmp_path / "out.nii.gz").array
    numbers = ctseg.read(tmp_path / "out_instances.nii.gz").array
    assert numbers.dtype == np.uint16
    count = 0
    for value in (1, 4):
        parts, found = ndimage.label(labels == value, np.ones((3, 3, 3)))
        for part in range(1, found + 1):
            assert len(np.unique(numbers[parts == part])) == 1
        count += found
    assert set(np.unique(numbers)) == set(range(count + 1))
    with (tmp_path / "out_instances.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(1, count + 1))
    for row in rows:
        own = numbers == int(row["id"])
        assert int(row["voxels"]) == own.sum()
        assert float(row["ml"]) == pytest.approx(own.sum() * 3 / 1000, rel=1e-5)
        assert {"bright": 1, "dark": 4}[row["label"]] == labels[own][0]
    assert told["instances"]["bright"]["count"] == 2
    assert told["instances"]["bright"]["largest_ml"] == pytest.approx(179 * 3 / 1000)


def test_slicer_finds_names_and_colours(scan, tmp_path):
    """Read with SimpleITK. What is no label map does not have the name of one."""
    request = Request(
        tmp_path / "out", masks=True, confidence=True, instances=True, suffix=".seg.nrrd"
    )
    segmenter = model()
    outputs = Outputs(segmenter.model, request, request.output / "scan.seg.nrrd")
    predict(segmenter, scan, outputs)
    assert outputs.paths.there
    assert sorted(str(p.relative_to(request.output)) for p in outputs.paths.all) == [
        "confidence/scan.nrrd", "instances/scan.csv", "instances/scan.nrrd", "masks/scan/bright.seg.nrrd",
        "masks/scan/dark.seg.nrrd", "scan.seg.nrrd",
    ]  # fmt: skip
    image = sitk.ReadImage(str(request.output / "scan.seg.nrrd"))
    told = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert [told[f"Segment{n}_Name"] for n in (0, 1)] == ["bright", "dark"]
    assert [told[f"Segment{n}_LabelValue"] for n in (0, 1)] == ["1", "4"]
    colour = np.array([float(v) for v in told["Segment0_Color"].split()])
    np.testing.assert_allclose(colour * 255, [200, 10, 30], atol=1e-3)
    mask = sitk.ReadImage(str(request.output / "masks" / "scan" / "dark.seg.nrrd"))
    assert mask.GetMetaData("Segment0_Name") == "dark"
    assert mask.GetMetaData("Segment0_LabelValue") == "1"
    (request.output / "masks" / "scan" / "dark.seg.nrrd").unlink()
    assert not outputs.paths.there


def test_names_of_masks_suit_every_file_system(scan, tmp_path):
    names = ["a/b", "..", "Kidney", "kidney", "Leber groß"]
    labels = [LABELS[0], *({"name": n, "values": [i], "value": i} for i, n in enumerate(names, 1))]
    lines = [(0.0, 0.0), *((0.0, -1.0) for _ in names)]
    segmenter = model(Levels(*lines), labels)
    told = segmenter.predict_file(scan, tmp_path / "out.nrrd", masks=True)
    stems = [Path(p).name.removesuffix(".nrrd") for p in told["beside"]["masks"].values()]
    assert stems == ["a_b", "label_2", "Kidney", "kidney_4", "Leber groß"]
    assert all(Path(p).parent == tmp_path / "out_masks" for p in told["beside"]["masks"].values())


def test_no_two_masks_have_one_name(tmp_path):
    names = ["a_b_4", "x", "a/b", "a_b"]
    labels = [LABELS[0], *({"name": n, "values": [i], "value": i} for i, n in enumerate(names, 1))]
    lines = [(0.0, 0.0), *((0.0, -1.0) for _ in names)]
    request = Request(tmp_path / "out", masks=True)
    outputs = Outputs(model(Levels(*lines), labels).model, request, request.output / "scan.nrrd")
    assert len(set(outputs.paths.masks.values())) == 4


@pytest.mark.parametrize("rules", [(), RULES])
def test_nothing_of_the_size_of_a_scan_outlives_it(scan, tmp_path, rules):
    """What is told of each scan of a folder is kept to its end."""
    request = Request(tmp_path / "out", masks=True, instances=True, rules=rules)
    outputs = Outputs(model().model, request, request.output / "scan.nii.gz")
    predict(model(), scan, outputs)
    assert not [name for name, kept in vars(outputs).items() if isinstance(kept, np.ndarray)]


@pytest.mark.parametrize(
    ("dtype", "channels", "shape"),
    [
        ("float32", 3, (2048, 1024, 1024)), ("float64", 117, (600, 512, 512)),
        ("float16", 117, (600, 512, 512)), ("float64", 40, (3, 9000, 9000)), ("float32", 2, (1, 1, 1)),
    ],
)  # fmt: skip
def test_chunks_are_of_one_label_and_no_larger_than_64_mib(dtype, channels, shape):
    chunk = chunk_of(shape, np.dtype(dtype), channels)
    assert chunk[0] == 1
    assert all(c <= n for c, n in zip(chunk[1:], shape, strict=True))
    size = np.prod(chunk) * np.dtype(dtype).itemsize
    layer = np.dtype(dtype).itemsize * channels * chunk[1] * shape[1] * shape[2]
    assert size <= 2**26
    assert layer <= 2**26 or chunk[1] == 1  # what waits in memory
    assert size >= 2**18 or np.prod(shape) < 2**17


def test_chunks_of_written_probabilities(scan, tmp_path):
    model().predict_file(scan, tmp_path / "a.h5", probabilities=True)
    with h5py.File(tmp_path / "a_probabilities.h5") as file:
        assert file["probabilities"].chunks == (1, 14, 17, 12)
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["label"]


def test_a_regression_has_values_alone(scan, tmp_path):
    segmenter = model(
        Levels((2.0, 1.0)), [{"name": "dose", "values": [1], "value": 1}], "regression"
    )
    segmenter.predict_file(scan, tmp_path / "out.nrrd", dtype="float64")
    out = ctseg.read(tmp_path / "out.nrrd").array
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, 2 * ctseg.read(scan).array + 1, rtol=1e-5)
    for what in ("probabilities", "confidence", "uncertainty", "masks", "instances"):
        with pytest.raises(BadInput, match=f"regression has no {what}"):
            segmenter.predict_file(scan, tmp_path / "no.nrrd", **{what: True})
    with pytest.raises(BadInput, match="no components or holes"):
        segmenter.predict_file(scan, tmp_path / "no.nrrd", rules=RULES)
    assert not (tmp_path / "no.nrrd").exists()


def test_what_cannot_be_is_refused_beforehand(tmp_path):
    segmenter = model()
    with pytest.raises(UnknownName, match="brigth"):
        check_request(segmenter.model, Request(tmp_path, labels=("brigth",)))
    with pytest.raises(BadInput, match="No label is named"):
        check_request(segmenter.model, Request(tmp_path, labels=()))
    rule = PostprocessRule(label="liver", keep_largest=1)
    with pytest.raises(UnknownName, match="liver"):
        check_request(segmenter.model, Request(tmp_path, rules=(rule,)))
    with pytest.raises(BadInput, match="suffix"):
        check_request(
            segmenter.model, Request(tmp_path, probabilities=True, probabilities_suffix="npz")
        )
    merged = model().model
    merged.card = merged.card.model_copy(update={"parts": (merged.card,)})
    check_request(merged, Request(tmp_path, masks=True))
    for what in ("probabilities", "confidence", "uncertainty"):
        with pytest.raises(BadInput, match="no probabilities of all labels") as error:
            check_request(merged, Request(tmp_path, **{what: True}))
        assert f"--{what}" in error.value.hint


class Breaks(Levels):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 5:
            raise BadInput("The network broke.")
        return super().forward(x)


EVERYTHING = dict.fromkeys(
    ("probabilities", "confidence", "uncertainty", "masks", "instances"), True
)


def test_a_failure_in_the_middle_leaves_nothing(scan, tmp_path):
    segmenter = model(Breaks(*CLASSES.lines))
    folder = tmp_path / "out"
    with pytest.raises(BadInput, match="broke"):
        segmenter.predict_file(scan, folder / "a.nii.gz", **EVERYTHING)
    assert list(folder.iterdir()) == []
    request = Request(folder, **EVERYTHING)
    outputs = Outputs(segmenter.model, request, folder / "scan.nii.gz")
    with pytest.raises(BadInput, match="broke"):
        predict(segmenter, scan, outputs)
    assert list(folder.iterdir()) == []


class Small:
    """An unbuffered file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        fits = max(0, self._room - self._file.tell())
        if not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data[:fits])


@pytest.mark.parametrize("room", [1, 3000, 20_000])
def test_a_full_disk_costs_neither_the_process_nor_leaves_a_file(scan, tmp_path, monkeypatch, room):
    """An HDF5 file whose disk ran full used to end the process; the other results lose their names again."""

    class Full(disk.DeferredErrors):
        def __init__(self, path):
            super().__init__(path)
            if "probabilities" in path.name:
                self._file = Small(self._file, room)

    monkeypatch.setattr("ctseg.volume.formats.hdf5.open.DeferredErrors", Full)
    folder = tmp_path / "out"
    with pytest.raises(DiskFull, match=r"disk is full: .*a_probabilities\.h5"):
        model().predict_file(scan, folder / "a.nii.gz", **EVERYTHING)
    assert list(folder.iterdir()) == []


def test_a_full_disk_says_how_much_is_missing(tmp_path, monkeypatch):
    class Full(disk.DeferredErrors):
        def __init__(self, path):
            super().__init__(path)
            self._file = Small(self._file, 100_000)

    monkeypatch.setattr("ctseg.volume.formats.hdf5.open.DeferredErrors", Full)
    geometry = Geometry((160, 256, 256))
    writer = open_writer(tmp_path / "a.h5", VolumeHeader(geometry, np.dtype("float32")))
    noise = np.random.default_rng(0).random((32, 256, 256), np.float32)
    writer.write(0, noise)
    writer.write(32, noise)  # two layers of chunks wait in memory
    with pytest.raises(DiskFull, match=r"96 of 160 slices are missing, up to 24\.0 MiB"):
        writer.write(64, noise)
    assert list(tmp_path.iterdir()) == []


CHILD = """
import sys, time, torch
sys.path.insert(0, {tests!r})
import test_outputs
from test_outputs import CLASSES, EVERYTHING, Levels, model

class Slow(Levels):
    def forward(self, x):
        time.sleep({pause})
        return super().forward(x)

print("ready", flush=True)
while True:
    model(Slow(*CLASSES.lines)).predict_file({scan!r}, {out!r}, **EVERYTHING)
    print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(("pause", "moment"), [(0.02, "network"), (0.0, "naming")])
def test_a_killed_prediction_leaves_no_half_written_file_under_a_final_name(
    scan, tmp_path, pause, moment
):
    """Killed while the network works, and just when the first file gets its name: that of the label map comes last."""
    folder = tmp_path / "out"
    code = CHILD.format(
        tests=str(Path(__file__).parent), scan=str(scan), out=str(folder / "a.nii"), pause=pause
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = [p.name for p in folder.rglob("*") if p.is_file()]
        if any(not name.startswith(".") or moment == "network" for name in found):
            break
        time.sleep(0.001)
    time.sleep(0.1 if moment == "network" else 0.0)
    os.kill(child.pid, signal.SIGKILL)
    said = child.stdout.read()
    child.wait()
    child.stdout.close()
    named = [p for p in folder.rglob("[!.]*") if p.is_file()]
    if moment == "network":
        assert (said, named) == ("", [])
        return
    for path in named:
        assert path.suffix == ".csv" or ctseg.read(path).array.shape[-3:] == (14, 17, 12)
    assert len(named) == 8 or not (folder / "a.nii").exists()


def test_what_a_killed_process_left_beside_results_goes_after_a_while(tmp_path):
    places = ("", "probabilities", "confidence", "uncertainty", "instances", "masks/case")
    left = [tmp_path / place / ".case.12-0123abcd.tmp.nii.gz" for place in places]
    results = [path.with_name("case.nii.gz") for path in left]
    for path in (*left, *results):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_leftovers(tmp_path)
    assert all(path.exists() for path in left)
    remove_leftovers(tmp_path, older_s=-1)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in results)
