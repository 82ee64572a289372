"""`SharedScan`: one scan that several processes predict together, each a range of slices.

Each process computes its slices bit for bit as a single process would. The first process writes its own slices to the
result directly; the others write theirs to temporary files, which the first one copies to the result and removes.
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

CHECK_S = 0.5
"""Interval at which a process checks, between tiles, whether another one failed."""
_AGREED = ("tile_zyx", "overlap", "blend", "mirror_axes", "batch_size", "skip_air")


def ranges(
    predictor: Predictor, stream: Stream, mapper: SourceGridMapper, count: int
) -> list[tuple[int, int]]:
    """Split a scan into one range of slices for each process, so that the largest number of tiles is minimal.

    Rows of tiles at a seam are computed by both neighbours.

    Returns:
        start and stop along `SourceGridMapper.axis`, in the network's order; equal for an idle process.
    """
    seams = predictor.seams(stream, mapper)

    def split(limit: int) -> list[tuple[int, int]] | None:
        """The longest ranges of at most this many tiles; None if they do not cover the scan."""
        out, at = [], 0
        for _ in range(count):
            end = at
            while end + 1 < len(seams):
                if predictor.tiles(stream, mapper, (seams[at], seams[end + 1])) > limit:
                    break
                end += 1
            out.append((seams[at], seams[end]))
            at = end
        return out if seams[at] == mapper.slices else None

    low, high = 1, predictor.tiles(stream, mapper, (0, mapper.slices))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if split(middle) is not None else (middle + 1, high)
    out = split(low)
    assert out is not None  # the largest limit allows one range with all tiles
    return out


class SharedScan:
    """One scan that all processes of a team predict together.

    A context manager around all work on the scan, so that the other processes learn of a failure. It is entered again
    for each attempt, such as one with a smaller tile; all processes must make the same number of attempts.

    Args:
        name: name of the scan: unique, and the same in all processes.

    Attributes:
        notes: notes about changes in this process, such as a smaller batch; passed to the first process.
    """

    def __init__(self, team: Team, name: str) -> None:
        self.team, self.name = team, name
        self.notes: list[str] = []
        self._attempt = -1
        self._files: list[Path] = []
        self._checked_at = 0.0

    @property
    def leads(self) -> bool:
        """Whether this process writes the results."""
        return self.team.leads

    def __enter__(self) -> SharedScan:
        self._attempt += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if error is not None:
            with contextlib.suppress(RunFailed):  # the remaining processes notice anyway
                self.team.put_first(self._key("failed"), error_data(error, self.team.rank))
            for file in self._files:  # the first process also removes those of lost processes
                file.unlink(missing_ok=True)
        self._files = []

    def give_up(self, error: BaseException) -> None:
        """Tell the other processes that this one makes no further attempt, so that none waits for it."""
        with contextlib.suppress(RunFailed):
            self.team.put_first(f"share/{self.name}/over", error_data(error, self.team.rank))

    def run(
        self,
        predictor: Predictor,
        stream: Stream,
        results: Sequence[tuple[Decoder, Sink | None]],
        *,
        mapper: SourceGridMapper,
        folder: Path,
        on_tiles: OnTiles | None = None,
    ) -> None:
        """Run `Predictor.run` in all processes.

        Args:
            results: pairs of a decoder, the same in all processes, and a sink, which only the first process uses.
            folder: a folder that all processes see, for temporary parts of the results.

        Raises:
            RunFailed: the processes do not see the same scan, or one of them is gone.
            CtsegError: an error in any of the processes.
        """
        predictor = self._agree(predictor, stream.applied)
        if mapper.empty:
            return
        self.notes.clear()  # earlier notes concern a tiling that is replaced, or are known to the first process
        own_range = ranges(predictor, stream, mapper, self.team.size)[self.team.rank]
        files = [self._part_files(folder, rank, len(results)) for rank in range(self.team.size)]
        if self.leads:
            sinks = [sink for _, sink in results]
            self._files = [file for own_files in files[1:] for file in own_files]
        else:
            self._files = files[self.team.rank]
            sinks = [_SharedPart(file) for file in self._files]
        watched = self._watched(on_tiles, predictor.tiles(stream, mapper, (0, mapper.slices)))
        with contextlib.ExitStack() as stack:
            for sink in sinks:
                if isinstance(sink, _SharedPart):
                    stack.enter_context(sink)
            if own_range[1] > own_range[0]:
                pairs = [
                    (decoder, sink)
                    for (decoder, _), sink in zip(results, sinks, strict=True)
                    if sink is not None
                ]
                predictor.run(stream, pairs, mapper=mapper, slice_range=own_range, on_tiles=watched)
        self.team.put(self._key(f"done/{self.team.rank}"), {"notes": self.notes})
        for rank in range(self.team.size):
            report = self.team.wait(self._key(f"done/{rank}"), watch=self._check)
            if self.leads and rank:
                for note in report["notes"]:
                    if predictor.on_note is not None:
                        predictor.on_note(f"Process {rank}: {note}")
                try:
                    self._collect(files[rank], results, mapper.axis)
                except FileProblem:
                    self._check()  # raises if the file is missing because its process failed
                    raise

    @staticmethod
    def _collect(
        files: Sequence[Path], results: Sequence[tuple[Decoder, Sink | None]], axis: int
    ) -> None:
        """Pass the pieces of another process on to the sinks, and remove its files."""
        for file, (_, sink) in zip(files, results, strict=True):
            if sink is not None:
                replay(file, sink, axis)
            file.unlink(missing_ok=True)

    def _agree(self, predictor: Predictor, applied: AppliedPipeline) -> Predictor:
        """Adopt the tiling of the first process, and check that all processes see the same scan."""
        seen = {"precision": predictor.runtime.precision, "scan": _digest(applied)}
        if self.leads:
            settings = {name: getattr(predictor.settings, name) for name in _AGREED}
            self.team.put(self._key("plan"), {**seen, "settings": settings})
            return predictor
        plan = self.team.wait(self._key("plan"), watch=self._check)
        if plan["scan"] != seen["scan"]:
            raise RunFailed(
                f"Processes 0 and {self.team.rank} do not see the same scan '{self.name}'.",
                hint="Give paths that name the same files on every machine.",
            )
        if plan["precision"] != seen["precision"]:
            raise RunFailed(
                f"Process 0 runs {plan['precision']}, process {self.team.rank} runs {seen['precision']}.",
                hint="Choose one precision for all processes with --precision.",
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in plan["settings"].items()
        }
        agreed = dataclasses.replace(predictor.settings, **values)
        if agreed == predictor.settings:
            return predictor
        return dataclasses.replace(predictor, settings=agreed)

    def _part_files(self, folder: Path, rank: int, count: int) -> list[Path]:
        stem = f".{self.name}-{self._attempt}-{rank}"
        return [folder / f"{stem}-{number}.part" for number in range(count)]

    def _key(self, name: str) -> str:
        return f"share/{self.name}/{self._attempt}/{name}"

    def _check(self) -> None:
        for key in (self._key("failed"), f"share/{self.name}/over"):
            failed = self.team.peek(key)
            if failed is not None:
                raise error_from(failed)

    def _watched(self, on_tiles: OnTiles | None, whole: int) -> OnTiles:
        """A callback that checks between tiles whether another process failed, and passes progress on.

        Progress is extrapolated to the whole scan, as if all processes were as far as this one.
        """

        def look(done: int, total: int) -> None:
            now = time.monotonic()
            if now - self._checked_at > CHECK_S:
                self._checked_at = now
                self._check()
                self.team.check()
            if on_tiles is not None:
                on_tiles(done * whole // total, whole)

        return look


class _SharedPart:
    """A sink that appends pieces to a file: for each piece a line of JSON, then the voxels."""

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
    """Pass the pieces in a file on to a sink, in order.

    Raises:
        FileProblem: the file is missing or incomplete.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise FileProblem(
            f"The part of the result that another process wrote is not in {path.parent}.",
            hint="All processes need access to the output folder; choose one on a shared disk with -o.",
        ) from error
    with file:
        for line in file:
            head = json.loads(line)
            kind = np.dtype(head["dtype"])
            size = int(np.prod(head["shape"], dtype=np.int64)) * kind.itemsize
            data = file.read(size)
            if len(data) != size:
                raise FileProblem(f"{path} is incomplete: {len(data)} of {size} bytes of a piece.")
            sink.put(axis, head["start"], np.frombuffer(data, kind).reshape(head["shape"]))


def _digest(applied: AppliedPipeline) -> str:
    """A hash of a scan's grid and of the records of its preprocessing steps."""
    text = json.dumps(applied.to_dict(), sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
