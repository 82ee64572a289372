"""Recognising layouts, and what is said where none fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, FileProblem, UnknownName


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(BadInput, match="data set is empty"):
        open_dataset(tmp_path)


def test_unknown_layout_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(BadInput, match="known layout") as found:
        open_dataset(tmp_path)
    for name in ("decathlon", "nnunet", "hdf5"):
        assert name in str(found.value.hint)


def test_a_json_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"images": []}))
    with pytest.raises(BadInput, match=r"keys \['images'\]"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(FileProblem, match="object"):
        open_dataset(tmp_path)


def test_a_layout_by_name(decathlon: Path) -> None:
    assert open_dataset(decathlon, reader="decathlon").reader == "decathlon"
    with pytest.raises(UnknownName, match="Did you mean 'decathlon'"):
        open_dataset(decathlon, reader="decatlon")
    with pytest.raises(BadInput, match="channel_names"):
        open_dataset(decathlon, reader="nnunet")
    with pytest.raises(BadInput, match="no option 'raw'"):
        open_dataset(decathlon, raw="/raw")


def test_opening_reads_no_volume(decathlon: Path) -> None:
    for file in decathlon.rglob("*.nii.gz"):
        file.write_bytes(b"not a scan")
    assert len(open_dataset(decathlon).cases) == 2
