"""Run folders whose files somebody changed: one sentence with the file, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ctseg.engine.training import checkpoint
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.run_log import RunLog
from ctseg.errors import CorruptWeights, FileProblem
from ctseg.report.history import read_epochs


@pytest.fixture
def last(tmp_path: Path) -> Path:
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "last", State(8, 4, step=4), {"model": net.state_dict()}, optimizer)
    return tmp_path / "last"


def resumed(last: Path) -> State:
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(net.parameters())
    return checkpoint.resume(last, net, None, optimizer)


def test_what_is_whole_is_read(last):
    assert resumed(last).step == 4


@pytest.mark.parametrize(
    ("where", "value"),
    [
        *[(("state", name), value) for name in ("step", "steps") for value in (None, "4", -1, 1.5, True)],
        (("state", "steps"), 0), (("state", "best"), None), (("state", "scaler"), []), (("state", "loss_sum"), "x"),
        (("state",), []), (("optimizer",), None), (("optimizer", "values"), True), (("optimizer", "groups"), []),
        (("optimizer", "groups", 0), {}), (("optimizer", "groups", 0, "lr"), "0.1"),
        (("optimizer", "groups", 0, "betas"), None), (("optimizer", "groups", 0, "amsgrad"), True),
        (("optimizer", "groups", 0, "params"), [0]),
    ],
)  # fmt: skip
def test_a_changed_number_is_named(last, where, value):
    file = last / "state.json"
    content: Any = json.loads(file.read_text())
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(CorruptWeights, match="resume point") as found:
        resumed(last)
    assert str(last) in found.value.message
    assert found.value.exit_code == 2
    assert file.exists()


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe{}", b"[" * 100000, b"null", b"5"])
def test_what_is_no_json(last, raw):
    (last / "state.json").write_bytes(raw)
    with pytest.raises(CorruptWeights, match="resume point"):
        resumed(last)


def test_a_resume_point_from_before_the_checksums_is_read(last):
    file = last / "state.json"
    content = json.loads(file.read_text())
    checksum = content.pop("sha256")
    file.write_text(json.dumps(content))
    assert resumed(last).step == 4
    file.write_text(json.dumps(content | {"sha25x": checksum}))
    with pytest.raises(CorruptWeights, match="sha256"):
        resumed(last)


def test_a_log_that_was_changed_gets_whole_lines(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "step"}\n{"kind": "epo')
    log = RunLog(tmp_path, keep_bytes=25, step=1)
    log.write("note", step=2)
    log.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines[-1] == '{"kind": "note", "step": 2}'
    assert len(lines) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe\n{}",
        b"no json\n{}",
        b'{"kind": "epoch"}\n',
        b'{"kind": "epoch", "epoch": []}\n{}',
    ],
)
def test_a_log_that_is_none(tmp_path, raw):
    (tmp_path / "log.jsonl").write_bytes(raw)
    with pytest.raises(FileProblem, match=r"log\.jsonl"):
        read_epochs(tmp_path / "log.jsonl")


def test_a_damaged_log_ends_no_training(mini_run, tmp_path):
    from typer.testing import CliRunner

    from ctseg.cli.app import app

    folder = Path(shutil.copytree(mini_run, tmp_path / "run"))
    size = (folder / "log.jsonl").stat().st_size
    (folder / "log.jsonl").write_bytes(b"\xff" * size)
    command = ["train", "--resume", "--extend", "--steps", "13", "-o", str(folder)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "curves.png is not drawn" in result.output
    assert checkpoint.load(folder / "last")[0].step == 13
