"""From a DICOM series to a SEG with names and colours, read back with pydicom."""

from __future__ import annotations

import numpy as np
import pydicom
import torch

import ctseg
from ctseg.card import Card, Provider, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.engine.evaluation.matching import find_pairs
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.outputs import Outputs
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.scan_job import predict_scan
from ctseg.specs import ImageRef

LABELS = [
    {"name": "background", "values": [0], "value": 0},
    {"name": "liver", "values": [1], "value": 5, "colour": [200, 10, 30]},
    {"name": "GTV", "values": [2], "value": 7},
]


class Slices(torch.nn.Module):
    """Voxels of the series have the number of their slice: 0 and 1 are background, 2 and 3 liver, 4 and 5 GTV."""

    def forward(self, x):
        return torch.cat([1.5 - x, -(x - 2.5).abs() + 1, x - 3.5], 1)


def test_a_series_becomes_a_seg_and_what_no_seg_can_hold_becomes_nifti(tmp_path, series, geometry):
    card = Card(
        name="slices.v1", architecture="unet3d", provider=Provider(package="ctseg"), in_channels=1,
        out_channels=3, channels=("CT",),
        task=TaskConfig.model_validate({"kind": "classes", "labels": LABELS}),
        preprocess=PreprocessConfig(), predict=PredictConfig(tile_zyx=(8, 8, 8)),
        training_data=TrainingData(name="x"),
    )  # fmt: skip
    segmenter = NetworkModel(card, [Slices()], choose("cpu", "fp32"))
    request = Request(
        tmp_path / "out", suffix=".seg.dcm", masks=True, confidence=True, instances=True,
        probabilities=True, probabilities_suffix=".seg.dcm",
    )  # fmt: skip
    outputs = Outputs(segmenter, request, tmp_path / "out" / "ct.seg.dcm")
    ct = ImageRef(tmp_path / "study" / "ct")
    predict_scan(segmenter, [ct], outputs.results)
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in outputs.paths.all) == [
        "confidence/ct.nii.gz", "ct.seg.dcm", "instances/ct.csv", "instances/ct.nii.gz", "masks/ct/GTV.seg.dcm",
        "masks/ct/liver.seg.dcm", "probabilities/ct.seg.dcm",
    ]  # fmt: skip
    assert outputs.paths.there
    made = pydicom.dcmread(outputs.paths.main)
    assert made.SegmentationType == "BINARY"
    assert [s.SegmentLabel for s in made.SegmentSequence] == ["liver", "GTV"]
    for segment in made.SegmentSequence:
        assert segment.SegmentAlgorithmName == "slices.v1"
        assert len(segment.RecommendedDisplayCIELabValue) == 3
    assert {str(i.SOPInstanceUID) for i in series} >= {
        str(i.ReferencedSOPInstanceUID)
        for s in made.ReferencedSeriesSequence
        for i in s.ReferencedInstanceSequence
    }
    labels = ctseg.read(outputs.paths.main)
    expected = np.repeat(np.array([0, 0, 5, 5, 7, 7], np.uint8), 16 * 20).reshape(6, 16, 20)
    np.testing.assert_array_equal(labels.array, expected)
    assert labels.geometry.agrees(geometry)
    assert labels.metadata["labels"] == {"liver": 5, "GTV": 7}
    assert labels.metadata["colours"]["liver"] == (200, 10, 30)
    mask = ctseg.read(outputs.paths.masks["GTV"])
    np.testing.assert_array_equal(mask.array, expected == 7)
    fractions = pydicom.dcmread(outputs.paths.probabilities)
    assert fractions.SegmentationType == "FRACTIONAL"
    names = [s.SegmentLabel for s in fractions.SegmentSequence]
    assert names == ["background", "liver", "GTV"]
    sure = ctseg.read(outputs.paths.confidence)
    assert sure.geometry.agrees(geometry)
    assert sure.array.max() <= 1


def test_a_folder_of_copies_in_another_format_is_no_prediction(tmp_path):
    """As `--set format=.nii.gz,.seg.dcm` writes them."""
    volume = ctseg.Volume.from_array(np.zeros((2, 3, 4), np.uint8))
    out, truth = tmp_path / "out", tmp_path / "truth"
    for folder in (out, truth):
        ctseg.write(volume, folder / "a.nii.gz")
    (out / "seg.dcm").mkdir()
    (out / "seg.dcm" / "a.seg.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    (pair,) = find_pairs(out, truth).pairs
    assert pair.prediction.path == out / "a.nii.gz"
    (pair,) = find_pairs(out / "seg.dcm", truth).pairs
    assert (pair.case, pair.prediction.path) == ("a", out / "seg.dcm" / "a.seg.dcm")
