"""Structure sets that ctseg writes: read by pydicom with an independent rasteriser, and by ctseg itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from scipy import ndimage
from skimage.draw import polygon2mask

import ctseg
from ctseg.card import Card, Provider, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.engine.evaluation.label_statistics import refs_of, statistics_of_files
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.prediction.folder import predict_folder
from ctseg.engine.prediction.inputs import find_items
from ctseg.engine.prediction.request import Request
from ctseg.errors import BadInput, GeometryMismatch
from ctseg.specs import Label
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_volume

LABELS = (Label("liver", (1,), 5, (10, 200, 30)), Label("GTV", (2,), 7), Label("none", (3,), 9))


def by_pydicom(path: Path, geometry: Geometry) -> dict[str, np.ndarray]:
    """Masks by name: contours of one slice, filled by scikit-image, cancel each other where they overlap."""
    data = pydicom.dcmread(path)
    names = {int(item.ROINumber): str(item.ROIName) for item in data.StructureSetROISequence}
    masks = {name: np.zeros(geometry.shape_zyx, bool) for name in names.values()}
    for item in data.ROIContourSequence:
        for contour in item.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            index = (points - geometry.origin_xyz) @ geometry.matrix / geometry.spacing_xyz
            k = round(float(index[0, 2]))
            assert np.abs(index[:, 2] - k).max() < 0.01
            filled = polygon2mask(geometry.shape_zyx[1:], index[:, [1, 0]])
            masks[names[int(item.ReferencedROINumber)]][k] ^= filled
    return masks


@pytest.fixture
def scan(tmp_path, series):
    source = open_volume(tmp_path / "study" / "ct")
    yield source
    source.close()


def odd_map(shape: tuple[int, int, int]) -> np.ndarray:
    """Labels with holes, islands in holes, corners that touch, single voxels, and borders of the scan."""
    generator = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(generator.normal(size=shape), (0.3, 1.5, 1.5))
    array = np.where(noise > 0.02, 5, np.where(noise < -0.08, 7, 0)).astype(np.uint8)
    array[1] = 0
    array[1, 2:14, 2:18] = 5
    array[1, 4:12, 4:15] = 0
    array[1, 6:9, 6:12] = 5
    array[1, 7, 8] = 0
    array[1, 13, 19] = 7
    return array


def test_masks_come_back_exactly(tmp_path, series, scan, geometry):
    path = tmp_path / "study" / "out.rt.dcm"
    array = odd_map(geometry.shape_zyx)
    for k in (2, 3, 5):  # slices between those of a label, which nobody drew
        array[k][array[k] == 7] = 0
    ctseg.write(
        ctseg.Volume(array, scan.geometry), path, labels=LABELS, reference=scan,
        options={"algorithm": "unet3d.abdomen_v1"},
    )  # fmt: skip
    back = ctseg.read(path)
    assert back.geometry.agrees(scan.geometry)
    np.testing.assert_array_equal(back.array, array)
    assert back.metadata["labels"] == {"liver": 5, "GTV": 7}
    assert back.metadata["colours"]["liver"] == (10, 200, 30)
    for name, value in (("liver", 5), ("GTV", 7)):
        mask, expected = by_pydicom(path, geometry)[name], array == value
        dice = 2 * (mask & expected).sum() / (mask.sum() + expected.sum())
        assert dice > 0.98

    data = pydicom.dcmread(path)
    first = series[0]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert data[keyword].value == first[keyword].value, keyword
    assert data.Modality == "RTSTRUCT" and data.ApprovalStatus == "UNAPPROVED"
    assert data.SeriesInstanceUID != first.SeriesInstanceUID
    assert data.StructureSetName == "unet3d.abdomen_v1"
    assert data.file_meta.MediaStorageSOPClassUID == data.SOPClassUID
    (study,) = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    (referenced,) = study.RTReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in referenced.ContourImageSequence} == {
        one.SOPInstanceUID for one in series
    }
    assert [str(i.ROIName) for i in data.StructureSetROISequence] == ["liver", "GTV", "none"]
    assert all(i.ROIGenerationAlgorithm == "AUTOMATIC" for i in data.StructureSetROISequence)
    assert len(data.RTROIObservationsSequence) == 3
    for contour in data.ROIContourSequence[0].ContourSequence:
        (image,) = contour.ContourImageSequence
        (source,) = (one for one in series if one.SOPInstanceUID == image.ReferencedSOPInstanceUID)
        offset = np.array(contour.ContourData[:3], float) - np.array(
            source.ImagePositionPatient, float
        )
        assert abs(offset @ geometry.matrix[:, 2]) < 1e-3


def test_contours_lie_on_their_images_and_come_back_where_the_grid_is_only_nearly_even(
    tmp_path, geometry, make_series
):
    heights = np.cumsum([0.0] + [0.991] * 24 + [1.009] * 23)
    grid = Geometry((48, 16, 20), geometry.spacing_xyz, geometry.origin_xyz, geometry.direction)
    series = make_series(tmp_path / "study" / "ct", grid, heights.tolist())
    array = odd_map(grid.shape_zyx)
    array[20::3][array[20::3] == 7] = 0  # slices between those of a label
    path = tmp_path / "study" / "out.rt.dcm"
    with open_volume(tmp_path / "study" / "ct") as scan:
        ctseg.write(ctseg.Volume(array, scan.geometry), path, labels=LABELS, reference=scan)
    np.testing.assert_array_equal(ctseg.read(path).array, array)
    images = {one.SOPInstanceUID: np.array(one.ImagePositionPatient, float) for one in series}
    for contour in pydicom.dcmread(path).ROIContourSequence[0].ContourSequence:
        image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        offset = np.array(contour.ContourData[:3], float) - image
        assert abs(offset @ geometry.matrix[:, 2]) < 1e-3


def test_a_contour_of_many_points_keeps_its_type(tmp_path, make_series):
    """ContourData longer than 65,534 bytes, which other programs cannot read with the type UN."""
    geometry = Geometry((2, 512, 512), (0.7, 0.7, 2.5))
    make_series(tmp_path / "study" / "ct", geometry)
    array = np.zeros(geometry.shape_zyx, np.uint8)
    array[0, 255:257, 1:-1] = 5
    array[0, 8:504, 1:-1:2] = 5  # a comb with teeth on both sides
    path = tmp_path / "study" / "out.rt.dcm"
    with open_volume(tmp_path / "study" / "ct") as scan:
        ctseg.write(ctseg.Volume(array, scan.geometry), path, labels=LABELS, reference=scan)
    content = path.read_bytes()
    assert b"\x06\x30\x50\x00UN" not in content
    (contour,) = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints > 2500
    assert len("\\".join(map(str, contour.ContourData))) > 2**16
    np.testing.assert_array_equal(ctseg.read(path).array, array)


def test_overlapping_channels_and_empty_maps(tmp_path, scan, geometry):
    array = odd_map(geometry.shape_zyx)
    masks = np.stack([array > 0, array == 7]).astype(np.uint8)
    path = tmp_path / "study" / "out.rt.dcm"
    ctseg.write(ctseg.Volume(masks, scan.geometry), path, labels=LABELS[:2], reference=scan)
    found = ctseg.read(path, overlaps="channels")
    np.testing.assert_array_equal(found.array, masks)
    ctseg.write(ctseg.Volume(array * 0, scan.geometry), path, labels=LABELS, reference=scan)
    data = pydicom.dcmread(path)
    assert len(data.StructureSetROISequence) == 3
    assert not any("ContourSequence" in item for item in data.ROIContourSequence)


def test_what_no_structure_set_can_refer_to(tmp_path, scan, geometry):
    path = tmp_path / "study" / "out.rt.dcm"
    mask = ctseg.Volume(np.zeros(geometry.shape_zyx, np.uint8), scan.geometry)
    with pytest.raises(BadInput, match="an RT structure set refers to the images"):
        ctseg.write(mask, path)
    other = ctseg.Volume(mask.array, Geometry(geometry.shape_zyx, (1, 1, 1)))
    with pytest.raises(GeometryMismatch, match="are no images"):
        ctseg.write(other, path, reference=scan)
    with pytest.raises(BadInput, match="An RT structure set cannot hold float32"):
        ctseg.write(ctseg.Volume(mask.array.astype("f4"), scan.geometry), path, reference=scan)
    assert not path.exists()


class Slices(torch.nn.Module):
    """Voxels of the series have the number of their slice: 0 and 1 are background, 2 and 3 liver, 4 and 5 GTV."""

    def forward(self, x):
        return torch.cat([1.5 - x, -(x - 2.5).abs() + 1, x - 3.5], 1)


def test_one_prediction_gives_a_seg_and_a_structure_set(tmp_path, series, geometry):
    labels = [
        {"name": n, "values": [v], "value": 3 * v} for v, n in enumerate(("none", "liver", "GTV"))
    ]
    card = Card(
        name="slices.v1", architecture="unet3d", provider=Provider(package="ctseg"), in_channels=1,
        out_channels=3, channels=("CT",),
        task=TaskConfig.model_validate({"kind": "classes", "labels": labels}),
        preprocess=PreprocessConfig(), predict=PredictConfig(tile_zyx=(8, 8, 8)),
        training_data=TrainingData(name="x"),
    )  # fmt: skip
    segmenter = Segmenter(card, [Slices()], choose("cpu", "fp32"))
    request = Request(tmp_path / "study" / "out.seg.dcm", suffix=".seg.dcm", also=(".rt.dcm",))
    items = find_items([str(tmp_path / "study" / "ct")], channels=1)
    summary = predict_folder(segmenter.model, items, request)
    assert summary.done[0]["beside"] == {
        "also": {".rt.dcm": str(tmp_path / "study" / "out.rt.dcm")}
    }
    seg, drawn = (ctseg.read(tmp_path / "study" / f"out.{end}.dcm") for end in ("seg", "rt"))
    assert seg.metadata["labels"] == drawn.metadata["labels"] == {"liver": 3, "GTV": 6}
    np.testing.assert_array_equal(seg.array, drawn.array)
    assert np.unique(seg.array).tolist() == [0, 3, 6]
    assert pydicom.dcmread(tmp_path / "study" / "out.rt.dcm").StructureSetName == "slices.v1"
    (tmp_path / "away").mkdir()
    for end in ("seg", "rt"):  # measured on the series of the scan, wherever the mask lies
        away = (tmp_path / "study" / f"out.{end}.dcm").rename(tmp_path / "away" / f"out.{end}.dcm")
        images, mask = refs_of([tmp_path / "study" / "ct"], away, {})
        found = {one.name: one.plain() for one in statistics_of_files(images, mask).labels}
        assert found["liver"]["voxels"] == 2 * 16 * 20
        assert found["GTV"]["values"][0]["mean"] == 4.5
