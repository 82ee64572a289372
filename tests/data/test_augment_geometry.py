"""Where each transform takes voxels and values, against SciPy and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from ctseg.data.augment import rotation
from ctseg.data.augment.elastic import FOLD, basis, field, limits
from ctseg.data.augment.erasing import cut_out
from ctseg.data.augment.intensity import add_noise, gamma, scale_contrast
from ctseg.data.augment.low_resolution import low_resolution
from ctseg.data.augment.parameters import STAYS, AugmentParameters, quarter
from ctseg.data.augment.patch_transform import patch_transform, take
from ctseg.data.augment.smoothing import blur
from ctseg.data.augment.spatial import _linear, _linear_by_planes, move

WHOLE = (26, 30, 34)
PATCH = (12, 14, 17)
AT = (7, 8, 8)
NOTHING = AugmentParameters(
    None, STAYS, (), 0.0, 6, 0.0, 0.0, 1.0, 1.0, (1.0, 1.0, 1.0), 1.0, 1.0, 0.0, (), 3
)


def drawn(**changes) -> AugmentParameters:
    return AugmentParameters(**{**vars(NOTHING), **changes})


def smooth(seed=0, shape=WHOLE):
    noise = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(ndimage.gaussian_filter(noise, 2).astype(np.float32) * 20)[None]


def moved(d, image=None, target=None, spacing=(1.0, 1.0, 1.0)):
    """The patch at `AT` of a scan, and its target."""
    image = smooth() if image is None else image
    target = torch.zeros_like(image).short() if target is None else target
    path = patch_transform(d, PATCH, spacing)
    start = [a + s for a, s in zip(AT, path.start, strict=True)]
    out = torch.empty(len(image), *PATCH), torch.empty(len(target), *PATCH, dtype=target.dtype)
    move(
        path, PATCH,
        linear=[(take(image, start, path.size, None), out[0])],
        nearest=[(take(target, start, path.size, -1), out[1])],
    )  # fmt: skip
    return out


def middle():
    return np.asarray(AT) + (np.asarray(PATCH) - 1) / 2


def by_scipy(volume, matrix, order):
    """The same patch by `ndimage.affine_transform`."""
    half = (np.asarray(PATCH) - 1) / 2
    return ndimage.affine_transform(
        volume, matrix, middle() - matrix @ half, PATCH, order=order, mode="mirror" if order else "constant",
        cval=-1,
    )  # fmt: skip


@pytest.mark.parametrize("angles", [(0.3, 0, 0), (0, -0.4, 0), (0, 0, 0.25), (0.4, 0.2, -0.3)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.2)])
def test_rotation_and_zoom_agree_with_scipy(angles, spacing):
    image = smooth()
    affine = rotation(angles) / 1.1713
    target = (image * 10).round().short()
    got, marks = moved(drawn(affine=affine), image, target, spacing)
    mm = np.diag(spacing)
    matrix = np.linalg.inv(mm) @ affine @ mm
    np.testing.assert_allclose(got[0], by_scipy(image[0].numpy(), matrix, 1), atol=5e-3)
    expected = by_scipy(target[0].numpy(), matrix, 0)
    assert (marks[0].numpy() == expected).mean() > 0.999  # ties between two voxels


def test_one_plain_rotation_turns_as_scipy_does():
    """In the plane, about the patch's centre, by an angle in degrees with SciPy's own sign."""
    image = smooth(shape=(12, 31, 31))
    patch, at = (12, 15, 15), (0, 8, 8)
    path = patch_transform(drawn(affine=rotation((np.radians(20), 0, 0))), patch)
    out = torch.empty(1, *patch)
    start = [a + s for a, s in zip(at, path.start, strict=True)]
    move(path, patch, linear=[(take(image, start, path.size, None), out)])
    turned = ndimage.rotate(image[0].numpy(), -20, axes=(2, 1), reshape=False, order=1)
    np.testing.assert_allclose(out[0], turned[:, 8:23, 8:23], atol=5e-3)


def test_the_sampler_of_accelerators_agrees_with_that_of_the_cpu():
    image = smooth()
    g = torch.Generator().manual_seed(0)
    z, y, x = (torch.rand((4, 5, 6), generator=g) * (n - 1.01) for n in WHOLE)
    one, two = torch.empty(4, 5, 6), torch.empty(4, 5, 6)
    _linear([(image[0], one)], z, y, x, WHOLE)
    _linear_by_planes([(image[0], two)], z.clone(), y.clone(), x.clone(), WHOLE)
    torch.testing.assert_close(one, two, atol=3e-3, rtol=0)
    expected = ndimage.map_coordinates(image[0].numpy(), [z, y, x], order=1)
    np.testing.assert_allclose(one, expected, atol=1e-3)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quarter_turns_are_exact(axis, times):
    """Patches that are no cubes too: the box is as long as the turned patch is."""
    planes = tuple(a for a in range(3) if a != axis)
    image = torch.randn(2, *WHOLE)
    target = torch.randint(-1, 5, (1, *WHOLE)).short()
    d = drawn(turn=quarter(axis, times))
    got, marks = moved(d, image, target)
    path = patch_transform(d, PATCH)
    box = tuple(slice(a + s, a + s + n) for a, s, n in zip(AT, path.start, path.size, strict=True))
    for out, source in ((got, image), (marks, target)):
        for channel, from_channel in zip(out.numpy(), source.numpy(), strict=True):
            np.testing.assert_array_equal(channel, np.rot90(from_channel[box], times, planes))


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_mirroring_is_exact(axes):
    image = torch.randn(1, *WHOLE)
    got, _ = moved(drawn(mirror=axes), image)
    z, y, x = AT
    patch = image[0, z : z + PATCH[0], y : y + PATCH[1], x : x + PATCH[2]].numpy()
    np.testing.assert_array_equal(got[0], np.flip(patch, axes))


def test_turns_and_mirrors_join_a_rotation():
    """A turned and mirrored patch of a rotation is the rotation, then turned and mirrored."""
    d = drawn(affine=rotation((0.3, 0.1, -0.2)))
    plain, _ = moved(d)
    mirrored, _ = moved(drawn(affine=d.affine, mirror=(1,), turn=quarter(0, 2)))
    expected = np.flip(np.rot90(plain[0].numpy(), 2, (1, 2)), 1)
    np.testing.assert_allclose(mirrored[0], expected, atol=5e-3)


def test_rotations_turn_millimetres():
    """In an anisotropic scan a ball in mm stays a ball in mm."""
    spacing = np.array([3.0, 1.0, 1.0])
    shape = (15, 45, 45)
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    ball = torch.from_numpy(((z * 3) ** 2 + y**2 + x**2 < 15**2).astype(np.float32))[None]
    path = patch_transform(drawn(affine=rotation([0.3, 0.7, -0.5])), shape, spacing)
    out = torch.empty_like(ball)
    move(path, shape, linear=[(take(ball, path.start, path.size, 0.0), out)])
    dice = 2 * ((out > 0.5) & (ball > 0.5)).sum() / ((out > 0.5).sum() + (ball > 0.5).sum())
    assert dice > 0.95


def test_a_box_is_never_too_small():
    rng = np.random.default_rng(0)
    for seed in range(30):
        affine = rotation(rng.uniform(-3.2, 3.2, 3)) / rng.uniform(0.5, 1.5)
        d = drawn(affine=affine, elastic_mm=3.0, seed=seed, mirror=(int(rng.integers(3)),))
        spacing = tuple(rng.uniform(0.5, 3, 3))
        path = patch_transform(d, PATCH, spacing)
        marks = torch.empty(1, *PATCH)
        move(path, PATCH, linear=[(torch.ones(1, *path.size), marks)])
        torch.testing.assert_close(marks, torch.ones_like(marks))
        from ctseg.data.augment.spatial import positions

        for _, _, *where in positions(path, PATCH, 99, torch.device("cpu")):
            for place, size in zip(where, path.size, strict=True):
                assert place.min() >= 0
                assert place.max() < size - 1


# ---------------------------------------------------------------- bending


def test_the_spline_is_scipys():
    from scipy.interpolate import BSpline

    spline = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
    weights = basis(20, 3.7)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    position = (np.arange(20) - 9.5) / 3.7
    knots = np.arange(np.floor(position[0]) - 1, np.floor(position[-1]) + 3)
    expected = np.nan_to_num(spline(position[:, None] - knots[None, :]))
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_bending_agrees_with_scipy_and_does_not_fold():
    spacing = np.array([2.0, 1.0, 1.0])
    largest, control = limits(50.0, 4, PATCH, spacing, False)
    bent = field(largest, control, PATCH, 3).numpy()
    sides = np.asarray(PATCH) * spacing
    assert max(np.asarray(largest) * spacing) == pytest.approx(FOLD * sides.max() / 4)
    assert all(np.abs(bent[a]).max() <= largest[a] for a in range(3))
    gradient = np.stack([np.stack(np.gradient(bent[a])) for a in range(3)]) + np.eye(3).reshape(
        3, 3, 1, 1, 1
    )
    assert np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1))).min() > 0
    image = smooth()
    got, _ = moved(drawn(elastic_mm=50.0, elastic_points=4), image, spacing=spacing)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in PATCH), indexing="ij"))
    where = grid + np.reshape(AT, (3, 1, 1, 1)) + bent
    expected = ndimage.map_coordinates(image[0].numpy(), where, order=1, mode="mirror")
    np.testing.assert_allclose(got[0], expected, atol=5e-3)
    assert np.abs(expected - image[0].numpy()[7:19, 8:22, 8:25]).max() > 0.1


def test_bending_in_the_plane_leaves_z():
    largest, _ = limits(3.0, 4, PATCH, np.ones(3), True)
    assert largest[0] == 0 and largest[1] > 0


# ---------------------------------------------------------------- boxes beyond the scan


@pytest.mark.parametrize("start", [(0, 0, 0), (-3, 2, -1), (5, 6, 7), (-2, -2, -2)])
def test_boxes_reflect_like_numpy(start):
    box = torch.randn(2, 8, 9, 10)
    got = take(box, start, (6, 6, 6), None)
    padded = np.pad(box.numpy(), [(0, 0), (9, 9), (9, 9), (9, 9)], mode="reflect")
    z, y, x = (s + 9 for s in start)
    np.testing.assert_array_equal(got, padded[:, z : z + 6, y : y + 6, x : x + 6])
    marked = take(box, start, (6, 6, 6), -7.0)
    padded = np.pad(box.numpy(), [(0, 0), (9, 9), (9, 9), (9, 9)], constant_values=-7)
    np.testing.assert_array_equal(marked, padded[:, z : z + 6, y : y + 6, x : x + 6])


def test_a_box_that_misses_the_scan():
    box = torch.ones(1, 4, 1, 4)
    assert (take(box, (9, 9, -9), (2, 2, 2), -1.0) == -1).all()
    assert (take(box, (9, 9, -9), (2, 2, 2), None) == 1).all()


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0])
def test_blur_agrees_with_scipy(sigma):
    image = torch.randn(2, *PATCH)
    options = {"mode": "nearest", "truncate": np.ceil(3 * sigma) / sigma}
    for got, channel in zip(blur(image, sigma), image, strict=True):
        expected = ndimage.gaussian_filter(channel.numpy(), sigma, **options)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_blur_of_a_single_slice():
    image = torch.randn(1, 1, 9, 9)
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), 1, mode="nearest", truncate=3)
    np.testing.assert_allclose(blur(image, 1.0)[0, 0], expected, atol=1e-5)


def test_low_resolution_agrees_with_scipy():
    """Every second voxel, and back with SciPy's linear zoom of areas."""
    image = torch.randn(2, 12, 14, 16)
    got = low_resolution(image, (0.5, 0.5, 0.5))
    for one, channel in zip(got, image, strict=True):
        coarse = channel.numpy()[1::2, 1::2, 1::2]
        expected = ndimage.zoom(coarse, 2, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(one, expected, atol=1e-5)
    uneven = low_resolution(image, (1.0, 0.7, 0.9))
    small = torch.nn.functional.interpolate(image[None], (12, 10, 14), mode="nearest-exact")
    back = torch.nn.functional.interpolate(small, (12, 14, 16), mode="trilinear")[0]
    torch.testing.assert_close(uneven, back)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_by_its_definition(exponent, inverted):
    image = torch.randn(2, *PATCH) * 3 + 1
    out = image.clone()
    gamma(out, exponent, inverted=inverted)
    for got, channel in zip(out.numpy(), image.double().numpy(), strict=True):
        x = -channel if inverted else channel
        raised = ((x - x.min()) / (x.max() - x.min())) ** exponent
        expected = (raised - raised.mean()) / raised.std() * x.std() + x.mean()
        np.testing.assert_allclose(got, -expected if inverted else expected, atol=2e-4)


def test_gamma_of_an_even_image_is_finite():
    out = torch.full((1, 4, 4, 4), 7.0)
    gamma(out, 0.7)
    torch.testing.assert_close(out, torch.full((1, 4, 4, 4), 7.0))


def test_contrast_keeps_mean_and_range():
    image = torch.rand(2, *PATCH)
    out = image.clone()
    scale_contrast(out, 0.8)
    means = image.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(out, (image - means) * 0.8 + means)
    scale_contrast(out := image.clone(), 1.25)
    assert (out.amax((1, 2, 3)) == image.amax((1, 2, 3))).all()


def test_noise_is_normal():
    out = torch.zeros(1, 40, 40, 40)
    add_noise(out, 0.3, 5)
    sample = out.flatten().numpy()[::7] / 0.3
    assert stats.kstest(sample, "norm").pvalue > 1e-4


def test_cut_out_fills_boxes_with_the_mean():
    image = torch.randn(2, 10, 10, 10)
    out = image.clone()
    cut_out(out, [((0.5, 0.5, 0.5), (0.4, 0.2, 0.6)), ((0.0, 1.0, 0.0), (0.2, 0.2, 0.2))])
    box = np.zeros((10, 10, 10), bool)
    box[3:7, 4:6, 2:8] = True
    box[0:1, 9:10, 0:1] = True
    for got, channel in zip(out.numpy(), image.numpy(), strict=True):
        np.testing.assert_array_equal(got[~box], channel[~box])
        np.testing.assert_allclose(got[box], channel.mean(), atol=1e-6)
