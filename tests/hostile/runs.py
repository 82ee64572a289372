"""What a run and a prediction write: run file, resume point, log, record and report."""

from __future__ import annotations

import functools
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

import ctseg
from ctseg.config import LossConfig, RunConfig, dump_config, load_config
from ctseg.engine.evaluation.matching import find_pairs
from ctseg.engine.evaluation.runs import report_of
from ctseg.engine.prediction.record import PredictionRecord
from ctseg.engine.prediction.request import Request
from ctseg.engine.training import checkpoint
from ctseg.engine.training.optim import Schedule, make_optimizer
from ctseg.engine.training.run import check_names
from ctseg.engine.training.run_log import RunLog
from ctseg.metrics.report import Report
from ctseg.report.curves import draw_curves
from ctseg.report.history import read_epochs
from tests.engine.small_model import card_of, network_of, small_model
from tests.hostile.models import HEADER
from tests.hostile.mutate import document, json_lines, text, tree
from tests.hostile.target import Seed


def run_file(folder: Path) -> list[Seed]:
    file = folder / "config.toml"
    file.write_text(dump_config(_config(folder)))
    values = tree(_toml, _toml_bytes)
    return [Seed("run file", file, [file], (*(values,) * 5, *text()), _run_file)]


def _toml(content: bytes) -> Any:
    return tomllib.loads(content.decode())


def _toml_bytes(content: Any) -> bytes:
    return tomli_w.dumps(content).encode()


def _run_file(file: Path) -> None:
    config = load_config(file)
    check_names(config)
    dump_config(config)


def _config(folder: Path) -> RunConfig:
    made = RunConfig.model_validate(
        {"data": {"path": str(folder)}, "model": {"options": {"features": [4, 4]}},
         "train": {"steps": 8, "steps_per_epoch": 4, "ema": 0.9, "lr": 0.01}},
    )  # fmt: skip
    return made.model_copy(update={"loss": LossConfig(name="dice_ce"), "task": card_of().task})


def state(folder: Path) -> list[Seed]:
    """The resume point of a run, as training leaves and takes it."""
    config, last = _config(folder), folder / "last"
    net = network_of()
    optimizer = make_optimizer(net, config.train)
    net(torch.zeros(1, 1, 8, 8, 8)).sum().backward()
    optimizer.step()
    parts = {"model": net.state_dict(), "ema": net.state_dict()}
    checkpoint.save(last, checkpoint.State(8, 4, step=4, log_bytes=3), parts, optimizer)
    (folder / "log.jsonl").write_text("{}\n")
    table, tensors = last / "state.json", last / "state.safetensors"
    read = functools.partial(_resume, config)
    return [
        Seed("state", last, [table], document(), read, vanish=True),
        Seed("tensors", last, [tensors], HEADER, read, vanish=True),
    ]


def _resume(config: RunConfig, last: Path) -> None:
    """What `train --resume` does with it before the first step."""
    net, average = network_of(), network_of()
    optimizer = make_optimizer(net, config.train)
    found = checkpoint.resume(last, net, average, optimizer)
    schedule = Schedule(optimizer, config.train, found.steps)
    schedule.set(max(found.step - 1, 0))
    RunLog(last.parent, found.log_bytes, found.step).close()
    found.count(0.5)
    net(torch.zeros(1, 1, 8, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint.save(last.parent / "next", found, {"model": net.state_dict()}, optimizer)


def log(folder: Path) -> list[Seed]:
    file = folder / "log.jsonl"
    lines = []
    for epoch in range(1, 5):
        lines.append({"kind": "step", "step": 2 * epoch, "loss": 0.5, "lr": 0.01})
        lines.append({
            "kind": "epoch", "epoch": epoch, "step": 2 * epoch, "loss": 0.5 / epoch, "lr": 0.01, "mean_dice": 0.7,
            "dice": {"bright": 0.6, "dark": 0.8}, "seconds": 1.5,
        })  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = folder / "values.jsonl"
    lines = [{"kind": "epoch", "epoch": 1, "step": 2, "loss": 0.5, "scores": {"psnr": {"a": 20.5}}}]
    scores.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        Seed(path.stem, path, [path], json_lines(), read)
        for path in (file, scores)
        for read in (*(read_epochs,) * 31, _draw)  # a picture takes a hundred times as long
    ]


def _draw(file: Path) -> None:
    draw_curves(file, file.with_suffix(".png"))


def predictions(folder: Path) -> list[Seed]:
    out, reference = folder / "out", folder / "reference"
    mask = np.zeros((4, 5, 6), np.uint8)
    for place in (out, reference):
        for name in "ab":
            ctseg.write(ctseg.Volume.from_array(mask), place / f"{name}.nii.gz")
    model, request = small_model().model, Request(out)
    record = PredictionRecord(out, model, request)
    record.done(
        {
            "case": "a",
            "input": "a.nii.gz",
            "output": "a.nii.gz",
            "seconds": 1.0,
            "volumes_ml": {"x": 1.5},
        }
    )
    record.failed("b", "it is truncated")
    record.write()
    file = out / "predictions.json"

    def read(path: Path) -> None:
        find_pairs(path, reference)

    def go_on(path: Path) -> None:
        again = PredictionRecord(path, model, Request(path))
        again.done({"case": "b", "output": "b.nii.gz"})
        again.write()

    return [
        Seed("evaluate", out, [file], document(), read, vanish=True),
        Seed("predict", out, [file], document(), go_on, vanish=True),
    ]


def report(folder: Path) -> list[Seed]:
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[2:4, 2:5, 2:6] = 1
    other = np.roll(mask, 1, 2)
    made = ctseg.evaluate(ctseg.Volume.from_array(mask), ctseg.Volume.from_array(other))
    file = folder / "validation" / "report.json"
    file.parent.mkdir()
    file.write_text(made.to_json())
    return [Seed("report", folder, [file], document(), _report, vanish=True)]


def _report(run: Path) -> None:
    """As `ctseg evaluate RUN` shows it."""
    found = report_of(run)
    _ = found.mean_dice, found.dice
    Report.from_json(found.to_json())
