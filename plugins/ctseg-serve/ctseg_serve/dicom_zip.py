"""Unpacks the DICOM files of a zip into one folder, under names of the server's own."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ctseg.errors import BadInput, CtsegError, FileProblem, first_line
from ctseg.files import disk_errors
from ctseg.volume.formats.dicom.first_bytes import DICOM_HEAD, is_dicom_start
from ctseg.volume.formats.paths import DICOM, suffix_of
from ctseg_serve.problems import Problem

MOST_FILES = 20_000
LARGEST_READ = 2**22
"""Bytes that are read at once. The list of files is, so that a zip cannot list millions of them."""
_COPIED = 2**20
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError, LookupError,
    OSError,
)  # fmt: skip
_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unpack(path: Path, folder: Path, *, largest: int, check: Callable[[], None]) -> Path:
    """Unpack a zip of a DICOM series. Files of other kinds, hidden ones and a DICOMDIR are left out.

    Args:
        folder: is made for the files, which get the names `00000_NAME`, whatever folders they have in the zip.
        largest: bytes of all files together.
        check: called for every megabyte; raises to stop.

    Raises:
        Problem: more files or bytes than allowed.
        BadInput: a name that leads out of the zip, links, encrypted files, or no DICOM file.
        FileProblem: a damaged zip.
    """
    folder.mkdir()
    count = 0
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check(members, largest)
            for member in members:
                name = PurePosixPath(member.filename).name
                if name.startswith(".") or name.upper() == "DICOMDIR":
                    continue
                safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-64:]
                count += _copy(archive, member, folder / f"{count:05}_{safe}", check)
    except CtsegError:
        raise
    except _DAMAGED as error:
        raise FileProblem(
            f"The zip is damaged or of a kind that is not read: {first_line(error)}.",
            hint="Make it again, with plain deflate compression.",
        ) from error
    if not count:
        raise BadInput("The zip holds no DICOM files.", hint="Zip the files of one series.")
    return folder


def _check(members: list[zipfile.ZipInfo], largest: int) -> None:
    """Reject what no honest series holds, before anything is written."""
    if len(members) > MOST_FILES:
        raise Problem(413, f"The zip holds more than {MOST_FILES} files.")
    for member in members:
        name, place = member.filename, PurePosixPath(member.filename)
        linked = stat.S_ISLNK(member.external_attr >> 16)
        if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name or linked:
            raise BadInput(
                f"The zip holds '{name[:200]}', which leads out of it; nothing was unpacked.",
                hint="Zip the files of one series, without links.",
            )
        if member.flag_bits & 1:
            raise BadInput("The zip is encrypted.", hint="Zip the files without a password.")
        if member.compress_type not in _STORED:
            raise BadInput(
                "The zip is packed by a method that is not read.", hint="Use plain deflate."
            )
    if sum(member.file_size for member in members) > largest:
        raise Problem(
            413,
            f"The files in the zip have more than the {largest / 1e9:.3g} GB that this server takes.",
        )


def _copy(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, check: Callable[[], None]
) -> bool:
    """Write one file if it is DICOM, and return whether it is. No more bytes are unpacked than the zip lists.

    A file with a suffix of DICOM is written whatever its first bytes are: if it is damaged, the series must be
    rejected, and not go on without one of its slices.
    """
    with archive.open(member) as packed:
        data = packed.read(DICOM_HEAD)
        if not (suffix_of(target, DICOM) or is_dicom_start(data)):
            return False
        with disk_errors(target), target.open("wb") as out:
            while data:
                check()
                out.write(data)
                data = packed.read(_COPIED)
    return True


class _Bounded(io.FileIO):
    """A file that gives no more than `LARGEST_READ` bytes at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_READ:
            raise zipfile.BadZipFile("its list of files is too long")
        rest = size is None or size < 0  # `zipfile` reads the last few bytes so
        return super().read(LARGEST_READ if rest else size)
