"""Every registered network trains from the command line, and what it learnt predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctseg import plugins
from ctseg.cli.app import app

SMALL = {
    "unet3d": ["features=[4, 8]"],
    "residual_unet3d": ["features=[4, 8]", "blocks_per_level=[1, 1]"],
    "residual_unet_se3d": ["features=[4, 8]", "blocks_per_level=[1, 1]"],
    "unet2d": ["features=[4, 8]"],
    "residual_unet2d": ["features=[4, 8]", "blocks_per_level=[1, 1]"],
    "timm_unet": ["encoder=resnet18", "levels=2"],
    "monai_segresnet": ["init_filters=8"],
    "monai_swinunetr": ["feature_size=12", "depths=[1, 1, 1, 1]"],
    "monai_unetr": ["feature_size=4", "hidden_size=24", "mlp_dim=24", "num_heads=2"],
}
PATCHES = {"monai_swinunetr": "64,64,64", "monai_unetr": "16,16,16"}
SLOW = {"monai_swinunetr"}  # its smallest patch is 64 voxels wide
RUNS = [
    pytest.param(name, (), marks=[pytest.mark.slow] if name in SLOW else [])
    for name in plugins.names("architecture")
]
RUNS.append(pytest.param("timm_unet", ("encoder=convnext_atto",)))


@pytest.mark.parametrize(("name", "more"), RUNS, ids=lambda value: "".join(value) or "default")
def test_trains_and_predicts(
    name: str, more: tuple[str, ...], mini_set: Path, tmp_path: Path
) -> None:
    options = [f"model.options.{setting}" for setting in (*SMALL.get(name, []), *more)]
    patch = PATCHES.get(name, "8,16,16")
    run = tmp_path / "run"
    arguments = ["train", mini_set, "-o", run, "-a", name, "--steps", 2, "--patch", patch]
    arguments += ["--batch-size", 2, "--device", "cpu"]
    for option in options:
        arguments += ["--set", option]
    runner = CliRunner()
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    scan = mini_set / "imagesTr" / "mini_0.nii.gz"
    out = tmp_path / "out.nii.gz"
    result = runner.invoke(app, ["predict", str(scan), "-m", str(run), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert out.is_file()
