"""From scan to labels on the command line, stores in and out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import zarr
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.engine.prediction.outputs import Outputs
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.scan_job import predict_scan
from ctseg.specs import ImageRef, Label
from ctseg.volume.geometry import Geometry
from ctseg_zarr.pyramid import chunk_of

MODEL = (
    Path(__file__).resolve().parents[3] / "zoo" / "unet3d.hippocampus_v1" / "weights.safetensors"
)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_stores_are_converted_and_inspected(tmp_path):
    """Names and colours of labels go along, into NRRD and back."""
    label = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    geometry = Geometry((4, 5, 6), (1e-3, 1e-3, 2e-3), unit="um")
    names = (Label("fibre", (1,), 1, (10, 20, 30)), Label("pore", (2,), 2, (255, 0, 0)))
    ctseg.write(ctseg.Volume(label, geometry), tmp_path / "a.zarr", labels=names)
    run("data", "convert", tmp_path / "a.zarr", tmp_path / "b.nrrd")
    run("data", "convert", tmp_path / "b.nrrd", tmp_path / "c.ome.zarr")
    back = ctseg.read(tmp_path / "c.ome.zarr")
    np.testing.assert_array_equal(back.array, label)
    assert back.geometry.agrees(geometry) and back.geometry.unit == "um"
    assert back.metadata["labels"] == {"fibre": 1, "pore": 2}
    assert back.metadata["colours"] == {"fibre": (10, 20, 30), "pore": (255, 0, 0)}
    assert "4 x 5 x 6" in run("data", "inspect", tmp_path / "c.ome.zarr")


def test_stores_are_predicted_replaced_and_evaluated(tmp_path):
    geometry = Geometry((20, 30, 24), (1.0, 1.0, 1.2), (3.0, 4.0, 5.0))
    noise = np.random.default_rng(0).normal(500, 200, geometry.shape_zyx).astype(np.int16)
    scan = tmp_path / "scans" / "one.ome.zarr"
    ctseg.write(ctseg.Volume(noise, geometry), scan)
    ctseg.write(ctseg.Volume(noise, geometry), tmp_path / "one.nii.gz")
    out = tmp_path / "out.ome.zarr"
    for _ in range(2):  # the second time it is there, a folder, and is replaced
        run("predict", scan, "-m", MODEL, "-o", out)
    run("predict", tmp_path / "one.nii.gz", "-m", MODEL, "-o", tmp_path / "out.nii.gz")
    expected = ctseg.read(tmp_path / "out.nii.gz")
    predicted = ctseg.read(out)
    assert predicted.geometry.agrees(geometry)
    np.testing.assert_array_equal(predicted.array, expected.array)
    assert predicted.metadata["labels"] == {"anterior": 1, "posterior": 2}
    run("predict", tmp_path / "scans", "-m", MODEL, "-o", tmp_path / "outs")
    assert {p.name for p in (tmp_path / "outs").iterdir()} == {"one.ome.zarr", "predictions.json"}
    run("predict", scan, "-m", MODEL, "-o", tmp_path / "named")
    assert (tmp_path / "named" / "one.ome.zarr").is_dir()
    for one, two in ((out, tmp_path / "out.nii.gz"), (tmp_path / "outs", tmp_path / "named")):
        report = json.loads(run("evaluate", one, two, "--json"))
        assert report["mean_dice"] == 1.0


def test_probabilities_lie_beside_the_map_with_the_names_of_their_labels(tmp_path):
    geometry = Geometry((20, 30, 24), (1.0, 1.0, 1.2), (3.0, 4.0, 5.0))
    noise = np.random.default_rng(0).normal(500, 200, geometry.shape_zyx).astype(np.int16)
    scan = ctseg.Volume(noise, geometry)
    ctseg.write(scan, tmp_path / "one.ome.zarr")
    segmenter = ctseg.load(MODEL, device="cpu", precision="fp32")
    request = Request(
        tmp_path / "out", probabilities=True, probabilities_suffix=".ome.zarr", dtype="float16",
        masks=True,
    )  # fmt: skip
    outputs = Outputs(segmenter.model, request, tmp_path / "out" / "one.ome.zarr")
    predict_scan(segmenter.model, [ImageRef(tmp_path / "one.ome.zarr")], outputs.results)
    assert outputs.paths.there
    stored = zarr.open_group(tmp_path / "out" / "probabilities" / "one.ome.zarr", mode="r")
    assert stored["0"].dtype == np.float16
    channels = stored.attrs["ome"]["omero"]["channels"]
    assert [c["label"] for c in channels] == ["background", "anterior", "posterior"]
    shares = ctseg.read(tmp_path / "out" / "probabilities" / "one.ome.zarr")
    assert shares.geometry.agrees(geometry)
    np.testing.assert_allclose(shares.array, segmenter.probabilities(scan).array, atol=2**-11)
    mask = ctseg.read(tmp_path / "out" / "masks" / "one" / "anterior.ome.zarr")
    assert mask.metadata["labels"] == {"anterior": 1}


def test_chunks_of_many_labels_are_flat_enough_to_wait_in_memory():
    assert chunk_of((600, 512, 512), np.dtype("uint8"), None) == (32, 128, 128)
    for channels, dtype in ((3, "float32"), (40, "float16"), (117, "float64")):
        z, y, x = chunk_of((600, 512, 512), np.dtype(dtype), channels)
        size = np.dtype(dtype).itemsize
        assert z % 2 == 0  # two slices make one of the next level
        assert z * y * x * size <= 2**26
        assert z == 2 or z * 512 * 512 * size * channels <= 2**26
