"""OpenVINO computes what PyTorch does: networks, batches and views, ensembles, cascades, and the command line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ctseg
from ctseg import plugins
from ctseg.cli.app import app
from ctseg.cli.checks import openvino as doctor
from ctseg.engine.inference.backends import choice, records
from ctseg.engine.inference.cascade import Cascade, CoarseModel
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.model.runtime import has_openvino
from ctseg.engine.prediction.api import Segmenter
from ctseg.testing import networks as kit

if not has_openvino():
    pytest.skip("openvino is not installed", allow_module_level=True)
_spec = importlib.util.spec_from_file_location(
    "small_model", Path(__file__).parents[2] / "small_model.py"
)
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

LEVELS = {"features": (4, 6, 8)}
QUICK: dict[str, dict[str, Any]] = {
    "unet3d": {"features": (16, 16)},  # so wide that channels-last tensors are told from others
}
LONG: dict[str, dict[str, Any]] = {
    "residual_unet3d": LEVELS,
    "residual_unet_se3d": LEVELS,
    "unet2d": LEVELS,
    "residual_unet2d": LEVELS,
    "timm_unet": {"encoder": "resnet18", "levels": 3, "context_slices": 1},
    "monai_dynunet": {
        "filters": (4, 6, 8),
        "kernels_zyx": ((3, 3, 3),) * 3,
        "strides_zyx": ((2, 2, 2),) * 2,
    },
    "monai_segresnet": {"init_filters": 8},
    "monai_unetr": {
        "tile_zyx": (16, 16, 32), "feature_size": 8, "hidden_size": 48, "mlp_dim": 64, "num_heads": 4,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))


def tolerance(expected) -> float:
    return 1e-4 * float(np.abs(np.asarray(expected)).max())


def compare_tiles(name: str, options: dict[str, Any]) -> None:
    spec = plugins.architecture(name)
    config = plugins.make_config(spec, options)
    torch.manual_seed(0)
    net = spec.build(config, in_channels=2, out_channels=3)
    constraints = spec.constraints_for(config)
    tile = kit.tile(constraints, larger=False)
    shape = (2, tile[0], tile[1], tile[2] * 2)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found, expected = (
        ctseg.predict_tiles(
            net, image, tile, device="cpu", precision=precision, backend=backend, constraints=constraints
        )
        for precision, backend in (("fp32", "openvino"), ("fp32", "torch"))
    )  # fmt: skip
    assert choice.used([net])[0].startswith("openvino ")
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(expected))
    assert not np.array_equal(found, expected)  # another library adds up in another order


@pytest.mark.parametrize("name", QUICK)
def test_networks_compute_the_same(name):
    compare_tiles(name, QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_all_networks_compute_the_same(name):
    if name not in plugins.names("architecture"):
        pytest.skip("its plugin is not installed")
    compare_tiles(name, LONG[name])


def openvino_model(channels: int = 1) -> Segmenter:
    model = small.small_model(channels).model
    model.runtime = small.choose("cpu", "fp32", "openvino")
    return Segmenter.of(model)


def test_batches_and_mirrored_views():
    options = {"batch_size": 3, "mirror_axes": (0, 2), "device": "cpu", "precision": "fp32"}
    image = np.random.default_rng(0).normal(size=(1, 8, 12, 20)).astype(np.float32)
    net = small.network_of()
    found, expected = (
        ctseg.predict_tiles(net, image, (8, 8, 8), backend=backend, **options)
        for backend in ("openvino", "torch")
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(expected))


def test_ensembles_and_cascades():
    scan = small.scan(shape=(16, 20, 18))
    ours, theirs = openvino_model().model, small.small_model().model
    for build in (
        lambda one: Ensemble([one, one]),
        lambda one: Cascade(one, [CoarseModel(one, ("bright",), 2.0)]),
    ):
        found, expected = (
            Segmenter.of(build(one)).probabilities(scan).array for one in (ours, theirs)
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert choice.used(ours.networks)[0].startswith("openvino")


def test_a_folder_from_the_command_line(tmp_path):
    small.scans(tmp_path / "in", 2)
    model = small.write_model(tmp_path / "small.safetensors")
    records_of = {}
    for backend in ("openvino", "torch", "auto"):
        out = tmp_path / backend
        result = CliRunner().invoke(
            app, ["predict", str(tmp_path / "in"), "-m", str(model), "-o", str(out),
                  "--backend", backend, "--device", "cpu", "--uncertainty"],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        records_of[backend] = json.loads((out / "predictions.json").read_text())
        assert records_of[backend]["settings"]["backend"] == backend
        if backend == "openvino":
            assert "s a tile, PyTorch" in result.stderr
    for scan in ("scan0", "scan1"):
        found, expected = (
            ctseg.read(tmp_path / backend / f"{scan}.nii.gz").array
            for backend in ("openvino", "torch")
        )
        assert (found == expected).mean() > 0.995
    told = {
        name: [case.get("computed_by") for case in found["cases"]]
        for name, found in records_of.items()
    }
    assert all("openvino" in case[0] and "differ by" in case[0] for case in told["openvino"])
    assert told["torch"] == [None, None] and told["auto"][0][0].startswith(("torch: ", "openvino "))
    (shown,) = [f for f in doctor() if f.check.startswith("openvino, unet3d")]
    assert "s a tile, PyTorch" in shown.found


def test_another_backend_makes_nothing_anew(tmp_path):
    small.scans(tmp_path / "in", 1)
    model = small.write_model(tmp_path / "small.safetensors")
    command = ["predict", str(tmp_path / "in"), "-m", str(model), "-o", str(tmp_path / "out"),
               "--device", "cpu", "--skip-existing", "--backend"]  # fmt: skip
    assert CliRunner().invoke(app, [*command, "torch"]).exit_code == 0
    assert "1 skipped" in CliRunner().invoke(app, [*command, "auto"]).stderr


def test_the_next_process_loads_the_converted_network(tmp_path, monkeypatch):
    scan = small.scan()
    expected = openvino_model().predict(scan).array
    assert len(list(records.folder().glob("*/network.bin"))) == 1

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(choice.openvino, "convert", never)
    np.testing.assert_array_equal(openvino_model().predict(scan).array, expected)


class Moody(torch.nn.Module):
    """Its control flow depends on values, which no exported program can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if float(x.mean()) > 0 else self.conv(-x)


def test_a_network_that_cannot_be_exported_is_computed_by_pytorch():
    net = Moody()
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    found, expected = (
        ctseg.predict_tiles(net, image, (8, 8, 8), device="cpu", precision="fp32", backend=backend)
        for backend in ("openvino", "torch")
    )
    np.testing.assert_array_equal(found, expected)
    assert "OpenVINO cannot compute the network" in choice.used([net])[0]


@pytest.mark.slow
def test_nan_is_an_error_as_with_pytorch():
    net = small.network_of()
    with torch.no_grad():
        net.heads[-1].bias[0] = float("nan")
    image = np.zeros((1, 8, 8, 8), np.float32)
    with pytest.raises(ctseg.errors.RunFailed, match="NaN or infinite"):
        ctseg.predict_tiles(net, image, (8, 8, 8), device="cpu", backend="openvino")


@pytest.mark.slow
def test_nothing_is_reported_to_a_server():
    """As importing OpenVINO does; in a process of its own, since others may have loaded it here."""
    script = """
import sys, numpy, torch, ctseg
net = torch.nn.Conv3d(1, 2, 1)
ctseg.predict_tiles(net, numpy.zeros((1, 8, 8, 8), "float32"), (8, 8, 8), device="cpu", backend="openvino")
assert "openvino" in sys.modules
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
