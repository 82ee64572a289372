"""How a time budget becomes steps: it is neither overrun nor eaten up by slow validations."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ctseg.config import TrainConfig
from ctseg.engine.training import time_budget
from ctseg.engine.training.job import Silent
from ctseg.engine.training.processes import Processes


@pytest.mark.parametrize(
    ("budget", "step", "validation"),
    [(180, 0.4, 2.0), (180, 1.0, 37.0), (1200, 0.25, 12.0), (60, 2.0, 100.0), (3600, 0.1, 0.01)],
)
def test_steps_and_validations_fill_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: float, step: float, validation: float
) -> None:
    monkeypatch.setattr(time_budget, "measure", lambda *_: (step, validation))
    job: Any = SimpleNamespace(
        config=SimpleNamespace(train=TrainConfig(time=f"{budget}s")),
        deadline=time.monotonic() + budget,
        reporter=Silent(),
        processes=Processes(),
    )
    loader: Any = None
    state = time_budget.plan_steps(
        job, torch.nn.Identity(), lambda *_, **__: torch.zeros(()), loader
    )
    validations = math.ceil(state.steps / state.steps_per_epoch)
    spent = state.steps * step + validations * validation
    if validation < 0.35 * budget:
        assert spent <= 1.02 * budget
        assert state.steps * step >= 0.55 * budget  # most of it trains
    assert validations <= 40
