"""Who predicts which scan, where several processes share a folder.

Scans so large that one process would still be at them when the others have nothing left are shared by slabs. The
rest goes one by one to whichever process is free.
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
"""A scan shared by slabs costs so much more, since rows of tiles at the seams are computed twice."""
WORTH = 0.9
"""Scans are shared if the whole takes at most so much of the time that way."""
FEW = 16
"""Where there are more scans a process than this, their sizes do not matter."""


class Schedule:
    """The scans of this process, and what the others report of theirs.

    Args:
        team: all of them make a dispatch with the same items.
        items: all scans.
        todo: the numbers of those to predict, as the first process sees them; the others are told.
    """

    def __init__(self, team: Team, items: Sequence[Item], todo: Sequence[int]) -> None:
        self._team, self._items = team, items
        if team.leads:
            # of very many scans none holds up the rest, and looking at each would
            few = len(todo) <= FEW * team.size
            sizes = {number: voxels(items[number]) if few else 1 for number in todo}
            together, single = plan(sizes, team.size)
            ids = [item.id for item in items]
            team.put("dispatch", {"together": together, "single": single, "ids": ids})
        told = team.wait("dispatch")
        if told["ids"] != [item.id for item in items]:
            raise CtsegError(
                f"Processes 0 and {team.rank} do not see the same scans.",
                hint="Give paths that name the same files on every machine.",
            )
        self._together: list[int] = told["together"]
        self._single: list[int] = told["single"]
        self._open = set(self._single)

    def own_cases(self) -> Iterator[tuple[int, SharedScan | None]]:
        """The number of each scan that this process works on, and how it is shared, if it is."""
        for number in self._together:
            yield number, SharedScan(self._team, f"{number}-{self._items[number].id}")
        while (turn := self._team.claim("turn")) < len(self._single):
            self._open.discard(self._single[turn])
            yield self._single[turn], None

    def report(self, number: int, outcome: Any) -> None:
        """Tell the first process what came of a scan, as JSON; never of one that all work on."""
        self._team.put(f"outcome/{number}", outcome)

    def poll(self) -> list[tuple[int, Any]]:
        """What the others reported since the last time; for the first process, which may call it at any time."""
        found = []
        for number in sorted(self._open):
            outcome = self._team.peek(f"outcome/{number}")
            if outcome is not None:
                self._open.discard(number)
                found.append((number, outcome))
        return found

    def drain(self) -> Iterator[tuple[int, Any]]:
        """What the others report from now on until nothing is open."""
        while self._open:
            yield from self.poll()
            if self._open:
                self._team.wait(f"outcome/{min(self._open)}")


def voxels(item: Item) -> int:
    """The size of a scan by its header; 0 for one that cannot be read, which fails soon enough."""
    with (
        contextlib.suppress(CtsegError, OSError),
        contextlib.closing(open_ref(item.images[0])) as source,
    ):
        return math.prod(source.geometry.shape_zyx)
    return 0


def plan(sizes: dict[int, int], count: int) -> tuple[list[int], list[int]]:
    """Which scans all processes work on together, and in which order the others are taken one by one.

    As few of the largest are shared as make the whole end soon.

    Args:
        sizes: voxels by number.
        count: processes.
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
