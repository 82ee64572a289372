"""The way of many scans through reading, network and writing, and what becomes of each."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctseg.engine.prediction.case_job import CaseJob, as_error
from ctseg.engine.prediction.multiprocess.schedule import Schedule
from ctseg.engine.prediction.multiprocess.team import Team, error_data, error_from
from ctseg.engine.prediction.record import PredictionRecord
from ctseg.errors import CtsegError, DiskFull, FileProblem

FULL_BYTES = 2**26
"""A disk with less room than this has none for any further scan."""
OnProgress = Callable[[float, float, str], None]
OnSay = Callable[[str], None]


@dataclass
class Summary:
    """What came of a folder.

    Attributes:
        done: a record a scan: outputs, seconds, tiles, and volumes in ml.
        skipped: ids that were there already.
        failed: cause by id.
        missing: ids that were not tried any more, because the disk is full.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, CtsegError] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


class CaseLog:
    """What came of each scan so far: in the summary and in the record, or told to the process that keeps them.

    Args:
        record: None where there is none.
        folder: of the results.

    Attributes:
        full: whether the disk is.
    """

    def __init__(
        self, summary: Summary, record: PredictionRecord | None, folder: Path, on_say: OnSay | None
    ) -> None:
        self._summary, self._record, self._folder, self._on_say = summary, record, folder, on_say
        self._unwritten = ""
        self.full = False

    @property
    def count(self) -> int:
        """The number of scans of which something has become."""
        return len(self._summary.done) + len(self._summary.failed) + len(self._summary.missing)

    def done(self, case: CaseJob, result: dict[str, Any]) -> None:
        """A scan is predicted and written."""
        self._summary.done.append(result)
        if self._record is not None:
            self._record.done(result)
            self.write()

    def failed(self, case: CaseJob, error: CtsegError) -> None:
        """A scan failed. A full disk ends the work, but not where a scan only asked for more room than there is."""
        self._summary.failed[case.id] = error
        if isinstance(error, DiskFull) and not (
            error.needed and free_bytes(self._folder) > FULL_BYTES
        ):
            self.full = True
        if self._record is not None:
            self._record.failed(case.id, error.message)
            self.write()

    def missing(self, case: CaseJob) -> None:
        """A scan is not tried any more."""
        self._summary.missing.append(case.id)

    def write(self) -> None:
        """Bring the record up to date; where that cannot be written, what was written before is still there."""
        if self._record is None:
            return
        try:
            self._record.write()
        except (FileProblem, OSError) as error:
            self.full = self.full or isinstance(error, DiskFull)
            told = f"The record cannot be written: {error}."
            if isinstance(error, FileProblem):
                told = error.message
            if told != self._unwritten and self._on_say:
                self._on_say(f"{told} Finished scans are in place all the same.")
            self._unwritten = told

    def hear(self, *, rest: bool = False) -> None:
        """Learn what other processes did; with `rest`, wait until they are done."""


class LeaderLog(CaseLog):
    """Those of the process that keeps the record of several.

    Args:
        cases: by number.
    """

    def __init__(
        self, summary: Summary, record: PredictionRecord | None, folder: Path, on_say: OnSay | None,
        cases: Sequence[CaseJob], dispatch: Schedule,
    ) -> None:  # fmt: skip
        super().__init__(summary, record, folder, on_say)
        self._cases, self._dispatch = cases, dispatch

    def hear(self, *, rest: bool = False) -> None:
        for number, told in self._dispatch.drain() if rest else self._dispatch.poll():
            case = self._cases[number]
            if "done" in told:
                self.done(case, told["done"])
            elif "failed" in told:
                self.failed(case, error_from(told["failed"]))
            else:
                self.missing(case)


class FollowerLog(CaseLog):
    """Those of another process, told to the first one; of a scan that all make that one knows by itself."""

    def __init__(
        self, summary: Summary, folder: Path, cases: Sequence[CaseJob], dispatch: Schedule, team: Team
    ) -> None:  # fmt: skip
        super().__init__(summary, None, folder, None)
        self._numbers = {case.id: number for number, case in enumerate(cases)}
        self._dispatch, self._team = dispatch, team

    def done(self, case: CaseJob, result: dict[str, Any]) -> None:
        self._tell(case, {"done": result})

    def failed(self, case: CaseJob, error: CtsegError) -> None:
        super().failed(case, error)
        self._tell(case, {"failed": error_data(error, self._team.rank)})

    def missing(self, case: CaseJob) -> None:
        self._tell(case, {"missing": True})

    def _tell(self, case: CaseJob, outcome: dict[str, Any]) -> None:
        if case.share is None:
            self._dispatch.report(self._numbers[case.id], outcome)


class CaseQueue:
    """Takes scans one after the other, or side by side.

    Args:
        total: the number of scans, for the progress.
        overlapped: whether the next one is read and the last one written while the network works on one.
    """

    def __init__(
        self, outcomes: CaseLog, total: int, *, overlapped: bool,
        on_progress: OnProgress | None = None, on_say: OnSay | None = None,
    ) -> None:  # fmt: skip
        self._outcomes, self._total, self._overlapped = outcomes, total, overlapped
        self._on_progress, self._on_say = on_progress, on_say
        self._reader: ThreadPoolExecutor | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._ahead: tuple[CaseJob, Future[None] | None] | None = None
        self._finishing: deque[tuple[CaseJob, Future[dict[str, Any]]]] = deque()

    def run(self, cases: Iterator[CaseJob]) -> None:
        """Predict them all."""
        with ExitStack() as stack:
            if self._overlapped:
                self._reader = stack.enter_context(ThreadPoolExecutor(1, "ctseg-read"))
                self._writer = stack.enter_context(ThreadPoolExecutor(1, "ctseg-write"))
            try:
                while (turn := self._take(cases)) is not None:
                    case, coming = turn
                    if self._outcomes.full:
                        _drop(case, coming)
                        self._give_up(case, DiskFull("The disk is full."))
                        self._outcomes.missing(case)
                    else:
                        self._one(case, coming, cases)
                    self._outcomes.hear()
                    self._show(0, case.id)
            finally:
                if self._ahead is not None:
                    _drop(*self._ahead)
                self._settle(0)
                self._outcomes.write()
            self._outcomes.hear(rest=True)

    def _take(self, cases: Iterator[CaseJob]) -> tuple[CaseJob, Future[None] | None] | None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead
        case = next(cases, None)
        return None if case is None else (case, None)

    def _one(self, case: CaseJob, coming: Future[None] | None, cases: Iterator[CaseJob]) -> None:
        try:
            if coming is not None:
                coming.result()
            elif case.share is None:
                case.open(self._writer, self._on_say)
            self._read_ahead(cases)
            case.run(self._show, self._on_say)
        except Exception as error:
            case.close()
            self._fail(case, error)
        except BaseException:
            _drop(case, coming)
            raise
        else:
            self._finish(case)

    def _read_ahead(self, cases: Iterator[CaseJob]) -> None:
        if self._reader is None or self._outcomes.full:
            return
        case = next(cases, None)
        if case is not None:
            ahead = case.may_be_read_ahead
            self._ahead = (case, self._reader.submit(case.open, self._writer) if ahead else None)

    def _finish(self, case: CaseJob) -> None:
        """Have the results completed, one scan at a time."""
        if self._writer is not None:
            self._finishing.append((case, self._writer.submit(case.finish)))
            self._settle(1)
            return
        now: Future[dict[str, Any]] = Future()
        try:
            now.set_result(case.finish())
        except Exception as error:
            now.set_exception(error)
        finally:
            case.close()
        self._finishing.append((case, now))
        self._settle(0)

    def _settle(self, left: int) -> None:
        """Wait until no more than so many scans are still being written."""
        while len(self._finishing) > left:
            case, future = self._finishing.popleft()
            try:
                result = future.result()
            except Exception as error:
                case.close()
                self._fail(case, error)
            else:
                self._outcomes.done(case, result)

    def _give_up(self, case: CaseJob, error: Exception) -> None:
        """Keep no other process waiting for this one's part of a scan."""
        if case.share is not None:
            case.share.give_up(error)

    def _fail(self, case: CaseJob, error: Exception) -> None:
        self._give_up(case, error)
        self._outcomes.failed(case, as_error(error, case.places.main.parent))

    def _show(self, share: float, text: str) -> None:
        if self._on_progress:
            waiting = len(self._finishing)
            self._on_progress(self._outcomes.count + waiting + share, self._total, text)


def _drop(case: CaseJob, coming: Future[None] | None) -> None:
    """Close a scan that is not needed, as soon as nobody reads it any more."""
    if coming is not None and not coming.cancel():
        wait([coming])
    case.close()


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free
