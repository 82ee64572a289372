"""Channels with grids of their own, such as PET beside CT, held against SimpleITK's resampling."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctseg.data.stream import OnDisk
from ctseg.errors import GeometryMismatch
from ctseg.specs import ImageRef
from ctseg.volume.channel_grids import share_covered
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import notes_of, open_ref, read_images, write
from ctseg.volume.volume import Volume

TURN = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))
CT = Geometry((24, 40, 36), (1.0, 1.0, 3.0), (-20.0, 10.0, 5.0), TURN)


def smooth(geometry: Geometry, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(rng.normal(0, 100, geometry.shape_zyx).astype(np.float32))
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, 1.5))


def pair(folder: Path, pet: Geometry, suffix: str = ".nii.gz") -> tuple[ImageRef, ImageRef]:
    write(Volume(smooth(CT, 0), CT), folder / f"ct{suffix}")
    write(Volume(smooth(pet, 1), pet), folder / f"pet{suffix}")
    ct = ImageRef(folder / f"ct{suffix}")
    return ct, ImageRef(folder / f"pet{suffix}", onto=ct)


def around(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> Geometry:
    """A coarser grid that covers all of the CT's, turned the other way."""
    middle = np.asarray(CT.position((17.5, 19.5, 11.5)))
    half = (np.asarray(shape[::-1]) - 1) / 2 * spacing
    return Geometry(shape, spacing, tuple(middle - half))


def resampled(ct: Path, pet: Path) -> np.ndarray:
    moving = sitk.ReadImage(str(pet))
    return sitk.GetArrayFromImage(
        sitk.Resample(moving, sitk.ReadImage(str(ct)), sitk.Transform(), sitk.sitkLinear, -1e9)
    )


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_it_is_what_simpleitk_makes_of_it(tmp_path: Path, suffix: str) -> None:
    refs = pair(tmp_path, around((4.1, 3.7, 5.0), (22, 20, 18)), suffix)
    both = read_images(refs)
    assert both.geometry.agrees(CT)
    expected = resampled(refs[0].path, refs[1].path)
    assert expected.min() > -1e8, "all of it is covered"
    np.testing.assert_allclose(both.array[1], expected, atol=1e-3)
    disk = OnDisk(refs)
    streamed = disk.box(((5, 9), (3, 30), (0, 36)))
    np.testing.assert_array_equal(streamed, both.array[:, 5:9, 3:30])
    assert disk.reference.path == refs[0].path
    assert "has a grid of its own (4.1 x 3.7 x 5 mm)" in disk.notes[0]
    disk.close()


def test_the_grid_of_a_named_channel(tmp_path: Path) -> None:
    pet = around((4.1, 3.7, 5.0), (22, 20, 18))
    ct, other = pair(tmp_path, pet)
    turned = replace(ct, onto=replace(other, onto=None)), replace(other, onto=None)
    with pytest.raises(GeometryMismatch, match="covers"):
        read_images(turned)  # the CT covers a part of the PET only
    close = around((2.1, 2.2, 4.0), (17, 19, 16))
    write(Volume(smooth(close, 1), close), other.path)
    disk = OnDisk(turned)
    assert disk.geometry.agrees(close) and disk.reference.path == other.path
    disk.close()


def test_slices_are_those_of_the_grid(tmp_path: Path) -> None:
    refs = pair(tmp_path, around((4.1, 3.7, 5.0), (22, 20, 18)))
    whole = read_images(refs)
    part = read_images([replace(ref, slices=(6, 15)) for ref in refs])
    np.testing.assert_array_equal(part.array, whole.array[:, 6:15])


def test_the_nearest_value_is_repeated_beyond_the_edge(tmp_path: Path) -> None:
    shorter = around((4.0, 4.0, 3.0), (18, 14, 14))
    _, pet = pair(tmp_path, shorter)
    write(Volume(np.full(shorter.shape_zyx, 7.25, np.float32), shorter), pet.path)
    with contextlib.closing(open_ref(pet)) as source:
        assert (source.read() == 7.25).all()
        (note,) = notes_of([source])
    assert "of which it covers" in note and "nearest value is repeated" in note


def test_the_same_grid_is_read_as_it_lies(tmp_path: Path) -> None:
    refs = pair(tmp_path, CT)
    both = read_images(refs)
    np.testing.assert_array_equal(both.array[1], smooth(CT, 1))


@pytest.mark.parametrize(
    ("geometry", "word"),
    [
        (around((4, 4, 5), (22, 20, 18)), ""),
        (replace(around((4, 4, 5), (22, 20, 18)), origin_xyz=(400.0, 0.0, 0.0)), "covers 0%"),
        (replace(CT, origin_xyz=(-19.6, 10.0, 5.0)), "origin"),
        (Geometry((60, 60, 60)), "shape"),
    ],
    ids=["fits", "elsewhere", "rounded header", "no header"],
)
def test_what_cannot_be_the_same_patient_is_refused(
    tmp_path: Path, geometry: Geometry, word: str
) -> None:
    refs = pair(tmp_path, geometry)
    if not word:
        read_images(refs)
        return
    with pytest.raises(GeometryMismatch, match=word):
        read_images(refs)


def test_the_share_covered_is_that_of_the_voxels() -> None:
    one = Geometry((17, 17, 17), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    half = replace(one, origin_xyz=(-17.0, 0.0, 0.0))
    assert share_covered(one, one) == 1
    assert share_covered(half, one) == pytest.approx(9 / 17)
    assert share_covered(replace(one, origin_xyz=(0.0, 90.0, 0.0)), one) == 0


def test_an_unpacked_channel_keeps_the_spacing_that_an_option_gave(tmp_path: Path) -> None:
    """What a compressed file is unpacked to lies where its header says, which the option corrects."""
    wrong = replace(around((4.1, 3.7, 5.0), (22, 20, 18)), spacing_xyz=(1.0, 1.0, 1.0))
    ct, pet = pair(tmp_path, wrong)
    refs = ct, replace(pet, options={"spacing": "4.1 3.7 5.0"})
    both = read_images(refs)
    assert both.array[1].std() > 1
    with contextlib.closing(OnDisk(refs)) as disk:
        streamed = disk.box(((0, 24), (0, 40), (0, 36)))
    np.testing.assert_array_equal(streamed, both.array)
