"""One file from the first of several sources that sends it as the index says; continued where it was interrupted."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ctseg.errors import FileProblem
from ctseg.files import disk_errors
from ctseg.zoo.index import FileRecord
from ctseg.zoo.remote.streams import SourceProblem, Stream, open_stream
from ctseg.zoo.sources import Source

BLOCK = 1 << 18
TRIES = 3
"""Continuations at one source, as long as each brings something."""
STALL_S, LEAST_BYTES = 60.0, 1 << 16
"""A source that sends fewer bytes than this in so many seconds is given up."""

OnBytes = Callable[[int], None]


class Damaged(SourceProblem):
    """Bytes that are not those of the index; what was received goes."""


class Pace:
    """Raises for a source that sends next to nothing."""

    def __init__(self, where: str) -> None:
        self._where, self._since, self._got = where, time.monotonic(), 0

    def count(self, received: int) -> None:
        self._got += received
        now = time.monotonic()
        if now - self._since >= STALL_S:
            if self._got < LEAST_BYTES:
                raise SourceProblem(
                    f"{self._where}: only {self._got} bytes came in {now - self._since:.0f} s."
                )
            self._since, self._got = now, 0


def read_small(source: Source, path: str, most: int) -> bytes:
    """A file of at most so many bytes, as it is.

    Raises:
        SourceProblem: it cannot be read, or is larger.
    """
    where = source.file(path)
    pace, parts, have = Pace(where), [], 0
    with open_stream(source, path) as stream:
        while have <= most and (block := stream.read(min(BLOCK, most + 1 - have))):
            parts.append(block)
            have += len(block)
            pace.count(len(block))
        if have > most or (stream.size or 0) > most:
            raise SourceProblem(f"{where} is larger than {most / 2**20:g} MiB.")
        if stream.size is not None and have < stream.size:
            raise SourceProblem(f"{where} ends after {have} of {stream.size} bytes.")
    return b"".join(parts)


def download(
    remote: str, record: FileRecord, sources: Sequence[Source], target: Path, on_bytes: OnBytes
) -> None:
    """Complete a file.

    Args:
        remote: its path below each source.
        sources: asked in this order.
        target: the file; what it holds already is continued.
        on_bytes: told how many bytes the file holds.

    Raises:
        SourceProblem: no source sends the file that the index describes.
    """
    problems: list[str] = []
    for source in sources:
        for _ in range(TRIES):
            before = target.stat().st_size if target.exists() else 0
            try:
                _continue(source, remote, record, target, on_bytes)
                return
            except Damaged as problem:
                with disk_errors(target, option="--zoo"):
                    target.unlink(missing_ok=True)
                problems.append(problem.message)
                if not before:
                    break  # else the earlier part may have been the damaged one
            except SourceProblem as problem:
                problems.append(problem.message)
                if not target.exists() or target.stat().st_size <= before:
                    break
    raise SourceProblem(
        " ".join(dict.fromkeys(problems)),
        hint="Try again later, or name another source: --from URL. What was received and may be right is kept.",
    )


def _continue(
    source: Source, remote: str, record: FileRecord, target: Path, on_bytes: OnBytes
) -> None:
    with disk_errors(target, needed=record.bytes, option="--zoo"):
        descriptor = os.open(
            target, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666
        )  # fmt: skip
    with os.fdopen(descriptor, "r+b") as file:
        digest, have = hashlib.sha256(), 0
        while have <= record.bytes and (block := file.read(BLOCK)):
            digest.update(block)
            have += len(block)
        if have > record.bytes:
            file.truncate(0)
            digest, have = hashlib.sha256(), 0
        on_bytes(have)
        if have < record.bytes or not record.bytes:
            with open_stream(source, remote, have) as stream:
                _check_extent(stream, record, have, source.file(remote))
                if stream.start < have:
                    digest, have = hashlib.sha256(), 0
                file.seek(have)
                file.truncate()
                pace = Pace(source.file(remote))
                while block := stream.read(min(BLOCK, record.bytes + 1 - have)):
                    have += len(block)
                    if have > record.bytes:
                        raise Damaged(
                            f"{source.file(remote)} is longer than the {record.bytes} bytes of the index."
                        )
                    digest.update(block)
                    with disk_errors(target, needed=record.bytes, option="--zoo"):
                        file.write(block)
                    on_bytes(have)
                    pace.count(len(block))
        with disk_errors(target, needed=record.bytes, option="--zoo"):
            file.flush()
            os.fsync(file.fileno())
    if have < record.bytes:
        raise SourceProblem(f"{source.file(remote)} ends after {have} of {record.bytes} bytes.")
    if digest.hexdigest() != record.sha256:
        raise Damaged(f"{source.file(remote)} has another checksum than the index says.")


def _check_extent(stream: Stream, record: FileRecord, have: int, where: str) -> None:
    if stream.size is not None and stream.size != record.bytes:
        raise SourceProblem(f"{where} has {stream.size} bytes, and the index says {record.bytes}.")
    if stream.start not in (0, have):
        raise SourceProblem(f"{where}: the server sends another part than the one asked for.")


def check_room(target: Path, needed: int) -> None:
    """Refuse a download for which the disk has no room.

    Raises:
        FileProblem: there is not enough.
    """
    import shutil

    place = next(p for p in (target, *target.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise FileProblem(
            f"The model has {needed / 2**20:.0f} MiB, and {place} has room for {free / 2**20:.0f} MiB.",
            hint="Free some space, or choose another zoo with --zoo.",
        )
