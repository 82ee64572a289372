"""A zoo on a web server, and a check that nothing outside the user's zoo is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctseg.zoo.probe import write_probe
from ctseg.zoo.serve_index import Served, serve_index
from ctseg.zoo.store import ZooEntry
from tests.zoo.remote.server import Server, make_entry, serving

NAME = "unet3d.small_v1"


@pytest.fixture(scope="session")
def made_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "zoo"
    entry = ZooEntry(NAME, make_entry(folder))
    write_probe(entry.folder, entry.card())
    return folder


@pytest.fixture
def zoo(made_zoo: Path, tmp_path: Path) -> Path:
    """A zoo elsewhere, whose index is still to be written."""
    return Path(shutil.copytree(made_zoo, tmp_path / "elsewhere"))


@pytest.fixture
def served(zoo: Path) -> Served:
    return serve_index(zoo, aliases={"small": "unet3d.small_v1"})


@pytest.fixture
def server(zoo: Path, served: Served) -> Iterator[Server]:
    with serving(zoo) as server:
        yield server


@pytest.fixture(autouse=True)
def only_the_zoo_is_written(
    tmp_path: Path, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Files appear below the user's zoo only."""
    home = tmp_path / "work"
    home.mkdir()
    monkeypatch.chdir(home)
    yield
    allowed = (own_zoo, tmp_path / "elsewhere", tmp_path / "second", tmp_path / "config")
    for path in tmp_path.rglob("*"):
        inside = any(place == path or place in path.parents for place in allowed)
        assert inside or path == home, path
