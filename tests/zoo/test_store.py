"""The zoo as a folder that several processes may change."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import platformdirs
import pytest

from ctseg.errors import FileProblem
from ctseg.plugins import registry
from ctseg.zoo import folders, store


def test_the_given_zoo_comes_before_the_environment_and_the_data_folder(
    tmp_path: Path, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folders.user_zoo(tmp_path) == tmp_path
    assert folders.user_zoo("~/zoo") == Path.home() / "zoo"
    assert folders.user_zoo() == own_zoo
    monkeypatch.delenv("CTSEG_ZOO")
    assert str(folders.user_zoo()).startswith(platformdirs.user_data_dir("ctseg", appauthor=False))


def test_a_zoo_given_twice_is_searched_once(own_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_zoo.mkdir()
    monkeypatch.setattr(folders, "shipped_zoos", lambda: [own_zoo.parent / "x" / ".." / "own"])
    assert folders.search_path() == [own_zoo]


def test_the_box_registers_the_zoo_beside_it() -> None:
    source_tree = Path(store.__file__).parents[2]
    if not (source_tree / "pyproject.toml").is_file():
        pytest.skip("ctseg is installed, not run from its source tree")
    assert source_tree / "zoo" in registry().zoos()


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    names = [f"unet3d.t{i}" for i in range(8)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(name)

    def record(name: str) -> None:
        with store.locked(tmp_path):
            store.write_index_entry(tmp_path, name, tmp_path / name)

    threads = [threading.Thread(target=record, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.read_index(tmp_path).entries) == names
    assert not (tmp_path / ".lock").exists()


def test_a_lock_left_by_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.touch()
    long_ago = time.time() - 2 * store.LOCK_SECONDS
    os.utime(lock, (long_ago, long_ago))
    with store.locked(tmp_path):
        assert lock.exists()


def test_a_lock_left_by_a_killed_process_goes_when_the_zoo_is_listed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.touch()
    long_ago = time.time() - 60
    os.utime(lock, (long_ago, long_ago))
    assert store.entries_in(tmp_path) == []
    assert not lock.exists()
    with store.locked(tmp_path):
        store.entries_in(tmp_path)
        assert lock.exists()


def test_a_lock_that_somebody_keeps_is_an_error_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.2)
    lock = tmp_path / ".lock"
    lock.touch()
    ahead = time.time() + 60
    os.utime(lock, (ahead, ahead))
    with pytest.raises(FileProblem, match="locked"), store.locked(tmp_path):
        pass


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileProblem), store.locked(tmp_path / "file"):
        pass
