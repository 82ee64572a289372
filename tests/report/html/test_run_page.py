"""The report of a run: from whatever its folder holds, at any time after the first validation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctseg.config import dump_config, parse_config
from ctseg.errors import CtsegError
from ctseg.metrics.report import CaseResult, LabelResult, Report
from ctseg.report.history import Epoch
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.html.run import write_pictures, write_run
from ctseg.report.html.run_curves import _throughput
from ctseg.specs import Label, Task
from ctseg.volume.volume import Volume
from tests.report.html.reports import HOSTILE, label_result, report
from tests.report.html.test_case_slices import aligned, maps
from tests.test_markup import Seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a run that its report is made of, without pictures and resume point."""
    labels = [
        {"name": name, "values": [i], "value": i} for i, name in enumerate(("background", "liver"))
    ]
    config = parse_config(
        {
            "data": {"path": "sets/Liver"},
            "task": {"kind": "classes", "labels": labels},
            "train": {"batch_size": 2, "steps": 20},
            "model": {"architecture": "unet3d"},
        }
    )
    (tmp_path / "config.toml").write_text(dump_config(config))
    lines = [
        {"kind": "step", "step": 5, "loss": 1.2, "lr": 0.02},
        {"kind": "epoch", "epoch": 1, "step": 10, "loss": 1.0, "lr": 0.01, "mean_dice": 0.5, "dice": {"liver": 0.5},
         "seconds": 10.0, "validation_seconds": 5.0},
        {"kind": "epoch", "epoch": 2, "step": 20, "loss": 0.5, "lr": 0.001, "mean_dice": 0.7, "dice": {"liver": 0.7},
         "seconds": 20.0, "validation_seconds": 5.0},
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    statistics = dict.fromkeys(
        ("percentile_00_5", "median", "percentile_99_5", "mean", "std"), 1.25
    )
    plan = {
        "fingerprint": {
            "cases": 3, "shapes_zyx": [[10, 20, 30], [12, 20, 30], [20, 20, 30]],
            "spacings_zyx": [[1.0, 1.0, 1.0]] * 3, "volumes_ml": {"liver": 1500.0}, "foreground": [statistics],
        },
        "choices": {
            "patch": {"value": [8, 16, 16], "reason": "fits the memory"},
            "options": {"value": {"order": "", "skip": None, "norm": "batch"}, "reason": "usual"},
        },
        "runtime": "cpu, fp32",
        "environment": {"torch": "2.99", "processor": "an abacus"},
    }  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "report.json").write_text(report().to_json())
    return tmp_path


def test_everything_that_is_known_is_shown(folder: Path) -> None:
    write_run(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    seen = Seen(text)
    for known in (
        "unet3d on Liver", "step 20", "0.7000 at step 20", "4 patches a second", "50 %", "loss of the epoch",
        "Learning rate", "fits the memory", "8, 16, 16",
        "order -, skip -, norm batch", "12 (10 to 20) × 20 × 30", "1 × 1 × 1", "1.250",
        "cpu, fp32", "2.99", "an abacus", "batch_size = 2", "Mean difference",
    ):  # fmt: skip
        assert known in seen.text, known


def test_a_regression_shows_its_errors(folder: Path) -> None:
    config = parse_config(
        {
            "data": {"path": "pairs"},
            "task": {
                "kind": "regression",
                "labels": [{"name": "density", "values": [1], "value": 1}],
            },
        }
    )
    (folder / "config.toml").write_text(dump_config(config))
    line = {
        "kind": "epoch",
        "epoch": 1,
        "step": 10,
        "loss": 1.0,
        "dice": {},
        "scores": {"psnr": {"density": 31.5}},
    }
    (folder / "log.jsonl").write_text(json.dumps(line))
    values = {"mse": 0.25, "psnr": 31.5}
    cases = tuple(CaseResult(f"c{i}", (LabelResult("density", values),)) for i in range(3))
    (folder / "validation" / "report.json").write_text(Report(cases).to_json())
    black = np.zeros((20, 60), np.uint8)
    for rank in ("worst", "median", "best"):
        Image.fromarray(black).save(folder / "validation" / f"{rank}.png")
    write_run(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "PSNR in dB, validation" in text and "Dice" not in text
    assert "density 0.250" in text and text.count("data:image/png") == 9
    titles = re.findall("<h[23]>(.*?)</h[23]>", text)
    assert not {"Confusion", "Volumes", "Throughput, patches a second"} & set(titles)
    assert "swatch" not in text.partition("<h2>Worst")[2].partition("</section>")[0]


def test_what_is_missing_or_damaged_is_left_out(folder: Path) -> None:
    write_run(folder)
    shown = (folder / "report.html").read_text()
    assert "<td>step 20</td>" in shown  # without the resume point no end is known
    (folder / "last").mkdir()
    (folder / "last" / "state.json").write_text('{"state": {"steps": 20}}')
    write_run(folder)
    assert "finished, 20 steps" in (folder / "report.html").read_text()
    (folder / "plan.json").write_text(
        '{"fingerprint": {"cases": 3}, "choices": [], "environment": 1}'
    )
    (folder / "validation" / "worst.png").write_bytes(b"\x89PNG damaged")
    write_run(folder)
    titles = re.findall("<h2>(.*?)</h2>", (folder / "report.html").read_text())
    assert not {"Plan", "Fingerprint", "Environment"} & set(titles)
    (folder / "plan.json").unlink()
    write_run(folder)
    before = (folder / "report.html").read_bytes()
    (folder / "log.jsonl").write_text("{}")
    with pytest.raises(CtsegError, match="no finished epoch"):
        write_run(folder)
    assert (folder / "report.html").read_bytes() == before
    (folder / "config.toml").write_text("damaged = [")
    with pytest.raises(CtsegError):
        write_run(folder)


def test_names_stay_text(folder: Path) -> None:
    (folder / "validation" / "report.json").write_text(report().to_json())
    plan = {
        "choices": {HOSTILE: {"value": {HOSTILE: [1.5, 2]}, "reason": HOSTILE}},
        "environment": {HOSTILE: HOSTILE},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    with (folder / "log.jsonl").open("a") as log:
        log.write(
            json.dumps(
                {"kind": "epoch", "epoch": 9, "step": 99, "loss": 1, "dice": {HOSTILE: 0.5, "b": 1}}
            )
        )
    write_run(folder)
    seen = Seen((folder / "report.html").read_text())
    assert seen.tags.count("script") == 1
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert f"{HOSTILE} 1.5, 2" in seen.text


def test_pictures_are_of_the_worst_the_median_and_the_best_case(tmp_path: Path) -> None:
    task = Task("classes", (Label("background", (0,), 0), Label("liver", (1, 2), 1)))
    (tmp_path / "validation").mkdir()
    reference, prediction = (Volume.from_array(one) for one in maps())
    slices = CaseSlices()
    case = aligned(task, prediction, reference)
    cases = []
    for name, dice in (("c", 0.2), ("better", 0.5), ("best", 0.9)):
        slices.add(
            type(case)(name, task, prediction.array, reference.array, reference.geometry, ())
        )
        cases.append(CaseResult(name, (label_result("liver", dice),)))
    write_pictures(tmp_path, Report(tuple(cases)), slices)
    for rank in ("worst", "median", "best"):
        with Image.open(tmp_path / "validation" / f"{rank}.png") as picture:
            strip = np.asarray(picture.convert("RGB"))
        width = strip.shape[1] // 3
        assert not strip[:, :width].any() and strip[:, width : 2 * width].any()
    write_pictures(tmp_path, Report(tuple(cases[:1])), slices)
    assert [p.name for p in (tmp_path / "validation").iterdir()] == ["best.png"]
    write_pictures(tmp_path, Report(()), slices)
    assert not list((tmp_path / "validation").iterdir())


def test_throughput_leaves_validations_out() -> None:
    epochs = [
        Epoch(1, 1.0, 0.5, {}, step=10, seconds=15.0, validation_seconds=5.0),
        Epoch(2, 1.0, 0.5, {}, step=30, seconds=30.0, validation_seconds=5.0),
    ]
    assert _throughput(epochs, 2) == [(10.0, 2.0), (30.0, 4.0)]
    assert _throughput([Epoch(1, 1.0, 0.5, {}, step=10)], 2) == []  # an older log
