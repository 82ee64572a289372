"""Surfaces: closed, of the volume of the mask, in the scan's coordinates, as trimesh measures them."""

from __future__ import annotations

import numpy as np
import pytest

from ctseg.errors import BadInput
from ctseg.report import extras
from ctseg.report.surface import Surface, surface_of, surfaces_of
from ctseg.volume.geometry import Geometry

trimesh = pytest.importorskip("trimesh")
ANGLE = np.deg2rad(20)
TURN = (
    (float(np.cos(ANGLE)), float(-np.sin(ANGLE)), 0.0),
    (float(np.sin(ANGLE)), float(np.cos(ANGLE)), 0.0),
    (0.0, 0.0, -1.0),  # left-handed: triangles must be turned round
)


def geometry(mask: np.ndarray) -> Geometry:
    return Geometry(mask.shape, (0.7, 0.8, 3.0), (-10.0, 20.0, 5.0), TURN)


def mesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.points_xyz, surface.triangles, process=False)


def ellipsoid() -> np.ndarray:
    z, y, x = np.mgrid[:16, :40, :50]
    return ((z - 8) / 6) ** 2 + ((y - 20) / 15) ** 2 + ((x - 26) / 20) ** 2 <= 1


def several_parts() -> np.ndarray:
    """A block with a hollow, one that the array's border cuts, single voxels, two that touch at an edge."""
    mask = np.zeros((20, 20, 20), bool)
    mask[3:10, 3:10, 3:10] = True
    mask[5:7, 5:7, 5] = False
    mask[0:2, 12:18, 12:18] = True
    mask[15, 15, 15] = mask[15, 5, 5] = mask[16, 6, 5] = True
    return mask


@pytest.mark.parametrize(
    "mask",
    [ellipsoid(), several_parts(), np.random.default_rng(0).random((12, 13, 14)) < 0.3],
    ids=["ellipsoid", "several parts", "noise"],
)
def test_a_surface_is_closed_and_keeps_the_volume(mask: np.ndarray) -> None:
    grid = geometry(mask)
    surface = surface_of(mask, grid, "mesh")
    assert surface is not None
    found = mesh(surface)
    assert found.is_watertight and found.is_winding_consistent
    volume = mask.sum() * grid.voxel_volume_mm3
    assert found.volume == pytest.approx(volume, rel=1e-3)  # positive: normals point outwards
    assert surface.volume_mm3 == pytest.approx(found.volume, rel=1e-6)


def test_a_surface_lies_where_the_mask_lies() -> None:
    mask = ellipsoid()
    grid = geometry(mask)
    surface = surface_of(mask, grid, "mesh")
    assert surface is not None
    voxels = np.asarray(grid.position(np.argwhere(mask)[:, ::-1]))
    np.testing.assert_allclose(mesh(surface).center_mass, voxels.mean(axis=0), atol=0.02)
    for points, sign in ((surface.points_xyz, 1), (-surface.points_xyz, -1)):
        reach = points.max(axis=0) - (sign * voxels).max(axis=0)
        assert (reach > -0.3).all() and (reach < 2.0).all(), reach


def test_smoothing_flattens_the_steps_of_voxels() -> None:
    mask = ellipsoid()
    grid = geometry(mask)

    def area(smooth: int) -> float:
        surface = surface_of(mask, grid, "mesh", smooth=smooth)
        assert surface is not None
        return float(mesh(surface).area)

    assert area(10) < 0.97 * area(0)


def test_each_label_has_its_surface_and_empty_ones_none() -> None:
    label = ellipsoid().astype(np.uint8)
    label[:, :, 26:] *= 2
    grid = geometry(label)
    found = surfaces_of(label, {"left": (1,), "right": (2,), "both": (1, 2), "no": (7,)}, grid, "x")
    assert list(found) == ["left", "right", "both"]
    assert found["left"].volume_mm3 == pytest.approx((label == 1).sum() * 1.68, rel=1e-3)
    assert found["both"].volume_mm3 == pytest.approx((label > 0).sum() * 1.68, rel=1e-3)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    mask = ellipsoid()
    with pytest.raises(BadInput, match="skimage is not installed") as caught:
        surface_of(mask, geometry(mask), "mesh")
    assert caught.value.hint == "Install it: pip install 'ctseg[mesh]'"
