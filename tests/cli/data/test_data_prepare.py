"""`ctseg data prepare`: before training, again, and away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", "prepare", *words])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


def stamps(store: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in store.rglob("image.npy")}


def test_a_data_set_is_prepared_listed_and_removed(mini_set, own_store):
    out = json.loads(run(str(mini_set), "--fold", "1", "--workers", "2", "--json"))
    assert len(out["cases"]) == 8
    assert Path(out["folder"]).parent == own_store
    first = stamps(own_store)
    assert len(first) == 8
    table = run(str(mini_set), "--fold", "1")
    assert "8 cases in" in table
    assert "the store" in table
    assert stamps(own_store) == first  # nothing was made again
    listed = json.loads(run("--list", "--json"))
    assert [(e["key"], e["cases"]) for e in listed] == [(out["key"], 8)]
    assert listed[0]["steps"][0] == "orient"
    assert listed[0]["labels"] == ["background", "box", "brick"]
    assert "MiB in" in run("--list")
    assert "Removed" in run("--clear", out["key"][:6])
    assert not stamps(own_store)
    assert "Nothing is prepared" in run("--list")
    assert "Nothing is prepared" in run("--clear", "--yes")
    run(str(mini_set), "--fold", "1")
    cleared = json.loads(run("--clear", "--yes", "--json"))
    assert [(e["key"], e["cases"]) for e in cleared] == [(out["key"], 8)]
    assert json.loads(run("--clear", "--yes", "--json")) == []


def test_training_finds_what_was_prepared(mini_set, mini_options, own_store, tmp_path):
    run(str(mini_set), "--set", "train.device=cpu")
    first = stamps(own_store)
    command = ["train", str(mini_set), "-o", str(tmp_path / "run"), "--steps", "1", *mini_options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert stamps(own_store) == first
    run(str(tmp_path / "run"))  # a run folder holds its steps
    assert stamps(own_store) == first


def test_what_cannot_be_prepared_is_refused(mini_set, own_store, tmp_path):
    def error(*words: str) -> str:
        return " ".join(run(*words, code=2).split())

    assert "No data set and no run file is named" in error()
    assert "does not exist" in error(str(tmp_path / "nothing"))
    assert "exclude" in error("--list", "--clear")
    run(str(mini_set), "--set", "preprocess.steps=[{kind = 'orient'}]")
    assert "Unknown prepared entry 'zz'" in error("--clear", "zz")
    assert "There is no terminal to ask" in error("--clear")
    assert stamps(own_store)
