"""One scan of many: read, predicted, written, and what is told of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ctseg.engine.inputs import Item
from ctseg.engine.outputs import Outputs
from ctseg.engine.places import places_of
from ctseg.engine.request import Request
from ctseg.engine.scan import ScanJob
from ctseg.engine.segmenter import Segmenter
from ctseg.engine.settings import Grid
from ctseg.errors import CtsegError, RunFailed
from ctseg.files import disk_errors


class CaseJob:
    """A scan from its files to its results; steps may run in threads of their own, one after the other.

    Args:
        target: file of the label map; other results lie beside it.

    Attributes:
        id: of the scan.
        notes: what was changed on the way, such as a smaller batch.
        places: of its results.
        announcement: one line about the scan, once it is open.
        may_be_read_ahead: whether opening it leaves the network alone.
    """

    def __init__(self, segmenter: Segmenter, item: Item, target: Path, request: Request) -> None:
        self.id, self._item, self._request = item.id, item, request
        self.places = places_of(segmenter.task, request, target)
        self._segmenter = copy.copy(segmenter)  # for notes of its own
        self._segmenter.on_note = self._note
        self.notes: list[str] = []
        self.announcement = ""
        self.may_be_read_ahead = not getattr(segmenter, "stages", ())
        self._on_say: Callable[[str], None] | None = None
        self._job: ScanJob | None = None
        self._tiles = 0

    @property
    def there(self) -> bool:
        """Whether all of its results exist."""
        return self.places.there

    def open(self, writer: ThreadPoolExecutor | None = None) -> None:
        """Read what must be known of the whole scan, and open the files of the results.

        Args:
            writer: the thread that writes while the network works.
        """
        self._outputs = Outputs(self._segmenter, self._request, self.places.main)
        self._job = ScanJob(self._segmenter, self._item.images, self._outputs.wanted, behind=writer)
        self._job.open()
        shape = self._job.geometry.shape_zyx
        tiles = Grid(self._job.stream.shape_czyx[1:], self._segmenter.settings).tiles
        size = " x ".join(map(str, shape))
        self.announcement = f"{self.id}: {size} voxels (z, y, x), {tiles} tile{'s'[: tiles > 1]}"

    def run(
        self,
        on_share: Callable[[float, str], None] | None = None,
        on_say: Callable[[str], None] | None = None,
    ) -> None:
        """Take the scan through the network.

        Args:
            on_share: called with the share that is done, and what to say about it.
            on_say: called with notes.
        """
        assert self._job is not None
        self._on_say = on_say

        def on_tiles(done: int, total: int) -> None:
            self._tiles = total
            if on_share:
                on_share(done / total, f"{self.id}, tile {done} of {total}")

        self._job.run(on_tiles)

    def finish(self) -> dict[str, Any]:
        """Complete the files and give them their names.

        Returns:
            what `predictions.json` says of the scan.
        """
        assert self._job is not None
        with disk_errors(self.places.main):
            geometry = self._job.finish()
        seconds = self._job.seconds
        self._job = None  # what a finished scan holds is not needed any more
        return {
            "case": self.id,
            "input": [str(ref.path) for ref in self._item.images],
            "seconds": round(sum(seconds.values()), 3),
            "seconds_by_phase": {name: round(value, 3) for name, value in seconds.items()},
            "tiles": self._tiles,
            **self._outputs.record(geometry),
            "notes": self.notes,
        }

    def close(self) -> None:
        """Release the scan; of results without a name nothing stays."""
        job, self._job = self._job, None
        if job is not None:
            job.close()

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if self._on_say:
            self._on_say(f"{self.id}: {text}")


def as_error(error: Exception, folder: Path) -> CtsegError:
    """What went wrong with a scan, told in one way; what nobody foresaw keeps its name.

    Args:
        folder: of the results, for errors of the disk.
    """
    if isinstance(error, CtsegError):
        return error
    told: CtsegError
    try:
        with disk_errors(folder):
            raise error
    except CtsegError as of_the_disk:
        return of_the_disk
    except (MemoryError, torch.OutOfMemoryError):
        told = RunFailed(
            "The memory did not suffice.",
            hint="Give fewer or smaller tiles at a time: --batch-size 1, --tile Z,Y,X",
        )
    except Exception:
        text = " ".join(str(error).split())
        told = RunFailed(
            f"{type(error).__name__}: {text}" if text else type(error).__name__,
            hint="This was not foreseen; run again with --debug for the traceback.",
        )
    told.__cause__ = error
    return told
