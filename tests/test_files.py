"""Files that appear whole, and places that no file can have."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from ctseg.errors import FileProblem
from ctseg.files import disk_errors, whole_file, whole_folder, write_text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_a_device_or_pipe_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileProblem, match="no regular file"):
        write_text(pipe, "text", option="--csv")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "below.csv"):
        with pytest.raises(FileProblem, match="cannot be written") as found, whole_file(place):
            pytest.fail("the work has begun")
        assert "-o" in str(found.value)


def test_the_longest_name_that_the_system_allows_can_be_written(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") if hasattr(os, "pathconf") else 200
    path = tmp_path / ("n" * (longest - 4) + ".txt")
    write_text(path, "text")
    assert path.read_text() == "text"
    with pytest.raises(FileProblem, match="cannot be written"):
        write_text(tmp_path / ("n" * 300 + ".txt"), "text")


def test_a_name_in_another_encoding_survives_in_json(tmp_path: Path) -> None:
    name = b"sch\xe4del.nii".decode("utf-8", "surrogateescape")  # as Python names such a file
    write_text(tmp_path / "a.json", json.dumps({"input": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"input": name}


def test_the_option_that_names_the_place_is_the_one_to_change(tmp_path: Path) -> None:
    with pytest.raises(FileProblem) as found, disk_errors(tmp_path, option="--zoo"):
        raise PermissionError(13, "Permission denied")
    assert "--zoo" in str(found.value)
    assert "-o" not in str(found.value).split()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with suppress(ZeroDivisionError), whole_folder(folder) as temporary:
        (temporary / "half").write_text("half")
        raise ZeroDivisionError
    assert not list((tmp_path / "new").iterdir())
    with whole_folder(folder) as temporary:
        (temporary / "a").write_text("first")
        assert not folder.exists()
    with pytest.raises(FileProblem, match="holds something"), whole_folder(folder):
        pass
    with pytest.raises(ZeroDivisionError), whole_folder(folder, replace=True):
        raise ZeroDivisionError
    assert (folder / "a").read_text() == "first"
    with whole_folder(folder, replace=True) as temporary:
        (temporary / "b").write_text("second")
    assert [file.name for file in folder.iterdir()] == ["b"]
    assert [file.name for file in folder.parent.iterdir()] == ["out"]


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (tmp_path / ".out-0abcdefg.old").mkdir()
    (tmp_path / ".out-0abcdefg.old" / "a").write_text("first")
    with pytest.raises(FileProblem, match="holds something"), whole_folder(folder):
        pass
    assert (folder / "a").read_text() == "first"
