"""Prediction from file to file: geometry, formats, outputs."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.errors import BadInput

TURNS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]]),
}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def scan(mini_set: Path) -> ctseg.Volume:
    return ctseg.read(mini_set / "imagesTr" / "mini_0.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("turn", TURNS)
def test_the_result_lies_where_its_scan_lies(mini_run, scan, tmp_path, suffix, turn):
    """Read back with SimpleITK: no voxel centre off by more than 1e-3 of a voxel."""
    given = ctseg.Volume.from_array(
        scan.array, spacing_xyz=(0.9, 1.3, 2.1), origin_xyz=(-31.7, 12.4, 803.2),
        direction=TURNS[turn],
    )  # fmt: skip
    src, dst = tmp_path / f"scan{suffix}", tmp_path / f"mask{suffix}"
    ctseg.write(given, src)
    run("predict", src, "-m", mini_run, "-o", dst)
    one, two = sitk.ReadImage(str(src)), sitk.ReadImage(str(dst))
    assert one.GetSize() == two.GetSize()
    assert two.GetPixelID() == sitk.sitkUInt8
    size = np.array(one.GetSize()) - 1
    for corner in np.ndindex(2, 2, 2):
        index = [int(v) for v in size * corner]
        off = np.subtract(
            two.TransformPhysicalPointToContinuousIndex(one.TransformIndexToPhysicalPoint(index)),
            index,
        )
        assert np.abs(off).max() < 1e-3


def test_hdf5_to_hdf5_keeps_its_attributes(mini_run, scan, tmp_path):
    src, dst = tmp_path / "scan.h5", tmp_path / "mask.h5"
    ctseg.write(scan, src)
    before = src.read_bytes()
    run("predict", src, "-m", mini_run, "-o", dst)
    assert src.read_bytes() == before
    with h5py.File(dst) as file:
        stored = file["label"]
        assert stored.shape == scan.array.shape
        np.testing.assert_allclose(stored.attrs["spacing_xyz"], scan.spacing_xyz)
        np.testing.assert_allclose(stored.attrs["origin_xyz"], scan.origin_xyz)
        np.testing.assert_allclose(np.reshape(stored.attrs["direction"], (3, 3)), scan.direction)


def test_a_turned_scan_gives_the_turned_mask(mini_run, scan, tmp_path):
    """Flipping and permuting the array together with its geometry changes nothing in the patient."""
    segmenter = ctseg.load(mini_run, device="cpu", precision="fp32")
    plain = segmenter.predict(scan)
    order = (2, 0, 1)
    array = np.ascontiguousarray(scan.array.transpose(order)[::-1])
    columns = scan.geometry.matrix[:, [2 - order[2 - i] for i in range(3)]].copy()
    spacing = [scan.spacing_xyz[2 - order[2 - i]] for i in range(3)]
    last = scan.geometry.position([scan.array.shape[2] - 1, 0, 0])  # the flipped axis was x
    columns[:, 2] *= -1
    turned = ctseg.Volume.from_array(
        array, spacing_xyz=tuple(spacing), origin_xyz=tuple(last), direction=columns
    )
    np.testing.assert_array_equal(
        segmenter.predict(turned).array, plain.array.transpose(order)[::-1]
    )


def test_python_and_command_line_agree(mini_run, mini_set, tmp_path):
    src, dst = mini_set / "imagesTr" / "mini_1.nii.gz", tmp_path / "mask.nii.gz"
    run("predict", src, "-m", mini_run, "-o", dst, "--device", "cpu", "--precision", "fp32")
    segmenter = ctseg.load(mini_run, device="cpu", precision="fp32")
    np.testing.assert_array_equal(ctseg.read(dst).array, segmenter.predict(ctseg.read(src)).array)
    segmenter.predict_file(src, tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(
        ctseg.read(tmp_path / "again.nii.gz").array, ctseg.read(dst).array
    )


def test_probabilities_agree_with_labels(mini_run, scan, tmp_path):
    segmenter = ctseg.load(mini_run, device="cpu", precision="fp32")
    shares = segmenter.probabilities(scan)
    assert shares.array.shape == (3, *scan.array.shape)
    np.testing.assert_allclose(shares.array.sum(0), 1, atol=1e-4)
    labels = segmenter.predict(scan).array
    assert (shares.array.argmax(0) == labels).mean() > 0.99
    src = tmp_path / "scan.nii.gz"
    ctseg.write(scan, src)
    run("predict", src, "-m", mini_run, "-o", tmp_path / "out", "--probabilities")
    written = ctseg.read(tmp_path / "out" / "probabilities" / "scan.h5")
    assert written.array.shape == (3, *scan.array.shape)


def test_a_choice_of_labels(mini_run, mini_set, tmp_path):
    scans = mini_set / "imagesTr"
    run("predict", scans, "-m", mini_run, "-o", tmp_path / "all", "--format", "nrrd")
    run("predict", scans, "-m", mini_run, "-o", tmp_path / "one", "--labels", "brick")
    for path in sorted((tmp_path / "all").glob("*.nrrd")):
        whole = ctseg.read(path).array
        part = ctseg.read(tmp_path / "one" / f"{path.stem}.nii.gz").array
        np.testing.assert_array_equal(part, np.where(whole == 2, 2, 0))


def test_a_data_set_and_its_fold(mini_run, mini_set, tmp_path):
    out = tmp_path / "out"
    exact = ["--device", "cpu", "--precision", "fp32"]
    run("predict", mini_set, "--fold", 0, "-m", mini_run, "-o", out, *exact)
    document = json.loads((out / "predictions.json").read_text())
    report = json.loads((mini_run / "validation" / "report.json").read_text())
    assert sorted(c["case"] for c in document["cases"]) == [c["case"] for c in report["cases"]]
    assert all(set(c["volumes_ml"]) == {"box", "brick"} for c in document["cases"])
    told = json.loads(run("evaluate", out, mini_set, "--fold", 0, "--json"))
    assert told["mean_dice"] == pytest.approx(report["mean_dice"], abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 20, 22), (12, 1, 22), (3, 5, 4), (1, 1, 1)])
def test_thin_and_tiny_scans(mini_run, shape):
    array = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    segmenter = ctseg.load(mini_run, device="cpu", precision="fp32")
    assert segmenter.predict(ctseg.Volume.from_array(array)).array.shape == shape


def test_a_constant_scan(mini_run):
    scan = ctseg.Volume.from_array(np.full((9, 17, 18), 40, np.int16))
    assert ctseg.load(mini_run).predict(scan).array.dtype == np.uint8


def test_another_tile_and_overlap(mini_run, mini_set, tmp_path):
    scan = mini_set / "imagesTr" / "mini_2.nii.gz"
    run("predict", scan, "-m", mini_run, "-o", tmp_path / "o", "--tile", "8,13,12", "--overlap", 0)
    settings = json.loads((tmp_path / "o" / "predictions.json").read_text())["settings"]
    assert settings["tile_zyx"] == [8, 14, 12]  # rounded up to what the network accepts
    assert settings["overlap"] == 0


def test_segmenter_refuses_other_channels(mini_run):
    scan = ctseg.Volume.from_array(np.zeros((2, 5, 6, 7), np.float32))
    with pytest.raises(BadInput, match="takes 1 channel"):
        ctseg.load(mini_run).predict(scan)
