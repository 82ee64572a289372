"""DICOM SEG files of other programs become label maps."""

from __future__ import annotations

import pickle

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

import ctseg
from ctseg.errors import BadInput, FileProblem, GeometryMismatch, UnknownName
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_volume


@pytest.mark.real_data
@pytest.mark.parametrize("grid", ["own", "series"])
def test_the_seg_of_dcmqi_equals_its_truth(real_data, grid):
    truth = ctseg.read(real_data / "dicom_seg" / "liver_truth.nrrd")
    seg = ctseg.read(real_data / "dicom_seg" / "liver_seg.dcm", grid=grid)
    assert seg.geometry.agrees(truth.geometry)
    np.testing.assert_array_equal(seg.array, truth.array)
    assert seg.metadata["labels"] == {"Liver": 1}
    scan = ctseg.read(real_data / "dicom_seg" / "series")
    assert scan.geometry.agrees(seg.geometry)


def test_segments_are_read_on_the_grid_of_the_series_found_beside(
    tmp_path, series, geometry, label, make_seg
):
    path = tmp_path / "study" / "labels" / "seg.dcm"
    make_seg(path, series, label)
    with open_volume(path) as source:
        assert source.geometry.agrees(
            geometry
        )  # empty slices are left out of the file, not of the grid
        assert source.metadata["labels"] == {"Liver": 1, "Kidney": 2, "GTV 1": 3}
        np.testing.assert_array_equal(source.read()[0], label)
        np.testing.assert_array_equal(source.read((2, 4))[0], label[2:4])
        np.testing.assert_array_equal(source.read((5, 6))[0], label[5:6])
        np.testing.assert_array_equal(
            source.read_box((1, 3, 2), (4, 9, 19))[0], label[1:4, 3:9, 2:19]
        )
        again = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(again.read()[0], label)


def test_its_own_grid_holds_the_slices_with_voxels(tmp_path, series, geometry, label, make_seg):
    path = tmp_path / "seg.dcm"
    make_seg(path, series, label)
    own = ctseg.read(path, grid="own")
    assert own.geometry.agrees(geometry.sub((1, 0, 0), (4, *geometry.shape_zyx[1:])))
    np.testing.assert_array_equal(own.array, label[1:5])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LABELMAP", {}),
        ("FRACTIONAL", {}),
        ("FRACTIONAL", {"transfer_syntax_uid": RLELossless}),
        ("BINARY", {"omit_empty_frames": False}),
    ],
)
def test_every_kind_of_seg_is_read(tmp_path, series, label, make_seg, kind, options):
    path = tmp_path / "study" / "seg.dcm"
    make_seg(path, series, label, kind, **options)
    read = ctseg.read(path)
    np.testing.assert_array_equal(read.array, label)
    assert read.metadata["segmentation_type"] == kind


def test_fractions_count_from_the_threshold_on(tmp_path, series, geometry, make_seg):
    share = np.linspace(0, 1, int(np.prod(geometry.shape_zyx)))
    share = share.reshape(*geometry.shape_zyx, 1).astype(np.float32)
    path = tmp_path / "study" / "seg.dcm"
    make_seg(path, series, share, "FRACTIONAL", ["Liver"], max_fractional_value=200)
    stored = np.rint(share[..., 0] * 200)
    for threshold in (0.5, 0.8):
        read = ctseg.read(path, threshold=threshold)
        np.testing.assert_array_equal(read.array, stored >= threshold * 200)
    with pytest.raises(BadInput, match="threshold"):
        ctseg.read(path, threshold=0)


def test_overlapping_segments_are_refused_ordered_or_stacked(tmp_path, series, geometry, make_seg):
    stack = np.zeros((*geometry.shape_zyx, 2), np.uint8)
    stack[1:4, 2:9, 3:12, 0] = 1
    stack[2:5, 5:12, 5:15, 1] = 1
    path = tmp_path / "study" / "seg.dcm"
    make_seg(path, series, stack, names=["Liver", "Tumour"])
    with pytest.raises(BadInput, match=r"'Tumour' overlaps 'Liver'(.|\n)*overlaps=channels"):
        ctseg.read(path)
    stacked = ctseg.read(path, overlaps="channels")
    np.testing.assert_array_equal(stacked.array, np.moveaxis(stack, -1, 0))
    last = ctseg.read(path, overlaps="last")
    np.testing.assert_array_equal(last.array, np.where(stack[..., 1], 2, stack[..., 0]))
    tumour = ctseg.read(path, segments="tumour")
    np.testing.assert_array_equal(tumour.array, stack[..., 1])


@pytest.mark.parametrize("names", [["Tumour", "Liver"], ["Liver", "Tumour"]])
def test_the_last_name_asked_for_is_kept_whatever_the_order_in_the_file(
    tmp_path, series, geometry, make_seg, names
):
    liver, tumour = np.zeros((2, *geometry.shape_zyx), np.uint8)
    liver[1:5, 2:12, 3:15] = 1
    tumour[2:4, 4:8, 5:9] = 1
    masks = {"Liver": liver, "Tumour": tumour}
    path = tmp_path / "study" / "seg.dcm"
    make_seg(path, series, np.stack([masks[name] for name in names], -1), names=names)
    with open_volume(path, segments="Liver,Tumour", overlaps="last") as source:
        np.testing.assert_array_equal(source.read()[0], np.where(tumour, 2, liver))
        np.testing.assert_array_equal(source.read((2, 3))[0], np.where(tumour, 2, liver)[2:3])
    covered = ctseg.read(path, segments="Tumour,Liver", overlaps="last")
    np.testing.assert_array_equal(covered.array, 2 * liver)


def test_segments_are_chosen_by_name_or_number(tmp_path, series, label, make_seg):
    path = tmp_path / "study" / "seg.dcm"
    make_seg(path, series, label)
    expected = np.array([0, 2, 0, 1])[label]
    np.testing.assert_array_equal(ctseg.read(path, segments="gtv*|tumour,LIVER").array, expected)
    np.testing.assert_array_equal(ctseg.read(path, segments=[3, 1]).array, expected)
    with pytest.raises(UnknownName, match=r"'Livr'.*'Liver'(.|\n)*missing=empty"):
        ctseg.read(path, segments="Livr")
    spleen = ctseg.read(path, segments="Spleen,Kidney", missing="empty")
    np.testing.assert_array_equal(spleen.array, np.where(label == 2, 2, 0))
    with pytest.raises(BadInput, match="asked for by"):
        ctseg.read(path, segments="Liver,L*")


def test_frames_of_other_planes_of_the_grid_fall_into_place(
    tmp_path, geometry, make_series, make_seg
):
    """A SEG made on sagittal slices of the same voxels."""
    matrix = geometry.matrix
    z, y, x = geometry.shape_zyx
    sagittal = Geometry(
        (x, z, y),
        (geometry.spacing_xyz[1], geometry.spacing_xyz[2], geometry.spacing_xyz[0]),
        geometry.origin_xyz,
        tuple(map(tuple, np.stack([matrix[:, 1], matrix[:, 2], matrix[:, 0]], axis=1))),
    )
    uids = {"SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4", "StudyInstanceUID": "1.2"}
    make_series(tmp_path / "ct", geometry, **uids)
    images = make_series(tmp_path / "cut", sagittal, **{**uids, "SeriesInstanceUID": "1.2.5"})
    label = np.zeros(geometry.shape_zyx, np.uint8)
    label[1:4, 2:9, 3:12] = 1
    path = tmp_path / "seg" / "seg.dcm"
    make_seg(path, images, label.transpose(2, 0, 1).copy(), names=["Liver"])
    read = ctseg.read(path, series=str(tmp_path / "ct"))
    assert read.geometry.agrees(geometry)
    np.testing.assert_array_equal(read.array, label)
    with open_volume(path, series="../ct") as source:  # a relative path counts from the file, too
        np.testing.assert_array_equal(source.read((3, 5))[0], label[3:5])


def test_a_series_spread_over_folders_is_found_whole(tmp_path, series, geometry, label, make_seg):
    study = tmp_path / "study"
    (study / "ct2").mkdir()
    for file in sorted((study / "ct").iterdir())[::2]:
        file.rename(study / "ct2" / file.name)
    make_seg(study / "seg" / "seg.dcm", series, label)
    read = ctseg.read(study / "seg" / "seg.dcm", grid="series")
    assert read.geometry.agrees(geometry)
    np.testing.assert_array_equal(read.array, label)


def test_errors_say_what_is_wrong(tmp_path, geometry, series, label, make_series, make_seg):
    path = tmp_path / "study" / "seg.dcm"
    make_seg(path, series, label)
    ct = sorted((tmp_path / "study" / "ct").iterdir())
    with pytest.raises(FileProblem, match="is not a DICOM segmentation"):
        open_volume(ct[0], format="dicom_seg")
    with pytest.raises(FileProblem, match="does not exist"):
        open_volume(tmp_path / "nothing.seg.dcm", format="dicom_seg")
    with pytest.raises(BadInput, match=r"grid is 'mine'(.|\n)*auto, series, own"):
        open_volume(path, grid="mine")
    with pytest.raises(FileProblem, match="that the option series names"):
        open_volume(path, series="nowhere")
    make_series(tmp_path / "other", geometry)
    with pytest.raises(GeometryMismatch, match="belongs to another scan"):
        open_volume(path, series=tmp_path / "other")
    far = tmp_path / "elsewhere" / "deep" / "down" / "seg.dcm"
    make_seg(far, series, label)
    with pytest.raises(BadInput, match=r"is not near it(.|\n)*series=FOLDER"):
        open_volume(far, grid="series")
    assert (
        open_volume(far).geometry.shape_zyx[0] == 4
    )  # its own grid, where the series is not there
    ctseg.write(ctseg.Volume(label, geometry), tmp_path / "scan.nii")
    assert open_volume(far, series=tmp_path / "scan.nii").geometry.agrees(geometry)
    ctseg.write(ctseg.Volume(label[:3], geometry.sub((0, 0, 0), (3, 16, 20))), tmp_path / "cut.nii")
    with pytest.raises(GeometryMismatch, match=r"reaches beyond(.|\n)*grid=own"):
        open_volume(far, series=tmp_path / "cut.nii")
    shifted = geometry.sub((0, 0, 0), geometry.shape_zyx)
    shifted = Geometry(shifted.shape_zyx, (0.8, 0.8, 2.5), shifted.origin_xyz, shifted.direction)
    ctseg.write(ctseg.Volume(label, shifted), tmp_path / "shifted.nii")
    with pytest.raises(GeometryMismatch, match="are not those of the series"):
        open_volume(far, series=tmp_path / "shifted.nii")


def test_damaged_files_are_refused(tmp_path, series, label, make_seg):
    path = tmp_path / "study" / "seg.dcm"
    make_seg(path, series, label)
    data = path.read_bytes()
    cut = tmp_path / "cut.seg.dcm"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(FileProblem, match=r"cut\.seg\.dcm"):
        ctseg.read(cut)
    short = pydicom.dcmread(path)
    short.PixelData = short.PixelData[:40]
    short.save_as(cut)
    with pytest.raises(FileProblem, match="40 of 280 bytes"):
        ctseg.read(cut)
    empty = pydicom.dcmread(path)
    del empty.PerFrameFunctionalGroupsSequence
    empty.save_as(cut)
    with pytest.raises(FileProblem, match="PerFrameFunctionalGroupsSequence"):
        ctseg.read(cut)


def test_odd_and_damaged_files_of_strangers_beside_it_do_not_disturb_the_search(
    tmp_path, series, label, make_seg
):
    path = tmp_path / "study" / "labels" / "seg.dcm"
    make_seg(path, series, label)
    good = (tmp_path / "study" / "ct").glob("*.dcm").__next__().read_bytes()
    at = good.index(b"DICM") + 4
    odd = tmp_path / "study" / "a_stranger"
    odd.mkdir()
    # meta information that says explicit and is implicit; a header cut within an element
    implicit = b"\x02\x00\x10\x00" + (20).to_bytes(4, "little") + b"1.2.840.10008.1.2.1\0"
    (odd / "0.dcm").write_bytes(good[:at] + implicit + good[at + 200 :])
    (tmp_path / "study" / "b_stranger").mkdir()
    (tmp_path / "study" / "b_stranger" / "0.dcm").write_bytes(good[: at + 331])
    np.testing.assert_array_equal(ctseg.read(path).array, label)
