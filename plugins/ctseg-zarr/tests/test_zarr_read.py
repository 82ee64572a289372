"""Stores of other programs: ome-zarr-py wrote those in `data/` (see `data/make.py`); zarr writes the plain ones."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

import ctseg
from ctseg import plugins
from ctseg.errors import BadInput, FileProblem
from ctseg.volume.io import format_of, open_volume

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    with np.load(DATA / "scan.npz") as file:
        return dict(file)


@pytest.fixture(params=["v04", "v05"])
def store(request, tmp_path) -> Path:
    path = tmp_path / "scan.ome.zarr"
    with zipfile.ZipFile(DATA / f"ome_zarr_py_{request.param}.zarr.zip") as archive:
        archive.extractall(path)
    return path


def test_an_image_of_ome_zarr_py_is_read_box_by_box(store, truth):
    assert format_of(store).name == "ome_zarr"
    with open_volume(store) as source:
        assert source.by_region and source.channels == 2 and source.dtype == np.uint16
        geometry = source.geometry
        assert geometry.shape_zyx == (6, 20, 24) and geometry.unit == "um"
        np.testing.assert_allclose(geometry.spacing_xyz, (0.25e-3, 0.5e-3, 2e-3))
        np.testing.assert_array_equal(source.read(), truth["scan"])
        np.testing.assert_array_equal(source.read((2, 5)), truth["scan"][:, 2:5])
        box = source.read_box((1, 3, 4), (6, 19, 5))
        np.testing.assert_array_equal(box, truth["scan"][:, 1:6, 3:19, 4:5])
        again = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(again.read((0, 1)), truth["scan"][:, :1])


def test_levels_are_chosen_by_number_or_spacing(store):
    with open_volume(store, level=1) as source:
        assert source.geometry.shape_zyx == (6, 10, 12)
        np.testing.assert_allclose(source.geometry.spacing_xyz, (0.5e-3, 1e-3, 2e-3))
        np.testing.assert_allclose(source.geometry.origin_xyz, (0.125e-3, 0.25e-3, 0))
        assert source.read().shape == (2, 6, 10, 12)
    assert open_volume(store, level="-1").geometry.shape_zyx == (6, 5, 6)
    for spacing, width in (("0.0005,0.001,0.002", 12), (0.002, 6), (1e-4, 24), ([1, 1, 1], 6)):
        assert open_volume(store, spacing=spacing).geometry.shape_zyx[2] == width
    for level in (3, -4, "fine"):
        with pytest.raises(BadInput, match=r"has no level(.|\n)*0 to 2"):
            open_volume(store, level=level)
    with pytest.raises(BadInput, match="Both level and spacing"):
        open_volume(store, level=1, spacing=1)
    with pytest.raises(BadInput, match=r"spacing is '1,2'(.|\n)*0\.8,0\.8,2\.5"):
        open_volume(store, spacing="1,2")


def test_label_images_within_a_store_are_read(store, truth):
    label = ctseg.read(store, dataset="labels/cells", unit="micrometer")
    np.testing.assert_array_equal(label.array, truth["cells"])
    assert label.metadata["labels"] == {"cell": 1}
    assert label.metadata["colours"] == {"cell": (255, 0, 0)}
    parts = plugins.format_named("ome_zarr").parts(store)
    assert parts == {"": {}, "labels/cells": {"dataset": "labels/cells"}}
    assert label.geometry.spacing_xyz == (0.001, 0.001, 0.001)  # it names no unit
    np.testing.assert_array_equal(ctseg.read(store / "labels" / "cells").array, truth["cells"])
    with pytest.raises(FileProblem, match="holds no 'labels/liver'"):
        open_volume(store, dataset="labels/liver")


def test_zipped_stores_are_read_in_place(truth, tmp_path):
    for name in ("ome_zarr_py_v04.zarr.zip", "ome_zarr_py_v05.zarr.zip"):
        np.testing.assert_array_equal(ctseg.read(DATA / name).array, truth["scan"])
    (tmp_path / "a.ozx").write_bytes(b"no zip")
    with pytest.raises(FileProblem, match=r"a\.ozx cannot be read"):
        open_volume(tmp_path / "a.ozx")


def test_every_input_is_opened_read_only(store):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in store.rglob("*")}
    ctseg.read(store)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in store.rglob("*")} == before


def test_transformations_are_applied_in_order_and_axes_in_any(tmp_path):
    """The example of the specification (0.4, multiscales): a level's scale, then that of the whole image."""
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    data = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)  # x, t, z, c, y
    array = root.create_array("deep/0", shape=data.shape, dtype=data.dtype, chunks=(1, 1, 2, 2, 2))
    array[:] = data
    names = (("x", "space", "millimeter"), ("t", "time", "second"), ("z", "space", "meter"),
             ("band", "channel", None), ("y", "space", "nanometer"))  # fmt: skip
    axes = [{"name": n, "type": t, **({"unit": u} if u else {})} for n, t, u in names]
    own = [
        {"type": "scale", "scale": [0.5, 1, 0.01, 1, 2e6]},
        {"type": "translation", "translation": [10, 0, 0.1, 0, 1e6]},
    ]
    whole = [{"type": "identity"}, {"type": "scale", "scale": [2, 5, 1, 1, 1]}]
    entry = {
        "version": "0.4",
        "axes": axes,
        "coordinateTransformations": whole,
        "datasets": [{"path": "deep/0", "coordinateTransformations": own}],
    }
    root.attrs["multiscales"] = [entry]
    with pytest.raises(BadInput, match=r"3 points in time(.|\n)*0 to 2"):
        open_volume(tmp_path / "a.zarr")
    with pytest.raises(BadInput, match="no point in time 3"):
        open_volume(tmp_path / "a.zarr", time=3)
    with open_volume(tmp_path / "a.zarr", time=1) as source:
        np.testing.assert_array_equal(source.read(), data[:, 1].transpose(2, 1, 3, 0))
        np.testing.assert_allclose(source.geometry.spacing_xyz, (1.0, 2.0, 10.0))
        np.testing.assert_allclose(source.geometry.origin_xyz, (20.0, 1.0, 100.0))
        box = source.read_box((1, 2, 0), (3, 3, 2))
        np.testing.assert_array_equal(box, source.read()[:, 1:3, 2:3, 0:2])


@pytest.mark.parametrize(("version", "axes"), [("0.1", None), ("0.3", ["t", "c", "z", "y", "x"])])
def test_old_versions_have_axes_but_no_scale(tmp_path, version, axes):
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    data = np.arange(1 * 2 * 3 * 4 * 5, dtype=np.uint16).reshape(1, 2, 3, 4, 5)
    root.create_array("0", data=data)
    entry = {"version": version, "datasets": [{"path": "0"}]}
    root.attrs["multiscales"] = [{**entry, "axes": axes} if axes else entry]
    read = ctseg.read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read.array, data[0])
    assert read.spacing_xyz == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("version", [2, 3])
def test_plain_arrays_take_their_grid_from_options(tmp_path, version):
    data = np.arange(4 * 6 * 8, dtype=np.int32).reshape(4, 6, 8)
    zarr.create_array(tmp_path / "a.zarr", data=data, zarr_format=version)
    with open_volume(tmp_path / "a.zarr", voxel="0.5,0.6,2", unit="um") as source:
        np.testing.assert_array_equal(source.read()[0], data)
        np.testing.assert_allclose(source.geometry.spacing_xyz, (0.5e-3, 0.6e-3, 2e-3))
        assert source.geometry.unit == "um"
    turned = ctseg.read(tmp_path / "a.zarr", axes="xzy")
    np.testing.assert_array_equal(turned.array, data.transpose(1, 2, 0))
    for axes in ("zy", "zzx", "abc"):
        with pytest.raises(BadInput, match=r"do not fit an array of the shape \(4, 6, 8\)"):
            open_volume(tmp_path / "a.zarr", axes=axes)
    with pytest.raises(BadInput, match="the option level does not apply"):
        open_volume(tmp_path / "a.zarr", level=0)
    with pytest.raises(FileProblem, match=r"'parsec'(.|\n)*micrometer"):
        open_volume(tmp_path / "a.zarr", voxel=1, unit="parsec")


def test_names_of_dimensions_count(tmp_path):
    data = np.zeros((3, 4, 5, 2), np.uint8)
    data[..., 1] = 1
    names = ("z", "y", "x", "c")
    zarr.create_array(tmp_path / "a.zarr", data=data, dimension_names=names)
    read = ctseg.read(tmp_path / "a.zarr")
    assert read.array.shape == (2, 3, 4, 5) and read.array[1].all()


def test_groups_ask_which_of_several_is_meant(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr")
    with pytest.raises(FileProblem, match="holds no images"):
        open_volume(tmp_path / "a.zarr")
    root.create_array("raw", data=np.ones((2, 3, 4), np.uint8))
    assert ctseg.read(tmp_path / "a.zarr").array.all()
    root.create_array("other/deep", data=np.ones((2, 3, 4), np.uint8))
    with pytest.raises(FileProblem, match=r"holds 2 images(.|\n)*other/deep, raw"):
        open_volume(tmp_path / "a.zarr")
    assert ctseg.read(tmp_path / "a.zarr", dataset="other/deep").array.all()
    parts = plugins.format_named("ome_zarr").parts(tmp_path / "a.zarr")
    assert parts == {name: {"dataset": name} for name in ("other/deep", "raw")}
    root.attrs["ome"] = {"plate": {}}
    with pytest.raises(FileProblem, match="is a plate"):
        open_volume(tmp_path / "a.zarr")


def test_bad_metadata_and_missing_parts_are_named(store, tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(FileProblem, match="is not a Zarr store"):
        open_volume(tmp_path / "plain", format="ome_zarr")
    with pytest.raises(FileProblem, match="does not exist"):
        open_volume(tmp_path / "nothing.zarr")
    root = zarr.open_group(store, mode="r+")
    before = dict(root.attrs)
    entry = (before.get("ome") or before)["multiscales"][0]

    def say(changed) -> None:
        text = json.loads(json.dumps(before))
        (text.get("ome") or text)["multiscales"] = changed
        root.attrs.put(text)

    axes = entry["axes"]
    flat = [{"type": "scale", "scale": [1, 1]}]
    for changed, said in (
        ([], "does not follow OME-NGFF"),
        ([{**entry, "datasets": []}], "names no levels"),
        ([{**entry, "axes": [*axes[:3], {"name": "w"}]}], "named 'w'"),
        ([{**entry, "axes": [*axes[:3], axes[1]]}], "its axes are 'czyz'"),
        ([{**entry, "axes": [*axes[:3], {**axes[3], "unit": "parsec"}]}], "'parsec'"),
        ([{**entry, "datasets": [{"path": "s9"}]}], "the level s9 .* is missing"),
        ([{**entry, "coordinateTransformations": flat}], "for 4 axes"),
        ([{**entry, "coordinateTransformations": [{"type": "affine"}]}], "'affine'"),
        ([{**entry, "axes": axes[1:], "datasets": [{"path": "s0"}]}], "has 4 axes where zyx"),
        ([{**entry, "datasets": [{"path": "s0", "coordinateTransformations": [
            {"type": "scale", "scale": [1, 0, 1, 1]}]}]}], "spacing must be positive"),
    ):  # fmt: skip
        say(changed)
        with pytest.raises(FileProblem, match=said):
            open_volume(store)


def test_a_note_of_ctseg_that_is_none(store):
    root = zarr.open_group(store, mode="r+")
    for note in ({"direction": [1.0]}, {"direction": np.eye(3).tolist()}):  # without its origin
        root.attrs["ctseg"] = note
        with pytest.raises(FileProblem, match="cannot be read"):
            open_volume(store)


def test_damaged_chunks_are_named(store):
    (chunk,) = (p for p in (store / "s0").rglob("*") if p.is_file() and p.stat().st_size > 4000)
    chunk.write_bytes(chunk.read_bytes()[:2000])
    with open_volume(store) as source, pytest.raises(FileProblem, match="cannot be read"):
        source.read()


def test_numbers_that_are_none_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((2, 3, 4), np.complex64))
    with pytest.raises(FileProblem, match="complex64, which are not real numbers"):
        open_volume(tmp_path / "a.zarr")


class Touch:
    """Its pickle writes a file when somebody loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "shuffle", "elementsize": 1}, {"id": "pickle"}]},
        {"dtype": "|O", "filters": [{"id": "pickle"}]},
    ],
)
def test_a_store_of_pickled_chunks_is_rejected_unread(tmp_path, codecs):
    store, trap = tmp_path / "scan.zarr", tmp_path / "loaded"
    store.mkdir()
    header = {
        "zarr_format": 2, "shape": [4, 4, 4], "chunks": [4, 4, 4], "dtype": "|u1", "compressor": None,
        "filters": None, "fill_value": 0, "order": "C", **codecs,
    }  # fmt: skip
    (store / ".zarray").write_text(json.dumps(header))
    (store / "0.0.0").write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(FileProblem, match="cannot be read"):
        ctseg.read(store)
    assert not trap.exists()
    pickle.loads((store / "0.0.0").read_bytes())
    assert trap.exists()  # the trap works
