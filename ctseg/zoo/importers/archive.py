"""The files of a foreign model, in a folder or in a zip: listed and read by name, never unpacked as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ctseg.errors import BadInput, CorruptWeights, CtsegError, FileProblem, first_line
from ctseg.files import disk_errors

LARGEST_JSON = 2**26
LARGEST_FILE = 2**34
"""Bytes of a file within a zip; checkpoints have some hundred million."""


class Files:
    """Files under a folder.

    Args:
        root: the folder, or a zip file.

    Attributes:
        names: relative paths with slashes, sorted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._zip = root.is_file()
        if self._zip:
            self.names = tuple(sorted(_members(root)))
        elif root.is_dir():
            self.names = tuple(
                sorted(p.relative_to(root).as_posix() for p in _within(root, depth=4))
            )
        else:
            raise FileProblem(f"{root} does not exist.", hint="Check the path.")

    def json(self, name: str) -> Any:
        """A JSON file. NaN, which NumPy's statistics may hold, becomes None.

        Raises:
            FileProblem: it is missing, too large or no JSON.
        """
        with self.local(name, largest=LARGEST_JSON) as path:
            try:
                return json.loads(path.read_text(encoding="utf-8"), parse_constant=_nothing)
            except (OSError, ValueError, RecursionError) as error:
                raise FileProblem(f"{self.told(name)} is no valid JSON: {error}.") from error

    @contextlib.contextmanager
    def local(self, name: str, *, largest: int = LARGEST_FILE) -> Iterator[Path]:
        """A file as a path on disk; one of a zip is unpacked under a name of our own for the time being."""
        if name not in self.names:
            raise FileProblem(f"There is no {name} in {self.root}.")
        if not self._zip:
            path = self.root / name
            if path.stat().st_size > largest:
                raise FileProblem(
                    f"{self.told(name)} is far too large: {path.stat().st_size} bytes."
                )
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="ctseg-import-") as folder:
            path = Path(folder) / "file"
            try:
                with zipfile.ZipFile(self.root) as archive:
                    size = archive.getinfo(name).file_size
                    if size > largest:
                        raise FileProblem(f"{self.told(name)} is far too large: {size} bytes.")
                    with (
                        disk_errors(path, needed=size, option="TMPDIR"),
                        archive.open(name) as packed,
                        path.open("wb") as out,
                    ):
                        shutil.copyfileobj(packed, out, 1 << 20)
            except CtsegError:
                raise
            except Exception as error:  # each compression has errors of its own for damaged bytes
                raise CorruptWeights(
                    f"{self.told(name)} cannot be unpacked: {first_line(error)}.",
                    hint="Copy the zip again.",
                ) from error
            yield path

    def sha256(self, path: Path) -> str:
        """Checksum of a file that `local` gave."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def told(self, name: str) -> str:
        """A file in messages."""
        return f"{name} in {self.root}" if self._zip else str(self.root / name)


def _nothing(name: str) -> None:  # noqa: ARG001 - NaN, Infinity
    return None


LINKED = re.compile(r"fold_(\d+|all)|.+__.+__.+|Dataset\d+_.+|crossval_results.*")
"""Folders of nnU-Net that are read through links, as clusters make them; others may lead anywhere."""


def _within(folder: Path, *, depth: int) -> Iterator[Path]:
    """Files down to some depth, results of validation left out, since there may be thousands."""
    for path in folder.iterdir():
        if path.is_dir():
            wanted = not path.is_symlink() or LINKED.fullmatch(path.name)
            if depth > 1 and path.name != "validation" and wanted:
                yield from _within(path, depth=depth - 1)
        else:
            yield path


def _members(path: Path) -> list[str]:
    """The files of a zip.

    Raises:
        BadInput: a member that would lie outside of the place that the zip is unpacked to.
        CorruptWeights: no zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # damaged lists of files raise more than BadZipFile
        raise CorruptWeights(f"{path} is no zip file: {first_line(error)}.") from error
    names = []
    for member in members:
        name = member.filename
        place = PurePosixPath(name)
        linked = stat.S_ISLNK(member.external_attr >> 16)
        if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name or linked:
            raise BadInput(
                f"The zip {path} holds '{name}', which leads out of it; nothing was unpacked.",
                hint="Take a zip that the other project itself wrote, e.g. with nnUNetv2_export_model_to_zip.",
            )
        if not member.is_dir():
            names.append(name)
    if len(set(names)) < len(names):
        raise BadInput(f"The zip {path} holds a file twice; nothing was unpacked.")
    return names
