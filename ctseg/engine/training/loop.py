"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch

from ctseg.card import Member
from ctseg.config import dump_config
from ctseg.data.loading import Loader
from ctseg.data.rng import INITIAL, seed_for
from ctseg.data.steps.target import target_scale
from ctseg.engine.inference.forward import out_of_memory
from ctseg.engine.model.create import create_loss
from ctseg.engine.model.runtime import repeatable
from ctseg.engine.model.weights import save_weights, tensors_sha256
from ctseg.engine.training import checkpoint
from ctseg.engine.training.board import ShownCase
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.initial import initial_network
from ctseg.engine.training.job import RUN_FILE, Interrupt, RunResult, TrainingJob
from ctseg.engine.training.malloc import kept_buffers
from ctseg.engine.training.optim import Schedule, make_optimizer, timm
from ctseg.engine.training.run_log import RunLog
from ctseg.engine.training.run_report import show_scans
from ctseg.engine.training.step import Stepper, loader_of
from ctseg.engine.training.time_budget import extend_steps, plan_steps
from ctseg.engine.training.validate import WORST, merit, scores_of, validate, validation_model
from ctseg.errors import RunFailed
from ctseg.files import write_text
from ctseg.losses.deep import DeepSupervision
from ctseg.metrics.aligned import Look
from ctseg.metrics.catalogue import metric
from ctseg.metrics.report import Report


def train(job: TrainingJob, *, resume: bool = False) -> RunResult:
    """Train to the end, or on from the last resume point.

    The run folder gets `log.jsonl`, `best.safetensors`, `validation/` and `last/`.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with a resume point written.
        RunFailed: the loss is not finite, or the memory does not suffice.
    """
    device = job.runtime.device
    with kept_buffers(device.type == "cpu"), repeatable(device), loader_of(job) as loader:
        try:
            return _train(job, resume, loader)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise _no_room(job) from error


def _no_room(job: TrainingJob) -> RunFailed:
    train = job.config.train
    patch = " x ".join(map(str, train.patch_zyx or ()))
    return RunFailed(
        f"The memory of {job.runtime.device} does not suffice for {train.batch_size} patches of {patch} voxels.",
        hint="Train anew with fewer or smaller ones: --batch-size 1, --patch Z,Y,X",
    )


def _train(job: TrainingJob, resume: bool, loader: Loader) -> RunResult:
    config, last, ended = job.config, job.folder / "last", 0
    torch.manual_seed(seed_for(config.seed, 0, 0, INITIAL))
    resuming = resume and checkpoint.exists(last)
    # pretrained weights are read once: a resumed run has better ones
    net = job.runtime.place(initial_network(job.card, config, fresh=not resuming)).train()
    loss = DeepSupervision(create_loss(config.loss.name, **config.loss.options))
    optimizer = make_optimizer(net, config.train, job.card.initial)
    average = timm().utils.ModelEmaV3(net, decay=config.train.ema) if config.train.ema else None

    if resuming:
        ema = average.module if average is not None else None
        state = checkpoint.resume(last, net, ema, optimizer)
        job.reporter.say(f"Resuming at step {state.step} of {state.steps}.")
        ended = state.steps
        if job.extend:
            extend_steps(job, state, net, loss, loader)
    else:
        state = plan_steps(job, net, loss, loader)
    loader.last = state.steps  # nothing is read beyond
    stepper = Stepper(job, net, loss, optimizer, loader)
    if state.scaler:
        stepper.scaler.load_state_dict(state.scaler)
    schedule = Schedule(optimizer, config.train, state.steps)
    if state.step:
        schedule.set(state.step - 1)  # a run killed before a validation tells its last rate
    log = RunLog(job.folder, state.log_bytes, state.step)
    begun, before = time.monotonic(), state.seconds

    def save() -> None:
        state.seconds, state.log_bytes = before + time.monotonic() - begun, log.size
        state.scaler = stepper.scaler.state_dict()
        parts: dict[str, Mapping[str, torch.Tensor]] = {"model": net.state_dict()}
        if average is not None:
            parts["ema"] = average.module.state_dict()
        checkpoint.save(last, state, parts, optimizer)

    saved = time.monotonic()
    if job.extend:
        _note_extension(job, log, state, ended)
    if job.extend or not state.step:
        save()  # what a time budget fixed is kept from the start
    if job.extend:
        write_text(job.folder / RUN_FILE, dump_config(config))
    with Interrupt() as interrupt:
        try:
            while not finished(state, config.train.patience):
                if state.validated < state.step and at_epoch_end(state):
                    judged = (average.module if average is not None else net).eval()
                    shown, since = ShownCase(surfaces=log.board is not None), time.monotonic()
                    report = _validate(job, judged, interrupt, shown.add)
                    net.train()
                    keep_if_best(job, state, judged, report)
                    if state.best_step == state.step:
                        show_scans(job.folder, report, shown.slices, job.reporter)
                    if log.board is not None:
                        log.board.show(shown, state.step)
                    now = time.monotonic()
                    _log_epoch(log, state, schedule.lr, report, (before + now - begun, now - since))
                    _tell(job, state, report)
                    save()
                    saved = time.monotonic()
                    if job.on_epoch:
                        job.on_epoch(job.folder)
                    continue
                schedule.set(state.step)
                state.count(stepper(state.step))
                if config.train.log_every and state.step % config.train.log_every == 0:
                    _log_step(log, state, schedule.lr)
                if average is not None:
                    average.update(net, step=state.step)
                text = f"loss {state.loss_sum / state.loss_count:.3f}"
                text += best_text(state, job.card.task.kind)
                job.reporter.update(state.step, state.steps, text)
                interrupt.check()
                if time.monotonic() - saved > config.train.checkpoint_every:
                    save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            save()
            raise
        finally:
            log.close()
    report = Report.read(job.folder / "validation" / "report.json")
    return RunResult(
        job.folder, report, report.mean_dice, report.dice, state.step,
        before + time.monotonic() - begun, {name: report.mean(name) for name in scores_of(report)},
    )  # fmt: skip


def _note_extension(job: TrainingJob, log: RunLog, state: State, ended: int) -> None:
    """Say and log that the run has a new end; `ended` is the one before, 0 where the run had not begun."""
    log.write("extended", step=state.step, steps_before=ended, steps=state.steps)
    job.reporter.say(
        f"Extended from {ended} to {state.steps} steps: from step {state.step} on, the learning rate is that of a "
        f"run of {state.steps} steps."
    )


def at_epoch_end(state: State) -> bool:
    """Whether whole volumes are validated at this step."""
    return state.step == state.steps or state.step % state.steps_per_epoch == 0


def finished(state: State, patience: int | None) -> bool:
    """Whether all steps are done and validated, or nothing improved for `patience` epochs."""
    if patience is not None and state.without_gain >= patience:
        return True
    return state.step >= state.steps and state.validated >= state.step


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


def _validate(job: TrainingJob, net: torch.nn.Module, interrupt: Interrupt, look: Look) -> Report:
    def on_case(done: int, total: int, name: str) -> None:
        job.reporter.update(done, total, f"validating {name}")
        interrupt.check()

    return validate(validation_model(job, net), job.val, job.val_prepared, on_case, look)


def _log_step(log: RunLog, state: State, lr: float) -> None:
    """A line of `log.jsonl` between validations: the mean loss since the last such line."""
    log.write("step", step=state.step, loss=state.log_sum / state.log_count, lr=lr)
    state.log_sum, state.log_count = 0.0, 0


def _log_epoch(
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


def _tell(job: TrainingJob, state: State, report: Report) -> None:
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
