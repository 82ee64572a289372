"""A file object under h5py that records write errors such as a full disk instead of raising them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any


class DeferredErrors(io.RawIOBase):
    """A file whose write errors are recorded rather than raised.

    An error during a write leaves the HDF5 library in a state in which closing the file ends the process
    (seen with HDF5 1.14). So the library sees success, and the writer calls `check`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first recorded error."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        place = self._file.tell()
        try:
            done = 0
            while done < len(view):  # the last bytes that fit are written without an error
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self._error = self._error or error
            self._file.seek(place + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)  # stands for bytes that could not be written
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return self._file.tell() if size is None else size

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # some file systems report errors only here
            self._error = self._error or error
        super().close()
