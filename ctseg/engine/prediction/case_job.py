"""One scan of many: read, predicted, written, and what is told of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctseg import plugins
from ctseg.engine.inference.backends.choice import used
from ctseg.engine.inference.check_scan import PlannedGrid
from ctseg.engine.inference.memory.fit import FitRequest
from ctseg.engine.inference.model import Model
from ctseg.engine.inference.restart import restarting
from ctseg.engine.inference.tiling_settings import TileGrid
from ctseg.engine.prediction.inputs import Item
from ctseg.engine.prediction.multiprocess.slab_sharing import SharedScan
from ctseg.engine.prediction.output_paths import output_paths_of
from ctseg.engine.prediction.outputs import Outputs
from ctseg.engine.prediction.provenance import inputs_of, parts_of
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.scan_job import ScanJob
from ctseg.errors import CtsegError, RunFailed
from ctseg.files import disk_errors
from ctseg.specs import ImageRef
from ctseg.volume.file_state import state_of


@dataclass(frozen=True)
class MemoryOptions:
    """How a tiling is made to fit the memory.

    Attributes:
        memory: bytes that may be held on the device; what is free by default.
        keep_batch: leave the batch as it is as far as it fits, since somebody asked for it.
    """

    memory: int | None = None
    keep_batch: bool = False


class CaseJob:
    """A scan from its files to its results; steps may run in threads of their own, one after the other.

    Args:
        target: file of the label map; other results lie beside it.
        fit: how the tiling is made to fit the memory.

    Attributes:
        id: of the scan.
        places: of its results.
        notes: what was changed on the way, such as a smaller batch, and what reading found odd.
        share: how several processes make it together; None where this one does alone.
    """

    def __init__(
        self, model: Model, item: Item, target: Path, request: Request, fit: MemoryOptions | None = None
    ) -> None:  # fmt: skip
        self.id, self._item, self._request, self._fit = (
            item.id,
            item,
            request,
            fit or MemoryOptions(),
        )
        self.places = output_paths_of(model.task, request, target)
        self._model = copy.copy(model)  # for notes of its own
        self._model.on_note, self._model.on_plan = self._note, self._planned
        self._asked = model.settings
        self.notes: list[str] = []
        self.share: SharedScan | None = None
        self._on_say: Callable[[str], None] | None = None
        self._unsaid: list[str] = []
        self._on_share: Callable[[float, str], None] | None = None
        self._job: ScanJob | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._tiles = 0

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The files of the scan."""
        return self._item.images

    @property
    def there(self) -> bool:
        """Whether all of its results exist."""
        return self.places.there

    @property
    def may_be_read_ahead(self) -> bool:
        """Whether opening it leaves the network and the other processes alone."""
        return self.share is None and self._model.reads_ahead

    def open(
        self,
        writer: ThreadPoolExecutor | None = None,
        on_say: Callable[[str], None] | None = None,
    ) -> None:
        """Read what must be known of the whole scan, and open the files of the results.

        Args:
            writer: the thread that writes while the network works.
            on_say: called with the planned grid and with notes; without it they are said by `run`.
        """
        self._writer = writer
        self._on_say = on_say or self._on_say
        self._made_from = inputs_of(self.images)
        self._outputs = Outputs(self._model, self._request, self.places.main)
        self._job = ScanJob(
            self._model, self._item.images, self._outputs.results,
            writer_pool=writer, shared_scan=self.share,
        )  # fmt: skip
        self._job.open()

    def run(
        self,
        on_share: Callable[[float, str], None] | None = None,
        on_say: Callable[[str], None] | None = None,
    ) -> None:
        """Take the scan through the network; opened anew with smaller tiles where the device has no room for it.

        Args:
            on_share: called with the share that is done, and what to say about it.
            on_say: called with the size of the scan and the memory it takes, and with notes.
        """
        self._on_share, self._on_say = on_share, on_say
        before, self._unsaid = self._unsaid, []
        for text in before:
            self._say(text)
        restarting(self._model, self._attempt)

    def _attempt(self, model: Model) -> None:
        """Predict it with a model, which is kept as it was fitted to the memory."""
        self._model = model
        with self.share or nullcontext():
            try:
                if self._job is None:
                    self.open(self._writer)
                assert self._job is not None
                self._fitted(self._job)
                self._job.run(self._on_tiles)
            except BaseException:
                self.close()
                raise

    def _fitted(self, job: ScanJob) -> None:
        """Make batch and tile fit the memory, and say what comes."""
        results = self._outputs.results
        decoders = [spec.decoder for spec in results]
        buffered = [spec.decoder for spec in results if spec.postprocess is not None]
        wanted = FitRequest(self._fit.memory, decoders, buffered, keep_batch=self._fit.keep_batch)
        self._model, fitted = self._model.fit(job.stream, wanted)
        for note in [*job.notes, *fitted.notes]:
            if note not in self.notes:
                self._note(note)
        job.model = self._model
        told = f", {fitted.estimate}"
        if self.share is not None:
            told += f", shared by {self.share.team.size} processes"
        size = " x ".join(map(str, job.geometry.shape_zyx))
        tiles = TileGrid(job.stream.shape_czyx[1:], self._model.settings).tiles
        self._say(f"{size} voxels (z, y, x), {tiles} tile{'s'[: tiles > 1]}{told}")

    def _on_tiles(self, done: int, total: int) -> None:
        self._tiles = total
        if self._on_share:
            self._on_share(done / total, f"{self.id}, tile {done} of {total}")

    def finish(self) -> dict[str, Any]:
        """Complete the files and give them their names.

        Returns:
            what `predictions.json` says of the scan.
        """
        assert self._job is not None
        with disk_errors(self.places.main):
            self._job.finish()
        seconds = self._job.seconds
        self._job = None  # what a finished scan holds is not needed any more
        return {
            "case": self.id,
            "input": [str(ref.path) for ref in self.images],
            "made_from": self._made_from,
            "seconds": round(sum(seconds.values()), 3),
            "seconds_by_phase": {name: round(value, 3) for name, value in seconds.items()},
            "tiles": self._tiles,
            **self._outputs.record(),
            **self._made(),
            "notes": self.notes,
            **self._changed(),
            **self._computed_by(),
        }

    def _made(self) -> dict[str, Any]:
        """What tells the written label map from what may be written in its place later."""
        if self.share is not None and not self.share.leads:  # the first process writes it
            return {}
        with suppress(OSError):
            return {"made": state_of(self.places.main)}
        return {}

    def _computed_by(self) -> dict[str, Any]:
        """What computed the networks, where there was a choice."""
        found = used(network for one in parts_of(self._model) for network in one.networks)
        return {"computed_by": found} if found else {}

    def _changed(self) -> dict[str, Any]:
        """Settings of this scan that are not those of the record as a whole."""
        names = ("tile_zyx", "batch_size", "sums_on_host")
        found = {name: getattr(self._model.settings, name) for name in names}
        other = {n: value for n, value in found.items() if value != getattr(self._asked, n)}
        return {"settings": other} if other else {}

    def close(self) -> None:
        """Release the scan; of results without a name nothing stays."""
        job, self._job = self._job, None
        if job is not None:
            job.close()

    def _planned(self, grid: PlannedGrid) -> None:
        if grid.worth_telling:
            self._say(str(grid))

    def _note(self, text: str) -> None:
        if text in self.notes:
            return
        self.notes.append(text)
        if self.share is not None and not self.share.leads:
            self.share.notes.append(text)
        self._say(text)

    def _say(self, text: str) -> None:
        if self._on_say:
            self._on_say(f"{self.id}: {text}")
        else:
            self._unsaid.append(text)


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
            hint="Give fewer or smaller tiles at a time: --set batch_size=1, --tile Z,Y,X",
        )
    except Exception:
        text = " ".join(str(error).split())
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        owner = plugins.owner_of(error)
        told = RunFailed(
            text if owner is None else f"The plugin {owner.owner} raised {text}",
            hint="This was not foreseen; run again with --debug for the traceback.",
        )
    told.__cause__ = error
    return told
