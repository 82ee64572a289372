"""Shell completion of models, networks, losses, data set layouts and importers, without importing torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctseg.plugins import Kind

WEIGHTS = ".safetensors"


def architectures(incomplete: str) -> list[tuple[str, str]]:
    """Networks with their summaries."""
    return _specs("architecture", incomplete)


def losses(incomplete: str) -> list[tuple[str, str]]:
    """Losses with their summaries."""
    return _specs("loss", incomplete)


def readers(incomplete: str) -> list[tuple[str, str]]:
    """Layouts of data sets with their summaries."""
    return _specs("reader", incomplete)


def importers(incomplete: str) -> list[tuple[str, str]]:
    """Kinds of models of other projects, with their summaries."""
    return _specs("importer", incomplete)


def published(incomplete: str) -> list[tuple[str, str]]:
    """Names of published models, with the zoo that they are in."""
    with contextlib.suppress(Exception):  # a damaged zoo must not break completion
        return [pair for pair in _published() if pair[0].startswith(incomplete)]
    return []


def models(incomplete: str) -> list[tuple[str, str]]:
    """Names of published models, run folders and weight files, for `-m`."""
    return [*published(incomplete), *_runs(incomplete)]


def _specs(kind: Kind, incomplete: str) -> list[tuple[str, str]]:
    with contextlib.suppress(Exception):  # e.g. a name that two plugins claim
        from ctseg import plugins

        table = plugins.registry().table(kind)
        summaries = {name: entry.spec.summary for name, entry in table.items()}
        names = sorted(name for name in summaries if name.startswith(incomplete))
        return [(name, summaries[name]) for name in names]
    return []


def _published() -> Iterator[tuple[str, str]]:
    from ctseg.zoo.folders import names_in, search_path

    seen = set()
    for zoo in search_path():
        for name in names_in(zoo):
            if name not in seen:
                yield name, str(zoo)
            seen.add(name)


def _runs(incomplete: str) -> Iterator[tuple[str, str]]:
    """Folders and weight files below the path typed so far."""
    head, slash, tail = incomplete.rpartition("/")
    folder = Path(head + slash).expanduser()
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(tail) or path.name.startswith("."):
                continue
            if path.is_dir():
                yield f"{head}{slash}{path.name}/", "folder"
            elif path.suffix == WEIGHTS:
                yield f"{head}{slash}{path.name}", "weight file"
