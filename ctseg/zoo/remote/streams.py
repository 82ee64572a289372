"""Opens a file of a source as a stream from a given byte on: folders, web servers, and what `fsspec` knows."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

from ctseg.errors import FileProblem
from ctseg.version import __version__
from ctseg.zoo.sources import Source

TIMEOUT_S = 30.0
"""For a connection, and for each answer of a server."""
MOST_REDIRECTS = 5


class SourceProblem(FileProblem):
    """A source that lacks a file, does not answer, or sends something else; another one may do."""


@dataclass(frozen=True)
class Stream:
    """An open file.

    Attributes:
        read: so many bytes at most; none at the end.
        start: offset of the first byte; 0 where a server cannot continue.
        size: bytes of the whole file; None if nobody says it.
    """

    read: Callable[[int], bytes]
    start: int
    size: int | None


@contextlib.contextmanager
def open_stream(source: Source, path: str, start: int = 0) -> Iterator[Stream]:
    """Open a file of a source.

    Args:
        path: below the source, checked by the index: it has no `..`.
        start: offset of the first byte that is wanted.

    Raises:
        SourceProblem: it is not there or cannot be read; also while the stream is read.
    """
    where = source.file(path)
    if source.scheme == "folder":
        opened = _folder(source.folder, path, start)
    elif source.scheme in ("http", "https"):
        opened = _web(where, start)
    else:
        opened = _fsspec(where, start)
    try:
        with opened as stream:
            yield stream
    except TimeoutError as error:
        raise SourceProblem(f"{where}: no answer for {TIMEOUT_S:g} s.") from error
    except (OSError, http.client.HTTPException) as error:
        raise SourceProblem(f"{where}: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


@contextlib.contextmanager
def _folder(root: Path, path: str, start: int) -> Iterator[Stream]:
    """Links are refused: they could lead anywhere."""
    place = root
    for part in path.split("/"):
        place = place / part
        if place.is_symlink():
            raise SourceProblem(f"{place} is a link, which a source may not contain.")
    if not stat.S_ISREG(place.stat().st_mode):
        raise SourceProblem(f"{place} is no file.")
    with place.open("rb") as file:
        file.seek(start)
        yield Stream(file.read, start, os.fstat(file.fileno()).st_size)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and from https only to https; their bodies are not read."""

    max_redirections = MOST_REDIRECTS

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = urljoin(req.full_url, headers.get("location") or headers.get("uri") or "")
        scheme, allowed = urlsplit(target).scheme, ("https",)
        if urlsplit(req.full_url).scheme == "http":
            allowed = ("http", "https")  # type: ignore[assignment]
        fp.close()  # else the body is read to its end, whatever its length
        if scheme not in allowed:
            raise SourceProblem(
                f"{req.full_url} redirects to {target[:200]!r}, and only {' or '.join(allowed)} is followed from there."
            )
        return super().http_error_302(req, io.BytesIO(), code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https alone; the proxies are those of the system."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
        _Redirects(), urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


@contextlib.contextmanager
def _web(url: str, start: int) -> Iterator[Stream]:
    headers = {"User-Agent": f"ctseg/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the opener has no other schemes
    try:
        answer = _opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            with _web(url, 0) as stream:
                yield stream
            return
        _refused(url, error)
    except urllib.error.URLError as error:
        reason = error.reason if isinstance(error.reason, BaseException) else error
        if isinstance(reason, TimeoutError):
            raise reason from error
        raise SourceProblem(f"{url}: {_reason(reason)}.") from error
    except SourceProblem:
        raise
    except (UnicodeError, ValueError) as error:  # no address, or an answer that is no HTTP
        raise SourceProblem(f"{url}: {_reason(error)}.") from error
    with answer:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise SourceProblem(f"{url}: the server packs what it sends, though told not to.")
        yield Stream(answer.read1, *_extent(url, answer))


def _refused(url: str, error: urllib.error.HTTPError) -> NoReturn:
    if 300 <= error.code < 400:
        raise SourceProblem(
            f"{url} redirects in a circle, or more than {MOST_REDIRECTS} times."
        ) from error
    raise SourceProblem(f"{url}: the server answers {error.code} {error.reason}.") from error


def _extent(url: str, answer: Any) -> tuple[int, int | None]:
    """Offset of the first byte, and the size of the whole file."""
    length = answer.headers.get("Content-Length")
    if length is not None and not re.fullmatch(r"[0-9]{1,18}", length.strip()):
        raise SourceProblem(f"{url}: the server declares {length[:40]!r} bytes.")
    if answer.status != http.client.PARTIAL_CONTENT:
        return 0, None if length is None else int(length)
    told = answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", told.strip())
    if match is None:
        raise SourceProblem(f"{url}: the server sends a part and does not say which.")
    return int(match[1]), None if match[2] == "*" else int(match[2])


@contextlib.contextmanager
def _fsspec(url: str, start: int) -> Iterator[Stream]:
    try:
        import fsspec
    except ImportError as error:
        raise FileProblem(
            f"{url} needs the package fsspec, which is not installed.",
            hint='Install it: pip install "ctseg[bucket]"',
        ) from error
    try:
        file = fsspec.open(url, "rb").open()
    except ImportError as error:  # of the package for this kind of bucket
        raise FileProblem(
            f"{url} cannot be opened: {_reason(error)}.",
            hint="Install that package beside ctseg, e.g.: pip install s3fs",
        ) from error
    except Exception as error:  # each kind of bucket has errors of its own
        raise SourceProblem(f"{url}: {_reason(error)}.") from error
    with file:
        try:
            file.seek(start)
            size = getattr(file, "size", None)
        except Exception as error:
            raise SourceProblem(f"{url}: {_reason(error)}.") from error
        yield Stream(_guarded(file.read, url), start, size if isinstance(size, int) else None)


def _guarded(read: Callable[[int], bytes], url: str) -> Callable[[int], bytes]:
    def guarded(count: int) -> bytes:
        try:
            return read(count)
        except Exception as error:
            raise SourceProblem(f"{url}: {_reason(error)}.") from error

    return guarded
