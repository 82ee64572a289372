"""A run folder belongs to one process at a time, and one that a killed process only began is free."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ctseg
from ctseg.config import RunConfig, dump_config, load_config, parse_config
from ctseg.errors import BadInput
from ctseg.temporary import held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


def settings(data: Path, seed: int = 0) -> RunConfig:
    return parse_config(
        {
            "data": {"path": str(data)},
            "seed": seed,
            "model": {"options": {"features": [4, 8]}},
            "train": {"steps": 1, "patch_zyx": [8, 16, 16], "batch_size": 1, "device": "cpu"},
        }
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_a_run_that_another_process_trains_is_left_alone(mini_set, mini_run, tmp_path, how):
    run = tmp_path / "run"
    shutil.copytree(mini_run, run)
    before = contents(run)
    with held(run), pytest.raises(BadInput, match="Another process is training in"):
        ctseg.train(settings(mini_set), output=run, **how)
    assert contents(run) == before
    assert ctseg.train(settings(mini_set), output=run, **how).folder == run


@pytest.mark.slow
def test_of_two_runs_started_into_one_folder_one_is_refused(mini_set, mini_options, tmp_path):
    run = tmp_path / "run"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ctseg", "train", str(mini_set), "-o", str(run), "--steps", "4",
             "--seed", str(seed), *mini_options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(2)
    ]  # fmt: skip
    said = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], said
    refused = said[codes.index(2)]
    assert "Another process is training in" in refused or "holds a run" in refused
    assert load_config(run / "config.toml").seed == codes.index(0)
    assert (run / "log.jsonl").read_text().count('"kind": "epoch"') == 1


def test_a_folder_that_a_killed_process_only_began_is_free(mini_set, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("plan.json", ".plan-ab_12cde.json", ".config-ab_12cde.toml"):
        (run / name).touch()
    ctseg.train(settings(mini_set), output=run)
    assert (run / "best.safetensors").is_file()
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]


def test_a_replaced_run_keeps_nothing_of_the_earlier_one(mini_set, mini_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(mini_run, run)
    (run / "notes").mkdir()
    (run / "notes" / "mine.txt").touch()
    ctseg.train(settings(mini_set, seed=7), output=run, overwrite=True)
    assert load_config(run / "config.toml").seed == 7
    assert not (run / "notes").exists()
    assert dump_config(load_config(run / "config.toml")) == (run / "config.toml").read_text()
