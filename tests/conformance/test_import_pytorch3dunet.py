"""A checkpoint of pytorch-3dunet, made with its own network, imported: the same probabilities."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.errors import BadInput, ConfigError
from ctseg.zoo.importers.entry import EntryOptions, import_model

theirs = pytest.importorskip("pytorch3dunet.unet3d.model")

CLOSE = 1e-5
CONFIG: dict[str, Any] = {
    "device": "cpu",
    "model": {
        "name": "UNet3D", "in_channels": 1, "out_channels": 3, "layer_order": "gcr", "f_maps": [8, 16],
        "num_groups": 4, "final_sigmoid": False, "is_segmentation": True,
    },
    "loaders": {
        "global_normalization": True,
        "test": {
            "slice_builder": {
                "name": "SliceBuilder", "patch_shape": [12, 20, 16], "stride_shape": [8, 12, 16],
                "halo_shape": [2, 2, 0],
            },
            "transformer": {"raw": [{"name": "Standardize"}, {"name": "ToTensor", "expand_dims": True}]},
        },
    },
}  # fmt: skip
SHAPE = (16, 24, 16)
"""One patch with its halo, so that no tile is blended."""


@pytest.fixture(autouse=True)
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTSEG_ZOO", str(tmp_path / "zoo"))


def files(folder: Path, config: dict[str, Any]) -> tuple[Path, Path, torch.nn.Module]:
    """Checkpoint and configuration, and the network."""
    torch.manual_seed(0)
    net = theirs.get_model(copy.deepcopy(config["model"])).eval()
    optimizer = torch.optim.Adam(net.parameters())
    state = {
        "num_epochs": 2, "num_iterations": 30, "model_state_dict": net.state_dict(),
        "best_eval_score": np.float64(0.5), "optimizer_state_dict": optimizer.state_dict(),
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "best_checkpoint.pytorch")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "best_checkpoint.pytorch", folder / "config.yaml", net


def changed(change: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    change(config)
    return config


def expected(net: torch.nn.Module, scan: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(scan)[None, None].float())[0].numpy()


@pytest.mark.parametrize("sigmoid", [False, True])
def test_probabilities_are_those_of_pytorch3dunet(sigmoid: bool, tmp_path: Path) -> None:
    config = changed(lambda c: c["model"].update(final_sigmoid=sigmoid))
    checkpoint, settings, net = files(tmp_path / "run", config)
    entry, notes = import_model(
        "pytorch3dunet",
        [checkpoint, settings],
        EntryOptions(licence="MIT"),
        options={"labels": "background,cell,wall"},
    )
    card = entry.card()
    assert entry.name == "unet3d.run"
    assert card.task.kind == ("channels" if sigmoid else "classes")
    assert [label.name for label in card.task.labels] == ["background", "cell", "wall"]
    assert card.predict.tile_zyx == SHAPE
    assert card.predict.overlap == 0.5
    assert any("last patch" in note for note in notes)
    scan = np.random.default_rng(0).normal(90, 30, SHAPE).astype(np.float32)
    found = ctseg.load(entry.name, device="cpu", precision="fp32").probabilities(
        ctseg.Volume.from_array(scan)
    )
    assert np.abs(found.array - expected(net, (scan - scan.mean()) / scan.std())).max() < CLOSE


NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"name": "UNet3D", "layer_order": "bcl", "upsample": "deconv"},
    "residual": {"name": "ResidualUNet3D", "layer_order": "cge", "final_sigmoid": True},
    "excited": {"name": "ResidualUNetSE3D", "layer_order": "gcr"},
    "slices": {"name": "UNet2D", "layer_order": "crg"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_an_hdf5_volume_is_predicted_as_by_its_own_predictor(name: str, tmp_path: Path) -> None:
    """`StandardPredictor` mirrors the volume by the halo and crops it; a patch of the whole volume is exact."""
    predict = pytest.importorskip("pytorch3dunet.predict")
    loading = pytest.importorskip("pytorch3dunet.datasets.utils")
    flat = NETWORKS[name]["name"] == "UNet2D"
    shape = (1, 32, 24) if flat else (16, 24, 20)
    slices = {
        "name": "SliceBuilder", "patch_shape": list(shape), "stride_shape": list(shape),
        "halo_shape": [0, 4, 4] if flat else [4, 4, 4], "skip_shape_check": True,
    }  # fmt: skip
    config = changed(lambda c: c["model"].update(NETWORKS[name]))
    config["loaders"]["test"]["slice_builder"] = slices
    checkpoint, settings, net = files(tmp_path / "run", config)
    scan = np.random.default_rng(0).normal(90, 30, (3, *shape[1:]) if flat else shape)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["raw"] = scan.astype(np.float32)
    loaders = config["loaders"]
    loaders |= {"output_dir": str(tmp_path / "theirs"), "num_workers": 0}
    loaders["test"]["file_paths"] = [str(tmp_path / "scan.h5")]
    for loader in loading.get_test_loaders(config):
        predict.get_predictor(net, config)(loader)
    with h5py.File(next((tmp_path / "theirs").iterdir())) as file:
        theirs = file["predictions"][:]
    entry, _ = import_model(
        "pytorch3dunet", [checkpoint, settings], EntryOptions(licence="MIT", zoo=tmp_path / "zoo")
    )
    segmenter = ctseg.load(entry.folder, device="cpu", precision="fp32")
    found = segmenter.probabilities(ctseg.read(tmp_path / "scan.h5"))
    assert np.abs(found.array - theirs).max() < CLOSE


def test_transforms_become_steps(tmp_path: Path) -> None:
    from pytorch3dunet.augment import transforms

    scan = np.random.default_rng(1).normal(90, 30, SHAPE).astype(np.float32)
    for given in (
        {"name": "Standardize", "mean": 80.0, "std": 20.0},
        {"name": "Normalize", "min_value": 50, "max_value": 120},
        {"name": "Normalize", "norm01": True},
        {"name": "PercentileNormalizer", "pmin": 2, "pmax": 95},
        {"name": "ToTensor", "expand_dims": True, "normalize": True},
    ):
        config = changed(lambda c, g=given: c["loaders"]["test"]["transformer"].update(raw=[g]))
        checkpoint, settings, net = files(tmp_path / "run", config)
        entry, _ = import_model(
            "pytorch3dunet", [checkpoint, settings], EntryOptions(licence="MIT", overwrite=True)
        )
        prepared = np.asarray(getattr(transforms, given["name"])(**given)(scan)).reshape(SHAPE)
        found = ctseg.load(entry.name, device="cpu", precision="fp32").probabilities(
            ctseg.Volume.from_array(scan)
        )
        assert np.abs(found.array - expected(net, prepared)).max() < CLOSE, given


def test_statistics_of_patches_are_said_to_be_left_out(tmp_path: Path) -> None:
    config = changed(lambda c: c["loaders"].update(global_normalization=False))
    checkpoint, settings, _ = files(tmp_path / "run", config)
    done = CliRunner().invoke(
        app, ["zoo", "import", "pytorch3dunet", str(checkpoint), str(settings), "--licence", "MIT"]
    )
    assert done.exit_code == 0, done.output
    assert "statistics of each patch" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(name="os.system"), "network 'os.system'"),
        (lambda c: c["model"].pop("out_channels"), "no 'out_channels'"),
        (lambda c: c["model"].update(f_maps=[8, 12]), "do not fit"),
        (
            lambda c: c["loaders"]["test"]["transformer"].update(raw=[{"name": "Evil"}]),
            "transform 'Evil'",
        ),
        (
            lambda c: c["loaders"]["test"]["slice_builder"].update(patch_shape=[0, 8, 8]),
            "patch_shape",
        ),
    ],
)
def test_configurations_that_are_not_understood_are_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    checkpoint, settings, _ = files(tmp_path / "run", CONFIG)
    settings.write_text(yaml.safe_dump(changed(change)))
    with pytest.raises((BadInput, ConfigError), match=message):
        import_model("pytorch3dunet", [checkpoint, settings], EntryOptions(licence="MIT"))


def test_yaml_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    checkpoint, settings, _ = files(tmp_path / "run", CONFIG)
    mark = tmp_path / "ran"
    settings.write_text(f"model: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(BadInput, match=r"python/object/apply:os\.system"):
        import_model("pytorch3dunet", [checkpoint, settings], EntryOptions(licence="MIT"))
    assert not mark.exists()


def test_one_path_is_too_few(tmp_path: Path) -> None:
    checkpoint, settings, _ = files(tmp_path / "run", CONFIG)
    with pytest.raises(BadInput, match="1 paths are given"):
        import_model("pytorch3dunet", [checkpoint], EntryOptions(licence="MIT"))
    with pytest.raises(BadInput, match="names 2 labels; the network has 3"):
        import_model(
            "pytorch3dunet",
            [checkpoint, settings],
            EntryOptions(licence="MIT"),
            options={"labels": "a,b"},
        )
