"""What a name stands for among many, and what warns of deprecated models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctseg.errors import BadInput, CorruptWeights, UnknownName
from ctseg.zoo import store
from ctseg.zoo.index import IndexEntry
from ctseg.zoo.names import fitting
from ctseg.zoo.remove import remove
from ctseg.zoo.resolve import UnknownModel, find_entry, resolve_model
from ctseg.zoo.serve_index import serve_index
from ctseg.zoo.store import ZooEntry, read_index, write_index_entry
from tests.zoo.remote.server import FILE, make_entry

NAMES = [
    "unet3d.liver", "unet3d.lung_v2", "unet3d.lung_v9", "unet3d.lung_v10", "unet3d.lung_v3_small",
    "swin.liver_v1",
]  # fmt: skip
ALIASES = {"liver": "unet3d.liver", "swin": "unet3d.liver", "gone": "unet3d.gone"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("unet3d.liver", ["unet3d.liver"]),
        ("unet3d.lung_v2", ["unet3d.lung_v2"]),
        ("unet3d.lung", ["unet3d.lung_v10"]),  # by number, not by letter
        ("swin", ["swin.liver_v1"]),  # an alias takes the place of no model
        ("swin.liver", ["swin.liver_v1"]),
        ("liver", ["unet3d.liver"]),
        ("unet3d", sorted(n for n in NAMES if n.startswith("unet3d."))),
        ("gone", []),
        ("unet3d.lung_v", []),
        ("unet3d.", []),
        ("", []),
    ],
)
def test_what_a_name_stands_for(name: str, found: list[str]) -> None:
    assert fitting(name, NAMES, ALIASES) == found


def test_deprecated_versions_come_last() -> None:
    names = ["unet3d.lung_v2", "unet3d.lung_v3"]
    assert fitting("unet3d.lung", names, {}, ["unet3d.lung_v3"]) == ["unet3d.lung_v2"]
    assert fitting("unet3d.lung", names, {}, names) == ["unet3d.lung_v3"]


@pytest.fixture
def zoo(own_zoo: Path) -> Path:
    for number in (1, 2):
        make_entry(own_zoo, f"unet3d.liver_v{number}")
    serve_index(own_zoo, aliases={"liver": "unet3d.liver_v1"})
    return own_zoo


def test_local_models_by_alias_and_without_version(zoo: Path) -> None:
    assert find_entry("liver").name == "unet3d.liver_v1"
    assert find_entry("unet3d.liver").name == "unet3d.liver_v2"
    serve_index(zoo, deprecate={"unet3d.liver_v2": ""}, reason="Withdrawn.")
    assert find_entry("unet3d.liver").name == "unet3d.liver_v1"
    with pytest.warns(UserWarning, match=r"unet3d\.liver_v2 is deprecated: Withdrawn\.$"):
        resolve_model("unet3d.liver_v2")


def test_a_damaged_index_hides_no_model(zoo: Path) -> None:
    (zoo / "index.json").write_text("{")
    assert find_entry("unet3d.liver_v1").folder == zoo / "unet3d.liver_v1"
    with pytest.raises(UnknownName):
        find_entry("liver")


def test_an_alias_goes_with_its_model(zoo: Path) -> None:
    remove("unet3d.liver_v1")
    assert read_index(zoo).aliases == {}
    with pytest.raises(UnknownModel, match=r"unet3d\.liver_v2"):
        find_entry("liver")


def test_the_index_is_written_from_the_folder(zoo: Path) -> None:
    entry = read_index(zoo).entries["unet3d.liver_v1"]
    assert sorted(entry.files) == ["README.md", "card.json", FILE]
    assert entry.about is not None and entry.about.labels == ("bright", "dark")
    before = (zoo / "index.json").read_bytes()
    serve_index(zoo)
    assert (zoo / "index.json").read_bytes() == before  # the same models, the same bytes to pin
    make_entry(zoo, "unet3d.more")
    (zoo / "unet3d.liver_v2").rename(zoo.parent / "away")
    served = serve_index(zoo, aliases={"liver": "", "more": "unet3d.more"})
    assert sorted(served.index.entries) == ["unet3d.liver_v1", "unet3d.more"]
    assert served.gone == ("unet3d.liver_v2",) and served.index.aliases == {"more": "unet3d.more"}


def test_what_differs_from_its_record_is_not_offered(zoo: Path) -> None:
    before = (zoo / "index.json").read_bytes()
    (zoo / "unet3d.liver_v1" / "README.md").write_text("changed")
    with pytest.raises(CorruptWeights, match="differs from what was published"):
        serve_index(zoo)
    (zoo / "unet3d.liver_v1" / "README.md").write_text("# unet3d.liver_v1\n")
    make_entry(zoo, "unet3d.bad")
    (zoo / "unet3d.bad" / "card.json").write_text("{}")
    with pytest.raises(CorruptWeights, match="no card_version"):
        serve_index(zoo)
    assert (zoo / "index.json").read_bytes() == before


def test_an_index_offers_only_what_is_there(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"liver_v3"):
        serve_index(zoo, aliases={"liver": "unet3d.liver_v3"})
    with pytest.raises(UnknownName, match=r"liver_v3"):
        serve_index(zoo, deprecate={"unet3d.liver_v1": "unet3d.liver_v3"})
    with pytest.raises(BadInput, match="no alias"):
        serve_index(zoo, aliases={"My Liver": "unet3d.liver_v1"})
    with pytest.raises(BadInput, match="holds no model"):
        serve_index(tmp_path / "nothing")


def test_an_index_of_an_earlier_ctseg_is_read(zoo: Path) -> None:
    data = json.loads((zoo / "index.json").read_text())
    for entry in data["entries"].values():
        del entry["about"]
    del data["aliases"]
    (zoo / "index.json").write_text(json.dumps(data))
    assert read_index(zoo).entries["unet3d.liver_v1"].about is None


def test_what_is_published_meanwhile_stays_in_the_index(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def index_entry(entry: ZooEntry) -> IndexEntry:
        if not (zoo / "unet3d.late").exists():
            make_entry(zoo, "unet3d.late")
            write_index_entry(zoo, "unet3d.late", zoo / "unet3d.late")
        return store.index_entry(entry)

    monkeypatch.setattr("ctseg.zoo.serve_index.index_entry", index_entry)
    assert "unet3d.late" in serve_index(zoo).index.entries
