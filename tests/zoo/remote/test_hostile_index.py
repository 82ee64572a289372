"""Indexes that name paths, devices, archives or twice the same: refused, and nothing is asked for or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctseg.errors import CtsegError
from ctseg.zoo.index import parse_index
from ctseg.zoo.remote import catalogue
from ctseg.zoo.remote.fetch import MOST_FILES, FetchOptions, fetch
from ctseg.zoo.serve_index import Served
from tests.zoo.remote.server import FILE, Server

NAME = "unet3d.small_v1"
RECORD = {"sha256": "0" * 64, "bytes": 5}


def refused(zoo: Path, own_zoo: Path, words: str, name: str = NAME) -> None:
    with pytest.raises(CtsegError, match=words) as found:
        fetch(name, FetchOptions(sources=(str(zoo),)))
    assert "\n" not in found.value.message
    assert not own_zoo.exists() or not list(own_zoo.glob("unet3d*"))


@pytest.mark.parametrize(
    "file",
    [
        "../x", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:x", "C:\\x", "\\\\host\\x", "~/x", "x\0", "x\n",
        ".hidden", "con", "NUL.txt", "x.", "x" * 300, "é.txt", "x?y", "file:x",
    ],
)  # fmt: skip
def test_files_that_could_be_paths(zoo: Path, served: Served, own_zoo: Path, file: str) -> None:
    data = json.loads((zoo / "index.json").read_text())
    data["entries"][NAME]["files"][file] = RECORD
    (zoo / "index.json").write_text(json.dumps(data))
    refused(zoo, own_zoo, "no name of a file")


@pytest.mark.parametrize(
    "name",
    [
        "../x.y", "/unet3d.x", "unet3d/x", "unet3d", "Unet3d.x", "unet3d..", "unet3d.x/../y", "C:unet3d.x", "nul.x", "",
        "unet3d." + "x" * 300,
    ],
)  # fmt: skip
def test_models_that_could_be_paths(zoo: Path, served: Served, own_zoo: Path, name: str) -> None:
    data = json.loads((zoo / "index.json").read_text())
    data["entries"][name] = data["entries"][NAME]
    (zoo / "index.json").write_text(json.dumps(data))
    refused(zoo, own_zoo, "no name of a model")


def _changed(data: Any, change: str) -> None:
    entry = data["entries"][NAME]
    files = entry["files"]
    if change == "archive":
        files["weights.zip"] = RECORD
    elif change == "many":
        files |= {f"x{number}.txt": RECORD for number in range(MOST_FILES)}
    elif change == "no card":
        del files["card.json"]
    elif change == "huge":
        files[FILE] = files[FILE] | {"bytes": 10**18}
    elif change == "endless":
        files[FILE] = files[FILE] | {"bytes": 10**400}
    elif change == "negative":
        files[FILE] = files[FILE] | {"bytes": -1}
    elif change == "large card":
        files["card.json"] = files["card.json"] | {"bytes": 2**30}
    elif change == "case":
        files["Card.JSON"] = RECORD
    elif change == "sum":
        files[FILE] = files[FILE] | {"sha256": "../../x"}
    elif change == "alias":
        data["aliases"] = {"../x": NAME}
    elif change == "alias to nothing":
        data["aliases"] = {"x": "unet3d.gone"}
    elif change == "newer":
        data["version"] = 99
    elif change == "members":
        del files[FILE]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("archive", "weights.zip, which is no file of a model"),
        ("many", "files; 256 are allowed"),
        ("no card", "without a card"),
        ("huge", "1,000,000,000.0 GB; 20.0 GB are allowed"),
        ("endless", "damaged"),
        ("negative", "damaged"),
        ("large card", "far too large"),
        ("case", "differ only in case"),
        ("sum", "damaged"),
        ("alias", "no alias"),
        ("alias to nothing", "not there"),
        ("newer", "version 99"),
        ("members", "without its weights"),
    ],
)
def test_what_no_index_says(
    zoo: Path, served: Served, own_zoo: Path, change: str, words: str
) -> None:
    data = json.loads((zoo / "index.json").read_text())
    _changed(data, change)
    (zoo / "index.json").write_text(json.dumps(data))
    refused(zoo, own_zoo, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged"),
        ("[]", "lists no entries"),
        ('{"entries": []}', "damaged"),
        ('{"entries": {}, "entries": {}}', "twice"),
        ('{"entries": ' + "[" * 100_000, "nested"),
        ('{"entries": {"unet3d.x": {"files": {"a": NaN}}}}', "no number"),
        ("\ud800".encode("utf-8", "surrogatepass"), "damaged"),
        ('{"entries": {"unet3d.x": {"files": {}, "about": {"licence": "\\ud800"}}}}', "no text"),
    ],
)
def test_what_is_no_index(zoo: Path, own_zoo: Path, text: str | bytes, words: str) -> None:
    (zoo / "index.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(zoo, own_zoo, words)


def test_an_index_that_is_too_large(
    server: Server, served: Served, zoo: Path, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "LARGEST_INDEX", 100)
    refused(zoo, own_zoo, "is larger than")
    with pytest.raises(CtsegError, match="is larger than"):
        fetch(NAME, FetchOptions(sources=(server.url,), pin=served.sha256))


def test_later_keys_are_skipped(zoo: Path, served: Served) -> None:
    data = json.loads((zoo / "index.json").read_text())
    data["later"] = data["entries"][NAME]["later"] = {"x": 1}
    assert parse_index(json.dumps(data), where="x") == served.index
