"""RT structure sets become label maps on the grid of the series that they were drawn on."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline

import ctseg
from ctseg.errors import BadInput, FileProblem, GeometryMismatch, UnknownName
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_volume
from ctseg_dicom import raster


def polygon(points_xy, z) -> np.ndarray:
    """Points x, y within a slice z, as voxels x, y, z."""
    return np.column_stack([np.asarray(points_xy, float), np.full(len(points_xy), float(z))])


def box(x0, y0, x1, y1, z) -> np.ndarray:
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], z)


def circle(x, y, radius, z, points=90) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return polygon(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)]), z)


@pytest.mark.real_data
def test_the_real_structure_set_equals_its_mask(real_data):
    """Dice at least 0.99 is the bar; the very same voxels come out."""
    label = ctseg.read(real_data / "sts_ct" / "labelsTr" / "sts_001.nii.gz")
    drawn = ctseg.read(real_data / "dicom_rtstruct" / "mask")
    assert drawn.metadata["labels"] == {"GTV_Mass_CT": 1}
    assert drawn.geometry.agrees(label.geometry)
    np.testing.assert_array_equal(drawn.array, label.array)


def test_polygons_are_filled_as_matplotlib_does():
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:30, :40]
    centres = np.column_stack([x.ravel(), y.ravel()])
    for _ in range(20):
        angle = np.sort(generator.uniform(0, 2 * np.pi, 25))
        radius = generator.uniform(4, 22, 25)  # some reach beyond the picture
        star = np.column_stack([19.3 + radius * np.cos(angle), 14.6 + radius * np.sin(angle)])
        expected = Outline(star).contains_points(centres).reshape(30, 40)
        np.testing.assert_array_equal(raster.fill([star], (30, 40)), expected)


def test_holes_neighbours_and_keyholes():
    outer, inner = box(1.5, 1.5, 9.5, 9.5, 0)[:, :2], box(3.5, 3.5, 6.5, 7.5, 0)[:, :2]
    ring = raster.fill([outer, inner], (12, 12))
    expected = np.zeros((12, 12), bool)
    expected[2:10, 2:10] = True
    expected[4:8, 4:7] = False
    np.testing.assert_array_equal(ring, expected)
    keyhole = np.array([(1.5, 1.5), (9.5, 1.5), (9.5, 9.5), (1.5, 9.5), (1.5, 1.5),
                        (3.5, 3.5), (3.5, 7.5), (6.5, 7.5), (6.5, 3.5), (3.5, 3.5)])  # fmt: skip
    np.testing.assert_array_equal(raster.fill([keyhole], (12, 12)), expected)
    left, right = (
        box(2, 2, 5, 8, 0)[:, :2],
        box(5, 2, 9, 8, 0)[:, :2],
    )  # borders run through centres
    one, two = raster.fill([left], (12, 12)), raster.fill([right], (12, 12))
    assert not (one & two).any()
    assert one.sum() == 3 * 6 and two.sum() == 4 * 6
    assert not raster.fill([box(20, 20, 30, 30, 0)[:, :2]], (12, 12)).any()
    assert raster.fill([box(-5, -5, 30, 30, 0)[:, :2]], (12, 12)).all()


def test_regions_lie_on_the_oblique_grid_of_the_series_beside(write_rtstruct, geometry):
    path = write_rtstruct(
        {
            "Liver": [box(2.5, 1.5, 11.5, 8.5, z) for z in (1, 2, 3)],
            "empty": [],
            "GTV 1": [box(3.5, 9.5, 8.5, 13.5, 2), box(14.5, 2.5, 18.5, 5.5, 2)],
        }
    )
    expected = np.zeros(geometry.shape_zyx, np.uint8)
    expected[1:4, 2:9, 3:12] = 1
    expected[2, 10:14, 4:9] = 2
    expected[2, 3:6, 15:19] = 2
    with open_volume(path) as source:
        assert source.geometry.agrees(geometry)
        np.testing.assert_array_equal(source.read()[0], expected)
        np.testing.assert_array_equal(source.read((2, 3))[0], expected[2:3])
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (3, 9, 20))[0], expected[1:3, 2:9, 3:]
        )
        assert source.metadata["labels"] == {"Liver": 1, "GTV 1": 2}
        assert source.metadata["colours"]["GTV 1"] == (255, 30, 0)
        assert source.metadata["notes"] == ["left out, without closed contours: empty"]
    gtv = ctseg.read(path.parent, roi="gtv*,Liver")  # the folder holds nothing else
    np.testing.assert_array_equal(gtv.array, np.array([0, 2, 1])[expected])


def test_overlapping_regions_are_refused_ordered_or_stacked(write_rtstruct):
    path = write_rtstruct(
        {"PTV": [box(2.5, 1.5, 11.5, 8.5, 2)], "GTV": [box(4.5, 3.5, 9.5, 6.5, 2)]}
    )
    with pytest.raises(BadInput, match=r"'GTV' overlaps 'PTV' in 15 voxels(.|\n)*channels"):
        ctseg.read(path)
    last = ctseg.read(path, overlaps="last").array
    assert (last == 1).sum() == 9 * 7 - 15 and (last == 2).sum() == 15
    stacked = ctseg.read(path, overlaps="channels").array
    assert stacked.shape[0] == 2 and stacked.max() == 1
    assert stacked[0].sum() == 9 * 7 and stacked[1].sum() == 15
    assert ctseg.read(path, roi="GTV,PTV,Lung", missing="empty", overlaps="last").array.max() == 2
    with pytest.raises(UnknownName, match="Unknown region of interest 'PTW'"):
        ctseg.read(path, roi="PTW")


def test_slices_between_contours_are_interpolated(write_rtstruct):
    """A leaning cone drawn on every second slice comes out nearly as one drawn on each."""

    def cone(heights):
        return [circle(8 + 0.5 * z, 8, 3 + 0.8 * z, z) for z in heights]

    full = ctseg.read(write_rtstruct({"cone": cone(range(6))}, "study/rt1/a.dcm")).array
    sparse = write_rtstruct({"cone": cone((0, 2, 4))}, "study/rt2/a.dcm")
    filled = ctseg.read(sparse).array
    for z in (1, 3):
        assert 2 * (full & filled)[z].sum() / (full[z].sum() + filled[z].sum()) > 0.93
    for z, drawn in enumerate((0, None, 2, None, 4, 4)):  # the last one reaches half a step further
        if drawn is not None:
            np.testing.assert_array_equal(filled[z], full[drawn])
    bare = ctseg.read(sparse, between="none").array
    assert bare.any((1, 2)).tolist() == [True, False, True, False, True, False]
    # Drawn on a finer series, 0.4 slices off: as many slices as contours, and a gap stays a gap.
    off = [box(2.5, 1.5, 11.5, 8.5, z + 0.4) for z in (0, 1, 2, 4)]
    gap = ctseg.read(write_rtstruct({"a": off}, "study/rt3/a.dcm")).array
    assert gap.any((1, 2)).tolist() == [True, True, True, False, True, False]


def test_a_gap_between_two_bodies_is_left_open(write_rtstruct):
    contours = [box(2.5, 1.5, 11.5, 8.5, z) for z in (0, 1, 4, 5)]
    read = ctseg.read(write_rtstruct({"two": contours})).array
    assert read.any((1, 2)).tolist() == [True, True, False, False, True, True]


def test_errors_say_what_is_wrong(write_rtstruct, tmp_path, geometry, make_series):
    contours = {"Liver": [box(2.5, 1.5, 11.5, 8.5, 2)]}
    path = write_rtstruct(contours)
    with pytest.raises(FileProblem, match="is not a DICOM RT structure set"):
        open_volume(next((tmp_path / "study" / "ct").iterdir()), format="rtstruct")
    with pytest.raises(BadInput, match=r"between is 'linear'"):
        open_volume(path, between="linear")
    with pytest.raises(BadInput, match="list of names is empty"):
        open_volume(path, roi=" , ")
    far = write_rtstruct(contours, "elsewhere/deep/down/rt.dcm")
    with pytest.raises(BadInput, match=r"is not near it: [\d.]+(.|\n)*series=FOLDER"):
        open_volume(far)
    assert ctseg.read(far, series=tmp_path / "study" / "ct").array.sum() == 63
    make_series(tmp_path / "other", geometry)
    with pytest.raises(GeometryMismatch, match="belongs to another scan"):
        open_volume(path, series=tmp_path / "other")
    standing = np.array([(3.0, 3.0, 0.0), (9.0, 3.0, 0.0), (9.0, 3.0, 4.0), (3.0, 3.0, 4.0)])
    with pytest.raises(GeometryMismatch, match=r"runs through 4\.0 slices"):
        open_volume(write_rtstruct({"sagittal": [standing]}, "study/rt2/a.dcm"))
    with pytest.raises(GeometryMismatch, match="lie outside the scan"):
        open_volume(write_rtstruct({"far": [box(50, 50, 60, 60, 2)]}, "study/rt3/a.dcm"))
    with pytest.raises(BadInput, match="has no region of interest with voxels"):
        open_volume(write_rtstruct(contours, "study/rt4/a.dcm", kind="POINT"))
    assert not ctseg.plugins.format_named("rtstruct").recognise(tmp_path / "study" / "ct")
    assert not ctseg.plugins.format_named("rtstruct").recognise(tmp_path / "nothing")


def test_damaged_structure_sets_are_refused(write_rtstruct, tmp_path):
    path = write_rtstruct({"Liver": [box(2.5, 1.5, 11.5, 8.5, 2)]})
    data = pydicom.dcmread(path)
    data.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    data.save_as(path)
    with pytest.raises(FileProblem, match="4 coordinates"):
        open_volume(path)
    data = pydicom.dcmread(write_rtstruct({"Liver": []}))
    del data.StructureSetROISequence
    data.save_as(path)
    with pytest.raises(FileProblem, match="StructureSetROISequence"):
        open_volume(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(FileProblem):
        open_volume(path)


def test_two_frames_of_reference_are_told_apart(write_rtstruct):
    path = write_rtstruct(
        {"CT": [box(2.5, 1.5, 11.5, 8.5, 2)], "MR": [box(2.5, 1.5, 11.5, 8.5, 4)]}
    )
    data = pydicom.dcmread(path)
    data.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"
    data.save_as(path)
    with pytest.raises(FileProblem, match=r"2 frames of reference(.|\n)*roi"):
        open_volume(path)
    assert ctseg.read(path, roi="CT").array.sum() == 63


def test_a_flipped_series_gives_the_same_place(write_rtstruct, geometry, tmp_path):
    """The grid may be that of any scan in the same space, here with its axes the other way round."""
    path = write_rtstruct({"Liver": [box(2.5, 1.5, 11.5, 8.5, z) for z in (1, 2)]})
    plain = ctseg.read(path)
    z, y, x = geometry.shape_zyx
    flipped = Geometry(
        geometry.shape_zyx,
        geometry.spacing_xyz,
        tuple(geometry.position((x - 1, y - 1, z - 1))),
        tuple(map(tuple, -geometry.matrix)),
    )
    ctseg.write(ctseg.Volume(plain.array, flipped), tmp_path / "flipped.nii.gz")
    again = ctseg.read(path, series=tmp_path / "flipped.nii.gz")
    np.testing.assert_array_equal(again.array[::-1, ::-1, ::-1], plain.array)


SQUARE = box(2.5, 1.5, 11.5, 8.5, 2)


@pytest.mark.parametrize(
    "again",
    [
        SQUARE,
        SQUARE[::-1],
        np.roll(SQUARE, 2, axis=0),
        np.concatenate([SQUARE, SQUARE[:1]]),
        np.add(SQUARE, (0.05, -0.1, 0.05)),
        np.concatenate([(a + np.linspace(0, 1, 5)[:-1, None] * (b - a))
                        for a, b in zip(SQUARE, np.roll(SQUARE, -1, 0), strict=True)]),
    ],
    ids=["same", "reversed", "other start", "closed", "a little aside", "more points"],
)  # fmt: skip
@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_contour_that_is_there_several_times_counts_once(write_rtstruct, again, times):
    read = ctseg.read(write_rtstruct({"Liver": [SQUARE, *[again] * (times - 1)]}))
    expected = np.zeros(read.array.shape, bool)
    expected[2, 2:9, 3:12] = True
    np.testing.assert_array_equal(read.array > 0, expected)
    (note,) = read.metadata["notes"]
    assert f"repeated contours count once: {times - 1} (" in note


def test_a_contour_that_runs_round_several_times_keeps_its_area(write_rtstruct):
    for rounds in ([SQUARE] * 2, [SQUARE] * 4, [SQUARE, SQUARE[:1]] * 2):
        array = ctseg.read(write_rtstruct({"Liver": [np.concatenate(rounds)]})).array
        assert array.sum() == 9 * 7


def test_only_xor_contours_cancel_and_a_note_says_so(write_rtstruct):
    twice = write_rtstruct({"Liver": [SQUARE, SQUARE]}, kind="CLOSEDPLANAR_XOR")
    read = ctseg.read(twice)
    assert not read.array.any()
    assert "contours that cancel others like them: 1" in read.metadata["notes"][0]
    crossing = [SQUARE, box(7.5, 4.5, 15.5, 12.5, 2)]
    xor = ctseg.read(write_rtstruct({"a": crossing}, kind="CLOSEDPLANAR_XOR"))
    joined = ctseg.read(write_rtstruct({"a": crossing}))
    one, two, both = 9 * 7, 8 * 8, 4 * 4
    assert xor.array.sum() == one + two - 2 * both and not xor.metadata["notes"]
    assert joined.array.sum() == one + two - both
    assert joined.metadata["notes"] == ["'a': contours that cross were joined; slices: 1"]


def test_holes_and_islands_stay_when_contours_are_there_twice(write_rtstruct):
    outer, hole, island = (
        box(1.5, 1.5, 13.5, 13.5, 2),
        box(3.5, 3.5, 11.5, 11.5, 2),
        box(5.5, 5.5, 8.5, 8.5, 2),
    )
    beside = box(14.5, 1.5, 18.5, 5.5, 2)
    expected = 12 * 12 - 8 * 8 + 3 * 3 + 4 * 4
    for contours in (
        [outer, hole, island, beside],
        [island, hole, beside, outer],
        [outer, hole, hole, island, outer, beside, island, hole],
    ):
        array = ctseg.read(write_rtstruct({"wall": contours})).array
        assert array.sum() == expected
        assert array[2, 2, 2] and not array[2, 4, 4] and array[2, 7, 7]


def test_nested_contours_equal_those_of_matplotlib(write_rtstruct):
    """Nested stars: inside an odd number of them, as by hand."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[:16, :20]
    centres = np.column_stack([x.ravel(), y.ravel()])
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 6.5 + generator.uniform(-0.6, 0.6, 40)
    stars = [
        np.column_stack([9.3 + r * np.cos(angle), 7.6 + r * np.sin(angle)])
        for r in (radius, radius * 0.7, radius * 0.35)
    ]
    count = sum(Outline(star).contains_points(centres).astype(int) for star in stars)
    array = ctseg.read(write_rtstruct({"a": [polygon(s, 2) for s in stars] * 2})).array
    np.testing.assert_array_equal(array[2], (count % 2).reshape(16, 20))
