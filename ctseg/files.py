"""Writes files that appear under their name only when complete, and turns disk errors into messages with hints."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ctseg.errors import DiskFull, FileProblem
from ctseg.temporary import clear_abandoned, held

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG,
    errno.ELOOP,
)  # fmt: skip
SPARE_FILES = 512
"""Open files for Python, torch and other libraries, besides those that are counted."""


@contextlib.contextmanager
def whole_file(path: Path, *, option: str = "-o") -> Iterator[Path]:
    """A temporary file in the folder of `path`; on a clean exit it is flushed to disk and renamed to `path`.

    The temporary name keeps the suffixes of `path`, since some libraries choose the format by them. On any exception
    it is removed and `path` stays unchanged. Leftovers of killed processes are removed first.

    Args:
        option: command line option that sets the path, for messages.

    Raises:
        FileProblem: the folder cannot be created or written, the disk is full, or `path` is a folder or a device.
    """
    check_replaceable(path, option=option)
    with disk_errors(path, option=option):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name.split('.')[0][:64]}-"  # the length of file names is limited
        suffix = "".join(path.suffixes[-2:])
        clear_abandoned(
            path.parent.glob(f"{glob.escape(prefix)}{'[a-z0-9_]' * 8}{glob.escape(suffix)}")
        )
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors(path, option=option), held(temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: Path, *, replace: bool = False, option: str = "-o") -> Iterator[Path]:
    """A temporary folder beside `folder`; on a clean exit it is renamed to it, and on any exception removed.

    Args:
        replace: whether what is there may go; without it `folder` must not exist, or be empty.
        option: command line option that sets the path, for messages.

    Raises:
        FileProblem: the folder holds something, or cannot be written.
    """
    prefix = f".{folder.name[:64]}-"
    pattern = f"{glob.escape(prefix)}{'[a-z0-9_]' * 8}"
    with disk_errors(folder, option=option):
        recover_folder(folder, pattern)
        if folder.exists() and not (folder.is_dir() and (replace or not any(folder.iterdir()))):
            raise FileProblem(
                f"{folder} exists and holds something.",
                hint=f"Choose another folder with {option}.",
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder.parent.glob(pattern))
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        with disk_errors(folder, option=option), held(temporary):
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Give a finished folder its name; what has the name is deleted afterwards, and keeps it if that fails."""
    if not folder.exists():
        new.replace(folder)
        return
    earlier = new.with_name(f"{new.name}.old")
    with held(folder):
        folder.rename(earlier)  # a folder cannot be replaced in one step
        try:
            new.rename(folder)
        except OSError:
            earlier.rename(folder)
            raise
        shutil.rmtree(earlier, ignore_errors=True)


def recover_folder(folder: Path, pattern: str) -> None:
    """Restore an earlier folder whose replacement was interrupted.

    Args:
        pattern: pattern of the temporary names of processes that wrote the same folder.
    """
    for earlier in folder.parent.glob(f"{pattern}.old"):
        with held(earlier) as free, contextlib.suppress(OSError):
            if free and not folder.exists():
                earlier.rename(folder)
    clear_abandoned(folder.parent.glob(f"{pattern}.old"))


def write_text(path: Path, text: str, *, option: str = "-o") -> None:
    """Write a text file atomically: a reader sees either the old or the new content.

    Characters that UTF-8 cannot encode, such as file names in another encoding, are written as backslash escapes.
    """
    with whole_file(path, option=option) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_replaceable(path: Path, *, option: str = "-o") -> None:
    """Reject a path that cannot become a file, before any work is done.

    Raises:
        FileProblem: the path is a folder or a device, or lies below a file.
    """
    with disk_errors(path, option=option):
        exists = path.exists()
        ancestor = next((p for p in path.parents if p.exists()), path.parent)
    why = ""
    if exists and not path.is_file():
        why = "it is a folder" if path.is_dir() else "it is no regular file"
    elif not ancestor.is_dir():
        why = f"{ancestor} is no folder"
    if why:
        raise FileProblem(
            f"{path} cannot be written: {why}.",
            hint=f"Choose another place with {option}, or change the permissions.",
        )


@contextlib.contextmanager
def disk_errors(path: Path, *, needed: int = 0, option: str = "-o") -> Iterator[None]:
    """Turn system errors about a path into errors with a hint.

    Args:
        needed: bytes that are about to be written; 0 if unknown.
        option: command line option that sets the path, for messages.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(next(p for p in [path, *path.parents] if p.exists())).free
            required = f", {needed / 2**20:.0f} MiB needed" if needed else ""
            why = "The disk is full" if error.errno == errno.ENOSPC else "The quota is used up"
            raise DiskFull(
                f"{why}: {path} could not be written ({free / 2**20:.0f} MiB free{required}).",
                hint=f"Free some space, or choose another place with {option}.",
                needed=needed,
            ) from error
        if error.errno == errno.EFBIG:
            raise FileProblem(
                f"{path} could not be written: its file system, or a limit (ulimit -f), allows no larger file.",
                hint=f"Choose another place with {option}.",
            ) from error
        if error.errno in _REFUSED:
            raise FileProblem(
                f"{path} cannot be written: {error.strerror}.",
                hint=f"Choose another place with {option}, or change the permissions.",
            ) from error
        raise


def allow_open_files(count: int) -> None:
    """Raise the process's limit of open files for this many more files, as far as the system allows.

    A memory map keeps its file open, and many shells allow only 256 or 1024 files.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = count + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
