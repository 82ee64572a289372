"""What is damaged, how, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.mutate import Mutator

MEMORY = 1 << 30
"""Bytes that reading a damaged file may take on top of what the process had."""
MOST_VOXELS = 30_000_000
"""More are not read as a whole: a header may rightly declare a large volume."""


@dataclass(frozen=True)
class Seed:
    """A valid input.

    Attributes:
        name: for messages.
        path: what is read.
        files: those of which one is damaged at a time.
        ways: mutators of them.
        read: of the path; it ends in an answer, or a `CtsegError`.
        vanish: whether the damaged file may be missing altogether.
    """

    name: str
    path: Path
    files: Sequence[Path]
    ways: Sequence[Mutator]
    read: Callable[[Path], object]
    vanish: bool = False


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        make: writes valid inputs into a folder.
        needs: packages without which there is nothing to test.
        memory: bytes that reading may take.
    """

    name: str
    make: Callable[[Path], Sequence[Seed]]
    needs: tuple[str, ...] = ()
    memory: int = MEMORY


def look(path: Path, **options: Any) -> None:
    """Read a volume as a whole where it is small, a slice and a box."""
    from ctseg.volume.io import open_volume

    with open_volume(path, **options) as source:
        z, y, x = source.geometry.shape_zyx
        if z * y * x * source.channels <= MOST_VOXELS:
            source.read()
        if y * x * source.channels <= MOST_VOXELS:
            source.read((z - 1, z))
        source.read_box((0, y // 2, x // 2), (1, min(y, y // 2 + 64), min(x, x // 2 + 64)))
