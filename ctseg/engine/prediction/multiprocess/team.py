"""The processes that torchrun starts: who they are, what they tell each other, and how they notice that one is gone.

They share nothing but a store of small JSON texts, which torchrun or the first process serves; there are no process
groups, no pickles, and voxels go through files. Each process works on a device of its own.
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
"""A process says so often that it is alive."""
PATIENCE_S = 120.0
"""A process that says nothing for so long is taken for dead."""
STARTING_S = 300.0
"""Processes may start so far apart."""
PARTING_S = 30.0
"""How long the first process waits for the others to take their leave."""
POLL_S = 0.02

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Team:
    """The processes that work together; the first one (rank 0) leads and alone writes results.

    Args:
        store: a `torch.distributed.Store` that all of them see.
        rank: which of them this is.
        size: how many they are.
        patience_s: after which a silent process is taken for dead.
        beat_s: how often this one says that it is alive.
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
        # how often each said that it is alive, and since when that often
        self._seen: dict[int, tuple[int, float]] = {}
        self._looked = self._joined
        self._parted = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="ctseg-alive", daemon=True)
        self._pulse.start()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes results and talks to the user."""
        return self.rank == 0

    @property
    def others(self) -> list[int]:
        """The ranks of the others."""
        return [rank for rank in range(self.size) if rank != self.rank]

    def put(self, key: str, value: Any) -> None:
        """Tell the others something, as JSON."""
        self._ask(lambda: self.store.set(key, json.dumps(value)))

    def put_first(self, key: str, value: Any) -> None:
        """The same, unless another one was earlier."""
        self._ask(lambda: self.store.compare_set(key, "", json.dumps(value)))

    def peek(self, key: str) -> Any:
        """What somebody said, None where nobody did so far."""
        if not self._ask(lambda: self.store.check([key])):
            return None
        return json.loads(self._ask(lambda: self.store.get(key)))

    def claim(self, key: str) -> int:
        """The next number, 0 first; no two processes get the same."""
        return int(self._ask(lambda: self.store.add(key, 1))) - 1

    def wait(self, key: str, *, watch: Callable[[], None] | None = None) -> Any:
        """What somebody says, as soon as they do.

        Args:
            watch: called now and then; raises where waiting has become pointless.

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
        """Raise where another process gave up or is gone."""
        given_up = self.peek("stop")
        if given_up is not None:
            raise RunFailed(f"Process {given_up['process']} gave up: {given_up['message']}")
        now = time.monotonic()
        if now - self._looked < self._beat_s:
            return
        if now - self._looked > 10 * self._beat_s:
            # this process was held up itself, so it cannot tell for how long the others have been silent
            self._seen = {rank: (count, now) for rank, (count, _) in self._seen.items()}
        self._looked = now
        for rank in self.others:
            count = int(self._ask(lambda r=rank: self.store.add(f"alive/{r}", 0)))  # type: ignore[misc]
            before, since = self._seen.get(rank, (0, self._joined))
            if count != before:
                self._seen[rank] = (count, now)
                continue
            silent = now - since
            if silent <= (self._patience if count else max(self._patience, STARTING_S)):
                continue
            if self.peek(f"bye/{rank}"):  # nothing was left for it to do
                self._seen[rank] = (count, now)
                continue
            raise RunFailed(
                f"Process {rank} of {self.size} has said nothing for {silent:.0f} s.",
                hint="See its own messages; it may have been killed for want of memory.",
            )

    def part(self, error: BaseException | None = None) -> None:
        """Take leave. The first process stays until the others are gone, since it may serve the store."""
        with contextlib.suppress(CtsegError):
            if error is not None and not (isinstance(error, SystemExit) and not error.code):
                self.put_first("stop", error_data(error, self.rank))
            else:
                self.put(f"bye/{self.rank}", True)
                if self.leads:
                    end = time.monotonic() + PARTING_S
                    while time.monotonic() < end and not all(
                        self.peek(f"bye/{rank}") for rank in self.others
                    ):
                        time.sleep(POLL_S)
        self._parted.set()
        self._pulse.join()

    def _beat(self) -> None:
        with contextlib.suppress(CtsegError):
            while True:
                self._ask(lambda: self.store.add(f"alive/{self.rank}", 1))
                if self._parted.wait(self._beat_s):
                    return

    @staticmethod
    def _ask(call: Callable[[], Any]) -> Any:
        from torch.distributed import DistError

        try:
            return call()
        except (DistError, ConnectionError) as error:
            raise RunFailed(
                "The other processes cannot be reached any more.",
                hint="See their own messages; torchrun stops all where one of them fails.",
            ) from error


@contextlib.contextmanager
def open_team() -> Iterator[Team | None]:
    """The processes that torchrun started; None where this one is alone.

    Raises:
        RunFailed: the others cannot be reached.
    """
    told_by_torchrun = all(os.environ.get(name) for name in _VARIABLES)
    if not told_by_torchrun or int(os.environ["WORLD_SIZE"]) < 2:
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
            hint="Start them with torchrun, all with one --master-addr.",
        ) from error
    team = Team(store, rank, size)
    with _ended_in_order():
        try:
            yield team
        except BaseException as error:
            team.part(error)
            raise
        team.part()


def error_data(error: BaseException, rank: int) -> dict[str, Any]:
    """An error as the other processes hear of it."""
    if isinstance(error, CtsegError):
        return {
            "process": rank, "kind": type(error).__name__, "message": error.message,
            "hint": error.hint, "exit_code": error.exit_code,
        }  # fmt: skip
    text = " ".join(str(error).split())
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    # where one process runs out of memory all have to begin anew with smaller tiles
    kind = "TileTooLarge" if out_of_memory(error) else "RunFailed"
    return {"process": rank, "kind": kind, "message": message, "hint": None, "exit_code": 1}


def error_from(data: dict[str, Any]) -> CtsegError:
    """The error that another process told of, of the same kind where it has no arguments of its own."""
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
def _ended_in_order() -> Iterator[None]:
    """Temporary files are removed when torchrun ends a process, as it does where another one failed."""

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
