"""Small valid models: card, weights, the index of a zoo here and elsewhere."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from ctseg.card import HEADER_KEY, Card, parse_card
from ctseg.data.pipeline import Pipeline
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.build import constraints_of
from ctseg.engine.model.weights import read_weights, save_weights, tensors_sha256
from ctseg.zoo.index import parse_index
from ctseg.zoo.remote.fetch import FetchOptions, fetch
from ctseg.zoo.resolve import resolve_entry
from ctseg.zoo.serve_index import serve_index
from ctseg.zoo.store import ZooEntry, file_record, read_index, write_index_entry
from ctseg.zoo.verify import verify
from tests.engine.small_model import write_model
from tests.hostile.mutate import Mutator, document, number, packed, scramble, tree
from tests.hostile.target import Seed


def card(folder: Path) -> list[Seed]:
    entry = _entry(folder)
    file = entry / "card.json"
    return [
        Seed("card", file, [file], document(), _card),
        Seed("entry", entry, [file], document(), lambda path: resolve_entry(ZooEntry(path.name, path)), vanish=True),
    ]  # fmt: skip


def _card(file: Path) -> None:
    """All that a card says, but for the network's own memory."""
    found = parse_card(file.read_text(encoding="utf-8", errors="replace"), where=str(file))
    found.task.task()
    Pipeline.of(found.preprocess)
    constraints_of(found)
    found.to_json()


def weights(folder: Path) -> list[Seed]:
    file = write_model(folder / "model.safetensors")
    ways = (*HEADER, *(packed([tree()], _card_of, _with_card),) * 2)
    return [
        Seed("weights", file, [file], ways, read_weights),
        Seed(
            "network",
            file,
            [file],
            ways,
            lambda path: NetworkModel.from_files([path], device="cpu"),
        ),
    ]


def _header_of(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length]


def _with_header(content: bytes, header: bytes) -> bytes:
    """The tensors behind another header, whose length is given rightly."""
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    return struct.pack("<Q", len(header)) + header + tensors


def _card_of(content: bytes) -> bytes:
    return str(json.loads(_header_of(content))["__metadata__"][HEADER_KEY]).encode()


def _with_card(content: bytes, changed: bytes) -> bytes:
    header = json.loads(_header_of(content))
    header["__metadata__"][HEADER_KEY] = changed.decode(errors="surrogateescape")
    return _with_header(content, json.dumps(header).encode())


HEADER: tuple[Mutator, ...] = (
    scramble(200), number(16), *(packed([tree()], _header_of, _with_header),) * 3,
)  # fmt: skip
"""What does for the header of a safetensors file."""


def index(folder: Path) -> list[Seed]:
    entry = _entry(folder)
    zoo = entry.parent
    file = zoo / "index.json"
    return [
        Seed("index", zoo, [file], document(), read_index, vanish=True),
        Seed("verify", zoo, [file], document(), lambda path: verify([entry.name], path)),
        Seed("publish", zoo, [file], document(), lambda path: write_index_entry(path, "unet3d.gone", None)),
    ]  # fmt: skip


def remote_index(folder: Path) -> list[Seed]:
    """The index of a zoo that somebody else serves; whatever it says, files appear in the user's zoo only."""
    zoo = _entry(folder).parent
    serve_index(zoo, aliases={"small": "unet3d.small"})
    file, own, workplace = zoo / "index.json", folder / "own", folder / "work"
    workplace.mkdir()

    def take(path: Path) -> None:
        before = _all_files(folder, own)
        try:
            fetch("small", FetchOptions(sources=(str(path),), zoo=own))
        finally:
            assert _all_files(folder, own) == before
            shutil.rmtree(own, ignore_errors=True)

    return [
        Seed("parse", file, [file], document(), lambda path: parse_index(path.read_bytes(), where="it")),
        *(Seed("fetch", zoo, [file], document(), take, vanish=True),) * 2,
    ]  # fmt: skip


def _all_files(folder: Path, without: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if without not in (path, *path.parents)}


def _entry(folder: Path) -> Path:
    """An entry of a zoo with an index."""
    entry = folder / "zoo" / "unet3d.small"
    entry.mkdir(parents=True)
    file = write_model(entry / "small.safetensors")
    tensors, made = read_weights(file)
    member = {"file": file.name, "tensors_sha256": tensors_sha256(tensors)}
    whole = Card.model_validate(
        {**made.model_dump(), "name": entry.name, "members": [member], "licence": "CC0"}
    )
    save_weights(file, tensors, whole)
    (entry / "card.json").write_text(whole.to_json())
    record = {
        entry.name: {
            "files": {f.name: file_record(f).model_dump() for f in sorted(entry.iterdir())}
        }
    }
    (folder / "zoo" / "index.json").write_text(json.dumps({"version": 1, "entries": record}))
    return entry
