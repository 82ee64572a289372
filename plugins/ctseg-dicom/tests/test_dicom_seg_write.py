"""What ctseg writes as DICOM SEG is read back identically by highdicom, and refers to the right images."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.seg import segread
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.errors import BadInput, FileProblem, GeometryMismatch
from ctseg.specs import Label
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader
from ctseg.volume.io import open_volume, open_writer
from ctseg_dicom.files import dicom

LABELS = (
    Label("left_kidney", (1,), 1, (10, 200, 30)),
    Label("liver", (2,), 5),
    Label("GTV", (3,), 300, (255, 0, 0)),
    Label("spleen", (4,), 4),
)


def by_highdicom(path) -> tuple[np.ndarray, Geometry]:
    """Segment numbers and their grid, as highdicom reads the file."""
    volume = (
        segread(path).get_volume(combine_segments=True).flip_spatial(0)
    )  # it starts at the other end
    array = np.asarray(volume.array)
    axes = np.array(volume.direction)[:, ::-1]
    return array, Geometry(
        array.shape, tuple(volume.spacing[::-1]), tuple(volume.position), tuple(map(tuple, axes))
    )


@pytest.fixture
def scan(tmp_path, series):
    source = open_volume(tmp_path / "study" / "ct")
    yield source
    source.close()


def test_labels_come_back_through_highdicom_and_ctseg(tmp_path, series, scan, geometry, label):
    values = np.array([0, 1, 5, 300], np.uint16)[label]
    path = tmp_path / "study" / "out.seg.dcm"
    ctseg.write(
        ctseg.Volume(values, scan.geometry),
        path,
        labels=LABELS,
        reference=scan,
        options={"algorithm": "unet3d.abdomen_v1"},
    )
    array, grid = by_highdicom(path)
    assert grid.agrees(geometry.sub((1, 0, 0), (4, *geometry.shape_zyx[1:])))
    np.testing.assert_array_equal(array, label[1:5])
    back = ctseg.read(path)
    assert back.geometry.agrees(scan.geometry)
    np.testing.assert_array_equal(back.array, values)
    assert back.metadata["labels"] == {"left_kidney": 1, "liver": 5, "GTV": 300, "spleen": 4}
    for name, colour in (("left_kidney", (10, 200, 30)), ("GTV", (255, 0, 0))):
        assert np.abs(np.subtract(back.metadata["colours"][name], colour)).max() <= 1

    far = (
        tmp_path / "a" / "b" / "c" / "out.seg.dcm"
    )  # where the series is not near, the grid is whole as well
    far.parent.mkdir(parents=True)
    far.write_bytes(path.read_bytes())
    alone = ctseg.read(far)
    assert alone.geometry.agrees(geometry)
    np.testing.assert_array_equal(alone.array, values)

    seg = segread(path)
    first = series[0]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == first[keyword].value, keyword
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence} == {
        one.SOPInstanceUID for one in series
    }
    for frame in seg.PerFrameFunctionalGroupsSequence:  # each frame names the image it was made of
        image = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        (source,) = (one for one in series if one.SOPInstanceUID == image)
        np.testing.assert_allclose(position, source.ImagePositionPatient, atol=1e-4)
    kidney = seg.get_segment_description(1)
    assert kidney.segment_label == "left_kidney"
    assert kidney.segmented_property_type.meaning == "Kidney"
    assert kidney.algorithm_identification.name == "unet3d.abdomen_v1"
    assert kidney.algorithm_identification.version == ctseg.__version__
    assert seg.get_segment_description(3).segmented_property_type.meaning == "Neoplasm"


EVEN_GAPS = [0.991] * 24 + [1.009] * 23
"""Gaps that the reader takes for even, though slices in the middle lie 0.2 of a slice beside an even grid."""


@pytest.mark.parametrize(
    "heights",
    [
        [0.0, 0.992, 2.0, 3.008],  # 0.62, 1.25 and 1.88 mm where 0.625 is meant
        np.cumsum([0.0, *EVEN_GAPS]).tolist(),
    ],
)
def test_images_whose_positions_have_few_digits_are_those_of_the_slices(
    tmp_path, geometry, make_series, heights
):
    grid = Geometry(
        (len(heights), 16, 20), geometry.spacing_xyz, geometry.origin_xyz, geometry.direction
    )
    series = make_series(tmp_path / "study" / "ct", grid, heights)
    array = np.zeros(grid.shape_zyx, np.uint8)
    array[1:-1, 3:9, 4:12] = 1 + np.arange(len(heights) - 2)[:, None, None] % 2
    path = tmp_path / "study" / "out.seg.dcm"
    with open_volume(tmp_path / "study" / "ct") as scan:
        ctseg.write(ctseg.Volume(array, scan.geometry), path, reference=scan)
        middle = scan.geometry.sub((1, 0, 0), (len(heights) - 2, 16, 20))
        ctseg.write(
            ctseg.Volume(array[1:-1], middle), tmp_path / "study" / "b.seg.dcm", reference=scan
        )
        for own in ("auto", "own"):
            back = ctseg.read(path, grid=own)
            assert back.geometry.agrees(scan.geometry)
            np.testing.assert_array_equal(back.array, array)
    np.testing.assert_array_equal(ctseg.read(tmp_path / "study" / "b.seg.dcm").array, array)
    positions = {one.SOPInstanceUID: one.ImagePositionPatient for one in series}
    for frame in segread(path).PerFrameFunctionalGroupsSequence:
        image = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, positions[image], atol=1e-4)


def test_straightened_slices_are_no_images(tmp_path, geometry, make_series):
    make_series(tmp_path / "ct", geometry, [0, 1, 2.3, 3, 4, 5])
    mask = np.ones(geometry.shape_zyx, np.uint8)
    with open_volume(tmp_path / "ct", straighten="yes") as scan:
        assert scan.geometry.shape_zyx == geometry.shape_zyx
        with pytest.raises(GeometryMismatch, match="1 of 6 slices, the first of them slice 2"):
            ctseg.write(ctseg.Volume(mask, scan.geometry), tmp_path / "a.seg.dcm", reference=scan)


def test_values_without_a_label_and_empty_maps_are_written(tmp_path, scan, label):
    path = tmp_path / "study" / "out.seg.dcm"
    ctseg.write(ctseg.Volume(label, scan.geometry), path, reference=scan)
    back = ctseg.read(path)
    np.testing.assert_array_equal(back.array, label)
    assert back.metadata["labels"] == {"label 1": 1, "label 2": 2, "label 3": 3}
    ctseg.write(ctseg.Volume(label * 0, scan.geometry), path, labels=LABELS, reference=scan)
    back = ctseg.read(path, grid="own")
    assert not back.array.any() and back.geometry.agrees(scan.geometry)
    assert not segread(path).get_volume(combine_segments=True).array.any()


def test_channels_become_overlapping_segments_or_fractions(tmp_path, scan, geometry):
    generator = np.random.default_rng(0)
    share = generator.random((2, *geometry.shape_zyx)).astype(np.float32)
    path = tmp_path / "study" / "out.seg.dcm"
    ctseg.write(ctseg.Volume(share, scan.geometry), path, labels=LABELS[:2], reference=scan)
    stored = np.asarray(segread(path).get_volume().array)  # [Z, Y, X, segment], rescaled to 0..1
    assert np.abs(np.moveaxis(stored[::-1], -1, 0) - share).max() <= 0.5 / 255 + 1e-6
    binary = (share > 0.4).astype(np.uint8)
    ctseg.write(ctseg.Volume(binary, scan.geometry), path, labels=LABELS[:2], reference=scan)
    np.testing.assert_array_equal(ctseg.read(path, overlaps="channels").array, binary)
    stored = np.asarray(segread(path).get_volume().array)
    np.testing.assert_array_equal(np.moveaxis(stored[::-1], -1, 0), binary)


def test_a_part_of_the_series_refers_to_its_own_images(tmp_path, series, scan, geometry, label):
    part = scan.geometry.sub((2, 0, 0), (3, *geometry.shape_zyx[1:]))
    path = tmp_path / "study" / "out.seg.dcm"
    ctseg.write(ctseg.Volume(label[2:5], part), path, reference=scan)
    expected = label.copy()
    expected[[0, 1, 5]] = 0
    np.testing.assert_array_equal(ctseg.read(path).array, expected)
    referenced = segread(path).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {i.ReferencedSOPInstanceUID for i in referenced} == {
        one.SOPInstanceUID for one in series[2:5]
    }


@pytest.mark.real_data
def test_a_real_seg_written_again_is_the_same(real_data, tmp_path):
    truth = ctseg.read(real_data / "dicom_seg" / "liver_seg.dcm")
    path = tmp_path / "again.seg.dcm"
    with open_volume(real_data / "dicom_seg" / "series") as scan:
        ctseg.write(truth, path, labels=(Label("Liver", (1,), 1),), reference=scan)
    array, grid = by_highdicom(path)
    assert grid.agrees(truth.geometry)
    np.testing.assert_array_equal(array, truth.array)
    np.testing.assert_array_equal(ctseg.read(path).array, truth.array)


def test_what_a_seg_cannot_be_is_refused(tmp_path, scan, geometry, label):
    path = tmp_path / "out.seg.dcm"
    volume = ctseg.Volume(label, scan.geometry)
    with pytest.raises(BadInput, match=r"none was given(.|\n)*\.nii\.gz"):
        ctseg.write(volume, path)
    ctseg.write(volume, tmp_path / "scan.nii")
    with (
        open_volume(tmp_path / "scan.nii") as nifti,
        pytest.raises(BadInput, match=r"scan\.nii is none"),
    ):
        ctseg.write(volume, path, reference=nifti)
    for moved in (
        geometry.sub((1, 0, 0), geometry.shape_zyx),
        geometry.sub((0, 1, 0), (6, 16, 20)),
    ):
        with pytest.raises(GeometryMismatch, match="are no images of the"):
            ctseg.write(ctseg.Volume(label, moved), path, reference=scan)
    with pytest.raises(BadInput, match="not one volume of float32"):
        ctseg.write(ctseg.Volume(label.astype(np.float32), geometry), path, reference=scan)
    with pytest.raises(BadInput, match="values from -1"):
        ctseg.write(ctseg.Volume(label.astype(np.int16) - 1, scan.geometry), path, reference=scan)
    with pytest.raises(BadInput, match=r"not written with an option 'colour'(.|\n)*algorithm"):
        ctseg.write(volume, path, reference=scan, options={"colour": 1})
    assert [p.name for p in tmp_path.iterdir() if "seg" in p.name] == []


def test_names_in_any_script_survive(tmp_path, geometry, label, make_series):
    """The images are in Latin-1, the labels in Greek."""
    tags = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Zoë"}
    make_series(tmp_path / "ct", geometry, **tags)
    path = tmp_path / "seg" / "a.seg.dcm"
    with open_volume(tmp_path / "ct") as scan:
        names = (Label("ήπαρ", (1,), 1), Label("tumör", (2,), 2), Label("x" * 80, (3,), 3))
        ctseg.write(ctseg.Volume(label, scan.geometry), path, labels=names, reference=scan)
    assert str(pydicom.dcmread(path).PatientName) == "Müller^Zoë"
    assert list(ctseg.read(path).metadata["labels"]) == ["ήπαρ", "tumör", "x" * 64]


def test_a_place_that_cannot_be_written_is_named(tmp_path, scan, label):
    folder = tmp_path / "out.seg.dcm"
    folder.mkdir()
    with pytest.raises(FileProblem, match="is a folder"):
        ctseg.write(ctseg.Volume(label, scan.geometry), folder, reference=scan)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileProblem, match="cannot be written"):
        ctseg.write(
            ctseg.Volume(label, scan.geometry), tmp_path / "file" / "a.seg.dcm", reference=scan
        )


def test_a_series_that_lacks_a_frame_of_reference_is_refused(tmp_path, scan, label):
    for file in scan.metadata["files"]:
        data = pydicom.dcmread(file)
        del data.FrameOfReferenceUID
        data.save_as(file)
    with pytest.raises(BadInput, match="names no frame of reference"):
        ctseg.write(ctseg.Volume(label, scan.geometry), tmp_path / "a.seg.dcm", reference=scan)


@pytest.mark.parametrize(
    ("keyword", "value", "what"),
    [
        ("SOPClassUID", "", r"names no kind of object \(SOPClassUID\)"),
        ("StudyDate", "someday", "no DICOM SEG can refer to the images of this series"),
        ("SOPInstanceUID", "", r"names no identifier \(SOPInstanceUID\)"),
        ("StudyInstanceUID", None, r"names no study"),
        ("SOPInstanceUID", "1.2.3", "have the same SOPInstanceUID"),
    ],
)
def test_what_a_seg_needs_is_checked_before_anything_is_predicted(
    tmp_path, scan, label, keyword, value, what
):
    for file in scan.metadata["files"]:
        with dicom(Path(file)):
            data = pydicom.dcmread(file)
        if value is None:
            delattr(data, keyword)
        else:
            with dicom(Path(file)):
                setattr(data, keyword, value)
        data.file_meta.MediaStorageSOPClassUID = data.file_meta.MediaStorageSOPInstanceUID = ""
        with dicom(Path(file)):
            data.save_as(file)
    with pytest.raises(BadInput, match=what) as caught:
        open_writer(
            tmp_path / "a.seg.dcm", VolumeHeader(scan.geometry, label.dtype, reference=scan)
        )
    assert "write .nii.gz or .nrrd" in caught.value.hint
    assert not (tmp_path / "a.seg.dcm").exists()


def test_the_file_meta_information_stands_in_for_an_empty_class(tmp_path, scan, label):
    for file in scan.metadata["files"]:
        data = pydicom.dcmread(file)
        data.SOPClassUID = ""
        data.save_as(file)
    ctseg.write(ctseg.Volume(label, scan.geometry), tmp_path / "a.seg.dcm", reference=scan)
    (first, *_) = segread(tmp_path / "a.seg.dcm").ReferencedSeriesSequence
    assert first.ReferencedInstanceSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"


def test_a_seg_of_images_without_preamble(tmp_path, scan, label):
    for file in map(Path, scan.metadata["files"]):
        content = file.read_bytes()
        file.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
    with open_volume(tmp_path / "study" / "ct") as bare:
        ctseg.write(
            ctseg.Volume(label, bare.geometry), tmp_path / "study" / "a.seg.dcm", reference=bare
        )
    array, _ = by_highdicom(tmp_path / "study" / "a.seg.dcm")
    np.testing.assert_array_equal(array, label[1:5])
    content = (tmp_path / "study" / "a.seg.dcm").read_bytes()  # and without its own
    (tmp_path / "study" / "b.dcm").write_bytes(
        content[144 + int.from_bytes(content[140:144], "little") :]
    )
    np.testing.assert_array_equal(ctseg.read(tmp_path / "study" / "b.dcm").array, label)


def test_a_mask_is_brought_onto_its_series_and_written_as_seg(tmp_path, series, label, geometry):
    """A mask of another program: cropped, and stored the other way round."""
    crop = sitk.GetImageFromArray(label[1:5, 1:15])
    crop.SetSpacing(geometry.spacing_xyz)
    crop.SetOrigin(tuple(geometry.position((0, 1, 1))))
    crop.SetDirection(geometry.matrix.ravel().tolist())
    sitk.WriteImage(sitk.Flip(crop, [True, False, True]), str(tmp_path / "mask.nrrd"))
    out, like = tmp_path / "study" / "a.seg.dcm", tmp_path / "study" / "ct"
    words = ["data", "convert", tmp_path / "mask.nrrd", out, "--like", like]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    array, grid = by_highdicom(out)
    np.testing.assert_array_equal(array, label[1:5])
    assert grid.agrees(geometry.sub((1, 0, 0), (4, *geometry.shape_zyx[1:])))


def test_highdicom_is_new_enough():
    assert tuple(map(int, highdicom.__version__.split(".")[:2])) >= (0, 28)


def test_images_of_many_frames_are_referred_to_frame_by_frame(tmp_path, series, geometry, label):
    """An enhanced CT, as highdicom converts the series, its frames in the order of the files."""
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    for one in series:
        one.SeriesDescription, one.AcquisitionNumber, one.BodyPartExamined = "CT", 1, "ABDOMEN"
        one.SoftwareVersions, one.DeviceSerialNumber, one.Manufacturer = "1", "1", "m"
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    path = tmp_path / "enhanced" / "ct.dcm"
    path.parent.mkdir()
    LegacyConvertedEnhancedCTImage(series, highdicom.UID(), 5, highdicom.UID(), 1).save_as(path)
    with open_volume(path) as scan:
        assert scan.geometry.agrees(geometry)
        out = tmp_path / "seg" / "out.seg.dcm"
        ctseg.write(ctseg.Volume(label, scan.geometry), out, reference=scan)
        part = scan.geometry.sub((2, 0, 0), (3, *geometry.shape_zyx[1:]))
        ctseg.write(ctseg.Volume(label[2:5], part), tmp_path / "seg" / "b.seg.dcm", reference=scan)
    np.testing.assert_array_equal(ctseg.read(out).array, label)
    np.testing.assert_array_equal(ctseg.read(tmp_path / "seg" / "b.seg.dcm").array[2:5], label[2:5])
    enhanced = pydicom.dcmread(path)
    heights = [
        frame.PlanePositionSequence[0].ImagePositionPatient[2]
        for frame in enhanced.PerFrameFunctionalGroupsSequence
    ]
    for frame in segread(out).PerFrameFunctionalGroupsSequence:
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedSOPInstanceUID == enhanced.SOPInstanceUID
        z = frame.PlanePositionSequence[0].ImagePositionPatient[2]
        assert heights[image.ReferencedFrameNumber - 1] == pytest.approx(z)
