"""Errors as clients get them: `application/problem+json` (RFC 9457), without paths or traces of the server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.responses import JSONResponse

from ctseg.errors import (
    BadInput,
    ConfigError,
    CorruptWeights,
    CtsegError,
    DiskFull,
    MemoryTooSmall,
    NameClash,
    PluginError,
)

MEDIA_TYPE = "application/problem+json"
_OF_THE_SERVER = (ConfigError, CorruptWeights, NameClash, PluginError)
_ABSOLUTE = re.compile(r"(?<![\w.\\/])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\":,;]+[\\/])+(?=[^\s\\/])")
_PARAMETERS = {"--option series=": "series=", "--option spacing=": "spacing="}
"""Options of the command line that a request has as query parameters."""


class Problem(Exception):
    """What a client gets instead of a label map.

    Args:
        status: of the response.
        detail: the problem, in one sentence.
        hint: what the client can do about it.
        headers: more headers of the response.
    """

    def __init__(
        self, status: int, detail: str, *, hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.status, self.detail, self.hint = status, detail, hint
        self.headers = dict(headers or {})

    def response(self, job: str | None = None) -> JSONResponse:
        """The problem as JSON.

        Args:
            job: number of the job in the server's log.
        """
        content = {"title": _phrase(self.status), "status": self.status, "detail": self.detail}
        more = {"hint": self.hint, "job": job}
        content |= {key: value for key, value in more.items() if value}
        return JSONResponse(content, self.status, self.headers, MEDIA_TYPE)


def problem_of(error: CtsegError, folder: Path) -> Problem:
    """An error of the engine as a client is told of it.

    Args:
        folder: of the job, whose path no text may show.
    """
    if isinstance(error, DiskFull):
        return Problem(507, "The server has no room for this scan.", hint="Try again later.")
    if isinstance(error, MemoryTooSmall):
        return Problem(413, "The scan needs more memory than the server may use.")
    if not isinstance(error, BadInput) or isinstance(error, _OF_THE_SERVER):
        return Problem(
            500,
            "The prediction failed; the cause is in the server's log.",
            hint="Tell its operator the number of the job.",
        )
    hint = _hint(without_paths(error.hint or "", folder))
    return Problem(422, without_paths(error.message, folder), hint=hint)


def without_paths(text: str, folder: Path) -> str:
    """A text that names files of a job as the client knows them, and no folder of the server.

    Args:
        folder: of the job.
    """
    text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), "the upload")
    return _ABSOLUTE.sub("", text)


def _hint(text: str) -> str | None:
    """The lines of a hint that are of use without the command line."""
    for option, parameter in _PARAMETERS.items():
        text = text.replace(option, parameter)
    lines = (line.strip() for line in text.splitlines())
    kept = [line for line in lines if line and not re.search(r"(^|\s)-{1,2}[a-z]|\bctseg ", line)]
    return "\n".join(kept) or None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
