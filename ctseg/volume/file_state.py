"""The state of a volume's files: what tells them from others, and from themselves after they were written anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctseg.volume.formats.companion_files import files_of

HASHED_BYTES = 2**33
"""Volumes of more bytes are told apart by names, sizes, times and the ends of their files."""
ENDS = 2**16
BLOCK = 2**20


def state_of(path: Path) -> dict[str, Any]:
    """Size in bytes, time in ns and a SHA-256 checksum of a file with its data files, or of a folder.

    Raises:
        OSError: a file that is gone or cannot be read.
    """
    files = all_files(path)
    return {**size_and_time(files), "digest": digest_of(path, files)}


def is_in_state(path: Path, state: Any) -> bool:
    """Whether a volume has the content of this state, as a copy has, which has another time.

    The digest of a huge volume depends on times, so that its size decides.

    Args:
        state: as `state_of` returns it; any other object is the state of nothing.
    """
    if not isinstance(state, Mapping):
        return False
    try:
        files = all_files(path)
        now = size_and_time(files)
        if state.get("bytes") != now["bytes"]:
            return False
        if state.get("modified_ns") == now["modified_ns"] or now["bytes"] > HASHED_BYTES:
            return True
        return bool(state.get("digest") == digest_of(path, files))
    except OSError:
        return False


def all_files(path: Path) -> list[Path]:
    """The files of a volume: all in a folder, or a file with the data files that it names."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return files_of(path)


def size_and_time(files: Sequence[Path]) -> dict[str, int]:
    """The bytes of all files, and the time of the latest one in ns."""
    states = [file.stat() for file in files]
    return {
        "bytes": sum(state.st_size for state in states),
        "modified_ns": max((state.st_mtime_ns for state in states), default=0),
    }


def digest_of(path: Path, files: Sequence[Path]) -> str:
    """A checksum over names within a folder, sizes and bytes; for huge volumes over times and ends instead of all."""
    digest = hashlib.sha256()
    huge = size_and_time(files)["bytes"] > HASHED_BYTES
    for file in files:
        about = file.stat()
        name = str(file.relative_to(path)) if file.is_relative_to(path) else ""
        digest.update(json.dumps([name, about.st_size, about.st_mtime_ns * huge]).encode())
        with file.open("rb") as opened:
            if huge:
                digest.update(opened.read(ENDS))
                opened.seek(max(about.st_size - ENDS, 0))
            while block := opened.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()
