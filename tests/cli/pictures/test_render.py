"""`ctseg render` from the command line: pictures, films, and meshes that trimesh opens in the scan's coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.volume.volume import Volume

TURN = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))
GRID = {"spacing_xyz": (0.7, 0.8, 3.0), "origin_xyz": (-10.0, 20.0, 500.0), "direction": TURN}
NAMES = ("--label", "ball=1", "--label", "box=2")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    z, y, x = np.mgrid[:14, :40, :50]
    label = ((z - 7) ** 2 * 9 + (y - 18) ** 2 + (x - 16) ** 2 < 160).astype(np.uint8)
    label[3:9, 6:20, 32:46] = 2
    hu = np.array([-900, 40, 60], np.int16)[label]
    for name, array in (("scan", hu), ("mask", label), ("other", np.roll(label, 1, axis=1))):
        ctseg.write(Volume.from_array(array, **GRID), tmp_path / f"{name}.nii.gz")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["render", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def size(name: str) -> tuple[int, int]:
    with Image.open(name) as picture:
        return picture.size


def test_pictures(files: Path) -> None:
    assert run("scan.nii.gz", "mask.nii.gz", "-o", "three.png", *NAMES) == "three.png"
    run("scan.nii.gz", "mask.nii.gz", "other.nii.gz", "-o", "rows.png")
    assert size("rows.png")[1] > 1.5 * size("three.png")[1]  # a row for each map
    run("scan.nii.gz", "mask.nii.gz", "-o", "mosaic.png", "--at", "6")
    run("scan.nii.gz", "mask.nii.gz", "-o", "one.png", "--plane", "coronal", "--at", "12,")
    run("scan.nii.gz", "mask.nii.gz", "-o", "lines.png", "--at", "6", "--fill", "0")
    (files / "also").mkdir()
    (files / "other.nii.gz").rename(files / "also" / "mask.nii.gz")
    run("scan.nii.gz", "mask.nii.gz", "also/mask.nii.gz", "-o", "same_name.png")
    assert size("same_name.png")[1] == size("rows.png")[1]
    mosaic, lines = (
        np.asarray(Image.open(f"{n}.png").convert("RGB"), int) for n in ("mosaic", "lines")
    )
    colours = [int((one.max(-1) - one.min(-1) > 60).sum()) for one in (mosaic, lines)]
    assert 0 < colours[1] < 0.5 * colours[0]


@pytest.mark.parametrize("suffix", ["stl", "ply", "glb"])
def test_a_mesh_opens_in_trimesh_in_the_coordinates_of_the_scan(files: Path, suffix: str) -> None:
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    said = run("scan.nii.gz", "mask.nii.gz", "-o", f"m.{suffix}", "--labels", "ball", *NAMES)
    assert "ball" in said and "box" not in said
    mesh = trimesh.load(files / f"m.{suffix}", force="mesh")
    mask = ctseg.read(files / "mask.nii.gz")
    inside = mask.array == 1
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(inside.sum() * mask.geometry.voxel_volume_mm3, rel=2e-3)
    voxels = np.asarray(mask.geometry.position(np.argwhere(inside)[:, ::-1]))  # LPS
    np.testing.assert_allclose(mesh.center_mass, voxels.mean(axis=0), atol=0.05)
    half = np.array([0.6, 0.6, 1.6])
    assert (mesh.bounds[0] > voxels.min(axis=0) - 2 * half).all()
    assert (mesh.bounds[1] < voxels.max(axis=0) + 2 * half).all()


def test_a_glb_has_a_coloured_mesh_for_each_label(files: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    run("mask.nii.gz", "-o", "m.glb", *NAMES)
    scene = trimesh.load(files / "m.glb", force="scene")
    assert set(scene.geometry) == {"ball", "box"}
    colours = {tuple(one.visual.vertex_colors[0]) for one in scene.geometry.values()}
    assert colours == {(230, 75, 53, 255), (77, 187, 213, 255)}
    run("mask.nii.gz", "-o", "m.stl")
    assert (files / "m.stl").read_bytes()[:80].rstrip() == b"ctseg: millimetres, SPACE=LPS"


def test_a_film(files: Path) -> None:
    run("scan.nii.gz", "mask.nii.gz", "-o", "film.gif", "--plane", "sagittal", "--at", "10:20")
    with Image.open("film.gif") as film:
        assert film.n_frames > 5
        lengths = []
        for number in range(film.n_frames):  # equal frames are one that lasts longer
            film.seek(number)
            lengths.append(film.info["duration"])
    assert sum(lengths) == pytest.approx(10 / 12 * 1000, abs=50)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["scan.nii.gz", "-o", "x.bmp"], "no picture, film or mesh"),
        (["scan.nii.gz", "mask.nii.gz", "-o", "x.png", "--at", "99,"], "axial slices 0 to 13"),
        (["scan.nii.gz", "mask.nii.gz", "-o", "x.png", "--window", "3,2"], "is no window"),
        (["scan.nii.gz", "mask.nii.gz", "-o", "x.png", "--plane", "top"], "Unknown plane"),
        (["mask.nii.gz", "-o", "x.png", "mask.nii.gz", "--labels", "ball", "--label", "bal=1"], "Did you mean 'bal'?"),
        (["scan.nii.gz", "mask.nii.gz", "other.nii.gz", "-o", "x.gif"], "one label map, not 2"),
        (["scan.nii.gz", "scan.nii.gz", "-o", "x.png", "--fill", "2"], "--fill"),
    ],
)  # fmt: skip
def test_refusals(files: Path, arguments: list[str], says: str) -> None:
    said = run(*arguments, code=2)
    assert says in said and "Traceback" not in said
    assert not list(files.glob("x.*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at", "3"], "--at has no effect on a mesh"),
        (["--plane", "axial"], "--plane has no effect on a mesh"),
        (["--window", "lung"], "--window has no effect on a mesh"),
        (["--fill", "0.35"], "--fill has no effect on a mesh"),
    ],
)
def test_a_mesh_takes_no_look(files: Path, arguments: list[str], says: str) -> None:
    pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    assert says in run("scan.nii.gz", "mask.nii.gz", "-o", "x.stl", *arguments, code=2)
    assert not (files / "x.stl").exists()


def test_the_scan_of_a_mesh_is_told_where_it_does_not_exist(files: Path) -> None:
    pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    assert "does not exist" in run("sacn.nii.gz", "mask.nii.gz", "-o", "x.stl", code=2)


def test_a_mesh_of_nothing_is_refused(files: Path) -> None:
    pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    ctseg.write(Volume.from_array(np.zeros((4, 5, 6), np.uint8)), files / "empty.nii.gz")
    assert "No label has a voxel" in run("empty.nii.gz", "-o", "x.stl", code=2)
