"""`ctseg tune` on a small data set: trials, the best run file, going on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.config import RunConfig, dump_config, load_config, override
from ctseg.data.readers.find import open_dataset
from ctseg.data.splits import fold_cases
from ctseg.engine.training.job import Silent
from ctseg.errors import RunFailed
from ctseg_optuna import search as searching
from ctseg_optuna.prepare import planned, trial_folder
from ctseg_optuna.search import best_of, search
from ctseg_optuna.start import Search, set_up

SPACE = '"train.lr" = {low = 1e-4, high = 1e-2, log = true}\n"train.batch_size" = [1, 2]\n'


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "space.toml"
    file.write_text(SPACE)
    return file


def tune(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["tune", *map(str, words)])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_trials_are_planned_for_their_time(mini_set: Path) -> None:
    from ctseg.cli.train import configure

    def width(time: str) -> int:
        config = configure(mini_set, {"train.time": time, "train.device": "cpu"}, [])
        return int(planned(config, Silent()).model.options["features"][0])

    assert width("2s") < width("12h")


def test_a_split_of_the_users_own_comes_back_in_the_best_run_file(
    mini_set: Path, tmp_path: Path, space: Path
) -> None:
    from ctseg.cli.train import configure

    names = [case.id for case in open_dataset(mini_set).cases]
    split = [f"data.val={names[:1]}", f"data.train={names[1:-1]}"]
    fixed = ["model.options.features=[4, 8]", "train.patch_zyx=[8, 16, 16]", *split]
    config = configure(mini_set, {"train.time": "2s", "train.device": "cpu"}, fixed)
    how = Search(tmp_path / "tuning", 60, space=space, settings=tuple(fixed), device="cpu")
    base, _ = set_up(config, how, Silent())
    assert set(base.data.train) | set(base.data.val) == set(names[1:-1])
    first = trial_folder(how.folder, 0)
    first.mkdir(parents=True)
    (first / "config.toml").write_text(dump_config(override(base, ['train.device="cuda:1"'])))
    study = searching._study(how, base)
    values = {"train.lr": 1e-3, "train.batch_size": "1"}
    kinds = {
        "train.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "train.batch_size": optuna.distributions.CategoricalDistribution(["1", "2"]),
    }
    study.add_trial(optuna.trial.create_trial(params=values, distributions=kinds, value=0.5))
    searching._write(study, base, how.folder)
    best = load_config(how.folder / "best.toml")
    assert (best.data.val, best.data.train) == ((names[0],), tuple(names[1:-1]))
    assert best.train.device == "cpu"


def test_a_search_that_goes_on_keeps_its_trials_alike(
    mini_set: Path, tmp_path: Path, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctseg.cli.train import configure

    fixed = ["model.options.features=[4, 8]", "train.patch_zyx=[8, 16, 16]"]
    config = configure(mini_set, {"train.time": "3s", "train.device": "cpu"}, fixed)
    folder = tmp_path / "tuning"
    set_up(config, Search(folder, 60, space=space, settings=tuple(fixed)), Silent())
    seen = []

    def recorded(config: RunConfig, **_: object) -> None:
        seen.append((config.train.time, config.train.device))
        raise RunFailed("no card")

    monkeypatch.setattr(searching, "train", recorded)
    both = [word for setting in fixed for word in ("--set", setting)]
    same = ("-o", folder, "--time", "10m", "--trials", "1", "--device", "cuda:1")
    tune(*same, code=1)
    tune(mini_set, *same, *both, "--space", space, "--run-time", "3s", code=1)
    assert seen == [("3s", "cuda:1")] * 2
    other = tmp_path / "other.toml"
    other.write_text('"train.batch_size" = [1, 2]\n')
    for words in (
        ["--fold", "1"],
        ["--run-time", "4s"],
        ["--space", other],
        ["--set", "train.lr=0.1"],
    ):
        assert "holds a search" in tune(mini_set, *same, *words, code=2)
    assert len(seen) == 2


@pytest.mark.slow
def test_a_search_and_how_it_goes_on(mini_set: Path, tmp_path: Path, space: Path) -> None:
    folder = tmp_path / "tuning"
    fixed = ["--set", "model.options.features=[4, 8]", "--set", "train.patch_zyx=[8, 16, 16]"]
    common = ["-o", folder, "--time", "10m", "--run-time", "4s", "--device", "cpu"]
    said = tune(mini_set, *common, "--trials", 2, "--space", space, *fixed)
    assert "Best: trial" in said
    base = load_config(folder / "base.toml")
    held_out = set(fold_cases(open_dataset(mini_set), 0)[1])
    assert held_out.isdisjoint(base.data.train) and held_out.isdisjoint(base.data.val)
    assert set(base.data.train).isdisjoint(base.data.val) and base.data.val
    best = load_config(folder / "best.toml")
    assert best.data.train == () and best.data.val == () and best.data.fold == 0
    assert best.model.options["features"] == [4, 8] and best.train.patch_zyx == (8, 16, 16)
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert "train.batch_size" in page and "2 complete" in page
    went_on = CliRunner().invoke(app, ["tune", *map(str, common), "--trials", "1", "--json"])
    first = json.loads(went_on.stdout)
    assert first["trials"] == 3 and first["score"] is not None
    assert not list(folder.glob("trials/*/last"))
    other = tmp_path / "data"
    other.mkdir()
    (other / "dataset.json").write_text((mini_set / "dataset.json").read_text())
    assert "holds a search on" in tune(other, *common, code=2)
    study = searching._study(Search(folder, 1, "1s"), base)
    planned = study.get_trials()[0]
    assert planned.params["train.lr"] == pytest.approx(base.train.lr), "the plan is tried first"
    assert best_of(study) is not None


@pytest.mark.slow
def test_the_last_third_trains_the_best_again(mini_set: Path, tmp_path: Path, space: Path) -> None:
    folder = tmp_path / "tuning"
    fixed = ["--set", "model.options.features=[4, 8]", "--set", "train.patch_zyx=[8, 16, 16]"]
    common = ["-o", folder, "--time", "10m", "--run-time", "2s", "--device", "cpu"]
    said = tune(mini_set, *common, "--trials", 6, "--space", space, *fixed)
    assert "again with seed 1" in said and "seeds)" in said
    outside = "the plan lies outside the search space in train.batch_size"
    assert (outside in said) == (load_config(folder / "base.toml").train.batch_size not in (1, 2))
    assert ("he plan, trial 0" in said or "That is the plan" in said) == (outside not in said)
    study = searching._study(Search(folder, 1, "1s"), load_config(folder / "base.toml"))
    trials = study.get_trials()
    plan = trials[0].params
    changed = [[key for key in plan if one.params[key] != plan[key]] for one in trials[1:3]]
    assert changed == [["train.lr"], ["train.batch_size"]], "each alone at first"
    again = [trial for trial in trials if "seed" in trial.user_attrs]
    assert [trial.number for trial in again] == [4, 5]
    for trial in again:
        same = [one for one in trials[:4] if one.params == trial.params]
        assert len(same) == 1, "the values of one trial before"
        seeds = [
            load_config(folder / f"trials/{n:04}/config.toml").seed
            for n in (same[0].number, trial.number)
        ]
        assert seeds == [0, 1]
    assert load_config(folder / "best.toml").seed == 0
    assert "Trained with several seeds" in (folder / "study.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_ctrl_c_begins_the_trial_anew(
    mini_set: Path, tmp_path: Path, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctseg.cli.train import configure

    fixed = ["model.options.features=[4, 8]", "train.patch_zyx=[8, 16, 16]"]
    config = configure(mini_set, {"train.time": "3s", "train.device": "cpu"}, fixed)
    how = Search(tmp_path / "tuning", 60, "3s", trials=1, space=space)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(searching, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            search(config, how, Silent())
    study = search(None, how, Silent())
    failed, again = study.get_trials()
    assert failed.state == optuna.trial.TrialState.FAIL
    assert again.params == failed.params and again.state == optuna.trial.TrialState.COMPLETE


@pytest.mark.parametrize("chosen", [(), ("augment.rotation=0.5",)])
def test_augmentation_is_searched_unless_the_user_chose_it(
    mini_set: Path, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    from ctseg.cli.train import configure

    fixed = ["model.options.features=[4, 8]", "train.patch_zyx=[8, 16, 16]", *chosen]
    config = configure(mini_set, {"train.time": "2s", "train.device": "cpu"}, fixed)
    _, space = set_up(config, Search(tmp_path / "tuning", 60, "2s"), Silent())
    assert ("augment.preset" in space) == (not chosen)


def test_what_cannot_be_searched_is_refused(mini_set: Path, tmp_path: Path, space: Path) -> None:
    assert "holds no search" in tune("-o", tmp_path / "none", code=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    said = tune(mini_set, "-o", tmp_path / "full", "--time", "1m", code=2)
    assert "is not empty" in said and (tmp_path / "full" / "notes.txt").exists()
    space.write_text('"train.learning_rate" = [1e-3, 1e-2]\n')
    small = ["--set", "model.options.features=[4, 8]", "--device", "cpu"]
    said = tune(mini_set, "-o", tmp_path / "new", "--space", space, *small, code=2)
    assert "learning_rate" in said
    assert not (tmp_path / "new" / "base.toml").exists()
