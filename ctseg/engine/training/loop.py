"""The training loop, to be read from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ctseg.config import dump_config, load_config
from ctseg.data.loading import Loader
from ctseg.data.rng import INITIAL, seed_for
from ctseg.engine.inference.forward import out_of_memory
from ctseg.engine.model.create import create_loss
from ctseg.engine.model.malloc import kept_buffers
from ctseg.engine.model.runtime import repeatable
from ctseg.engine.model.threads import follow_cores
from ctseg.engine.training import checkpoint
from ctseg.engine.training.board import ShownCase
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.clock import Clock
from ctseg.engine.training.epoch import (
    draw_scans,
    keep_if_best,
    log_epoch,
    log_step,
    note_parts,
    note_threads,
    tell,
    validate_all,
)
from ctseg.engine.training.initial import initial_network
from ctseg.engine.training.job import RUN_FILE, Interrupt, RunResult, TrainingJob
from ctseg.engine.training.live import LiveNumbers
from ctseg.engine.training.optim import Schedule, make_optimizer, timm
from ctseg.engine.training.run_log import RunLog
from ctseg.engine.training.step import Stepper, loader_of
from ctseg.engine.training.time_budget import at_epoch_end, extend_steps, plan_steps
from ctseg.engine.training.trackers import Trackers
from ctseg.engine.training.validate import scores_of
from ctseg.errors import OutOfMemory, RunFailed
from ctseg.files import write_text
from ctseg.losses.deep import DeepSupervision
from ctseg.metrics.report import Report


def train(job: TrainingJob, *, resume: bool = False) -> RunResult:
    """Train to the end, or on from the last resume point.

    The run folder gets `log.jsonl`, `best.safetensors`, `validation/` and `last/`.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with a resume point written; a second Ctrl-C leaves the last one as it is.
        RunFailed: the loss is not finite, or the memory does not suffice.
    """
    device = job.runtime.device
    with kept_buffers(device.type == "cpu"), repeatable(device), loader_of(job) as loader:
        try:
            return _train(job, resume, loader)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise _no_room(job, error) from error


def _no_room(job: TrainingJob, error: BaseException) -> RunFailed:
    train = job.config.train
    patch = " x ".join(map(str, train.patch_zyx or ()))
    one = isinstance(error, OutOfMemory)
    what = f"one patch of {patch}" if one else f"{train.batch_size} patches of {patch}"
    hint = "Train anew with smaller ones: --patch Z,Y,X"
    return RunFailed(
        f"The memory of {job.runtime.device} does not suffice for {what} voxels.",
        hint=hint if one else f"{hint}, or fewer: --batch-size 1",
    )


def _train(job: TrainingJob, resume: bool, loader: Loader) -> RunResult:
    config, last, ended, processes = job.config, job.folder / "last", 0, job.processes
    torch.manual_seed(seed_for(config.seed, 0, 0, INITIAL))
    found = resume and processes.leads and checkpoint.exists(last)
    resuming = bool(processes.from_first(found)[0])
    # pretrained weights are read once: a resumed run has better ones
    net = initial_network(job.card, config, fresh=not resuming)
    net = job.runtime.place(processes.synchronised(net)).train()
    loss = DeepSupervision(create_loss(config.loss.name, **config.loss.options))
    optimizer = make_optimizer(net, config.train, job.card.initial)
    average = timm().utils.ModelEmaV3(net, decay=config.train.ema) if config.train.ema else None

    if resuming:
        ema = average.module if average is not None else None
        state = checkpoint.resume(last, net, ema, optimizer)
        job.reporter.say(f"Resuming at step {state.step} of {state.steps}.")
        if processes.size != state.processes:
            job.reporter.say(
                f"Note: {state.processes} process(es) trained so far; sums round differently with {processes.size}."
            )
        ended = state.steps
        if job.extend:
            extend_steps(job, state, net, loss, loader)
    else:
        processes.take_first([*net.parameters(), *net.buffers()])
        state = plan_steps(job, net, loss, loader)
    state.processes = processes.size
    stepper = Stepper(job, net, loss, optimizer, loader)
    stepper.parts = min(state.parts, loader.recipe.batch_size)
    if state.scaler:
        stepper.scaler.load_state_dict(state.scaler)
    schedule = Schedule(optimizer, config.train, state.rate_steps or state.steps)
    if state.step:
        # a run killed before a validation tells its last rate
        schedule.set(state.position(state.step - 1))
    trackers = Trackers(job.folder, config, job.reporter.say) if processes.leads else None
    log = RunLog(job.folder if processes.leads else None, state.log_bytes, state.step, trackers)
    live = LiveNumbers(job)
    clock = Clock(job, state, log, fresh=job.extend or not resuming)

    def save() -> None:
        if not processes.leads:
            return
        state.seconds, state.budget_left, state.log_bytes = clock.spent(), clock.left(), log.size
        state.scaler = stepper.scaler.state_dict()
        parts: dict[str, Mapping[str, torch.Tensor]] = {"model": net.state_dict()}
        if average is not None:
            parts["ema"] = average.module.state_dict()
        checkpoint.save(last, state, parts, optimizer)
        clock.saved()

    if job.extend:
        _note_extension(job, log, state, ended)
    clock.start()
    if job.extend or not state.step:
        save()  # what a time budget fixed is kept from the start
    if job.extend and processes.leads:
        write_text(job.folder / RUN_FILE, dump_config(config))
    with Interrupt() as interrupt:
        try:
            while not finished(state, config.train.patience):
                loader.last = state.steps  # nothing is read beyond
                if state.validated < state.step and at_epoch_end(state):
                    judged = (average.module if average is not None else net).eval()
                    shown = ShownCase(surfaces=log.board is not None)
                    with clock.validation():
                        report = validate_all(job, judged, state.step, interrupt, shown.add)
                    keep_if_best(job, state, judged, report)
                    if processes.leads and state.best_step == state.step:
                        draw_scans(job, judged, report, shown.slices)
                    net.train()
                    if log.board is not None:
                        log.board.show(shown, state.step)
                    log_epoch(log, state, schedule.lr, report, clock.seconds())
                    tell(job, state, report)
                    live.validated(report)
                    done = finished(state, config.train.patience)
                    if done:
                        clock.end()
                    save()
                    if job.on_epoch:
                        job.on_epoch(job.folder)
                    clock.epoch_ended()
                    if not done and finished(state, config.train.patience):  # no time is left
                        clock.end()
                        save()
                    continue
                if (threads := follow_cores()) is not None:
                    note_threads(job, log, state.step, threads)
                schedule.set(state.position(state.step))
                value = stepper(state.step)
                if stepper.parts != state.parts:
                    state.parts = note_parts(job, log, state.step, stepper.parts)
                state.count(value)
                if config.train.log_every and state.step % config.train.log_every == 0:
                    log_step(log, state, schedule.lr)
                if average is not None:
                    average.update(net, step=state.step)
                live.step(state, schedule.lr)
                asked, due = processes.largest(interrupt.asked or 0, int(clock.due()))
                interrupt.check(asked)
                clock.step_done(bool(due))
                if clock.since_saved() > config.train.checkpoint_every:
                    save()
        except KeyboardInterrupt:
            if not interrupt.abrupt:
                save()
            raise
        finally:
            log.close()
            if interrupt.abrupt:
                job.reporter.say("Stopped at once; the run resumes from its last resume point.")
    processes.largest(0)  # the first one has written by now
    report = Report.read(job.folder / "validation" / "report.json")
    return RunResult(
        job.folder, report, report.mean_dice, report.dice, state.step,
        clock.spent(), {name: report.mean(name) for name in scores_of(report)},
    )  # fmt: skip


def _note_extension(job: TrainingJob, log: RunLog, state: State, ended: int) -> None:
    """Say and log that the run has a new end; `ended` is the one before, 0 where the run had not begun."""
    log.write("extended", step=state.step, steps_before=ended, steps=state.steps)
    job.reporter.say(
        f"Extended from {ended} to {state.steps} steps: from step {state.step} on, the learning rate is that of a "
        f"run of {state.steps} steps."
    )


def has_ended(run: Path) -> bool:
    """Whether a run folder holds a run that has begun and is finished."""
    if not (run / RUN_FILE).is_file() or not checkpoint.exists(run / "last"):
        return False
    state, _, _ = checkpoint.load(run / "last")
    return finished(state, load_config(run / RUN_FILE).train.patience)


def finished(state: State, patience: int | None) -> bool:
    """Whether all steps are done and validated, or nothing improved for `patience` epochs."""
    if patience is not None and state.without_gain >= patience:
        return True
    return state.step >= state.steps and state.validated >= state.step
