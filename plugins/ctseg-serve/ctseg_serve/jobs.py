"""The queue: one prediction at a time, a limited number of requests that wait, and ends for those nobody waits for."""

from __future__ import annotations

import asyncio
import math
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from ctseg_serve.limits import Limits
from ctseg_serve.problems import Problem

T = TypeVar("T")
Reason = Literal["gone", "late", "stopping"]
FIRST_GUESS_S = 5.0
"""Seconds of a prediction before any is measured."""
LONGEST_RETRY_S = 120


class Stopped(BaseException):
    """Ends a prediction at its next tile. No `Exception`, so that the engine does not take it for a failed scan.

    Attributes:
        reason: `gone`: the client is; `late`: the time is over; `stopping`: the server ends.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Job:
    """One request, from its first byte to the last byte of its response.

    Attributes:
        id: in the log and in responses.
        folder: of its files; removed by `leave`.
        seconds: that its prediction took.
    """

    def __init__(self, root: Path, on_leave: Callable[[Job], None]) -> None:
        self.id = secrets.token_hex(4)
        self.folder = root / self.id
        self.folder.mkdir()
        self.seconds = 0.0
        self.task = asyncio.current_task()
        self.future: Future[object] | None = None
        self.deadline = math.inf
        self.reason: Reason | None = None
        self._on_leave: Callable[[Job], None] | None = on_leave

    def check(self) -> None:
        """Raise `Stopped` if the prediction should end; called in the thread of the engine."""
        if self.reason is None and time.monotonic() > self.deadline:
            self.reason = "late"
        if self.reason is not None:
            raise Stopped(self.reason)

    def leave(self) -> None:
        """Remove the files and make room for another request; calling this again does nothing."""
        on_leave, self._on_leave = self._on_leave, None
        if on_leave is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            on_leave(self)


class JobQueue:
    """Admits requests and predicts one after the other, in the order in which their scans are complete.

    All methods belong to the event loop.

    Args:
        root: folder for those of the jobs.

    Attributes:
        jobs: all that are admitted: receiving, waiting, running, or sending.
        running: the one that is predicted.
        stopping: whether none is admitted any more.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root, self._limits = root, limits
        self._pool = ThreadPoolExecutor(1, "ctseg-predict")
        self._mean_s = FIRST_GUESS_S
        self.jobs: set[Job] = set()
        self.running: Job | None = None
        self.stopping = False

    @property
    def full(self) -> bool:
        """Whether another request would be refused."""
        return len(self.jobs) > self._limits.waiting

    def enter(self) -> Job:
        """Admit a request.

        Raises:
            Problem: the queue is full, or the server is stopping.
        """
        if self.stopping:
            raise self.stopping_problem()
        if self.full:
            raise Problem(
                503,
                f"The queue is full: {len(self.jobs)} requests are waiting or running.",
                hint="Send the request again after the seconds of Retry-After.",
                headers={"Retry-After": str(self.retry_after_s)},
            )
        job = Job(self._root, self.jobs.discard)
        self.jobs.add(job)
        return job

    @property
    def retry_after_s(self) -> int:
        """Seconds after which about half of the queue is done."""
        return max(1, min(LONGEST_RETRY_S, math.ceil(self._mean_s * len(self.jobs) / 2)))

    async def run(self, job: Job, work: Callable[[], T], gone: Awaitable[object]) -> T:
        """Wait for the turn of a job and do its work in the thread of the engine.

        Args:
            gone: done when the client has disconnected.

        Raises:
            Problem: the time is over, or the server is stopping.
            Stopped: the client is gone.
        """
        if self.stopping:
            raise self.stopping_problem()
        job.future = self._pool.submit(self._turn, job, work)
        result = asyncio.wrap_future(job.future)
        watch = asyncio.ensure_future(gone)
        try:
            await asyncio.wait({result, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                job.reason = "gone"
                if job.future.cancel():
                    raise Stopped("gone")
            return await result  # type: ignore[return-value]
        except asyncio.CancelledError:
            if job.future.cancelled() and self.stopping:
                raise self.stopping_problem() from None
            job.reason = "stopping"
            raise
        except Stopped as stopped:
            if stopped.reason == "gone":
                raise
            raise (
                self.stopping_problem() if stopped.reason == "stopping" else self._late()
            ) from None
        finally:
            watch.cancel()

    def _turn(self, job: Job, work: Callable[[], T]) -> T:
        begun = time.monotonic()
        job.deadline = begun + self._limits.seconds
        self.running = job
        try:
            return work()
        finally:
            self.running = None
            job.seconds = time.monotonic() - begun
            self._mean_s += 0.2 * (job.seconds - self._mean_s)

    def stop(self, *, at_once: bool = False) -> None:
        """Admit no more requests, and refuse those whose prediction has not begun.

        Args:
            at_once: end the running prediction at its next tile, too.
        """
        self.stopping = True
        for job in list(self.jobs):
            if job.future is not None:
                job.future.cancel()  # has no effect on the one that runs
            elif job.task is not None:
                job.task.cancel()  # it is receiving
            if at_once:
                job.reason = "stopping"

    def close(self) -> None:
        """End the thread of the engine, and with it a prediction that runs."""
        self.stop(at_once=True)
        self._pool.shutdown(cancel_futures=True)

    @staticmethod
    def stopping_problem() -> Problem:
        """What requests get while the server ends."""
        return Problem(
            503,
            "The server is stopping.",
            hint="Send the request to another one, or again later.",
            headers={"Retry-After": "10"},
        )

    def _late(self) -> Problem:
        return Problem(
            504,
            f"The prediction took longer than the {self._limits.seconds:g} s that this server allows.",
        )
