"""File objects that each process opens for itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class Handle(Generic[T]):
    """A file object that is reopened in forked processes such as loader workers, which must not share a position.

    Args:
        open_file: opens the file.
        first: the object that this process has already opened.
    """

    def __init__(self, open_file: Callable[[], T], first: T) -> None:
        self._open = open_file
        self._file = first
        self._owner = os.getpid()

    def get(self) -> T:
        if self._owner != os.getpid():
            self._file, self._owner = self._open(), os.getpid()
        return self._file

    def close(self) -> None:
        if self._owner == os.getpid():
            self._file.close()
