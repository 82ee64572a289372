"""Fine-tuning: weights fitted to other labels and channels, parameters that stay, and where the weights come from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from ctseg.card import Card, parse_card
from ctseg.cli.app import app
from ctseg.config import PreprocessConfig, RunConfig, TaskConfig, TrainConfig, load_config
from ctseg.engine.model.build import build
from ctseg.engine.model.weights import read_card, read_weights, save_weights
from ctseg.engine.training import checkpoint
from ctseg.engine.training.adopt import adopt, preprocessing
from ctseg.engine.training.initial import fitted, freeze
from ctseg.engine.training.job import Silent
from ctseg.engine.training.optim import Schedule, make_optimizer
from ctseg.errors import BadInput
from ctseg.specs import Label, Task


def ctseg(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def changed(
    card: Card, labels: tuple[str, ...], channels: tuple[str, ...], kind: Any = "classes"
) -> Card:
    """The card of a model of other labels and channels."""
    task = Task(kind, tuple(Label(name, (i,), i) for i, name in enumerate(labels)))
    return card.model_copy(
        update={
            "task": TaskConfig.of(task), "out_channels": len(labels),
            "channels": channels, "in_channels": len(channels),
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def model(mini_run: Path) -> tuple[dict[str, torch.Tensor], Card]:
    return read_weights(mini_run / "best.safetensors")


def head_and_stem(state: dict[str, torch.Tensor], card: Card) -> tuple[list[str], list[str]]:
    """The tensors with one row for each output, and those with one column for each input channel."""
    head = [k for k, v in state.items() if v.shape[0] == card.out_channels]
    stem = [k for k, v in state.items() if v.ndim == 5 and v.shape[1] == card.in_channels]
    return head, stem


def test_rows_of_labels_with_the_same_name_are_kept(model):
    old, card = model
    new_card = changed(card, ("air", "rod", "brick", "bolt"), ("CT",))
    new = build(new_card).state_dict()
    state, remade = fitted(new, model, new_card)
    head, _ = head_and_stem(old, card)
    assert set(head) == remade and len(head) == 2
    for name in head:
        rows = [
            old[name][0],
            new[name][1],
            old[name][2],
            new[name][3],
        ]  # brick was the third of old
        torch.testing.assert_close(state[name], torch.stack(rows).float(), rtol=0, atol=0)
    for name in old.keys() - remade:
        assert torch.equal(state[name], old[name])


def test_the_same_labels_keep_every_tensor(model):
    old, card = model
    state, remade = fitted(build(card).state_dict(), model, card)
    assert not remade
    assert all(torch.equal(state[name], old[name]) for name in old)


def test_another_order_of_labels_reorders_the_outputs(model):
    old, card = model
    new_card = changed(card, ("background", "brick", "box"), ("CT",))
    state, _ = fitted(build(new_card).state_dict(), model, new_card)
    one, two = build(card).eval(), build(new_card).eval()
    one.load_state_dict(old)
    two.load_state_dict(state)
    scan = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(two(scan), one(scan)[:, [0, 2, 1]])


def test_sigmoids_do_not_take_rows_of_a_softmax(model):
    _, card = model
    new_card = changed(card, ("box", "brick"), ("CT",), kind="channels")
    new = build(new_card).state_dict()
    state, remade = fitted(new, model, new_card)
    assert all(torch.equal(state[name], new[name]) for name in remade)


def test_a_channel_more_changes_nothing_at_first(model):
    old, card = model
    new_card = changed(card, ("background", "box", "brick"), ("PET", "CT"))
    state, remade = fitted(build(new_card).state_dict(), model, new_card)
    one, two = build(card).eval(), build(new_card).eval()
    one.load_state_dict(old)
    two.load_state_dict(state)
    scan = torch.randn(1, 2, 8, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(two(scan), one(scan[:, 1:]))
    _, stem = head_and_stem(old, card)
    assert remade == set(stem)


def test_unknown_channels_share_the_mean(model):
    old, card = model
    new_card = changed(card, ("background", "box", "brick"), ("T1", "T2", "FLAIR"))
    state, _ = fitted(build(new_card).state_dict(), model, new_card)
    one, two = build(card).eval(), build(new_card).eval()
    one.load_state_dict(old)
    two.load_state_dict(state)
    scan = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():  # thrice the same image, each with a third of the weight
        torch.testing.assert_close(
            two(scan.expand(1, 3, 8, 16, 16)), one(scan), rtol=1e-4, atol=1e-5
        )


def test_another_network_is_refused_with_the_tensor(model):
    _, card = model
    options = {**card.options, "features": [4, 12]}
    new_card = card.model_copy(update={"options": options})
    with pytest.raises(BadInput, match=r"do not fit the network: '.*' is of shape"):
        fitted(build(new_card).state_dict(), model, new_card)


# ---------------------------------------------------------------- preprocessing


def test_preprocessing_is_kept_unless_said_otherwise(model):
    _, card = model
    kept = preprocessing(PreprocessConfig(), card, ["ct"])
    assert kept.steps == card.preprocess.steps
    spaced = preprocessing(PreprocessConfig(spacing_xyz=(2.0, 2.0, 4.0)), card, ["CT"])
    kinds = [step["kind"] for step in spaced.steps]
    assert kinds == ["orient", "resample", *[k for k in kinds if k not in ("orient", "resample")]]
    assert list(spaced.steps[1]["spacing_xyz"]) == [2.0, 2.0, 4.0]
    again = card.model_copy(update={"preprocess": spaced})
    other = preprocessing(PreprocessConfig(), again, ["PET"])
    assert not other.steps and other.spacing_xyz == (2.0, 2.0, 4.0)  # normalisation is planned anew


def test_the_grid_is_that_of_the_run_file_or_else_of_the_model(model):
    _, card = model
    own = PreprocessConfig(grid="PET")
    for spacing in (None, (2.0, 2.0, 4.0)):
        spaced = own.model_copy(update={"spacing_xyz": spacing})
        assert preprocessing(spaced, card, card.channels).grid == "PET"
    assert preprocessing(own, card, ["CT", "PET"]).grid == "PET"
    theirs = {
        "channels": ("CT", "PET"),
        "preprocess": card.preprocess.model_copy(update={"grid": "PET"}),
    }
    two = card.model_copy(update=theirs)
    assert preprocessing(PreprocessConfig(), two, ["ct", "pet"]).grid == "pet"
    assert preprocessing(PreprocessConfig(grid="CT"), two, ["CT", "PET"]).grid == "CT"
    assert preprocessing(PreprocessConfig(), two, ["MRI"]).grid == ""


def test_options_and_patch_are_taken_over(model, mini_run, mini_set):
    from ctseg.data.readers.find import open_dataset

    _, card = model
    config = RunConfig.model_validate({"model": {"init": str(mini_run / "best.safetensors")}})
    adopted = adopt(config, open_dataset(mini_set), Silent())
    assert adopted.model.options == card.options
    assert adopted.train.patch_zyx == card.predict.tile_zyx
    wrong = config.model_copy(
        update={"model": config.model.model_copy(update={"architecture": "unet2d"})}
    )
    with pytest.raises(BadInput, match="of the architecture unet3d, not unet2d"):
        adopt(wrong, open_dataset(mini_set), Silent())


# ---------------------------------------------------------------- rates and frozen parameters


def test_what_was_learnt_gets_its_share_of_the_rate(model):
    _, card = model
    new_card = changed(card, ("background", "rod"), ("CT",))
    network = build(new_card)
    _, remade = fitted(network.state_dict(), model, new_card)
    initial = dataclasses.make_dataclass("Initial", ["remade"])(tuple(remade))
    for schedule, factor in (("poly", (1 - 5 / 10) ** 0.9), ("constant", 1.0)):
        config = TrainConfig(
            lr=0.01, weight_decay=0.1, schedule=schedule, warmup=0, init_lr_scale=0.25
        )
        optimizer = make_optimizer(network, config, initial)
        rates = Schedule(optimizer, config, 10)
        rates.set(5)
        names = {id(p): name for name, p in network.named_parameters()}
        assert rates.lr == pytest.approx(0.01 * factor)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names.pop(id(parameter))
                scale = 1.0 if name in remade else 0.25
                assert group["lr"] == pytest.approx(0.01 * factor * scale), name
                assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
        assert not names


def test_frozen_parameters_and_statistics_stay():
    torch.manual_seed(0)
    network = torch.nn.Sequential()
    for name in ("stem", "top"):
        norm = torch.nn.BatchNorm3d(2)
        network.add_module(name, torch.nn.Sequential(torch.nn.Conv3d(2, 2, 1), norm))
    freeze(network, ["stem"])
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = make_optimizer(network, TrainConfig(lr=0.1))
    for _ in range(2):
        network.train()
        network(torch.randn(2, 2, 4, 4, 4) + 3).square().sum().backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("stem"), name


@pytest.mark.parametrize(
    ("patterns", "told"),
    [(["decoder.*"], "fits no parameter"), (["*"], "nothing is left to train")],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(patterns, told):
    with pytest.raises(BadInput, match=told):
        freeze(torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1)), patterns)


# ---------------------------------------------------------------- by command


@pytest.fixture(scope="session")
def one_label(mini_set: Path, tmp_path_factory: Any) -> Path:
    """The mini set with its two labels as one."""
    folder = Path(shutil.copytree(mini_set, tmp_path_factory.mktemp("one") / "One"))
    content = json.loads((folder / "dataset.json").read_text())
    content |= {"name": "One", "labels": {"0": "background", "2": "brick"}}
    import numpy as np

    import ctseg as package

    for file in sorted((folder / "labelsTr").iterdir()):
        volume = package.read(file)
        array = np.where(volume.array == 2, 2, 0).astype(np.uint8)
        package.write(dataclasses.replace(volume, array=array), file)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def tuned(mini_run: Path, one_label: Path, tmp_path_factory: Any) -> tuple[Path, Path]:
    """A run that began with another one, and that one, whose licence is CC BY-SA."""
    base = tmp_path_factory.mktemp("base")
    tensors, card = read_weights(mini_run / "best.safetensors")
    save_weights(
        base / "best.safetensors", tensors, card.model_copy(update={"licence": "CC BY-SA 4.0"})
    )
    result = ctseg(
        "train", one_label, "--init", base, "--freeze", "encoder.0", "--steps", 4, "-o", base / "tuned",
        "--batch-size", 2, "--device", "cpu", "--precision", "fp32", "--set", "train.steps_per_epoch=4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return base / "tuned", base


def test_a_run_begins_with_a_model(tuned):
    run, base = tuned
    config, card = load_config(run / "config.toml"), read_card(run / "best.safetensors")
    old, old_card = read_weights(base / "best.safetensors")
    assert config.preprocess == old_card.preprocess
    assert config.model.options == old_card.options
    assert card.initial is not None
    assert card.initial.tensors_sha256 == old_card.members[0].tensors_sha256
    assert card.licence == "CC BY-SA 4.0 and CC0"
    new = safetensors.torch.load_file(run / "best.safetensors")
    assert all(torch.equal(new[k], old[k]) == k.startswith("encoder.0") for k in new)
    assert set(card.initial.remade) == {k for k in new if new[k].shape != old[k].shape}


@pytest.mark.slow
def test_a_tuned_run_is_resumed_exactly_without_the_old_model(tuned, one_label, tmp_path):
    _, base = tuned
    whole, parts = (shutil.copytree(base, tmp_path / name) for name in ("whole", "parts"))
    settings = (
        "train.steps_per_epoch=2",
        "train.schedule=constant",
    )  # the length does not change the rate
    options = ["--batch-size", 2, "--device", "cpu", "--precision", "fp32", "--freeze", "encoder.0"]
    options += [part for setting in settings for part in ("--set", setting)]
    command = ["train", one_label, *options]
    assert ctseg(*command, "--init", whole, "--steps", 4, "-o", whole / "new").exit_code == 0
    assert ctseg(*command, "--init", parts, "--steps", 2, "-o", parts / "new").exit_code == 0
    (parts / "best.safetensors").unlink()
    result = ctseg("train", "--resume", "--extend", "--steps", 4, parts / "new")
    assert result.exit_code == 0, result.output
    one, two = (checkpoint.load(folder / "new" / "last") for folder in (whole, parts))
    for part in ("model", "optimizer"):
        assert all(torch.equal(one[1][part][k], two[1][part][k]) for k in one[1][part])


def test_the_licence_travels(tuned, tmp_path):
    run, _ = tuned
    command = ["zoo", "publish", run, "--tag", "tuned", "--zoo", tmp_path, "--no-measure"]
    result = ctseg(*command, "--licence", "CC0")
    assert result.exit_code == 2
    assert "--licence 'CC BY-SA 4.0 and CC0'" in result.output
    assert ctseg(*command).exit_code == 0
    card = parse_card((tmp_path / "unet3d.tuned" / "card.json").read_text(), where="card.json")
    assert card.licence == "CC BY-SA 4.0 and CC0"
    assert "Training began with" in card.attribution
    assert "SHA-256" in (tmp_path / "unet3d.tuned" / "README.md").read_text()


def test_a_pattern_that_fits_nothing_is_refused_before_anything_is_written(
    one_label, mini_run, tmp_path
):
    command = ["train", one_label, "--init", mini_run, "--freeze", "nothing.*", "--steps", 1]
    result = ctseg(*command, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert "fits no parameter" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
