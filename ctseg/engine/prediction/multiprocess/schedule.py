"""`Schedule`: distributes the scans of a folder over several processes.

All processes share the largest scans by slabs if one process alone would keep the others waiting. The other scans go
one by one to whichever process is free.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ctseg.engine.prediction.inputs import Item
from ctseg.engine.prediction.multiprocess.slab_sharing import SharedScan
from ctseg.engine.prediction.multiprocess.team import Team
from ctseg.errors import CtsegError
from ctseg.volume.io import open_ref

SEAMS = 1.15
"""Relative cost of a scan shared by slabs, since rows of tiles at the seams are computed twice."""
WORTH = 0.9
"""Scans are shared if this reduces the total time to at most this fraction."""
FEW = 16
"""The sizes of scans are ignored if there are more scans than this for each process."""


class Schedule:
    """The scans of this process, and the outcomes that the other processes report.

    Args:
        team: the processes, which all create a schedule with the same items.
        items: all scans.
        todo: indices of the scans to predict; the first process's list applies to all.
    """

    def __init__(self, team: Team, items: Sequence[Item], todo: Sequence[int]) -> None:
        self._team, self._items = team, items
        if team.leads:
            # one of very many scans barely delays the rest, and reading all headers takes time
            few = len(todo) <= FEW * team.size
            sizes = {number: voxels(items[number]) if few else 1 for number in todo}
            together, single = plan(sizes, team.size)
            ids = [item.id for item in items]
            team.put("schedule", {"together": together, "single": single, "ids": ids})
        schedule = team.wait("schedule")
        if schedule["ids"] != [item.id for item in items]:
            raise CtsegError(
                f"Processes 0 and {team.rank} do not see the same scans.",
                hint="Give paths that name the same files on every machine.",
            )
        self._together: list[int] = schedule["together"]
        self._single: list[int] = schedule["single"]
        self._open = set(self._single)

    def own_cases(self) -> Iterator[tuple[int, SharedScan | None]]:
        """Yield the index of each scan that this process works on, and its `SharedScan` if all processes share it."""
        for number in self._together:
            yield number, SharedScan(self._team, f"{number}-{self._items[number].id}")
        while (turn := self._team.claim("turn")) < len(self._single):
            self._open.discard(self._single[turn])
            yield self._single[turn], None

    def report(self, number: int, outcome: Any) -> None:
        """Report the outcome of a scan to the first process, as JSON; not for shared scans."""
        self._team.put(f"outcome/{number}", outcome)

    def poll(self) -> list[tuple[int, Any]]:
        """The outcomes reported since the last call; for the first process."""
        outcomes = []
        for number in sorted(self._open):
            outcome = self._team.peek(f"outcome/{number}")
            if outcome is not None:
                self._open.discard(number)
                outcomes.append((number, outcome))
        return outcomes

    def drain(self) -> Iterator[tuple[int, Any]]:
        """Yield the outcomes of all remaining scans as they are reported."""
        while self._open:
            yield from self.poll()
            if self._open:
                self._team.wait(f"outcome/{min(self._open)}")


def voxels(item: Item) -> int:
    """The number of voxels of a scan by its header; 0 for an unreadable scan, which fails later."""
    with (
        contextlib.suppress(CtsegError, OSError),
        contextlib.closing(open_ref(item.images[0])) as source,
    ):
        return math.prod(source.geometry.shape_zyx)
    return 0


def plan(sizes: dict[int, int], count: int) -> tuple[list[int], list[int]]:
    """Choose the scans that all processes share, and the order of the others, which are taken one by one.

    Shares as few of the largest scans as possible for a short total time.

    Args:
        sizes: voxels by index of the scan.
        count: number of processes.

    Returns:
        the shared scans, and the others in order.
    """
    order = sorted(sizes, key=lambda number: (-sizes[number], number))
    best, ends = 0, math.inf
    for shared in range(min(len(order), 2 * count) + 1):
        loads = [0.0] * count
        for number in order[shared:]:
            heapq.heapreplace(loads, loads[0] + sizes[number])
        end = SEAMS / count * sum(sizes[number] for number in order[:shared]) + max(loads)
        if end < WORTH * ends:
            best, ends = shared, end
    return order[:best], order[best:]
