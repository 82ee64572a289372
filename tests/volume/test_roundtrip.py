"""Every format gives back what was written, and SimpleITK reads the same grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ctseg.specs import Label
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.volume import Volume

WITH_GEOMETRY = (".nii.gz", ".nii", ".nrrd", ".mha", ".h5")
ALL = (*WITH_GEOMETRY, ".tif")
LABELS = (Label("liver", (1,), 1, (200, 10, 30)), Label("lesion", (2,), 2))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    number = st.floats(-1, 1, allow_nan=False)
    quaternion = np.array([draw(number) for _ in range(4)])
    if np.linalg.norm(quaternion) < 0.1:
        quaternion = np.array([0.0, 0.0, 0.0, 1.0])
    matrix = Rotation.from_quat(quaternion).as_matrix()
    if draw(st.booleans()):  # axes that are exchanged and nothing else
        matrix = np.eye(3)[:, draw(st.permutations([0, 1, 2]))]
    matrix[:, draw(st.integers(0, 2))] *= draw(st.sampled_from([1, -1]))
    size = st.integers(1, 5)
    return Geometry(
        (draw(size), draw(size), draw(size)),
        tuple(draw(st.floats(0.2, 9)) for _ in range(3)),
        tuple(draw(st.floats(-1500, 1500)) for _ in range(3)),
        tuple(tuple(row) for row in matrix),
        unit=draw(st.sampled_from(["mm", "um"])),
    )


@pytest.mark.parametrize("suffix", WITH_GEOMETRY)
@given(geometry=geometries())
@settings(max_examples=12, deadline=None)
def test_geometry_survives(
    geometry: Geometry, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("g") / f"scan{suffix}"
    array = np.arange(np.prod(geometry.shape_zyx)).reshape(geometry.shape_zyx).astype(np.int16)
    write(Volume(array, geometry), path)
    back = read(path)
    assert back.geometry.difference(geometry) is None
    np.testing.assert_array_equal(back.array, array)
    if suffix == ".h5":
        return
    image = sitk.ReadImage(str(path))  # the oracle
    z, y, x = geometry.shape_zyx
    corners = [(i, j, k) for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)]
    for corner in corners:
        there = np.array(image.TransformIndexToPhysicalPoint(corner))
        off = (there - geometry.position(corner)) @ geometry.matrix / geometry.spacing_xyz
        assert np.abs(off).max() < 1e-3
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_voxels_and_type_survive(
    tmp_path: Path, oblique: Volume, suffix: str, dtype: str, channels: int | None
) -> None:
    shape = oblique.array.shape if channels is None else (channels, *oblique.array.shape)
    array = (np.random.default_rng(1).random(shape) * 100).astype(dtype)
    path = tmp_path / f"a.b{suffix}"
    write(Volume(array, oblique.geometry), path)
    options = {"channels": "last"} if suffix.startswith(".nii") and channels == 3 else {}
    source = open_volume(path, **options)
    assert (source.dtype, source.channels) == (np.dtype(dtype), channels or 1)
    whole = source.read()
    assert whole.dtype == dtype
    assert whole.flags.writeable
    np.testing.assert_array_equal(whole, array if channels else array[None])
    np.testing.assert_array_equal(source.read((2, 5)), whole[:, 2:5])
    source.close()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ALL)
def test_labels_survive_and_are_smaller(tmp_path: Path, oblique: Volume, suffix: str) -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    label[10:20, 5:30, 5:30] = 1
    label[12:14, 8:12, 8:12] = 2
    volume = Volume.from_array(label, spacing_xyz=(1, 2, 3))
    write(volume, tmp_path / f"l{suffix}", labels=LABELS)
    np.testing.assert_array_equal(read(tmp_path / f"l{suffix}").array, label)
    if suffix != ".nii":
        assert (tmp_path / f"l{suffix}").stat().st_size < label.nbytes / 4


def test_slicer_segments(tmp_path: Path, oblique: Volume) -> None:
    write(
        Volume((oblique.array > 0).astype(np.uint8), oblique.geometry),
        tmp_path / "m.nrrd",
        labels=LABELS,
    )
    image = sitk.ReadImage(str(tmp_path / "m.nrrd"))
    assert image.GetMetaData("Segment0_Name") == "liver"
    assert image.GetMetaData("Segment1_LabelValue") == "2"
    colour = [float(v) for v in image.GetMetaData("Segment0_Color").split()]
    np.testing.assert_allclose(colour, np.array([200, 10, 30]) / 255, atol=1e-5)
    assert image.GetMetaData("Segment0_Extent") == "0 7 0 6 0 5"


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".h5", ".tif"])
def test_uncompressed_files_are_read_by_region(
    tmp_path: Path, oblique: Volume, suffix: str
) -> None:
    write(oblique, tmp_path / f"a{suffix}")
    with open_volume(tmp_path / f"a{suffix}") as source:
        assert source.by_region


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_compressed_files_are_not(tmp_path: Path, oblique: Volume, suffix: str) -> None:
    write(
        Volume((oblique.array > 0).astype(np.uint8), oblique.geometry),
        tmp_path / f"a{suffix}",
        labels=LABELS,
    )
    with open_volume(tmp_path / f"a{suffix}") as source:
        assert not source.by_region


@pytest.mark.parametrize("suffix", ALL)
def test_micrometres_stay_micrometres(tmp_path: Path, suffix: str) -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    write(
        Volume.from_array(array, spacing_xyz=(0.005, 0.005, 0.01), unit="um"),
        tmp_path / f"a{suffix}",
    )
    geometry = read(tmp_path / f"a{suffix}").geometry
    assert geometry.unit == "um"
    np.testing.assert_allclose(geometry.spacing_xyz, (0.005, 0.005, 0.01), rtol=1e-6)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path, oblique: Volume) -> None:
    for name in ("one.nii.gz", "two.nii.gz"):
        write(oblique, tmp_path / name)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
