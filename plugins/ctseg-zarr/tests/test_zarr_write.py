"""What ctseg writes as OME-Zarr: levels, metadata, streaming, and nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import ctseg
from ctseg import plugins, testing
from ctseg.engine.prediction.leftovers import remove_leftovers
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.volume.convert import Conversion, convert
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader
from ctseg.volume.io import open_volume, open_writer
from ctseg_zarr.pyramid import LevelWriter, coarser, steps

TURN = ((0.8, 0.6, 0.0), (-0.6, 0.8, 0.0), (0.0, 0.0, -1.0))
LABELS = (Label("fibre", (1,), 1, (255, 0, 0)), Label("pore", (2,), 7))


def test_the_format_keeps_the_contract(tmp_path):
    spec = plugins.format_named("ome_zarr")
    testing.check_format(spec, tmp_path)
    assert plugins.registry().get("format", "ome_zarr").plugin.package == "ctseg-zarr"


def test_listing_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ctseg import plugins\n"
        f"print([f.recognise(Path({str(tmp_path)!r})) for f in plugins.formats() if f.name == 'ome_zarr'])\n"
        "print([m for m in ('zarr', 'numcodecs', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[False]", "[]"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_pyramid_of_means_lies_where_it_should(tmp_path, version):
    """A ramp: the mean at a coarser level is the value at that level's place."""
    shape = (40, 300, 200)
    geometry = Geometry(shape, (0.002, 0.002, 0.004), (1.0, 2.0, 3.0), TURN, unit="um")
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    ramp = x + 1000 * y + 1e6 * z
    path = tmp_path / "a.ome.zarr"
    ctseg.write(ctseg.Volume(ramp, geometry), path, options={"version": version})
    root = zarr.open_group(path, mode="r")
    assert root.metadata.zarr_format == (2 if version == "0.4" else 3)
    with open_volume(path) as source:
        assert source.metadata["levels"] == 2 and source.geometry.unit == "um"
        assert source.geometry.agrees(geometry)
        np.testing.assert_array_equal(source.read()[0], ramp)
    with open_volume(path, level=1) as source:
        assert source.geometry.shape_zyx == (40, 150, 100)  # z is coarse as it is
        np.testing.assert_allclose(source.geometry.spacing_xyz, (0.004, 0.004, 0.004))
        at = np.linalg.inv(geometry.affine) @ source.geometry.affine  # level voxels to full voxels
        x, y, z, _ = at @ (7, 11, 13, 1)
        assert source.read()[0, 13, 11, 7] == pytest.approx(x + 1000 * y + 1e6 * z)


def test_levels_of_labels_keep_their_values(tmp_path):
    generator = np.random.default_rng(0)
    array = generator.choice(np.array([0, 1, 7], np.uint8), (10, 400, 30))
    geometry = Geometry(array.shape, (1.0, 1.0, 1.0))
    path = tmp_path / "labels.zarr"
    ctseg.write(ctseg.Volume(array, geometry), path, labels=LABELS)
    for level, step in ((0, 1), (1, 2), (2, 4)):
        read = ctseg.read(path, level=level)
        np.testing.assert_array_equal(read.array, array[::step, ::step, ::step])
        np.testing.assert_allclose(read.geometry.origin_xyz, (0, 0, 0))
        assert read.metadata["labels"] == {"fibre": 1, "pore": 7}
    described = zarr.open_group(path, mode="r").attrs["ome"]["image-label"]
    assert described["colors"][0] == {"label-value": 1, "rgba": [255, 0, 0, 255]}
    assert described["properties"][1] == {"label-value": 7, "name": "pore"}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_converted_mask_without_names_is_a_label_map(tmp_path, suffix):
    array = np.zeros((4, 401, 30), np.uint8)
    array[:, :201], array[:, 201:] = 1, 3  # the mean of both would be 2
    mask = tmp_path / f"mask{suffix}"
    ctseg.write(ctseg.Volume(array, Geometry(array.shape)), mask)
    done = convert(Conversion(mask, tmp_path / "mask.zarr"))
    assert any("written as a label map" in note for note in done.notes)
    for level, step in ((0, 1), (1, 2)):
        read = ctseg.read(tmp_path / "mask.zarr", level=level)
        np.testing.assert_array_equal(read.array, array[::step, ::step, ::step])
    about = zarr.open_group(tmp_path / "mask.zarr", mode="r").attrs["ome"]
    assert about["image-label"] == {}
    assert about["multiscales"][0]["type"] == "nearest"


def test_a_converted_scan_has_a_pyramid_of_means(tmp_path):
    array = np.random.default_rng(0).integers(0, 4000, (4, 400, 30)).astype(np.int16)
    ctseg.write(ctseg.Volume(array, Geometry(array.shape)), tmp_path / "scan.nii.gz")
    done = convert(Conversion(tmp_path / "scan.nii.gz", tmp_path / "scan.zarr"))
    assert done.notes == ()
    coarse = ctseg.read(tmp_path / "scan.zarr", level=1).array
    mean = array.reshape(2, 2, 200, 2, 15, 2).mean((1, 3, 5))
    np.testing.assert_array_equal(coarse, np.rint(mean))
    assert "image-label" not in zarr.open_group(tmp_path / "scan.zarr", mode="r").attrs["ome"]


def test_channels_carry_names_and_a_label_map_its_source(tmp_path):
    share = np.random.default_rng(0).random((2, 4, 5, 6)).astype(np.float32)
    geometry = Geometry((4, 5, 6))
    scan = tmp_path / "scan.ome.zarr"
    ctseg.write(ctseg.Volume(share, geometry), scan, labels=LABELS)
    read = ctseg.read(scan)
    np.testing.assert_array_equal(read.array, share)
    assert read.metadata["channels"] == ["fibre", "pore"]
    with open_volume(scan) as source:
        array = np.ones((4, 5, 6), np.uint8)
        volume = ctseg.Volume(array, geometry)
        ctseg.write(volume, tmp_path / "out.zarr", labels=LABELS, reference=source)
    described = zarr.open_group(tmp_path / "out.zarr", mode="r").attrs["ome"]["image-label"]
    assert described["source"] == {"image": "../scan.ome.zarr"}


@given(
    shape=st.tuples(*(st.integers(1, 9),) * 3),
    factors=st.tuples(*(st.sampled_from((1, 2)),) * 3),
    cuts=st.lists(st.integers(1, 50), max_size=4),
    depth=st.integers(1, 90),
)
@settings(max_examples=25, deadline=None)
def test_any_slabs_give_the_levels_of_the_whole(shape, factors, cuts, depth):
    array = np.random.default_rng(depth).integers(0, 255, (1, depth, *shape[1:])).astype(np.uint8)
    for exact in (False, True):
        expected = coarser(array, factors, exact=exact)
        fine = zarr.create_array({}, shape=array.shape, dtype="u1", chunks=array.shape)
        coarse = zarr.create_array({}, shape=expected.shape, dtype="u1", chunks=expected.shape)
        writer = LevelWriter(fine, factors, LevelWriter(coarse, exact=exact), exact=exact)
        start = 0
        for cut in [*cuts, depth]:
            writer.put(array[:, start : start + cut])
            start += cut
        writer.finish()
        np.testing.assert_array_equal(fine[:], array)
        np.testing.assert_array_equal(coarse[:], expected)


def test_pyramids_even_out_anisotropic_spacing():
    assert steps((100, 190, 190), (1, 1, 1)) == []
    assert steps((60, 512, 512), (3.0, 0.75, 0.75)) == [(1, 2, 2), (1, 2, 2)]
    assert steps((400, 400, 400), (2.0, 1.0, 1.0)) == [(1, 2, 2), (2, 2, 2), (2, 2, 2)]
    assert steps((1, 500, 500), (1.0, 1.0, 1.0)) == [(1, 2, 2), (1, 2, 2)]


def test_a_store_is_replaced_and_anything_else_is_not(tmp_path):
    geometry = Geometry((2, 3, 4))
    path = tmp_path / "a.zarr"
    for value in (1, 2):
        ctseg.write(ctseg.Volume(np.full((2, 3, 4), value, np.uint8), geometry), path)
    assert (ctseg.read(path).array == 2).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    volume = ctseg.Volume(np.zeros((2, 3, 4), np.uint8), geometry)
    for name, make in (("b.zarr", "mkdir"), ("c.zarr", "touch")):
        getattr(tmp_path / name, make)()
        with pytest.raises(FileProblem, match="no Zarr store; it is not replaced"):
            ctseg.write(volume, tmp_path / name)
    with pytest.raises(FileProblem, match="cannot be written"):
        ctseg.write(volume, tmp_path / "c.zarr" / "d.zarr")
    with pytest.raises(BadInput, match=r"OME-NGFF 0\.9 is not written"):
        ctseg.write(volume, tmp_path / "e.zarr", options={"version": "0.9"})


def test_slabs_are_checked_and_failures_leave_nothing(tmp_path):
    spec = plugins.format_named("ome_zarr")
    geometry = Geometry((4, 3, 2))
    slab = np.zeros((2, 3, 2), np.uint8)

    def writer():
        return spec.writer(tmp_path / "a.zarr", geometry, np.dtype("uint8"))

    for start, wrong, said in (
        (1, slab, "where slice 0 of 4 is expected"),
        (0, slab[:, :2], "has the shape"),
        (0, slab.astype(np.float32), "which does not fit uint8"),
    ):
        with pytest.raises(BadInput, match=said):
            writer().write(start, wrong)
    half = writer()
    half.write(0, slab)
    with pytest.raises(BadInput, match="got 2 of its 4 slices"):
        half.commit()
    with pytest.raises(BadInput, match="nothing more"):
        half.write(2, slab)
    with pytest.raises(BadInput, match="cannot hold complex64"):
        spec.writer(tmp_path / "a.zarr", geometry, np.dtype("complex64"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    spec = plugins.format_named("ome_zarr")
    writer = spec.writer(tmp_path / "a.zarr", Geometry((4, 3, 2)), np.dtype("uint8"))

    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LevelWriter, "put", full)
    with pytest.raises(FileProblem, match="disk is full"):
        writer.write(0, np.zeros((4, 3, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.filterwarnings("default")
def test_the_models_of_the_specification_accept_what_is_written(tmp_path, version):
    """ome-zarr-models holds OME-NGFF as pydantic models."""
    pytest.importorskip("ome_zarr_models")
    from ome_zarr_models import open_ome_zarr

    geometry = Geometry((4, 300, 20), (0.002, 0.002, 0.002), unit="um")
    array = np.ones(geometry.shape_zyx, np.uint8)
    options = {"version": version}
    ctseg.write(ctseg.Volume(array, geometry), tmp_path / "a.zarr", options=options)
    share = ctseg.Volume(np.stack([array, array]), geometry)
    ctseg.write(share, tmp_path / "b.zarr", options=options, labels=LABELS)
    ctseg.write(ctseg.Volume(array, geometry), tmp_path / "c.zarr", options=options, labels=LABELS)
    kinds = []
    for name in ("a.zarr", "b.zarr", "c.zarr"):
        found = open_ome_zarr(zarr.open_group(tmp_path / name, mode="r"))
        kinds.append(type(found).__name__)
        assert found.ome_zarr_version == version
    assert kinds[:2] == ["Image", "Image"] and kinds[2] in ("ImageLabel", "Image")


def test_a_replacement_that_was_killed_loses_nothing(tmp_path):
    """A folder is replaced in two renames; a kill between them leaves the earlier store under a hidden name."""
    path = tmp_path / "a.zarr"
    first = ctseg.Volume.from_array(np.full((4, 3, 2), 1, np.uint8))
    ctseg.write(first, path)
    path.rename(tmp_path / ".a.zarr.12-0123abcd.tmp.old")
    left = tmp_path / ".a.zarr.12-0123abcd.tmp"
    left.mkdir()
    then = time.time() - 60
    for item in tmp_path.iterdir():
        os.utime(item, (then, then))
    remove_leftovers(tmp_path)
    assert not left.exists()
    spec = open_writer(path, VolumeHeader(first.geometry, np.dtype(np.uint8)))
    np.testing.assert_array_equal(ctseg.read(path).array, first.array)
    spec.abort()
    assert [item.name for item in tmp_path.iterdir()] == ["a.zarr"]
