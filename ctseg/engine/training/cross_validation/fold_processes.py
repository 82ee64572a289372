"""Folds that train side by side, each in a process of its own on a device of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctseg.config import RunConfig, dump_config, load_config
from ctseg.engine.evaluation.runs import FOLD
from ctseg.engine.training.cross_validation.set_aside import settle
from ctseg.engine.training.job import RUN_FILE, Reporter
from ctseg.errors import RunFailed
from ctseg.files import disk_errors

POLL_SECONDS = 0.5


@dataclass
class _Running:
    """The processes under way, by fold, with the device of each."""

    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    devices: dict[int, str] = field(default_factory=dict)

    def stop(self) -> None:
        """End all of them with a resume point, and wait for that; a second Ctrl-C meanwhile ends them at once."""
        try:
            self._end()
        except KeyboardInterrupt:
            self._end()
            raise

    def _end(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait()

    def ended(self) -> dict[int, int]:
        """The folds that have ended since, with their exit codes."""
        codes = {number: process.poll() for number, process in self.processes.items()}
        out = {number: code for number, code in codes.items() if code is not None}
        for number in out:
            del self.processes[number]
        return out


def train_side_by_side(
    folder: Path,
    config: RunConfig,
    folds: Sequence[tuple[int, bool]],
    devices: Sequence[str],
    reporter: Reporter,
) -> None:
    """Train folds, as many at a time as devices are named. Each writes what it says to `foldN.log` beside its run.

    The others wait until the first fold has planned.

    Args:
        folder: of the runs.
        config: of the first fold.
        folds: numbers, and whether each has begun and is resumed.
        devices: a device may be named twice, for two folds on it; those on which folds have begun are among them.

    Raises:
        RunFailed: a fold failed; those that could train were trained.
    """
    waiting, failed, running = list(folds), [], _Running()
    plan, total = folder / FOLD.format(0) / RUN_FILE, len(folds)
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch, RUN_FILE)
        first.write_text(dump_config(config), encoding="utf-8")
        try:
            while waiting or running.processes:
                free = list(devices)
                for number in running.processes:
                    free.remove(running.devices[number])
                while (turn := _next(folder, waiting, free)) is not None:
                    number, begun, device = turn
                    if number:
                        settle(folder)
                    waiting.remove((number, begun))
                    free.remove(device)
                    running.devices[number] = device
                    source = None if begun else plan if number else first
                    running.processes[number] = _start(folder, number, device, source)
                    reporter.say(f"Fold {number} trains on {device}: {_log(folder, number)}")
                for number, code in running.ended().items():
                    if code:
                        failed.append(number)
                    reporter.say(
                        f"Fold {number} {f'failed with exit code {code}' if code else 'is finished'}."
                    )
                if failed and not plan.is_file():
                    break
                done = total - len(waiting) - len(running.processes)
                names = ", ".join(map(str, running.processes))
                reporter.update(done, total, f"folds {names} train")
                time.sleep(POLL_SECONDS)
        except BaseException:
            running.stop()
            raise
    if failed:
        logs = ", ".join(str(_log(folder, number)) for number in failed)
        raise RunFailed(
            f"Fold {', '.join(map(str, failed))} failed; what it said is in {logs}.",
            hint=f"Mend that, then go on: ctseg train --resume {folder}",
        )


def device_of(folder: Path, number: int) -> str:
    """The device on which a fold has begun."""
    return load_config(folder / FOLD.format(number) / RUN_FILE).train.device


def _next(
    folder: Path, waiting: Sequence[tuple[int, bool]], free: Sequence[str]
) -> tuple[int, bool, str] | None:
    """The first fold that can start, whether it has begun, and on which device: its own if it has."""
    planned = (folder / FOLD.format(0) / RUN_FILE).is_file()
    for number, begun in waiting if free else ():
        own = device_of(folder, number) if begun else free[0]
        if own in free and (planned or number == 0):
            return number, begun, own
    return None


def _log(folder: Path, number: int) -> Path:
    return folder / f"{FOLD.format(number)}.log"


def _start(folder: Path, number: int, device: str, source: Path | None) -> subprocess.Popen[bytes]:
    """The process of a fold, from a run file; without one the fold is resumed, on its own device.

    Ctrl-C in a terminal does not reach it, since it has a session of its own: it gets one signal, from this process.
    """
    command = [sys.executable, "-m", "ctseg", "train"]
    command += ["-o", str(folder / FOLD.format(number))]
    if source is None:
        command.append("--resume")
    else:
        command += [str(source), "--fold", str(number), "--device", device]
    log = _log(folder, number)
    with disk_errors(log), log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - this Python
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
