"""The numbers of a training under way, for a terminal that redraws them."""

from __future__ import annotations

import time
from collections import deque

import torch

from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.epoch import best_text
from ctseg.engine.training.job import TrainingJob
from ctseg.engine.training.validate import scores_of
from ctseg.machine import own_memory
from ctseg.metrics.report import Report

SECONDS = 0.5
"""Between two views."""
STEPS = 20
"""Throughput is that of so many steps."""
LABELS = 12
"""Most labels in a view: those with the lowest Dice."""


class LiveNumbers:
    """Tells the reporter of a job after each step how far it is, and shows rate, throughput, memory and scores."""

    def __init__(self, job: TrainingJob) -> None:
        self._job, self._scores = job, dict[str, str]()
        self._times: deque[float] = deque(maxlen=STEPS + 1)
        self._shown = 0.0

    def step(self, state: State, lr: float) -> None:
        """A step is done."""
        loss = state.loss_sum / state.loss_count
        text = f"loss {loss:.3f}{best_text(state, self._job.card.task.kind)}"
        self._job.reporter.update(state.step, state.steps, text)
        now = time.monotonic()
        self._times.append(now)
        if now - self._shown < SECONDS:
            return
        self._shown = now
        rows = {"loss": f"{loss:.4f}", "learning rate": f"{lr:.2e}"}
        if len(self._times) > 1:
            rate = (len(self._times) - 1) / (now - self._times[0])
            patches = rate * (self._job.config.train.batch_size or 1)
            rows["patches a second"] = f"{patches:.3g}"
        self._job.reporter.show(
            rows | {"memory": f"{self._bytes() / 2**30:.1f} GiB"} | self._scores
        )

    def validated(self, report: Report) -> None:
        """The scores that are shown from now on."""
        self._times.clear()
        scores = scores_of(report)
        if scores:
            means = {name: report.mean(name) for name in scores}
            self._scores = {k: f"{v:.4g}" for k, v in means.items() if v is not None}
            return
        lowest = sorted(report.dice, key=lambda name: report.dice[name])[:LABELS]
        self._scores = {f"Dice {n}": f"{v:.4f}" for n, v in report.dice.items() if n in lowest}

    def _bytes(self) -> int:
        device = self._job.runtime.device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else own_memory()
