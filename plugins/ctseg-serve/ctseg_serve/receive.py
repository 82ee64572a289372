"""Receives a scan as the body of a request, straight into a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request

from ctseg.files import disk_errors
from ctseg.volume.formats.dicom.first_bytes import DICOM_HEAD, is_dicom_start
from ctseg_serve.limits import Limits
from ctseg_serve.problems import Problem

SERIES = "series.zip"
NIFTI = ("scan.nii", "scan.nii.gz")
_BUFFER = 2**20
_SIZES = tuple(size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big"))
"""First bytes of NIfTI-1 and NIfTI-2: the size of their headers."""
KINDS = "Send a NIfTI file (.nii, .nii.gz), a zip of a DICOM series, or a multi-frame DICOM file."


async def receive(request: Request, folder: Path, limits: Limits) -> Path:
    """Write the body of a request to a file, a megabyte at a time.

    Args:
        folder: of the file.

    Returns:
        the file, whose name tells what its first bytes are: `scan.nii`, `scan.nii.gz`, `scan.dcm` or `series.zip`.

    Raises:
        Problem: no body, another kind of file, too many bytes, or too slow.
        DiskFull: the server has no room.
        ClientDisconnect: the client is gone.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.size:
        raise _too_large(limits)
    part = folder / "upload"
    try:
        async with asyncio.timeout(limits.seconds):
            name = await _write(request.stream(), part, limits)
    except TimeoutError:
        raise Problem(408, "The scan took too long to arrive.") from None
    return part.rename(folder / name)


async def _write(stream: AsyncIterator[bytes], path: Path, limits: Limits) -> str:
    buffer, size, name = bytearray(), 0, ""
    with disk_errors(path), path.open("wb", buffering=0) as file:
        more = True
        while more:
            async with asyncio.timeout(limits.idle_seconds):
                chunk = await anext(stream, b"")
            more = bool(chunk)  # the stream itself skips empty chunks until its end
            size += len(chunk)
            if size > limits.size:
                raise _too_large(limits)
            buffer += chunk
            if not name and (len(buffer) >= DICOM_HEAD or not more):
                name = kind_of(bytes(buffer))
            if len(buffer) >= _BUFFER or (buffer and not more):
                await asyncio.to_thread(_write_all, file, bytes(buffer))
                buffer.clear()
    return name


def _write_all(file: object, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]  # type: ignore[attr-defined]


def kind_of(head: bytes) -> str:
    """The name under which an upload is kept, by its first bytes.

    Raises:
        Problem: there are none, or they are of no kind that is accepted.
    """
    if not head:
        raise Problem(400, "The request has no body.", hint=KINDS)
    if head.startswith(b"\x1f\x8b"):
        return "scan.nii.gz"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return SERIES
    if head.startswith(_SIZES):
        return "scan.nii"
    if is_dicom_start(head):
        return "scan.dcm"
    raise Problem(415, "The body is of no kind that this server reads.", hint=KINDS)


def _too_large(limits: Limits) -> Problem:
    return Problem(
        413, f"The upload is larger than the {limits.size / 1e9:.3g} GB that this server takes."
    )
