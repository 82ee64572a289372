"""Preparation against TorchIO, SimpleITK, MONAI, nnU-Net and pytorch-3dunet, on the same arrays."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctseg.data.pipeline import Pipeline
from ctseg.data.sampling import Rule, draw
from ctseg.data.steps import (
    Clip,
    Crop,
    CropOrPad,
    Normalise,
    NormaliseCase,
    Orient,
    PadToMultiple,
    Resample,
    Rescale,
    RescaleCase,
    Transpose,
)
from ctseg.volume.geometry import Geometry

pytestmark = pytest.mark.filterwarnings("ignore")


def peer(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def grid_of(seed: int, shape=(7, 9, 11), *, turned: bool = True) -> Geometry:
    rng = np.random.default_rng(seed)
    matrix = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    if turned:
        turn = Rotation.from_euler("zyx", rng.uniform(-12, 12, 3), degrees=True).as_matrix()
        matrix = turn @ matrix
    return Geometry(shape, tuple(rng.uniform(0.5, 3, 3)), tuple(rng.uniform(-90, 90, 3)), matrix)


def scan_of(grid: Geometry, seed: int = 0, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(40, 300, (channels, *grid.shape_zyx)).astype(np.float32)


def as_sitk(array_zyx: np.ndarray, grid: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(grid.matrix.ravel().tolist())
    return image


def as_torchio(array_czyx: np.ndarray, grid: Geometry) -> Any:
    """TorchIO holds C, X, Y, Z and an affine in RAS."""
    torchio, torch = peer("torchio"), peer("torch")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    tensor = torch.from_numpy(np.ascontiguousarray(array_czyx.transpose(0, 3, 2, 1)))
    return torchio.ScalarImage(tensor=tensor, affine=affine)


def from_torchio(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """The array [C, Z, Y, X] and its affine in LPS."""
    return image.numpy().transpose(0, 3, 2, 1), np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine


# ---------------------------------------------------------------- orientation, crop or pad


@pytest.mark.parametrize("to", ["LPS", "RAS", "SAL"])
@pytest.mark.parametrize("seed", range(4))
def test_orientation_is_torchios(seed, to):
    torchio = peer("torchio")
    grid = grid_of(seed)
    scan = scan_of(grid)
    expected, affine = from_torchio(torchio.ToOrientation(to)(as_torchio(scan, grid)))
    step = Orient(to)
    np.testing.assert_array_equal(step.image(scan, grid, {}), expected)
    np.testing.assert_allclose(step.grid(grid, {}).affine, affine, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 9, 11), (3, 4, 6), (10, 14, 20), (4, 16, 11), (12, 5, 8)])
def test_crop_or_pad_is_torchios(shape):
    torchio = peer("torchio")
    grid = grid_of(3)
    scan = scan_of(grid)
    z, y, x = shape
    transform = torchio.CropOrPad((x, y, z), padding_mode=-7)
    expected, affine = from_torchio(transform(as_torchio(scan, grid)))
    step = CropOrPad(shape, value=(-7.0,))
    np.testing.assert_array_equal(step.image(scan, grid, {}), expected)
    np.testing.assert_allclose(step.grid(grid, {}).affine, affine, atol=1e-5)


# ---------------------------------------------------------------- resampling


@pytest.mark.parametrize("align", ["extent", "first"])
@pytest.mark.parametrize(("order", "kind"), [(0, sitk.sitkNearestNeighbor), (1, sitk.sitkLinear)])
@pytest.mark.parametrize("seed", range(4))
def test_resampling_is_simpleitks(seed, order, kind, align):
    """Nearest and linear are the same on the grid that the step states, where SimpleITK has voxels to look at."""
    grid = grid_of(seed, (9, 12, 15))
    scan = scan_of(grid)
    step = Resample((1.1, 0.73, 1.9), order=order, coarse_order=order, align=align)
    after = step.grid(grid, {})
    like = as_sitk(np.zeros(after.shape_zyx, np.float32), after)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(as_sitk(scan[0], grid), like, sitk.Transform(), kind, -5000.0)
    )
    got = step.image(scan, grid, {})[0]
    inside = expected > -5000
    if order == 0:  # half-way between two voxels rounding decides
        for axis, at in enumerate(step.positions(grid)):
            clear = np.abs(at % 1 - 0.5) > 1e-6
            inside &= clear.reshape([-1 if a == axis else 1 for a in range(3)])
    assert inside.mean() > 0.5
    np.testing.assert_allclose(got[inside], expected[inside], atol=0.05)


def test_cubic_resampling_is_a_spline_as_simpleitks_away_from_the_border():
    """The kernel `spline` equals SimpleITK's B-spline, whose borders are mirrored; `keys` differs by design."""
    grid = Geometry((40, 42, 44), (1.0, 1.0, 1.0))
    scan = scan_of(grid)
    step = Resample((0.8, 1.3, 0.7), order=3, coarse_order=3, kernel="spline")
    after = step.grid(grid, {})
    like = as_sitk(np.zeros(after.shape_zyx, np.float32), after)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(as_sitk(scan[0], grid), like, sitk.Transform(), sitk.sitkBSpline, 0.0)
    )
    inner = tuple(slice(n // 4, -n // 4) for n in after.shape_zyx)
    got = step.image(scan, grid, {})[0]
    np.testing.assert_allclose(got[inner], expected[inner], atol=0.5)  # of a deviation of 300
    keys = Resample((0.8, 1.3, 0.7), order=3, coarse_order=3).image(scan, grid, {})[0]
    assert np.abs(keys[inner] - expected[inner]).max() > 20
    assert np.corrcoef(keys[inner].ravel(), expected[inner].ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1.0, 1.0, 1.0), (0.8, 1.3, 0.7)),
        ((5.0, 0.8, 0.8), (2.5, 1.0, 1.0)),
        ((1, 1, 1), (4.0, 1, 1)),
    ],
)
def test_resampling_is_nnunets(old, new):
    """Scans in order 3, the coarse axis apart and nearest; scikit-image clips what overshoots the scan's range."""
    module = peer("nnunetv2.preprocessing.resampling.default_resampling")
    grid = Geometry((14, 22, 24), old[::-1])
    scan = scan_of(grid)
    expected = module.resample_data_or_seg_to_spacing(
        scan, old, new, is_seg=False, order=3, order_z=0, force_separate_z=None
    )
    step = Resample(new[::-1], order=3, coarse_order=0, kernel="spline")
    got = step.image(scan, grid, {})
    assert got.shape == expected.shape
    np.testing.assert_allclose(np.clip(got, scan.min(), scan.max()), expected, atol=0.5)
    label = np.zeros((1, *grid.shape_zyx), np.int16)
    label[0, 3:9, 4:15, 5:20] = 1
    label[0, 6:12, 8:18, 9:16] = 2
    expected = module.resample_data_or_seg_to_spacing(
        label, old, new, is_seg=True, order=1, order_z=0, force_separate_z=None
    )
    same = step.label(label, grid, {}) == expected
    assert same.mean() > 0.99  # theirs asks for a share of one half, ours for the largest


@pytest.mark.parametrize("spacing", [(1.5, 0.85, 2.0), (0.6, 1.0, 1.2)])
def test_resampling_is_monais(spacing):
    """MONAI's Spacing keeps the centre of the first voxel: `align = "first"`."""
    monai, torch = peer("monai.transforms"), peer("torch")
    from monai.data import MetaTensor

    grid = Geometry((9, 12, 15), (1.0, 1.2, 1.5))
    scan = scan_of(grid)
    affine = np.diag([*grid.spacing_zyx, 1.0])
    image = MetaTensor(torch.from_numpy(scan), affine=torch.from_numpy(affine))
    transform = monai.Spacing(pixdim=spacing[::-1], mode="bilinear", padding_mode="border")
    expected = transform(image).numpy()
    step = Resample(spacing, order=1, coarse_order=1, align="first")
    assert step.grid(grid, {}).shape_zyx == expected.shape[1:]
    np.testing.assert_allclose(step.image(scan, grid, {}), expected, atol=0.1)


# ---------------------------------------------------------------- crops and pads


def test_crops_and_pads_are_monais():
    monai = peer("monai.transforms")
    grid = Geometry((9, 12, 15))
    scan = np.zeros((1, *grid.shape_zyx), np.float32)
    scan[0, 3:6, 4:9, 6:13] = 5
    step = Crop(margin_zyx=(2, 2, 2))
    record = step.fit(scan, grid)
    cropped = step.image(scan, grid, record)
    np.testing.assert_array_equal(cropped, monai.CropForeground(margin=2)(scan).numpy())
    padded = monai.SpatialPad((12, 13, 15), value=-3)(scan).numpy()
    ours = CropOrPad((12, 13, 15), value=(-3.0,), crop=False, larger="back")
    np.testing.assert_array_equal(ours.image(scan, grid, {}), padded)
    divisible = PadToMultiple((8, 8, 8)).image(scan, grid, {})
    np.testing.assert_array_equal(divisible, monai.DivisiblePad(8)(scan).numpy())


def test_crop_and_masked_normalisation_are_nnunets():
    cropping = peer("nnunetv2.preprocessing.cropping.cropping")
    schemes = peer("nnunetv2.preprocessing.normalization.default_normalization_schemes")
    grid = Geometry((12, 14, 16))
    scan = np.zeros((2, *grid.shape_zyx), np.float32)
    scan[:, 2:9, 3:12, 4:15] = scan_of(Geometry((7, 9, 11)), channels=2)
    scan[0, 4:6, 5:8, 6:9] = 0  # a hole of both channels, and one of the first
    scan[1, 5:6, 6:7, 7:8] = 0
    data, outside, _ = cropping.crop_to_nonzero(scan)
    steps = [Crop(nonzero=True), NormaliseCase(nonzero=True, filled=True)]
    got, _ = Pipeline(steps).image(scan, grid)
    scheme = schemes.ZScoreNormalization(use_mask_for_norm=True, intensityproperties={})
    expected = np.stack([scheme.run(channel.copy(), outside[0]) for channel in data])
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-4)


# ---------------------------------------------------------------- values


def test_values_are_nnunets():
    schemes = peer("nnunetv2.preprocessing.normalization.default_normalization_schemes")
    grid = Geometry((6, 7, 8))
    scan = scan_of(grid)
    numbers = {"mean": 55.0, "std": 170.0, "percentile_00_5": -200.0, "percentile_99_5": 410.0}
    expected = schemes.CTNormalization(False, numbers).run(scan[0].copy())
    got, _ = Pipeline([Clip((-200.0,), (410.0,)), Normalise((55.0,), (170.0,))]).image(scan, grid)
    np.testing.assert_allclose(got[0], expected, atol=1e-5)
    expected = schemes.ZScoreNormalization(False, {}).run(scan[0].copy())
    np.testing.assert_allclose(
        Pipeline([NormaliseCase()]).image(scan, grid)[0][0], expected, atol=1e-4
    )
    expected = schemes.RescaleTo01Normalization(False, {}).run(scan[0].copy())
    got, _ = Pipeline([RescaleCase(to_low=0)]).image(scan, grid)
    np.testing.assert_allclose(got[0], expected, atol=1e-5)


def test_values_are_monais():
    monai = peer("monai.transforms")
    grid = Geometry((6, 7, 8))
    scan = scan_of(grid, channels=2)
    scan[:, :2] = 0

    def same(step, transform):
        got, _ = Pipeline([step]).image(scan, grid)
        np.testing.assert_allclose(got, transform(scan.copy()).numpy(), atol=1e-4)

    same(Rescale(-57, 164, 0, 1), monai.ScaleIntensityRange(-57, 164, 0, 1, clip=True))
    same(Rescale(-57, 164, -1, 1, clip=False), monai.ScaleIntensityRange(-57, 164, -1, 1))
    same(NormaliseCase(nonzero=True), monai.NormalizeIntensity(nonzero=True, channel_wise=True))
    percentiles = monai.ScaleIntensityRangePercentiles(5, 95, 0, 1, clip=True, channel_wise=True)
    same(RescaleCase((5, 95), 0, 1), percentiles)


def test_values_are_pytorch_3dunets():
    transforms = peer("pytorch3dunet.augment.transforms")
    grid = Geometry((6, 7, 8))
    scan = scan_of(grid, channels=2)

    def same(step, transform):
        got, _ = Pipeline([step]).image(scan, grid)
        np.testing.assert_allclose(got, transform(scan.copy()), atol=1e-4)

    same(NormaliseCase(joint=True), transforms.Standardize())
    same(NormaliseCase(), transforms.Standardize(channelwise=True))
    same(Normalise((3.0,), (7.0,)), transforms.Standardize(mean=3.0, std=7.0))
    same(Rescale(-100, 300, -1, 1), transforms.Normalize(-100, 300))
    same(RescaleCase(joint=True, to_low=0), transforms.Normalize(norm01=True))
    same(RescaleCase((1, 99.6), 0, 1, clip=False, joint=True), transforms.PercentileNormalizer())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_transposing_is_numpys(undo, order):
    grid = grid_of(1)
    scan = scan_of(grid)
    step = Transpose(order)
    moved = step.image(scan, grid, {})
    np.testing.assert_array_equal(moved, scan.transpose(0, *(1 + a for a in order)))
    back = undo(step, moved, grid, {}, np.zeros(1))
    np.testing.assert_array_equal(back, scan)
    index = np.array([2, 1, 3])  # x, y, z in the new array
    old = np.empty(3, int)
    for new_axis, old_axis in enumerate(order):
        old[2 - old_axis] = index[2 - new_axis]
    np.testing.assert_allclose(step.grid(grid, {}).position(index), grid.position(old))


# ---------------------------------------------------------------- sampling


def test_the_foreground_filter_is_pytorch_3dunets():
    """The same patches pass: those with more than the threshold of labelled voxels."""
    utils, h5py = peer("pytorch3dunet.datasets.utils"), peer("h5py")
    from ctseg.data.patch_centres import patch_centres
    from ctseg.data.pipeline import AppliedPipeline
    from ctseg.data.prepared_case import Prepared
    from ctseg.task import classes_task

    label = np.zeros((24, 72, 72), np.int16)
    label[6:20, 4:66, 4:60] = 1
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        raw, stored = file.create_dataset("raw", data=label), file.create_dataset("l", data=label)
        builder = utils.FilterSliceBuilder(
            raw, stored, (8, 64, 64), (1, 1, 1), threshold=0.6, slack_acceptance=0.0
        )
    allowed = {tuple(part.start for part in index) for index in builder.label_slices}
    task = classes_task({"a": 1})
    grid = Geometry(label.shape)
    target = label[None]
    case = Prepared(
        "a",
        target.astype(np.float32),
        target,
        patch_centres(task, target),
        AppliedPipeline((), grid, grid),
    )
    rule, rng = Rule(foreground=0.3, min_foreground=0.6), np.random.default_rng(0)
    drawn = {draw([case], (8, 64, 64), rule, rng).start_zyx for _ in range(200)}
    assert drawn <= allowed
    assert len(drawn) > 100
    assert len(allowed) < 17 * 9 * 9
