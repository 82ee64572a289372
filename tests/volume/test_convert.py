"""Conversion between formats: nothing is lost without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.data.readers.scans import find_scans
from ctseg.errors import BadInput
from ctseg.specs import Label, frozen
from ctseg.volume import convert as module
from ctseg.volume.convert import Conversion, convert, slab_depth
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.labels import labels_in
from ctseg.volume.spool import by_region
from ctseg.volume.volume import Volume

MakeSeries = Callable[..., Path]
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".h5")
LABELS = (Label("liver", (1,), 1, (200, 10, 30)), Label("lesion", (2,), 2, (10, 20, 255)))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "convert", *map(str, words)])
    return result.exit_code, result.output


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_grid_voxels_type_and_unit_stay(
    tmp_path: Path, oblique: Volume, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLAB_BYTES", 2 * 7 * 8 * 2)  # slabs of two slices
    micro = Volume.from_array(
        oblique.array, spacing_xyz=(0.005, 0.006, 0.01), origin_xyz=(1, 2, 3),
        direction=oblique.direction, unit="um",
    )  # fmt: skip
    write(micro, tmp_path / f"a{source}")
    shares: list[float] = []
    done = convert(
        Conversion(tmp_path / f"a{source}", tmp_path / f"b{target}"), advance=shares.append
    )
    back = read(tmp_path / f"b{target}")
    assert back.geometry.difference(micro.geometry) is None
    assert back.geometry.unit == done.unit == "um"
    assert back.array.dtype == np.int16
    np.testing.assert_array_equal(back.array, oblique.array)
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == 3
    assert done.lost == ()
    if target != ".h5":
        image = sitk.ReadImage(str(tmp_path / f"b{target}"))  # the oracle
        np.testing.assert_allclose(image.GetSpacing(), micro.spacing_xyz, rtol=1e-5)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), oblique.array)


@pytest.mark.parametrize("target", SUFFIXES)
def test_channels_and_floats(tmp_path: Path, oblique: Volume, target: str) -> None:
    array = np.random.default_rng(0).normal(size=(3, *oblique.array.shape)).astype(np.float32)
    write(Volume(array, oblique.geometry), tmp_path / "a.nii")
    convert(Conversion(tmp_path / "a.nii", tmp_path / f"b{target}", frozen({"channels": "last"})))
    options = {"channels": "last"} if target.startswith(".nii") else {}
    np.testing.assert_array_equal(read(tmp_path / f"b{target}", **options).array, array)


def test_label_names_and_colours_travel(tmp_path: Path, oblique: Volume) -> None:
    mask = Volume((np.abs(oblique.array) % 3).astype(np.uint8), oblique.geometry)
    write(mask, tmp_path / "a.nrrd", labels=LABELS)
    convert(Conversion(tmp_path / "a.nrrd", tmp_path / "b.h5"))
    done = convert(Conversion(tmp_path / "b.h5", tmp_path / "c.nrrd"))
    assert done.labels == ("liver", "lesion")
    with h5py.File(tmp_path / "b.h5") as file:
        assert json.loads(file["label"].attrs["labels"]) == {"liver": 1, "lesion": 2}
    with open_volume(tmp_path / "c.nrrd") as source:
        assert labels_in(source.metadata) == LABELS
    image = sitk.ReadImage(str(tmp_path / "c.nrrd"))
    assert image.GetMetaData("Segment1_Name") == "lesion"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), mask.array)
    assert convert(Conversion(tmp_path / "c.nrrd", tmp_path / "d.nii.gz")).lost == ()
    assert convert(Conversion(tmp_path / "d.nii.gz", tmp_path / "e.mha")).lost == ("label names",)


def test_names_as_plugins_and_others_give_them() -> None:
    seg = {"labels": {"tumour": 1}, "colours": {"tumour": (230, 75, 53)}}
    assert labels_in(seg) == (Label("tumour", (1,), 1, (230, 75, 53)),)
    assert labels_in({"labels": b'["void", "tow"]'}) == (
        Label("void", (0,), 0),
        Label("tow", (1,), 1),
    )
    odd = {"labels": {"a": 1}, "colours": {"a": ["red", 1, 2]}}
    assert labels_in(odd) == (Label("a", (1,), 1),)
    assert labels_in({"Segment0_LabelValue": "1", "Segment0_Color": "inf 0 0"})[0].colour is None
    layers = {"Segment0_LabelValue": "1", "Segment0_Layer": "1", "Segment1_LabelValue": "2"}
    assert labels_in(layers) == (Label("label_2", (2,), 2),)
    for nothing in ({}, {"labels": "no JSON"}, {"labels": '{"a": "b"}'}, {"labels": 7}):
        assert labels_in(nothing) == ()


def test_names_can_be_given(tmp_path: Path, oblique: Volume) -> None:
    write(Volume((oblique.array > 0).astype(np.uint8), oblique.geometry), tmp_path / "a.nii.gz")
    code, output = run(tmp_path / "a.nii.gz", tmp_path / "b.nrrd", "--label", "bone=1")
    assert code == 0, output
    assert labels_in(open_volume(tmp_path / "b.nrrd").metadata)[0].name == "bone"
    write(Volume(oblique.array / 7, oblique.geometry), tmp_path / "f.nii.gz")
    assert run(tmp_path / "f.nii.gz", tmp_path / "f.nrrd", "--label", "bone=1")[0] == 2
    assert run(tmp_path / "a.nii.gz", tmp_path / "b.nrrd", "--label", "bone=x")[0] == 2


def test_what_tiff_cannot_hold_is_refused_unless_told(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.nii.gz")
    code, output = run(tmp_path / "a.nii.gz", tmp_path / "b.tif")
    assert code == 2
    assert "origin and direction" in output and "--allow-loss" in output
    assert not (tmp_path / "b.tif").exists()
    code, output = run(tmp_path / "a.nii.gz", tmp_path / "b.tif", "--allow-loss", "--json")
    assert code == 0
    assert json.loads(output)["converted"][0]["lost"] == ["origin", "direction"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), oblique.array)


def test_a_folder_of_scans(tmp_path: Path, oblique: Volume, make_series: MakeSeries) -> None:
    scans = tmp_path / "scans"
    (scans / "deep").mkdir(parents=True)
    write(oblique, scans / "a.mha")
    write(oblique, scans / "deep" / "b.nrrd")
    make_series(scans / "patient", oblique.array)
    (scans / "notes.txt").write_text("no scan")
    (scans / "broken.nii").write_bytes(b"no scan either")
    code, output = run(scans, tmp_path / "out")
    assert code == 2 and "--to" in output
    code, output = run(scans, tmp_path / "out", "--to", "nii.gz")
    assert code == 1
    assert "broken.nii" in output
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.gz"))
    assert found == ["a.nii.gz", "deep/b.nii.gz", "patient.nii.gz"]
    for name in found:
        np.testing.assert_array_equal(read(tmp_path / "out" / name).array, oblique.array)
    (scans / "broken.nii").unlink()
    stamp = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    (tmp_path / "out" / "deep" / "b.nii.gz").unlink()
    code, output = run(scans, tmp_path / "out", "--to", ".nii.gz", "--skip-existing", "--json")
    assert code == 0
    report = json.loads(output)
    assert len(report["skipped"]) == 2 and len(report["converted"]) == 1
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == stamp


def test_two_scans_of_one_name(tmp_path: Path, oblique: Volume) -> None:
    (tmp_path / "in").mkdir()
    write(oblique, tmp_path / "in" / "a.mha")
    write(oblique, tmp_path / "in" / "a.nrrd")
    code, output = run(tmp_path / "in", tmp_path / "out", "--to", ".nii")
    assert code == 2 and "would both become" in output


def test_each_series_of_a_study_and_each_volume_of_a_file(
    tmp_path: Path, oblique: Volume, make_series: MakeSeries
) -> None:
    make_series(tmp_path / "study" / "a", oblique.array)
    uid = "1.2.826.0.1.3680043.2.1125.77"
    make_series(tmp_path / "study" / "b", oblique.array[:3], uid=uid)
    code, output = run(tmp_path / "study", tmp_path / "out", "--to", ".nii.gz")
    assert code == 0, output
    shapes = sorted(read(path).array.shape for path in (tmp_path / "out").iterdir())
    assert shapes == [(3, 7, 8), (6, 7, 8)]
    option = ["--option", f"series={uid}"]
    assert run(tmp_path / "study", tmp_path / "one.nii.gz", *option)[0] == 0
    assert read(tmp_path / "one.nii.gz").array.shape == (3, 7, 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["deep/label"] = oblique.array, (oblique.array > 0).astype(np.uint8)
    assert run(tmp_path / "a.h5", tmp_path / "out2", "--to", ".nrrd")[0] == 0
    assert {p.name for p in (tmp_path / "out2").iterdir()} == {"a_raw.nrrd", "a_deep_label.nrrd"}


def test_parts_of_one_name_are_all_converted(
    tmp_path: Path, oblique: Volume, make_series: MakeSeries
) -> None:
    """Repeated series have one description, and the UIDs of some scanners all end in 0.0.0."""
    for number in (71, 72):
        uid = f"1.2.826.0.1.3680043.2.1125.{number}.0.0.0"
        folder = tmp_path / "study" / str(number)
        make_series(folder, oblique.array + number, uid=uid, tags={"0008|103e": "Thorax"})
    code, output = run(tmp_path / "study", tmp_path / "out", "--to", ".nii.gz")
    assert code == 0, output
    values = sorted(read(path).array[0, 0, 0] for path in (tmp_path / "out").iterdir())
    assert values == [oblique.array[0, 0, 0] + 71, oblique.array[0, 0, 0] + 72]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a_raw"], file["a/raw"] = oblique.array, oblique.array[:3]
    assert run(tmp_path / "a.h5", tmp_path / "out2", "--to", ".nrrd")[0] == 0
    shapes = sorted(read(path).array.shape for path in (tmp_path / "out2").iterdir())
    assert shapes == [(3, 7, 8), (6, 7, 8)]


def test_what_lies_beside_a_scan_is_converted_too(
    tmp_path: Path, oblique: Volume, make_series: MakeSeries
) -> None:
    """A folder with the slices of a scan, its mask in another format, and another scan in a folder."""
    make_series(tmp_path / "study", oblique.array)
    make_series(tmp_path / "study" / "old", oblique.array[:3], uid="1.2.826.0.1.3680043.2.1125.77")
    write(oblique, tmp_path / "study" / "mask.nrrd")
    code, output = run(tmp_path / "study", tmp_path / "out", "--to", ".nii.gz")
    assert code == 0, output
    made = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.gz")}
    assert made == {"study_11251.nii.gz", "study_12577.nii.gz", "mask.nii.gz"}


def test_inspect_sees_the_scans_that_are_converted(
    tmp_path: Path, oblique: Volume, make_series: MakeSeries
) -> None:
    """One series spread over two folders is one scan; two series are two."""
    for name, part in (("a", slice(0, 3)), ("b", slice(3, 6))):
        offsets = [(0, 0, 2.5 * k) for k in range(6)][part]
        make_series(tmp_path / "one" / name, oblique.array[part], offsets=offsets, prefix=name)
    assert find_scans(tmp_path / "one") == [tmp_path / "one"]
    for number in (1, 2):
        uid = f"1.2.826.0.1.3680043.2.1125.{number}"
        make_series(tmp_path / "two" / str(number), oblique.array, uid=uid)
    assert find_scans(tmp_path / "two") == [tmp_path / "two" / "1", tmp_path / "two" / "2"]


TARGETS = [("out.tif", None), ("out.h5", None), ("out", "slices")]


@pytest.mark.parametrize(("name", "format_name"), TARGETS)
def test_a_voxel_size_that_is_assumed_is_not_stated(
    tmp_path: Path, name: str, format_name: str | None
) -> None:
    array = np.zeros((6, 9, 11), np.uint8)
    array[2, 3:5, 4] = 1
    tifffile.imwrite(tmp_path / "drawn.tif", array)
    image = tmp_path / "image.tif"
    write(Volume.from_array(array, spacing_xyz=(0.5, 0.5, 2.0)), image)
    job = Conversion(
        tmp_path / "drawn.tif", tmp_path / name, format=format_name, empty_slices="255"
    )
    convert(job)
    with open_volume(tmp_path / name) as source:
        assert source.geometry.spacing_xyz == (1, 1, 1)
        assert "voxel size is unknown" in source.metadata["spacing_unknown"]
    if name != "out.h5":
        with open_volume(tmp_path / name, like=str(image)) as source:
            assert source.geometry.spacing_xyz == pytest.approx((0.5, 0.5, 2.0))
    convert(replace(job, target=tmp_path / f"given_{name}"), spacing="1")
    convert(replace(job, target=tmp_path / f"like_{name}", like=image))
    for how, size in (("given", (1, 1, 1)), ("like", (0.5, 0.5, 2))):
        with open_volume(tmp_path / f"{how}_{name}") as source:
            assert source.geometry.spacing_xyz == pytest.approx(size)
            assert "spacing_unknown" not in source.metadata


@pytest.mark.parametrize(("name", "format_name"), TARGETS)
def test_voxels_of_unknown_size_keep_their_shape(
    tmp_path: Path, name: str, format_name: str | None
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = np.zeros((6, 9, 11), np.uint8)
        file["raw"].attrs["assumed_spacing_xyz"] = (2.0, 1.0, 1.5)
    convert(Conversion(tmp_path / "a.h5", tmp_path / name, format=format_name))
    with open_volume(tmp_path / name) as source:
        assert source.geometry.spacing_xyz == (2, 1, 1.5)
        assert "2 x 1 x 1.5 mm is taken" in source.metadata["spacing_unknown"]


def test_slices_with_a_spacing(tmp_path: Path, oblique: Volume) -> None:
    (tmp_path / "in").mkdir()
    for number, plane in enumerate(oblique.array):
        tifffile.imwrite(tmp_path / "in" / f"s{number}.tif", plane, metadata=None)
    code, output = run(tmp_path / "in", tmp_path / "a.h5", "--spacing", "5 5 20um")
    assert code == 0, output
    assert "5 x 5 x 20 um" in output
    back = read(tmp_path / "a.h5")
    assert back.spacing_xyz == pytest.approx((0.005, 0.005, 0.02)) and back.geometry.unit == "um"
    np.testing.assert_array_equal(back.array, oblique.array)
    assert run(tmp_path / "in", tmp_path / "in" / "a.h5")[0] == 2


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_compressed_scans_are_unpacked_once(
    tmp_path: Path, oblique: Volume, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = Volume((np.abs(oblique.array) % 3).astype(np.uint8), oblique.geometry)
    write(mask, tmp_path / f"a{suffix}", labels=LABELS)
    monkeypatch.setattr(module, "_IN_MEMORY", 0)
    monkeypatch.setattr(module, "SLAB_BYTES", 1)
    convert(Conversion(tmp_path / f"a{suffix}", tmp_path / "b.nii"))
    np.testing.assert_array_equal(read(tmp_path / "b.nii").array, mask.array)
    assert {p.name for p in tmp_path.iterdir()} == {f"a{suffix}", "b.nii"}
    with open_volume(tmp_path / f"a{suffix}") as source:
        unpacked = by_region(source, tmp_path)
        assert unpacked.by_region and not source.by_region
        np.testing.assert_array_equal(
            unpacked.read_box((1, 2, 3), (4, 5, 6))[0], mask.array[1:4, 2:5, 3:6]
        )
        unpacked.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failure_leaves_nothing(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.nii.gz")
    content = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(content[:-100])
    assert run(tmp_path / "a.nii.gz", tmp_path / "b.nrrd")[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_input_is_never_written_to(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.nii.gz")
    with pytest.raises(BadInput, match="what is read"):
        convert(Conversion(tmp_path / "a.nii.gz", tmp_path / "x" / ".." / "a.nii.gz"))
    assert run(tmp_path / "a.nii.gz", tmp_path / "b.xyz")[0] == 2
    assert run(tmp_path / "nothing.nii", tmp_path / "b.nii")[0] == 2
    assert run(tmp_path / "a.nii.gz", tmp_path / "a.nii.gz", "--to", ".nii")[0] == 2
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "out", "--to", ".nii")[0] == 2


def test_slabs_end_with_chunks() -> None:
    assert slab_depth(1) == 256
    assert slab_depth(4000 * 4000 * 2) == 8
    assert slab_depth(1 << 40) == 1
