"""A new entry of a zoo: written in a temporary folder, and named when it is whole."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ctseg.errors import NameClash
from ctseg.files import disk_errors
from ctseg.temporary import held
from ctseg.zoo.store import NEW, locked, put_entry

Dtype = Literal["fp32", "fp16", "bf16"]
TAG = re.compile(r"[a-z0-9][a-z0-9_]*")


def check_free(folder: Path, overwrite: bool) -> None:
    """Refuse the name of an entry that is there already.

    Raises:
        NameClash: unless it may be replaced.
    """
    if folder.exists() and not overwrite:
        raise NameClash(
            f"'{folder.name}' is published already, in {folder.parent}.",
            hint="Choose another --tag, or replace it with --overwrite.",
        )


@contextlib.contextmanager
def new_folder(zoo: Path) -> Iterator[Path]:
    """A temporary folder in a zoo, which goes unless `put_in_place` gives it a name."""
    with disk_errors(zoo, option="--zoo"):
        zoo.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=NEW, dir=zoo))
    try:
        with held(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, folder: Path, overwrite: bool) -> None:
    """Rename the finished folder to its name and record it; on failure the zoo is as it was."""
    with locked(folder.parent), disk_errors(folder, option="--zoo"):
        check_free(folder, overwrite)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)  # mkdtemp makes folders that only their owner may read
        put_entry(temporary, folder)
