"""`ctseg measure` from the command line to its files."""

import csv
import json

import h5py
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from ctseg.errors import BadInput
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.volume import Volume
from ctseg_microct.command import measure
from ctseg_microct.phantoms import blobs, sphere
from ctseg_microct.report import _object_summary, unit_of

app = typer.Typer()
app.command()(measure)


def run(*args):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure")
    array = blobs(32, 2.0, share=0.4)
    write(Volume.from_array(array, spacing_xyz=(0.002,) * 3, unit="um"), folder / "mask.nii.gz")
    grey = np.random.default_rng(0).random((32, 32, 32), np.float32)
    write(Volume.from_array(grey, spacing_xyz=(0.002,) * 3, unit="um"), folder / "scan.nii.gz")
    return folder


def test_everything_is_written_in_micrometres(volume, tmp_path):
    out = tmp_path / "out"
    result = run(volume / "mask.nii.gz", "-o", out, "--labels", "pore=0,grain=1", "--split", "0.7",
                 "--scan", volume / "scan.nii.gz")  # fmt: skip
    assert "grain" in result.output and "um" in result.output
    found = json.loads((out / "measure.json").read_text())
    assert found["unit"] == "um" and found["spacing_zyx"] == pytest.approx([2, 2, 2])
    grain = found["labels"]["grain"]
    mask = read(volume / "mask.nii.gz").array
    assert grain["fractions"]["volume"] == pytest.approx(mask.sum() * 8)
    assert grain["windows"]["rows"][0]["mean"] == pytest.approx(mask.mean(), abs=0.02)
    for name in (
        "fractions",
        "windows",
        "correlation",
        "thickness",
        "connectivity",
        "objects",
        "orientation",
    ):
        rows = list(csv.reader((out / f"{name}.csv").read_text().splitlines()))
        assert len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])}
    for name in ("windows", "correlation", "thickness", "orientation"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.size[0] > 300
    numbers = read(out / "objects.h5").array
    head, *rows = csv.reader((out / "objects.csv").read_text().splitlines())
    assert [int(row[head.index("voxels")]) for row in rows] == np.bincount(numbers.ravel())[
        1:
    ].tolist()
    assert "volume_um3" in head and "surface_um2" in head and "centre_x_um" in head


def test_labels_may_have_the_names_of_results(volume, tmp_path):
    plain, odd = (
        json.loads(
            run(volume / "mask.nii.gz", "-o", tmp_path / name, "--labels", names, "--json", "--only",
                "fractions,windows,correlation,thickness").stdout
        )["labels"]
        for name, names in (("a", "pore=0,grain=1"), ("b", "contact=0,length=1"))
    )  # fmt: skip
    for own, name in (("pore", "contact"), ("grain", "length")):
        (area,) = plain[own]["fractions"].pop("contact").values()
        assert list(odd[name]["fractions"].pop("contact").values()) == [area]
        assert odd[name] == plain[own]


def test_one_topic_alone(volume, tmp_path):
    result = run(volume / "mask.nii.gz", "-o", tmp_path, "--only", "fractions", "--json")
    assert json.loads(result.stdout)["labels"].keys() == {"label_0", "label_1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fractions.csv", "measure.json"]


def test_without_a_voxel_size_lengths_are_in_voxels(tmp_path):
    array = blobs(24, 2.0)
    array.tofile(tmp_path / "mask_24x24x24_uint8.raw")
    out = tmp_path / "out"
    result = run(tmp_path / "mask_24x24x24_uint8.raw", "-o", out, "--reach", "4")
    assert "voxel size is unknown" in result.stderr
    assert "thickness voxel" in result.output and " mm" not in result.stdout
    found = json.loads((out / "measure.json").read_text())
    assert (found["unit"], found["spacing_zyx"]) == ("voxel", [1, 1, 1])
    assert any("voxel size is unknown" in note for note in found["notes"])
    assert found["labels"]["label_1"]["fractions"]["volume"] == array.sum()
    head = (out / "objects.csv").read_text().splitlines()[0]
    assert "volume_voxel3" in head and "_mm" not in head
    assert "specific_surface_per_voxel" in (out / "fractions.csv").read_text()
    with pytest.raises(BadInput, match="may be any number of voxels") as caught:
        run(tmp_path / "mask_24x24x24_uint8.raw", "-o", tmp_path / "no", "--reach", "4um")
    assert "--reach 20" in caught.value.hint
    known = ["--option", "spacing=5um", "--reach", "20um", "--only", "fractions"]
    run(tmp_path / "mask_24x24x24_uint8.raw", "-o", tmp_path / "um", *known)
    assert json.loads((tmp_path / "um" / "measure.json").read_text())["unit"] == "um"


def test_numbered_objects_have_the_voxel_size_of_their_map(volume, tmp_path):
    blobs(24, 2.0).tofile(tmp_path / "mask_24x24x24_uint8.raw")
    for name, mask in (("a", tmp_path / "mask_24x24x24_uint8.raw"), ("b", volume / "mask.nii.gz")):
        run(mask, "-o", tmp_path / name, "--only", "objects", "--split", "0.7")
    with open_volume(tmp_path / "a" / "objects.h5") as objects:
        assert objects.metadata["spacing_unknown"]
    with open_volume(tmp_path / "b" / "objects.h5") as objects:
        assert objects.geometry.spacing_xyz == pytest.approx((0.002, 0.002, 0.002))
        assert "spacing_unknown" not in objects.metadata


def test_a_voxel_size_that_is_given_is_one_for_hdf5_too(tmp_path):
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["label"] = blobs(24, 2.0)
    args = ("-o", tmp_path / "out", "--only", "fractions", "--json")
    assert json.loads(run(tmp_path / "mask.h5", *args).stdout)["unit"] == "voxel"
    known = run(tmp_path / "mask.h5", *args, "--option", "spacing=5um")
    assert json.loads(known.stdout)["unit"] == "um"
    assert "unknown" not in known.stderr


def test_a_map_of_one_value_is_measured(tmp_path):
    write(Volume.from_array(np.ones((20, 20, 20), np.uint8)), tmp_path / "full.nii.gz")
    run(tmp_path / "full.nii.gz", "-o", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "measure.json").read_text())
    assert found["labels"]["label_1"]["fractions"]["surface"] == 0
    assert found["objects"]["label_1"]["count"] == 1
    assert found["objects"]["label_1"]["mean_sphericity"] is None
    head, row = csv.reader((tmp_path / "out" / "objects.csv").read_text().splitlines())
    assert row[head.index("sphericity")] == "" and row[head.index("voxels")] == "8000"


def test_a_surface_that_only_some_objects_have_counts_in_the_mean():
    columns = {
        "label": np.array(["a", "a", "b"], object), "diameter": np.ones(3), "volume": np.ones(3),
        "cut_by_edge": np.ones(3, bool), "sphericity": np.array([0.5, np.nan, np.nan]),
    }  # fmt: skip
    found = _object_summary(columns, 1.0)
    assert (found["a"]["mean_sphericity"], found["b"]["mean_sphericity"]) == (0.5, None)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "porosity"], "no topic 'porosity'"),
        (["--labels", "grain"], "is no label"),
        (["--labels", "solid=0,solid=1"], "Two labels are called 'solid'"),
        (["--labels", "label_1=0,1"], "Two labels are called 'label_1'"),
        (["--labels", "pore=0,grain=0"], "value 0 has two names"),
        (["--labels", "grain=7"], "none of the labels"),
        (["--reach", "1um"], "shorter than a voxel"),
        (["--split", "2", "--only", "objects"], "between 0 and 1"),
        (["--split", "wall", "--only", "objects"], "no label 'wall'"),
        (["--split", "0.7", "--only", "fractions"], "not measured"),
        (["--only", "orientation"], "grey values or vectors"),
    ],
)
def test_errors_say_what_to_do(volume, tmp_path, args, message):
    with pytest.raises(BadInput, match=message) as caught:
        run(volume / "mask.nii.gz", "-o", tmp_path / "out", *args)
    assert caught.value.hint or "none of the labels" in message
    assert not (tmp_path / "out").exists()


def test_a_grey_scan_is_no_label_map(volume, tmp_path):
    with pytest.raises(BadInput, match="fractional values"):
        run(volume / "scan.nii.gz", "-o", tmp_path)


def test_units_suit_the_voxel():
    assert [unit_of(mm) for mm in (1e-4, 2e-3, 0.5)] == ["nm", "um", "mm"]
    assert sphere((5, 5, 5), 1.0).sum() == 7
