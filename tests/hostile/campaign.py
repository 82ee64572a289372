"""Damaged files read in processes with limits; what ends otherwise than in an answer or a `CtsegError` is kept.

A process reads a batch, so that one that crashes or hangs costs no more than its own file: the next process goes on
with the file after it. Linux only.
"""

from __future__ import annotations

import collections
import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tests.hostile.mutate import damaged
from tests.hostile.target import Seed, Target

SECONDS = 5.0
"""Of the processor that reading one file may take."""
PATIENCE = 60.0
"""Seconds after which a process that says nothing is ended; the machine may be busy."""
ADDRESSES = 4 << 30
"""Bytes of addresses beyond those at the start of a process, so that nothing takes down the machine."""
BATCH = 2000
OK = "read"


class TooSlow(BaseException):
    """Raised into what takes too long; no `except Exception` swallows it."""


@dataclass
class Result:
    """What came of a target.

    Attributes:
        outcomes: how often each came: `read`, or the class of the error.
        failures: the number of an execution and what happened, for those that did not end as they should.
        slowest: seconds of the processor.
        largest: bytes of memory on top of those before.
    """

    target: str
    executions: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest: float = 0.0
    largest: int = 0


class Campaign:
    """The executions of one target.

    Args:
        folder: for the valid files, of which one at a time is replaced by a damaged copy.
        seed: of the randomness; with the number of an execution it fixes the copy.
    """

    def __init__(self, target: Target, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True)
        self._target, self._seed = target, seed
        self.seeds: list[Seed] = list(target.make(folder))
        files = {file for seed in self.seeds for file in seed.files}
        self._good = {file: file.read_bytes() for file in sorted(files)}
        for one in self.seeds:
            one.read(one.path)  # as it is, it can be read

    def run(self, count: int, first: int = 0) -> Result:
        """Execute so many mutations."""
        result = Result(self._target.name)
        end = first + count
        while first < end:
            first = self._batch(range(first, min(first + BATCH, end)), result)
        return result

    def mutation(self, number: int) -> tuple[Seed, Path, bytes | None]:
        """What is read, the file that is damaged, and its content; None where it is missing."""
        draw = random.Random(f"{self._seed}/{self._target.name}/{number}")
        seed = self.seeds[number % len(self.seeds)]
        file = draw.choice(list(seed.files))
        if seed.vanish and draw.random() < 0.1:
            return seed, file, None
        return seed, file, damaged(self._good[file], seed.ways, draw)

    def _batch(self, numbers: range, result: Result) -> int:
        """Execute in a process of its own; the number to go on with."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._work(numbers, writing)
        os.close(writing)
        upcoming, silent = numbers.start, False
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            rest = b""
            while True:
                if not select.select([pipe], [], [], PATIENCE)[0]:
                    silent = True
                    os.kill(child, signal.SIGKILL)
                    break
                block = pipe.read(1 << 16)
                if not block:
                    break
                *lines, rest = (rest + block).split(b"\n")
                for text in lines:
                    upcoming = 1 + self._count(json.loads(text), result)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status and upcoming < numbers.stop:
            why = f"says nothing for {PATIENCE:.0f} s" if silent else f"ends the process ({status})"
            result.executions += 1
            result.outcomes["hang" if silent else "crash"] += 1
            result.failures.append((upcoming, why))
            upcoming += 1
        return upcoming

    def _count(self, line: dict[str, Any], result: Result) -> int:
        number = int(line["number"])
        result.executions += 1
        result.outcomes[line["outcome"]] += 1
        result.slowest = max(result.slowest, line["seconds"])
        result.largest = max(result.largest, line["bytes"])
        if line["why"]:
            result.failures.append((number, line["why"]))
        return number

    def _work(self, numbers: range, writing: int) -> NoReturn:
        """In the child: execute and tell, one line each."""
        code = 1
        try:
            said = _limited()
            self._restore()
            for number in numbers:
                line = self._execute(number, said)
                os.write(writing, json.dumps(line).encode() + b"\n")
                if line["outcome"] == TooSlow.__name__:  # it was torn out of whatever it was doing
                    break
            code = 0
        finally:
            os._exit(code)

    def _restore(self) -> None:
        for file, content in self._good.items():
            if not file.is_file() or file.read_bytes() != content:
                file.write_bytes(content)

    def _execute(self, number: int, said: int) -> dict[str, Any]:
        seed, file, content = self.mutation(number)
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        before, begun = _memory(), time.process_time()
        outcome, why = self._outcome(seed)
        seconds, grown = time.process_time() - begun, max(0, _memory("VmHWM") - before)
        file.write_bytes(self._good[file])
        if seconds > SECONDS:
            why = f"takes {seconds:.1f} s; {why}"
        if grown > self._target.memory:
            why = f"takes {grown / 2**20:.0f} MiB; {why}"
        if os.lseek(said, 0, os.SEEK_END):
            text = os.pread(said, 2000, 0).decode(errors="replace")
            why = f"writes to the console: {text}; {why}"
            os.ftruncate(said, 0)
        return {
            "number": number,
            "outcome": outcome,
            "seconds": seconds,
            "bytes": grown,
            "why": why,
        }

    def _outcome(self, seed: Seed) -> tuple[str, str]:
        from ctseg.errors import CtsegError

        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            seed.read(seed.path)
        except CtsegError as error:
            plain = bool(error.message) and "\n" not in error.message
            why = "" if plain else f"no plain sentence: {error.message!r}"
            return type(error).__name__, why
        except BaseException as error:  # everything else is what is looked for
            return type(error).__name__, "".join(traceback.format_exception(error))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return OK, ""


def _limited() -> int:
    """Put limits on this process and its output into a file, whose descriptor is returned."""

    def ring(*_: object) -> None:
        raise TooSlow(f"more than {SECONDS:.0f} s")

    signal.signal(signal.SIGPROF, ring)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _memory("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    said = os.memfd_create("said", 0)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.set_blocking(said, True)
    warnings.simplefilter("error")
    return said


def _memory(what: str = "VmRSS") -> int:
    """Bytes that the system counts for this process; asking for what it has starts the count of the most anew."""
    if what == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5")
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(f"{what}:"):
            return int(text.split()[1]) * 1024
    raise AssertionError(f"{what} is not told")


def keep(campaign: Campaign, failures: Sequence[tuple[int, str]], folder: Path, again: str) -> None:
    """Write the damaged file of each failure, what happened, and the command that repeats it.

    Args:
        again: the command, but for the number.
    """
    for number, why in failures:
        seed, file, content = campaign.mutation(number)
        place = folder / str(number)
        place.mkdir(parents=True, exist_ok=True)
        if content is not None:
            (place / file.name).write_bytes(content)
        about = {
            "read": seed.name, "damaged": file.name, "missing": content is None, "why": why,
            "again": f"{again} --only {number}",
        }  # fmt: skip
        (place / "failure.json").write_text(json.dumps(about, indent=2))
