"""Foreign models that strangers may have made: refused by name, and nothing of them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctseg.errors import BadInput, CorruptWeights
from ctseg.zoo.importers.archive import Files
from ctseg.zoo.importers.checkpoint import read_checkpoint, state_of
from ctseg.zoo.importers.entry import EntryOptions, import_model


class Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


class Elsewhere:
    """A class that no allow-list names."""


WEIGHTS = {"a.weight": torch.ones(2, 3)}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    content = {
        "network_weights": WEIGHTS,
        "logging": {"dice": [np.float32(0.5), np.float64(0.25)], "count": np.int64(3)},
        "flag": np.bool_(True),
        "init_args": {"device": torch.device("cpu"), "unpack": True},
    }
    found = read_checkpoint(saved(tmp_path / "c.pth", content))
    assert found["logging"] == content["logging"]
    assert torch.equal(
        state_of(found["network_weights"], name="c.pth")["a.weight"], torch.ones(2, 3)
    )


def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file = saved(tmp_path / "c.pth", {"network_weights": WEIGHTS, "extra": Runs(mark)})
    with pytest.raises(BadInput, match=r"c\.pth asks for .*system"):
        read_checkpoint(file)
    assert not mark.exists()


@pytest.mark.parametrize("value", [Elsewhere(), np.arange(3), Path("x"), np.array(["a"], object)])
def test_other_classes_are_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(BadInput, match=r"asks for .*(Elsewhere|_reconstruct|PosixPath|PurePath)"):
        read_checkpoint(saved(tmp_path / "c.pth", {"extra": value}))


def test_a_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "c.pth"
    file.write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(CorruptWeights, match="no checkpoint"):
        read_checkpoint(file)
    torch.save({"x": Runs(mark)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CorruptWeights, match="no checkpoint"):
        read_checkpoint(file)
    assert not mark.exists()


def test_damaged_checkpoints_are_said_to_be(tmp_path: Path) -> None:
    whole = saved(tmp_path / "c.pth", {"network_weights": WEIGHTS}).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole.replace(b"data.pkl", b"data.pkx")):
        (tmp_path / "d.pth").write_bytes(damaged)
        with pytest.raises(BadInput, match=r"d\.pth"):
            read_checkpoint(tmp_path / "d.pth")
    with pytest.raises(CorruptWeights, match="holds list"):
        read_checkpoint(saved(tmp_path / "e.pth", [1, 2]))


@pytest.mark.parametrize("state", [{}, [], {"a": 1}, {3: torch.ones(1)}])
def test_what_is_no_state_dict_is_refused(state: Any) -> None:
    with pytest.raises(CorruptWeights):
        state_of(state, name="c.pth")


@pytest.mark.parametrize(
    "name",
    ["../outside.json", "/etc/outside.json", "a/../../outside.json", "a\\..\\x", "C:/x.json"],
)
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("M/plans.json", "{}")
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, "{}")
    with pytest.raises(BadInput, match="leads out of it"):
        import_model("nnunet", [file], EntryOptions(zoo=tmp_path / "zoo"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_links_and_doubles_in_a_zip_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("plans.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadInput, match="leads out of it"):
        Files(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("plans.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("plans.json", "[]")
    with pytest.raises(BadInput, match="twice"):
        Files(file)


def test_a_zip_with_a_damaged_member_is_said_to_be(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("plans.json", '{"a": "some text to be damaged"}')
    file = tmp_path / "model.zip"
    file.write_bytes(packed.getvalue().replace(b"some text", b"some next", 1))
    with pytest.raises(CorruptWeights, match="cannot be unpacked"):
        Files(file).json("plans.json")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_with_damaged_compressed_bytes_is_said_to_be(tmp_path: Path, method: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("plans.json", json.dumps(list(range(2000))))
    damaged = bytearray(packed.getvalue())
    damaged[60:200] = b"\xff" * 140
    file = tmp_path / "model.zip"
    file.write_bytes(damaged)
    with pytest.raises(CorruptWeights, match="cannot be unpacked"):
        Files(file).json("plans.json")


def test_a_zip_with_a_damaged_list_of_files_is_said_to_be(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("pläne.json", "{}")
    file = tmp_path / "model.zip"
    file.write_bytes(packed.getvalue().replace("ä".encode(), b"\xff\xff"))
    with pytest.raises(CorruptWeights, match="no zip file"):
        Files(file)


def test_a_file_that_is_far_too_large_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plans.json", " " * 10**6)
    monkeypatch.setattr("ctseg.zoo.importers.archive.LARGEST_JSON", 10**5)
    with pytest.raises(BadInput, match="far too large"):
        Files(file).json("plans.json")


def test_a_folder_without_a_model_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no model of nnU-Net v2"):
        import_model("nnunet", [tmp_path])
    with pytest.raises(BadInput, match="does not exist"):
        import_model("nnunet", [tmp_path / "missing"])
