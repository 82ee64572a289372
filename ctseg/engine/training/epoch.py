"""The end of an epoch: whole volumes are validated, and the best weights kept."""

from __future__ import annotations

import math

import torch

from ctseg.card import Member
from ctseg.data.steps.target import target_scale
from ctseg.engine.model.weights import save_weights, tensors_sha256
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.job import Interrupt, TrainingJob
from ctseg.engine.training.run_log import RunLog
from ctseg.engine.training.validate import WORST, merit, scores_of, validate, validation_model
from ctseg.files import write_text
from ctseg.metrics.aligned import Look
from ctseg.metrics.catalogue import metric
from ctseg.metrics.report import Report


def keep_if_best(job: TrainingJob, state: State, net: torch.nn.Module, report: Report) -> None:
    """Keep the weights and their report where the validation is the best so far; see `merit`."""
    state.validated = state.step
    score = merit(report, target_scale(job.card.preprocess.steps, job.card.out_channels))
    if score <= state.best and state.best_step:
        state.without_gain += 1
        return
    state.best, state.best_step, state.without_gain = score, state.step, 0
    tensors = {k: v.detach().cpu() for k, v in net.state_dict().items()}
    member = Member(
        file="best.safetensors",
        tensors_sha256=tensors_sha256(tensors),
        fold=job.card.training_data.fold,
    )
    metrics = job.card.metrics.model_copy(
        update={
            "dice": report.dice,
            "mean_dice": report.mean_dice,
            "scores": scores_of(report),
            "cases": len(report.cases),
            "command": f"ctseg evaluate {job.folder}",
        }
    )
    card = job.card.model_copy(
        update={"members": (member,), "metrics": metrics, "steps": state.step}
    )
    (job.folder / "validation").mkdir(exist_ok=True)
    write_text(job.folder / "validation" / "report.json", report.to_json())
    save_weights(job.folder / "best.safetensors", tensors, card)


def validate_all(
    job: TrainingJob, net: torch.nn.Module, interrupt: Interrupt, look: Look
) -> Report:
    def on_case(done: int, total: int, name: str) -> None:
        job.reporter.update(done, total, f"validating {name}")
        interrupt.check()

    return validate(validation_model(job, net), job.val, job.val_prepared, on_case, look)


def log_step(log: RunLog, state: State, lr: float) -> None:
    """A line of `log.jsonl` between validations: the mean loss since the last such line."""
    log.write("step", step=state.step, loss=state.log_sum / state.log_count, lr=lr)
    state.log_sum, state.log_count = 0.0, 0


def log_epoch(
    log: RunLog, state: State, lr: float, report: Report, seconds: tuple[float, float]
) -> None:
    """A line of `log.jsonl` for an epoch; `seconds` are those of the run, and of this validation."""
    loss = state.loss_sum / max(state.loss_count, 1)
    log.write(
        "epoch",
        epoch=math.ceil(state.step / state.steps_per_epoch),
        step=state.step,
        loss=loss,
        lr=lr,
        mean_dice=report.mean_dice,
        dice=report.dice,
        **({"scores": found} if (found := scores_of(report)) else {}),
        seconds=round(seconds[0], 3),
        validation_seconds=round(seconds[1], 3),
    )


def tell(job: TrainingJob, state: State, report: Report) -> None:
    job.reporter.say(
        f"step {state.step}/{state.steps}  loss {state.loss_sum / max(state.loss_count, 1):.4f}  "
        f"{_validated(report)}{'  best' if state.best_step == state.step else ''}"
    )
    state.loss_sum, state.loss_count = 0.0, 0


def _validated(report: Report) -> str:
    """What a validation found, in one line."""
    found = scores_of(report)
    if found:
        means = {name: report.mean(name) for name in found}
        return ", ".join(
            f"{metric(name).title} {'-' if value is None else f'{value:.5g}'}"
            for name, value in means.items()
        )
    parts = ", ".join(f"{label} {value:.4f}" for label, value in report.dice.items())
    mean = report.mean_dice
    return f"mean Dice {'-' if mean is None else f'{mean:.4f}'} ({parts})"


def best_text(state: State, kind: str) -> str:
    """The best validation so far as `merit` counts it, a regression's as an error; empty without one."""
    if not state.best_step or state.best == WORST:
        return ""
    if kind == "regression":
        return f", best error {-state.best:.4g}"
    return f", best score {state.best:.4f}" if state.best >= 0 else ""
