"""What a terminal shows of a training under way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ctseg.engine.training import live
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.live import LiveNumbers
from ctseg.metrics.report import CaseResult, LabelResult, Report


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the reporter of a job with batches of four is told; a step takes a second."""
    clock = iter(range(1, 1000))
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    return []


def numbers(told: list[Any]) -> LiveNumbers:
    reporter = SimpleNamespace(
        update=lambda *a: told.append(a), show=lambda rows: told.append(dict(rows))
    )
    job: Any = SimpleNamespace(
        reporter=reporter,
        config=SimpleNamespace(train=SimpleNamespace(batch_size=4)),
        card=SimpleNamespace(task=SimpleNamespace(kind="classes")),
        runtime=SimpleNamespace(device=torch.device("cpu")),
    )
    return LiveNumbers(job)


def test_steps_show_loss_rate_throughput_and_memory(told):
    view, state = numbers(told), State(100, 50)
    for loss in (1.0, 0.5, 0.0):
        state.count(loss)
        view.step(state, 0.01)
    assert told[0] == (1, 100, "loss 1.000")
    assert "patches a second" not in told[1]
    assert told[-1]["loss"] == "0.5000" and told[-1]["learning rate"] == "1.00e-02"
    assert told[-1]["patches a second"] == "4"  # four a step, and a step takes a second
    assert told[-1]["memory"].endswith(" GiB")


def test_a_validation_shows_the_lowest_labels(told):
    view, state = numbers(told), State(100, 50)
    labels = tuple(LabelResult(f"organ{n}", {"dice": n / 20}, 1.0, 1.0) for n in range(20))
    view.validated(Report((CaseResult("one", labels),)))
    state.count(1.0)
    view.step(state, 0.01)
    shown = {k: v for k, v in told[-1].items() if k.startswith("Dice")}
    assert shown == {f"Dice organ{n}": f"{n / 20:.4f}" for n in range(live.LABELS)}


def test_views_follow_each_other_slowly(told, monkeypatch):
    monkeypatch.setattr(live, "SECONDS", 3.0)
    view, state = numbers(told), State(100, 50)
    for _ in range(9):
        state.count(1.0)
        view.step(state, 0.01)
    assert sum(isinstance(one, dict) for one in told) == 3
