"""One scan that several processes work on together: which slices each makes, and how they come into one file.

Each process makes a range of slices, bit for bit as one process would. The first one puts its own straight where they
belong; the others write theirs to files beside the result, which the first one reads, passes on and removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ctseg.data.pipeline import AppliedPipeline
from ctseg.data.stream import Stream
from ctseg.engine.inference.decoders import Decoder
from ctseg.engine.inference.predictor import Predictor
from ctseg.engine.inference.sinks import Sink
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.prediction.multiprocess.team import Team, error_data, error_from
from ctseg.errors import FileProblem, RunFailed
from ctseg.files import disk_errors

LOOK_S = 0.5
"""Between tiles a process looks so often whether another one failed."""
_AGREED = ("tile_zyx", "overlap", "blend", "mirror_axes", "batch_size", "skip_air")


def ranges(
    engine: Predictor, stream: Stream, back: SourceGridMapper, count: int
) -> list[tuple[int, int]]:
    """Slices for each of several processes, so that the one with the most tiles has as few as possible.

    Rows of tiles at a seam are computed on both sides.

    Returns:
        start and stop along `SourceGridMapper.axis`, counted as the network meets them; equal where nothing is left
        to do.
    """
    seams = engine.seams(stream, back)

    def shared(limit: int) -> list[tuple[int, int]] | None:
        """Ranges of at most so many tiles, each as long as it can be."""
        out, at = [], 0
        for _ in range(count):
            end = at
            while end + 1 < len(seams):
                if engine.tiles(stream, back, (seams[at], seams[end + 1])) > limit:
                    break
                end += 1
            out.append((seams[at], seams[end]))
            at = end
        return out if seams[at] == back.slices else None

    low, high = 1, engine.tiles(stream, back, (0, back.slices))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shared(middle) is not None else (middle + 1, high)
    found = shared(low)
    assert found is not None  # one process can make all
    return found


class SharedScan:
    """One scan that all processes of a team predict together.

    Used as a context around the whole work on the scan, so that a process that fails does not keep the others
    waiting; entered anew for each try, such as one with a smaller tile. All processes must try equally often.

    Args:
        name: the same in all processes, and different for each scan.

    Attributes:
        notes: what was changed on the way here, such as a smaller batch; the first process is told.
    """

    def __init__(self, team: Team, name: str) -> None:
        self.team, self.name = team, name
        self.notes: list[str] = []
        self._try = -1
        self._files: list[Path] = []
        self._looked = 0.0

    @property
    def leads(self) -> bool:
        """Whether this process writes the results."""
        return self.team.leads

    def __enter__(self) -> SharedScan:
        self._try += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if error is not None:
            with contextlib.suppress(RunFailed):  # whoever is still there will notice
                self.team.put_first(self._key("failed"), error_data(error, self.team.rank))
            for file in self._files:  # of the others too where this one leads: they may be gone
                file.unlink(missing_ok=True)
        self._files = []

    def give_up(self, error: BaseException) -> None:
        """Tell the others that this process tries no more, so that none waits for it in a try of its own."""
        with contextlib.suppress(RunFailed):
            self.team.put_first(f"share/{self.name}/over", error_data(error, self.team.rank))

    def run(
        self,
        engine: Predictor,
        stream: Stream,
        wanted: Sequence[tuple[Decoder, Sink | None]],
        *,
        back: SourceGridMapper,
        folder: Path,
        on_tiles: OnTiles | None = None,
    ) -> None:
        """`Predictor.run` by all processes.

        Args:
            wanted: the same products in all processes; sinks are used by the first one alone.
            folder: seen by all processes; parts of the result lie there for a while.

        Raises:
            RunFailed: the processes do not see the same scan, or one of them is gone.
            CtsegError: whatever went wrong in any of them.
        """
        engine = self._agree(engine, stream.applied)
        if back.empty:
            return
        self.notes.clear()  # what was said before is about a tiling of its own, or is known to the first one
        spans = ranges(engine, stream, back, self.team.size)
        own = spans[self.team.rank]
        files = [self._parts(folder, rank, len(wanted)) for rank in range(self.team.size)]
        if self.leads:
            sinks = [sink for _, sink in wanted]
            self._files = [file for own_files in files[1:] for file in own_files]
        else:
            self._files = files[self.team.rank]
            sinks = [_SharedPart(file) for file in self._files]
        watched = self._watched(on_tiles, engine.tiles(stream, back, (0, back.slices)))
        with contextlib.ExitStack() as stack:
            for sink in sinks:
                if isinstance(sink, _SharedPart):
                    stack.enter_context(sink)
            if own[1] > own[0]:
                pairs = [
                    (product, sink)
                    for (product, _), sink in zip(wanted, sinks, strict=True)
                    if sink is not None
                ]
                engine.run(stream, pairs, back=back, pieces=own, on_tiles=watched)
        self.team.put(self._key(f"made/{self.team.rank}"), {"notes": self.notes})
        for rank in range(self.team.size):
            made = self.team.wait(self._key(f"made/{rank}"), watch=self._check)
            if self.leads and rank:
                for note in made["notes"]:
                    if engine.on_note is not None:
                        engine.on_note(f"Process {rank}: {note}")
                try:
                    self._collect(files[rank], wanted, back.axis)
                except FileProblem:
                    self._check()  # another one failed meanwhile, so that this one's files are gone
                    raise

    @staticmethod
    def _collect(
        files: Sequence[Path], wanted: Sequence[tuple[Decoder, Sink | None]], axis: int
    ) -> None:
        """Pass on what another process made, and remove its files."""
        for file, (_, sink) in zip(files, wanted, strict=True):
            if sink is not None:
                replay(file, sink, axis)
            file.unlink(missing_ok=True)

    def _agree(self, engine: Predictor, applied: AppliedPipeline) -> Predictor:
        """All use the tiling of the first process, whose memory may differ, and must see the same scan."""
        seen = {"precision": engine.runtime.precision, "scan": _digest(applied)}
        if self.leads:
            settings = {name: getattr(engine.settings, name) for name in _AGREED}
            self.team.put(self._key("plan"), {**seen, "settings": settings})
            return engine
        plan = self.team.wait(self._key("plan"), watch=self._check)
        if plan["scan"] != seen["scan"]:
            raise RunFailed(
                f"Processes 0 and {self.team.rank} do not see the same scan '{self.name}'.",
                hint="Give paths that name the same files on every machine.",
            )
        if plan["precision"] != seen["precision"]:
            raise RunFailed(
                f"Process 0 runs {plan['precision']}, process {self.team.rank} {seen['precision']}.",
                hint="Choose one for all with --precision.",
            )
        told: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in plan["settings"].items()
        }
        agreed = dataclasses.replace(engine.settings, **told)
        if agreed == engine.settings:
            return engine
        return dataclasses.replace(engine, settings=agreed)

    def _parts(self, folder: Path, rank: int, count: int) -> list[Path]:
        stem = f".{self.name}-{self._try}-{rank}"
        return [folder / f"{stem}-{number}.part" for number in range(count)]

    def _key(self, name: str) -> str:
        return f"share/{self.name}/{self._try}/{name}"

    def _check(self) -> None:
        for key in (self._key("failed"), f"share/{self.name}/over"):
            failed = self.team.peek(key)
            if failed is not None:
                raise error_from(failed)

    def _watched(self, on_tiles: OnTiles | None, whole: int) -> OnTiles:
        """Between tiles look whether another process failed, so that none works for nothing.

        What is done is told as if all were as far as this one, of the tiles of the whole scan.
        """

        def look(done: int, total: int) -> None:
            now = time.monotonic()
            if now - self._looked > LOOK_S:
                self._looked = now
                self._check()
                self.team.check()
            if on_tiles is not None:
                on_tiles(done * whole // total, whole)

        return look


class _SharedPart:
    """A sink that keeps pieces in a file, one after the other, as they come: a line of JSON, then the voxels."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> _SharedPart:
        with disk_errors(self._path):
            self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        with disk_errors(self._path):
            self._file.close()

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        assert self._file is not None
        head = json.dumps({"start": start, "shape": part.shape, "dtype": part.dtype.str})
        with disk_errors(self._path):
            self._file.write(head.encode() + b"\n")
            self._file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)


def replay(path: Path, sink: Sink, axis: int) -> None:
    """Put the pieces of a file where they belong, in the order in which they were made.

    Raises:
        FileProblem: the file is not there, or not whole.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise FileProblem(
            f"The part of the result that another process wrote is not in {path.parent}.",
            hint="All processes need to see the output folder; choose one on a shared disk with -o.",
        ) from error
    with file:
        for line in file:
            head = json.loads(line)
            kind = np.dtype(head["dtype"])
            size = int(np.prod(head["shape"], dtype=np.int64)) * kind.itemsize
            data = file.read(size)
            if len(data) != size:
                raise FileProblem(f"{path} is shorter than it should be.")
            sink.put(axis, head["start"], np.frombuffer(data, kind).reshape(head["shape"]))


def _digest(applied: AppliedPipeline) -> str:
    """A scan's grid and what its steps found, in brief."""
    text = json.dumps(applied.to_dict(), sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
