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
from ctseg.engine.training.run_report import show_scans
from ctseg.engine.training.validate import WORST, merit, scores_of, validate, validation_model
from ctseg.files import write_text
from ctseg.metrics.aligned import Look
from ctseg.metrics.catalogue import metric
from ctseg.metrics.report import Report
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.html.run import shown_cases


def keep_if_best(job: TrainingJob, state: State, net: torch.nn.Module, report: Report) -> None:
    """Keep the weights and their report where the validation is the best so far; see `merit`.

    The state says so once they are written: where a run is killed in between, it validates again.
    """
    score = merit(report, target_scale(job.card.preprocess.steps, job.card.out_channels))
    best = score > state.best or not state.best_step
    if best and job.processes.leads:
        _keep(job, state.step, net, report)
    state.validated = state.step
    if best:
        state.best, state.best_step, state.without_gain = score, state.step, 0
    else:
        state.without_gain += 1


def _keep(job: TrainingJob, step: int, net: torch.nn.Module, report: Report) -> None:
    """Write the weights, and the report of their validation."""
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
    card = job.card.model_copy(update={"members": (member,), "metrics": metrics, "steps": step})
    (job.folder / "validation").mkdir(exist_ok=True)
    write_text(job.folder / "validation" / "report.json", report.to_json())
    save_weights(job.folder / "best.safetensors", tensors, card)


def validate_all(
    job: TrainingJob, net: torch.nn.Module, step: int, interrupt: Interrupt, look: Look
) -> Report:
    """Validate all cases; several processes share them out, and all have the whole report.

    Args:
        look: called with the maps of the cases that this process validates.
    """
    processes = job.processes

    def check() -> None:
        interrupt.check(processes.asked(interrupt.asked))

    def on_case(done: int, total: int, name: str) -> None:
        job.reporter.update(done, total, f"validating {name}")
        check()

    processes.take_first(net.buffers())
    own, prepared = processes.own(job.val), processes.own(job.val_prepared)
    report = validate(validation_model(job, net), own, prepared, on_case, look)
    if processes.size == 1:
        return report
    texts = processes.gathered(f"validation/{step}", report.to_json(), check)
    results = {result.case: result for text in texts for result in Report.from_json(text).cases}
    return Report(tuple(results[case.id] for case in job.val))


def draw_scans(job: TrainingJob, net: torch.nn.Module, report: Report, slices: CaseSlices) -> None:
    """Draw the worst, the median and the best scan; what other processes validated is predicted once more."""
    shown = set(shown_cases(report).values()) - {case.id for case in job.processes.own(job.val)}
    pairs = [p for p in zip(job.val, job.val_prepared, strict=True) if p[0].id in shown]
    if pairs:
        cases, prepared = zip(*pairs, strict=True)
        validate(validation_model(job, net), cases, prepared, look=slices.add)
    show_scans(job.folder, report, slices, job.reporter)


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


def note_parts(job: TrainingJob, log: RunLog, step: int, parts: int) -> int:
    """Say and log that a batch passes through the network in so many parts from this step on, and return them."""
    share = job.processes.share(job.config.train.batch_size or 1)
    patches = -(-share // parts)
    log.write("memory", step=step, patches_at_once=patches, batch_size=job.config.train.batch_size)
    job.reporter.say(
        f"Note: memory was short at step {step}. The batch stays the same and passes through the network "
        f"{patches} patch(es) at a time, which takes longer."
    )
    return parts


def note_threads(job: TrainingJob, log: RunLog, step: int, threads: int) -> None:
    """Say and log that PyTorch computes with so many threads from this step on."""
    log.write("threads", step=step, threads=threads)
    number = "1 thread" if threads == 1 else f"{threads} threads"
    job.reporter.say(
        f"Note: the cores of this process changed; from step {step} on, it computes with {number}."
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
