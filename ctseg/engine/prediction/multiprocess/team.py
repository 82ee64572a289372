"""`Team`: the processes that torchrun starts, their messages, and the detection of processes that are gone.

The processes share a store of small JSON texts, which torchrun or the first process serves, and pass voxels through
files; there are no process groups and no pickles. Each process has a device of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from ctseg import errors
from ctseg.engine.inference.forward import TileTooLarge, out_of_memory
from ctseg.errors import CtsegError, RunFailed

BEAT_S = 2.0
"""Interval of the heartbeat by which a process shows that it is alive."""
PATIENCE_S = 120.0
"""A process without a heartbeat for this long counts as dead."""
STARTING_S = 300.0
"""The longest time between the starts of two processes."""
LEAVE_S = 30.0
"""The longest time that the first process waits for the others to leave."""
POLL_S = 0.02

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Team:
    """The processes that work together; the first one (rank 0) leads and is the only one to write results.

    Args:
        store: a `torch.distributed.Store` that all of them see.
        rank: rank of this process.
        size: number of processes.
        patience_s: a process without a heartbeat for this long counts as dead.
        beat_s: interval of the heartbeat.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        *,
        patience_s: float = PATIENCE_S,
        beat_s: float = BEAT_S,
    ) -> None:
        self.store, self.rank, self.size = store, rank, size
        self._patience, self._beat_s = patience_s, beat_s
        self._joined = time.monotonic()
        # heartbeats of each process, and the time at which their number last changed
        self._seen: dict[int, tuple[int, float]] = {}
        self._checked_at = self._joined
        self._left = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="ctseg-alive", daemon=True)
        self._heartbeat.start()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes results and talks to the user."""
        return self.rank == 0

    @property
    def others(self) -> list[int]:
        """The ranks of the others."""
        return [rank for rank in range(self.size) if rank != self.rank]

    def put(self, key: str, value: Any) -> None:
        """Store a message for the other processes, as JSON."""
        self._ask(lambda: self.store.set(key, json.dumps(value)))

    def put_first(self, key: str, value: Any) -> None:
        """Store a message unless the key already has one."""
        self._ask(lambda: self.store.compare_set(key, "", json.dumps(value)))

    def peek(self, key: str) -> Any:
        """The message stored under a key; None if there is none so far."""
        if not self._ask(lambda: self.store.check([key])):
            return None
        return json.loads(self._ask(lambda: self.store.get(key)))

    def claim(self, key: str) -> int:
        """The next number of a counter from 0 on; each number goes to one process."""
        return int(self._ask(lambda: self.store.add(key, 1))) - 1

    def wait(self, key: str, *, watch: Callable[[], None] | None = None) -> Any:
        """Wait for a message under a key, and return it.

        Args:
            watch: called regularly; raises to end the wait.

        Raises:
            RunFailed: another process gave up or is gone.
        """
        while True:
            value = self.peek(key)
            if value is not None:
                return value
            self.check()
            if watch is not None:
                watch()
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raise RunFailed if another process gave up or is gone."""
        given_up = self.peek("stop")
        if given_up is not None:
            raise RunFailed(f"Process {given_up['process']} gave up: {given_up['message']}")
        now = time.monotonic()
        if now - self._checked_at < self._beat_s:
            return
        if now - self._checked_at > 10 * self._beat_s:
            # this process was suspended itself, so the silence of the others is unknown
            self._seen = {rank: (count, now) for rank, (count, _) in self._seen.items()}
        self._checked_at = now
        for rank in self.others:
            count = int(self._ask(lambda r=rank: self.store.add(f"alive/{r}", 0)))  # type: ignore[misc]
            before, since = self._seen.get(rank, (0, self._joined))
            if count != before:
                self._seen[rank] = (count, now)
                continue
            silent = now - since
            if silent <= (self._patience if count else max(self._patience, STARTING_S)):
                continue
            if self.peek(f"bye/{rank}"):  # it left after its last scan
                self._seen[rank] = (count, now)
                continue
            raise RunFailed(
                f"Process {rank} of {self.size} has said nothing for {silent:.0f} s.",
                hint="See its own messages; it may have been killed because memory ran out.",
            )

    def leave(self, error: BaseException | None = None) -> None:
        """Leave the team. The first process stays until the others have left, since it may serve the store."""
        with contextlib.suppress(CtsegError):
            if error is not None and not (isinstance(error, SystemExit) and not error.code):
                self.put_first("stop", error_data(error, self.rank))
            else:
                self.put(f"bye/{self.rank}", True)
                if self.leads:
                    end = time.monotonic() + LEAVE_S
                    while time.monotonic() < end and not all(
                        self.peek(f"bye/{rank}") for rank in self.others
                    ):
                        time.sleep(POLL_S)
        self._left.set()
        self._heartbeat.join()

    def _beat(self) -> None:
        with contextlib.suppress(CtsegError):
            while True:
                self._ask(lambda: self.store.add(f"alive/{self.rank}", 1))
                if self._left.wait(self._beat_s):
                    return

    @staticmethod
    def _ask(call: Callable[[], Any]) -> Any:
        from torch.distributed import DistError

        try:
            return call()
        except (DistError, ConnectionError) as error:
            raise RunFailed(
                "The other processes cannot be reached any more.",
                hint="See their own messages; torchrun stops all processes if one of them fails.",
            ) from error


@contextlib.contextmanager
def open_team() -> Iterator[Team | None]:
    """Join the processes that torchrun started; yields None for a single process.

    Raises:
        RunFailed: the others cannot be reached.
    """
    under_torchrun = all(os.environ.get(name) for name in _VARIABLES)
    if not under_torchrun or int(os.environ["WORLD_SIZE"]) < 2:
        yield None
        return
    import torch.distributed as dist

    if not dist.is_available():
        raise RunFailed("This build of PyTorch cannot work with several processes.")
    from torch.distributed.rendezvous import rendezvous

    try:
        joined = rendezvous("env://", timeout=timedelta(seconds=STARTING_S))
        store, rank, size = next(iter(joined))
    except (dist.DistError, RuntimeError, ValueError, ConnectionError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunFailed(
            f"The other processes cannot be reached at {where}: {error}",
            hint="Start them with torchrun, all with the same --master-addr.",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"
    if attempt != "0":  # torchrun keeps its store, and in it what the processes before left there
        store = dist.distributed_c10d.PrefixStore(f"attempt-{attempt}", store)
    team = Team(store, rank, size)
    with _exit_on_sigterm():
        try:
            yield team
        except BaseException as error:
            team.leave(error)
            raise
        team.leave()


def error_data(error: BaseException, rank: int) -> dict[str, Any]:
    """An error as a message to the other processes."""
    if isinstance(error, CtsegError):
        return {
            "process": rank, "kind": type(error).__name__, "message": error.message,
            "hint": error.hint, "exit_code": error.exit_code,
        }  # fmt: skip
    text = " ".join(str(error).split())
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    # if one process runs out of memory, all start again with smaller tiles
    kind = "TileTooLarge" if out_of_memory(error) else "RunFailed"
    return {"process": rank, "kind": kind, "message": message, "hint": None, "exit_code": 1}


def error_from(data: dict[str, Any]) -> CtsegError:
    """The error that another process reported, of the same class if that class takes only a message and a hint."""
    kinds: dict[str, type[CtsegError]] = {
        kind.__name__: kind
        for kind in (
            CtsegError, RunFailed, TileTooLarge, errors.BadInput, errors.FileProblem,
            errors.DiskFull,
            errors.GeometryMismatch, errors.CorruptWeights, errors.ConfigError,
        )
    }  # fmt: skip
    other = errors.BadInput if data["exit_code"] == errors.EXIT_BAD_INPUT else RunFailed
    kind = kinds.get(data["kind"], other)
    return kind(f"Process {data['process']}: {data['message']}", hint=data["hint"])


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit on SIGTERM, which torchrun sends after another process failed, so that temporary files are removed."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
