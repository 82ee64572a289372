"""Search spaces: read from files, and made around a plan."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from ctseg.config import RunConfig, override
from ctseg.errors import ConfigError
from ctseg_optuna.space import Choices, Range, as_settings, planned_space, read_space, values_of

PLAN = {
    "model": {
        "options": {
            "features": [24, 48, 96],
            "convs_per_level": 2,
            "encoder_convs": [],
            "decoder_convs": [],
            "norm": "instance",
            "deep_supervision": False,
        }
    },
    "train": {"lr": 1e-3, "batch_size": 2, "patch_zyx": [32, 40, 32], "time": "2m"},
    "loss": {"name": "dice_ce"},
    "augment": {"preset": "gentle"},
}


def test_a_file_of_choices_and_ranges(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        '"train.lr" = {low = 1e-4, high = 1e-2, log = true}\n"train.batch_size" = {low = 1, high = 4}\n'
        '"loss.name" = ["dice_ce", "tversky"]\n"train.patch_zyx" = [[16, 16, 16], [32, 32, 32]]\n'
    )
    space = read_space(file)
    assert space["train.lr"] == Range(1e-4, 1e-2, log=True)
    assert space["train.batch_size"] == Range(1, 4, whole=True)
    assert space["loss.name"] == Choices(("dice_ce", "tversky"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    config = RunConfig.model_validate(PLAN)
    for _ in range(20):
        trial = study.ask()
        values = {key: one.suggest(trial, key) for key, one in space.items()}
        made = override(config, as_settings(values))
        assert 1e-4 <= (made.train.lr or 0) <= 1e-2 and made.train.batch_size in (1, 2, 3, 4)
        assert made.train.patch_zyx in ((16, 16, 16), (32, 32, 32))
        assert made.loss.name == values["loss.name"]


@pytest.mark.parametrize(
    "line",
    [
        "", '"train.lr" = 3', '"train.lr" = [1e-3]', '"train.lr" = {low = 2, high = 1}',
        '"train.lr" = {low = 0.0, high = 1.0, log = true}', '"train.lr" = {low = 1, high = 2, step = 1}',
        "train.lr = {low = 1, high = 2}", '"train.lr" = {low = "a", high = 2}', '"train.lr" = {low = 1.0, high = inf}',
    ],
)  # fmt: skip
def test_what_is_no_space_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "space.toml"
    file.write_text(line)
    with pytest.raises(ConfigError):
        read_space(file)


def test_the_plan_lies_within_the_space_around_it() -> None:
    config = RunConfig.model_validate(PLAN)
    space = planned_space(config, set())
    assert set(space) == {
        "model.options.features", "model.options.encoder_convs", "model.options.decoder_convs", "model.options.norm",
        "model.options.deep_supervision", "train.lr", "train.batch_size", "train.patch_zyx", "loss.name",
        "augment.preset",
    }  # fmt: skip
    assert space["model.options.encoder_convs"] == Choices(([], [1, 2, 2], [1, 1, 1]))
    assert space["model.options.decoder_convs"] == Choices(([], [1, 1]))
    assert space["augment.preset"] == Choices(("gentle", "none"))
    assert set(values_of(config, space)) == set(space)
    widths = space["model.options.features"]
    assert isinstance(widths, Choices) and [16, 40, 72] not in widths.values
    assert all(width % 8 == 0 for choice in widths.values for width in choice)
    patches = space["train.patch_zyx"]
    assert isinstance(patches, Choices)
    assert all(side % 4 == 0 for patch in patches.values for side in patch), (
        "strides of the network"
    )


def test_what_the_user_fixed_is_not_searched() -> None:
    config = RunConfig.model_validate(PLAN)
    assert "train.lr" not in planned_space(config, {"train.lr"})
