"""Trials: a fault in a command, what must hold then, the next command, and the result that it must have."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import child, scenarios
from tests.faults.child import Ended, Fault
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.workplace import Workplace
from tests.rights import permissions_count

KINDS = ("kill", "disk", "rights", "second")
UNFORESEEN = ("Internal error", "Traceback", "not foreseen")


@dataclass
class Outcome:
    """What came of a trial.

    Attributes:
        fault: what was done.
        met: whether the fault met the command before it was done.
        problems: what did not hold; empty where all did.
    """

    scenario: str
    seed: int
    fault: str
    met: bool = False
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Expected:
    """What a command makes when nothing happens to it.

    Attributes:
        results: contents by path.
        changes: how often it changes files.
        seconds: how long it takes.
    """

    results: dict[str, str]
    changes: int
    seconds: float


class Trials:
    """Trials in copies of one workplace.

    Args:
        template: made by `tests.faults.workplace.make`.
        folder: for the copies.
    """

    def __init__(self, template: Workplace, folder: Path) -> None:
        self._template, self._folder = template, folder
        self._expected: dict[str, Expected] = {}

    def run(self, scenario: Scenario, kind: str, seed: int) -> Outcome:
        """One trial; the same seed does the same, but for kills by the clock."""
        randomness = random.Random(f"{scenario.name} {kind} {seed}")
        expected = self.expected(scenario)
        place = self._fresh(scenario)
        try:
            return _Trial(scenario, place, expected, randomness, seed).run(kind)
        finally:
            shutil.rmtree(place.root, ignore_errors=True)
            self._template.enter()

    def expected(self, scenario: Scenario) -> Expected:
        """Of a run without a fault, made once."""
        if scenario.name not in self._expected:
            place = self._fresh(scenario)
            ended = child.run(scenario.command(place))
            assert ended.code == 0, ended.said
            assert not place.leftovers(), place.leftovers()
            results = scenarios.results(place, scenario)
            self._expected[scenario.name] = Expected(results, ended.changes, ended.seconds)
            shutil.rmtree(place.root)
        return self._expected[scenario.name]

    def _fresh(self, scenario: Scenario) -> Workplace:
        folder = self._folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        place = self._template.copy(folder)
        for name in scenario.fresh:
            shutil.rmtree(folder / name, ignore_errors=True)
        return place


class _Trial:
    def __init__(
        self, scenario: Scenario, place: Workplace, expected: Expected, randomness: random.Random, seed: int
    ) -> None:  # fmt: skip
        self.scenario, self.place, self.expected = scenario, place, expected
        self.randomness = randomness
        self.outcome = Outcome(scenario.name, seed, "")
        self.others = scenarios.others(place, scenario)

    def run(self, kind: str) -> Outcome:
        faults: dict[str, Callable[[], None]] = {
            "kill": self._kills, "disk": self._disk, "rights": self._rights, "second": self._second,
        }  # fmt: skip
        try:
            faults[kind]()
            self._go_on()
        except AssertionError as error:
            self.outcome.problems.append(str(error))
        return self.outcome

    def _kills(self) -> None:
        """One kill or two, of the command and of the one that goes on."""
        told = []
        for turn in range(self.randomness.randint(1, 2)):
            arguments = (self.scenario.again if turn else self.scenario.command)(self.place)
            if arguments is None:
                break
            fault: Fault | None = None
            seconds = 0.0
            if self.randomness.random() < 0.6:
                change = self.randomness.randint(1, self.expected.changes)
                fault = child.killed_at(change)
                told.append(f"killed before change {change} of {self.expected.changes}")
            else:
                seconds = self.expected.seconds * self.randomness.uniform(0.02, 1.0)
                told.append(f"killed after {seconds:.2f} of {self.expected.seconds:.2f} s")
            ended = child.run(arguments, fault, seconds)
            self.outcome.fault = ", then ".join(told)
            self.outcome.met |= ended.killed
            if not ended.killed:
                self._ended_plainly(ended)
            self._nothing_lost()
            self.place.age_leftovers()

    def _disk(self) -> None:
        """No room: for a file beyond some bytes, or for any new file from a moment on."""
        if self.randomness.random() < 0.5:
            limit = int(2 ** self.randomness.uniform(0, 16))
            self.outcome.fault = f"no file beyond {limit} bytes"
            fault = child.small_files(limit)
        else:
            change = self.randomness.randint(1, self.expected.changes)
            self.outcome.fault = f"disk full from change {change} of {self.expected.changes}"
            fault = child.full_disk(change)
        ended = child.run(self.scenario.command(self.place), fault)
        self.outcome.met = ended.code != 0
        self._ended_plainly(ended)
        self._nothing_lost()
        self.place.age_leftovers()

    def _rights(self) -> None:
        """The place of the output may not be written."""
        output = self.place.root / self.scenario.output
        locked = output if output.is_dir() else self.place.root
        mode = locked.stat().st_mode
        self.outcome.fault = f"no permission to write in {locked.name}"

        rights = permissions_count()  # until the process ends

        locked.chmod(0o500)
        try:
            ended = child.run(self.scenario.command(self.place), rights.__enter__)
        finally:
            locked.chmod(mode)
        self.outcome.met = ended.code != 0
        self._ended_plainly(ended)
        self._nothing_lost()
        self.place.age_leftovers()

    def _second(self) -> None:
        """Two processes do the same at the same moment; one of them may be killed."""
        killed = self.randomness.random() < 0.4
        self.outcome.fault = "two at once" + (", one of them killed" if killed else "")
        first = child.start(self.scenario.command(self.place))
        time.sleep(self.randomness.uniform(0, 0.3) * self.expected.seconds)
        second = child.start(self.scenario.command(self.place))
        if killed:
            time.sleep(self.randomness.uniform(0, 0.7) * self.expected.seconds)
            os.kill(first.pid, signal.SIGKILL)
        ended = [child.finish(one) for one in (first, second)]
        self.outcome.met = True
        for one in ended:
            if not one.killed:
                self._ended_plainly(one)
        codes = [one.code for one in ended]
        assert killed or 0 in codes, f"both failed {codes}: {[one.said for one in ended]}"
        self._nothing_lost()
        self.place.age_leftovers()

    def _ended_plainly(self, ended: Ended) -> None:
        assert ended.code in (0, 1, 2), f"exit code {ended.code}: {ended.said}"
        if ended.code:
            told = "Error: " in ended.said or "ailed" in ended.said
            assert told, f"no cause told: {ended.said}"
        for word in UNFORESEEN:
            assert word not in ended.said, ended.said

    def _nothing_lost(self) -> None:
        now = scenarios.others(self.place, self.scenario)
        lost = {path for path, digest in self.others.items() if now.get(path) != digest}
        assert not lost, f"changed or lost: {sorted(lost)}"
        halves = scenarios.unreadable(self.place, self.scenario)
        assert not halves, f"half-written: {halves}"

    def _go_on(self) -> None:
        """The next command works, makes what an untroubled one makes, and clears what was left."""
        arguments = self.scenario.again(self.place)
        if arguments is not None:
            ended = child.run(arguments)
            assert ended.code == 0, f"the next command fails ({ended.code}): {ended.said}"
        if self.scenario.output == "zoo":
            self.place.command("zoo", "verify", "--zoo", self.place.zoo)
        made = scenarios.results(self.place, self.scenario)
        wanted = self.expected.results
        different = {
            path: (wanted.get(path, "absent"), made.get(path, "absent"))
            for path in sorted({*wanted, *made})
            if wanted.get(path) != made.get(path)
        }
        assert not different, f"not what an untroubled command makes: {different}"
        assert not self.place.leftovers(), f"left behind: {self.place.leftovers()}"


def plan(trials: int, seed: int, names: tuple[str, ...] = ()) -> list[tuple[Scenario, str, int]]:
    """So many kills, dealt to the commands in turn; for every ten a full disk and a second process; rights once."""
    chosen = [s for s in SCENARIOS if not names or any(s.name.startswith(n) for n in names)]
    out = [(chosen[(seed + i) % len(chosen)], "kill", seed + i) for i in range(trials)]
    for kind in ("disk", "second"):
        out += [(chosen[(seed + i) % len(chosen)], kind, seed + i) for i in range(-(-trials // 10))]
    if trials >= len(chosen):
        out += [(scenario, "rights", seed) for scenario in chosen]
    return out
