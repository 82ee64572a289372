"""Several models as one, coarse models and regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ctseg
from ctseg.card import Card, Provider, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.data.steps.region import parse_region
from ctseg.engine.inference.cascade import Cascade, CoarseModel
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.api import Segmenter
from ctseg.errors import BadInput, RunFailed, UnknownName
from ctseg.specs import ImageRef
from ctseg.volume.volume import Volume

CPU = choose("cpu", "fp32")
LABELS = [
    {"name": "background", "values": [0], "value": 0},
    {"name": "bright", "values": [1], "value": 1},
    {"name": "dark", "values": [2], "value": 2},
]


class Levels(torch.nn.Module):
    """Bright voxels are label 1, dark ones label 2; no neighbours, so that a region changes nothing within it."""

    def __init__(self, at=20.0, dark=-20.0):
        super().__init__()
        self.at, self.dark = at, dark

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), x - self.at, self.dark - x], 1) / 5


def model(net=None, *, steps=(), labels=LABELS, tile=(8, 8, 8), name="levels.v1"):
    card = Card(
        name=name, architecture="unet3d", options={}, provider=Provider(package="ctseg"), in_channels=1,
        out_channels=len(labels), channels=("CT",),
        task=TaskConfig.model_validate({"kind": "classes", "labels": labels}),
        preprocess=PreprocessConfig(steps=tuple(steps)), predict=PredictConfig(tile_zyx=tile),
        training_data=TrainingData(name="x"),
    )  # fmt: skip
    return NetworkModel(card, [net or Levels()], CPU)


def predict(model, volume):
    return Segmenter.of(model).predict(volume)


def probabilities(model, volume):
    return Segmenter.of(model).probabilities(volume)


def scan(shape=(20, 18, 16), seed=0):
    array = np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)
    array[6:10, 5:9, 4:8] = 50
    array[15:17, 2:4, 12:14] = -50
    return Volume.from_array(
        array, spacing_xyz=(1.0, 2.0, 4.0), direction=((-1.0, 0, 0), (0, 1.0, 0), (0, 0, -1.0))
    )


def softmax(x):
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def logits_of(net, array):
    with torch.inference_mode():
        return net(torch.from_numpy(array)[None, None])[0].numpy()


def test_models_with_their_own_preprocessing_are_averaged_as_probabilities():
    volume = scan()
    one = model(Levels(18.0))
    two = model(
        Levels(0.5, -0.5), steps=[{"kind": "rescale", "low": -40, "high": 40}, {"kind": "orient"}]
    )
    both = Ensemble([one, two])
    scaled = (np.clip(volume.array, -40, 40) + 40) / 80 * 2 - 1
    shares = (softmax(logits_of(one.networks[0], volume.array)) +
              softmax(logits_of(two.networks[0], scaled.astype(np.float32)))) / 2  # fmt: skip
    np.testing.assert_allclose(probabilities(both, volume).array, shares, atol=2e-5)
    clear = np.sort(shares, 0)[-1] - np.sort(shares, 0)[-2] > 1e-4
    assert (predict(both, volume).array[clear] == shares.argmax(0)[clear]).all()
    assert both.card.name == "levels.v1 + levels.v1"
    assert predict(both.with_settings(tile_zyx=(4, 4, 4)), volume).array.any()


def test_models_of_other_labels_are_refused():
    other = [*LABELS[:2], {"name": "grey", "values": [2], "value": 2}]
    with pytest.raises(BadInput, match="same labels"):
        Ensemble([model(), model(labels=other)])


def test_models_that_take_channels_in_another_order_are_refused():
    one, two = model(), model()
    for each, names in ((one, ("T1", "T2")), (two, ("t1", "T2"))):
        each.card = each.card.model_copy(update={"in_channels": 2, "channels": names})
    Ensemble([one, two])
    two.card = two.card.model_copy(update={"channels": ("T2", "T1")})
    with pytest.raises(BadInput, match="not in the same order"):
        Ensemble([one, two])


def test_a_region_is_predicted_and_nothing_else(tmp_path):
    volume = scan()
    whole = predict(model(), volume)
    box = ((5, 12), (0, 18), (6, 16))
    part = Cascade(model(), region=box)
    found = predict(part, volume)
    inside = tuple(slice(a, b) for a, b in box)
    expected = np.zeros_like(whole.array)
    expected[inside] = whole.array[inside]
    assert expected.any()
    np.testing.assert_array_equal(found.array, expected)
    shares = probabilities(part, volume).array
    assert (shares[0][expected == 0] > 0.4).all()
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    ctseg.write(volume, tmp_path / "scan.nii.gz")
    Segmenter.of(part).predict_file(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(ctseg.read(tmp_path / "out.nii.gz").array, expected)
    with pytest.raises(BadInput, match="no part of a scan"):
        predict(Cascade(model(), region=((0, 99), (0, 1), (0, 1))), volume)


def test_a_first_stage_says_where_to_look():
    volume = scan()
    coarse = model(
        steps=[{"kind": "resample", "spacing_xyz": [2.0, 2.0, 4.0], "order": 0}], name="coarse.v1"
    )
    calls = []

    class Counting(Levels):
        def forward(self, x):
            calls.append(x.shape)
            return super().forward(x)

    fine = model(Counting(), tile=(4, 4, 4))
    every = predict(fine, volume).array
    all_tiles = len(calls)
    calls.clear()
    staged = Cascade(fine, [CoarseModel(coarse, ("bright",), margin_mm=4.0)])
    notes = []
    staged.on_note = notes.append
    found = predict(staged, volume).array
    assert len(calls) < all_tiles / 4
    # the bright block with 4 mm around it: 1 slice, 2 rows, 4 columns
    inside = np.zeros(found.shape, bool)
    inside[5:11, 3:11, 0:12] = True
    np.testing.assert_array_equal(found, np.where(inside, every, 0))
    assert "found something in 5:11, 3:11, 0:12" in notes[0]
    assert not (found == 2).any()


def test_a_first_stage_that_finds_nothing_leaves_background():
    volume = Volume.from_array(np.zeros((9, 9, 9), np.float32))
    staged = Cascade(model(), [CoarseModel(model(name="coarse.v1"))])
    notes = []
    staged.on_note = notes.append
    assert not predict(staged, volume).array.any()
    assert "found nothing" in notes[0]
    shares = probabilities(staged, volume).array
    assert (shares[0] == 1).all()
    assert not shares[1:].any()


class Crowded(Levels):
    """Takes tiles of no more voxels than these."""

    def __init__(self, voxels):
        super().__init__()
        self.voxels = voxels

    def forward(self, x):
        if x[0, 0].numel() > self.voxels or len(x) > 1:
            raise torch.OutOfMemoryError("no room")
        return super().forward(x)


def crowded(voxels):
    """A coarse model that can take smaller tiles than those of its card."""
    card = model(name="coarse.v1").card.model_copy(update={"options": {"features": [4, 4]}})
    return NetworkModel(card, [Crowded(voxels)], CPU)


def test_a_first_stage_that_is_short_of_memory_takes_smaller_tiles(tmp_path):
    volume = scan()
    ctseg.write(volume, tmp_path / "scan.nii.gz")
    fine = model(tile=(4, 4, 4))
    expected = predict(Cascade(fine, [CoarseModel(model())]), volume).array
    staged = Cascade(fine, [CoarseModel(crowded(8 * 8 * 4))])
    notes = []
    staged.on_note = notes.append
    np.testing.assert_array_equal(predict(staged, volume).array, expected)
    assert notes[0].startswith("Memory was short")
    staged = Cascade(fine, [CoarseModel(crowded(0))])
    with pytest.raises(RunFailed, match=r"The coarse model coarse\.v1 .* does not fit") as error:
        Segmenter.of(staged).predict_file(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz")
    assert "--tile" not in error.value.hint


def test_stages_and_ensembles_go_together():
    volume = scan()
    both = Ensemble([model(), model(Levels(22.0))])
    staged = Cascade(both, [CoarseModel(model(name="coarse.v1"), ("dark",), 0.0)])
    found = predict(staged, volume).array
    expected = np.zeros_like(found)
    expected[15:17, 2:4, 12:14] = 2
    np.testing.assert_array_equal(found, expected)


def test_bad_stages_are_refused():
    with pytest.raises(UnknownName, match="liver"):
        Cascade(model(), [CoarseModel(model(), ("liver",))])
    dose = {"kind": "regression", "labels": [{"name": "dose", "values": [1], "value": 1}]}
    update = {"task": TaskConfig.model_validate(dose), "out_channels": 1}
    values = NetworkModel(model().card.model_copy(update=update), [Levels()], CPU)
    with pytest.raises(BadInput, match="no labels"):
        Cascade(model(), [CoarseModel(values)])
    with pytest.raises(BadInput, match="no region"):
        parse_region("1:2,3:4")
    assert parse_region("0:4,10:20,3:9") == ((0, 4), (10, 20), (3, 9))


def test_an_ensemble_reads_a_scan_on_disk_for_each_model(tmp_path):
    from ctseg.data.stream import OnDisk

    volume = scan()
    ctseg.write(volume, tmp_path / "scan.nii.gz")
    source = OnDisk([ImageRef(tmp_path / "scan.nii.gz")])
    try:
        stream = Ensemble([model(), model()]).open(source)
        assert len(stream.streams) == 2
    finally:
        source.close()
