"""Checkpoints laid out as pytorch-3dunet's, without the package: read as data, hostile ones refused by name."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.data.steps import RescaleCase
from ctseg.zoo.importers.entry import EntryOptions, import_model
from ctseg.zoo.importers.pytorch3dunet_steps import steps_of

CONFIG: dict[str, Any] = {
    "model_path": "/home/someone/run/best_checkpoint.pytorch",
    "device": "cuda",
    "model": {
        "name": "UNet3D", "in_channels": 1, "out_channels": 2, "layer_order": "gcr", "f_maps": [4, 8], "num_groups": 2,
        "final_sigmoid": False, "is_segmentation": True,
    },
    "predictor": {"name": "StandardPredictor"},
    "loaders": {
        "output_dir": "/home/someone/predictions",
        "global_normalization": True,
        "test": {
            "file_paths": ["/home/someone/data"],
            "slice_builder": {
                "name": "SliceBuilder", "patch_shape": [12, 12, 12], "stride_shape": [12, 12, 12],
                "halo_shape": [2, 2, 2],
            },
            "transformer": {"raw": [{"name": "Standardize"}, {"name": "ToTensor", "expand_dims": True}]},
        },
    },
}  # fmt: skip
CONVS = {
    "encoders.0.basic_module.SingleConv1": (1, 2),
    "encoders.0.basic_module.SingleConv2": (2, 4),
    "encoders.1.basic_module.SingleConv1": (4, 4),
    "encoders.1.basic_module.SingleConv2": (4, 8),
    "decoders.0.basic_module.SingleConv1": (12, 4),
    "decoders.0.basic_module.SingleConv2": (4, 4),
}
"""Channels before and after each convolution, under the names that `UNet3D.state_dict()` has."""


class Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    out = {}
    for name, (before, after) in CONVS.items():
        out[f"{name}.groupnorm.weight"] = torch.ones(before)
        out[f"{name}.groupnorm.bias"] = torch.zeros(before)
        kernel = torch.randn((after, before, 3, 3, 3), generator=generator)
        out[f"{name}.conv.weight"] = kernel / (before * 27) ** 0.5
    out["final_conv.weight"] = torch.randn((2, 4, 1, 1, 1), generator=generator)
    out["final_conv.bias"] = torch.zeros(2)
    return out


def checkpoint(**more: Any) -> dict[str, Any]:
    """What its `UNetTrainer` saves."""
    return {
        "num_epochs": 3, "num_iterations": 40, "model_state_dict": state(), "best_eval_score": np.float64(0.5),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}]}, **more,
    }  # fmt: skip


def files(folder: Path, content: Any = None, config: Any = None) -> list[Path]:
    folder.mkdir()
    torch.save(content or checkpoint(), folder / "best_checkpoint.pytorch")
    text = config if isinstance(config, str) else yaml.safe_dump(config or CONFIG)
    (folder / "config.yaml").write_text(text)
    return [folder / "best_checkpoint.pytorch", folder / "config.yaml"]


def by_hand(image: torch.Tensor) -> torch.Tensor:
    """The network of the checkpoint, written out with torch's functions: softmax of its logits."""
    functional, tensors = torch.nn.functional, state()

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = tensors[f"{name}.groupnorm.weight"], tensors[f"{name}.groupnorm.bias"]
        groups = 2 if x.shape[1] >= 2 else 1
        x = functional.group_norm(x, groups, weight, bias)
        return functional.relu(functional.conv3d(x, tensors[f"{name}.conv.weight"], padding=1))

    names = list(CONVS)
    skip = conv(conv(image, names[0]), names[1])
    deep = conv(conv(functional.max_pool3d(skip, 2), names[2]), names[3])
    up = functional.interpolate(deep, size=skip.shape[2:])
    out = conv(conv(torch.cat((skip, up), 1), names[4]), names[5])
    out = functional.conv3d(out, tensors["final_conv.weight"], tensors["final_conv.bias"])
    return out.softmax(1)


def test_a_checkpoint_gives_the_probabilities_of_its_network(tmp_path: Path) -> None:
    entry, _ = import_model(
        "pytorch3dunet", files(tmp_path / "run"), EntryOptions(licence="MIT", zoo=tmp_path / "zoo")
    )
    card = entry.card()
    assert card.predict.tile_zyx == (16, 16, 16)
    assert card.preprocess.steps[0]["kind"] == "normalise_case"
    scan = np.random.default_rng(0).normal(90, 30, (16, 16, 16)).astype(np.float32)
    found = ctseg.load(entry.folder, device="cpu", precision="fp32").probabilities(
        ctseg.Volume.from_array(scan)
    )
    image = torch.from_numpy((scan - scan.mean()) / scan.std())[None, None]
    assert np.abs(found.array - by_hand(image)[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("whole", [False, True])
def test_normalize_scales_each_channel_by_its_own_range_where_it_is_channelwise(
    whole: bool,
) -> None:
    """As versions 1.8.7 to 1.9.3 do, whose `global_normalization` gives no range."""
    transforms = [{"name": "Normalize", "norm01": True, "channelwise": True}]
    loaders = {"global_normalization": whole, "test": {"transformer": {"raw": transforms}}}
    steps, left_out = steps_of({"loaders": loaders})
    assert steps == [RescaleCase(to_low=0.0, to_high=1.0, joint=False)]
    assert [what.split()[0] for what in left_out] == ["statistics", "Normalize"]
    del transforms[0]["channelwise"]
    steps, left_out = steps_of({"loaders": loaders})
    assert steps == [RescaleCase(to_low=0.0, to_high=1.0, joint=True)]
    assert [what.split()[0] for what in left_out] == ["statistics"]


def hostile(kind: str, mark: Path) -> tuple[Any, Any, str]:
    """Checkpoint, configuration, and what the error must name."""
    changed = copy.deepcopy(CONFIG)
    code = f"!!python/object/apply:os.system ['touch {mark}']"
    if kind == "pickle":
        return checkpoint(extra=Runs(mark)), None, "system"
    if kind == "pickled state":
        return checkpoint(model_state_dict=Runs(mark)), None, "system"
    if kind == "pickled module":
        return checkpoint(model=torch.nn.Conv3d(1, 1, 1)), None, "Conv3d"
    if kind == "yaml tag":
        return None, f"model: {code}\n", "python/object/apply:os.system"
    if kind == "yaml tag elsewhere":
        return None, f"{yaml.safe_dump(CONFIG)}trainer: {code}\n", "python/object/apply:os.system"
    if kind == "yaml name":
        return None, "model: {name: !!python/name:os.system }\n", "python/name:os.system"
    if kind == "network":
        changed["model"]["name"] = "../../evil.UNet3D"
        return None, changed, "../../evil.UNet3D"
    changed["loaders"]["test"]["transformer"]["raw"][0] = {"name": "/tmp/evil.py:Evil"}
    return None, changed, "/tmp/evil.py:Evil"


@pytest.mark.parametrize(
    "kind",
    [
        "pickle", "pickled state", "pickled module", "yaml tag", "yaml tag elsewhere", "yaml name", "network",
        "transform",
    ],
)  # fmt: skip
def test_hostile_twins_are_refused_by_name_and_nothing_is_run(kind: str, tmp_path: Path) -> None:
    mark, zoo = tmp_path / "ran", tmp_path / "zoo"
    content, config, named = hostile(kind, mark)
    paths = files(tmp_path / "run", content, config)
    done = CliRunner().invoke(
        app,
        ["zoo", "import", "pytorch3dunet", *map(str, paths), "--licence", "MIT", "--zoo", str(zoo)],
    )
    assert done.exit_code == 2
    assert named in "".join(done.stderr.split("\n"))
    assert not mark.exists()
    assert not zoo.exists()


@pytest.mark.parametrize("place", ["/", ".."])
def test_paths_in_the_configuration_are_never_opened(place: str, tmp_path: Path) -> None:
    """Every real configuration has some; what is read is what the command names, and nothing else is written."""
    mark = tmp_path / "ran"
    folder = tmp_path / "run"
    target = f"{folder}/evil.pytorch" if place == "/" else "../run/evil.pytorch"
    config = copy.deepcopy(CONFIG) | {"model_path": target}
    config["trainer"] = {"checkpoint_dir": target, "resume": target, "pre_trained": target}
    config["loaders"]["output_dir"] = target
    config["loaders"]["test"]["file_paths"] = [target]
    paths = files(folder, None, config)
    torch.save(Runs(mark), folder / "evil.pytorch")
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    reads = (folder / "evil.pytorch").stat().st_atime_ns
    import_model("pytorch3dunet", paths, EntryOptions(licence="MIT", zoo=tmp_path / "zoo"))
    assert not mark.exists()
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert (folder / "evil.pytorch").stat().st_atime_ns == reads
