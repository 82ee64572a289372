"""Where zoos are, and the names in them. Nothing heavy: a shell that completes a name asks here."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ctseg import plugins

ENVIRONMENT = "CTSEG_ZOO"
NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9][a-z0-9_]*")


def user_zoo(zoo: Path | str | None = None) -> Path:
    """The zoo that publishing writes to: the given one, else $CTSEG_ZOO, else the user's data folder."""
    if zoo is not None:
        return Path(zoo).expanduser()  # no shell does it in --zoo=~/zoo
    if os.environ.get(ENVIRONMENT):
        return Path(os.environ[ENVIRONMENT]).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("ctseg", appauthor=False)) / "zoo"


def search_path(zoo: Path | str | None = None) -> list[Path]:
    """The folders in which names are looked up: the user's zoo, then those that plugins ship."""
    folders = {path.resolve(): path for path in reversed([user_zoo(zoo), *shipped_zoos()])}
    return list(reversed(folders.values()))


def shipped_zoos() -> list[Path]:
    """The zoos that packages bring."""
    return plugins.registry().zoos()


def names_in(zoo: Path) -> list[str]:
    """The names of the models in one zoo, sorted; none where the folder does not exist."""
    if not zoo.is_dir():
        return []
    return sorted(f.name for f in zoo.iterdir() if NAME.fullmatch(f.name) and f.is_dir())
