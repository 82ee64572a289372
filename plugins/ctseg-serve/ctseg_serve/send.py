"""Streams a label map to its client, and removes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ctseg_serve.jobs import Job
from ctseg_serve.limits import Limits

_CHUNK = 2**20
LONGEST_NOTES = 2000
"""Bytes of the notes in a header: proxies reject headers of 4 to 8 KiB."""


class MaskResponse(Response):
    """A file as the body of a response, a megabyte at a time; the job leaves when it is sent or the client is gone."""

    def __init__(
        self, job: Job, path: Path, media_type: str, headers: Mapping[str, str], limits: Limits
    ) -> None:
        self.status_code, self.media_type, self.background = 200, media_type, None
        self._job, self._path, self._limits = job, path, limits
        self.init_headers(
            {
                "Content-Length": str(path.stat().st_size),
                "Content-Disposition": f'attachment; filename="{path.name}"',
                **headers,
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
                with self._path.open("rb") as file:
                    chunk = await asyncio.to_thread(file.read, _CHUNK)
                    while further := await asyncio.to_thread(file.read, _CHUNK):
                        await self._send(send, chunk, more=True)
                        chunk = further
                self._job.leave()  # before the client knows that it is served, and comes again
                await self._send(send, chunk, more=False)
        except TimeoutError:
            return  # without the end of its body, so that the connection is closed
        finally:
            self._job.leave()

    async def _send(self, send: Send, chunk: bytes, *, more: bool) -> None:
        async with asyncio.timeout(self._limits.idle_seconds):
            await send({"type": "http.response.body", "body": chunk, "more_body": more})


def notes_header(notes: Sequence[str]) -> str:
    """Notes as a JSON array in ASCII, cut to `LONGEST_NOTES` bytes; that some are cut is said in the last one."""
    kept: list[str] = []
    for number, note in enumerate(notes):
        rest = len(notes) - number
        text = _json([*kept, note])
        if len(text) > LONGEST_NOTES - 40:
            while len(_json([*kept, note])) > LONGEST_NOTES - 40 and note:
                note = note[: len(note) * 3 // 4]
            kept += [f"{note} ..."] if note else []
            if rest > 1 or not note:
                kept.append(f"{rest - bool(note)} more")
            break
        kept.append(note)
    return _json(kept)


def _json(notes: Sequence[str]) -> str:
    return json.dumps(list(notes), ensure_ascii=True)
