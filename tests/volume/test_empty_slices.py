"""`ctseg data convert --empty-slices`: slices that nobody labelled get a value of their own."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.volume import empty_slices


def convert(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "convert", *map(str, words)])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def drawn(tmp_path):
    """Labels in the slices 2 and 5 along z, within the rows 1 to 3."""
    array = np.zeros((7, 6, 5), np.uint8)
    array[2, 1:4, 2] = 1
    array[5, 2, 3] = 2
    ctseg.write(ctseg.Volume.from_array(array, spacing_xyz=(1, 2, 3)), tmp_path / "drawn.nii.gz")
    return tmp_path / "drawn.nii.gz", array


@pytest.mark.parametrize(("value", "axis"), [("255", 0), ("z=9", 0), ("y=255", 1), ("x=7", 2)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".h5"])
@pytest.mark.parametrize("slab_bytes", [2**25, 60])
def test_slices_without_labels_get_the_value(drawn, value, axis, suffix, slab_bytes, monkeypatch):
    monkeypatch.setattr(empty_slices, "SLAB_BYTES", slab_bytes)
    path, array = drawn
    target = path.with_name(f"sparse{suffix}")
    code, said = convert(path, target, "--empty-slices", value)
    assert code == 0, said
    number = int(value.rpartition("=")[2])
    labelled = array.any(tuple({0, 1, 2} - {axis}))
    assert f"{labelled.sum()} of {array.shape[axis]} slices along {'zyx'[axis]} have labels" in said
    expected = np.moveaxis(array.copy(), axis, 0)
    expected[~labelled] = number
    result = ctseg.read(target)
    np.testing.assert_array_equal(np.moveaxis(result.array, axis, 0), expected)
    assert result.geometry.agrees(ctseg.read(path).geometry)


@pytest.mark.parametrize(
    ("value", "says"),
    [("0", "no value"), ("z=", "no value"), ("w=255", "no value"), ("-1", "no value"),
     ("1", "a label of"), ("256", "does not hold 256")],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(drawn, value, says):
    path, _ = drawn
    target = path.with_name("sparse.nii.gz")
    code, said = convert(path, target, f"--empty-slices={value}")
    assert code == 2 and says in said
    assert not target.exists()


@pytest.mark.parametrize(
    ("array", "says"),
    [(np.zeros((3, 4, 5), np.uint8), "No voxel"), (np.ones((3, 4, 5), np.float32), "no label map")],
)
def test_only_label_maps_have_such_slices(tmp_path, array, says):
    ctseg.write(ctseg.Volume.from_array(array), tmp_path / "scan.nii.gz")
    code, said = convert(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", "--empty-slices", 255)
    assert code == 2 and says in said
    assert not (tmp_path / "out.nii.gz").exists()
