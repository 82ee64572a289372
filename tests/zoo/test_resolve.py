"""One option, four things it may name; and every way in which the name may be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ctseg.errors import BadInput, CorruptWeights, FileProblem, NameClash, UnknownName
from ctseg.zoo import store
from ctseg.zoo.publish import publish
from ctseg.zoo.remove import remove
from ctseg.zoo.resolve import list_weights, resolve_model
from ctseg.zoo.store import LARGEST_CARD
from ctseg.zoo.verify import verify


def test_run_file_folder_and_name_stand_for_the_same_model(make_run, own_zoo: Path) -> None:
    run = make_run()
    entry = publish(run, tag="v1", measure=False)
    for text in ("unet3d.v1", "unet3d", str(entry.folder), entry.folder / "weights.safetensors"):
        found = resolve_model(text)
        assert found.card == entry.card()
        assert found.files == entry.weights()
    assert resolve_model(run).files == (run / "best.safetensors",)
    assert resolve_model(run / "best.safetensors").card.name == ""


def test_a_bare_name_that_fits_several_is_refused_with_the_list(make_run) -> None:
    for tag in ("a", "b"):
        publish(make_run(tag), tag=tag, measure=False)
    with pytest.raises(BadInput, match=r"unet3d\.a, unet3d\.b"):
        resolve_model("unet3d")
    assert list_weights("*.b") == ["unet3d.b"]


def test_an_unknown_name_comes_with_the_nearest(make_run) -> None:
    publish(make_run(), tag="hippocampus_v1", measure=False)
    with pytest.raises(UnknownName, match=r"Did you mean 'unet3d\.hippocampus_v1'"):
        resolve_model("unet3d.hipocampus_v1")


def test_paths_without_a_model_are_refused(tmp_path: Path, make_run) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        resolve_model(tmp_path / "none.safetensors")
    with pytest.raises(BadInput, match="holds no model"):
        resolve_model(tmp_path)
    run = make_run()
    (run / "best.safetensors").unlink()
    with pytest.raises(BadInput, match="--resume"):
        resolve_model(run)


def test_two_zoos_may_share_a_name_only_for_the_same_model(
    make_run, tmp_path: Path, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(make_run("a"), tag="v1", measure=False)
    shipped = tmp_path / "shipped"
    shutil.copytree(own_zoo, shipped)
    monkeypatch.setattr("ctseg.zoo.folders.shipped_zoos", lambda: [shipped])
    assert resolve_model("unet3d.v1").files[0].parent.parent == own_zoo
    publish(make_run("b", seed=1), tag="v1", measure=False, overwrite=True, zoo=shipped)
    with pytest.raises(NameClash) as found:
        resolve_model("unet3d.v1")
    assert str(own_zoo) in str(found.value)
    assert str(shipped) in str(found.value)
    assert list_weights() == ["unet3d.v1"]


def test_what_packages_ship_is_found_and_cannot_be_removed_by_accident(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    publish(make_run(), tag="v1", measure=False, zoo=shipped)
    with pytest.raises(UnknownName):
        resolve_model("unet3d.v1")
    monkeypatch.setattr("ctseg.zoo.folders.shipped_zoos", lambda: [shipped])
    assert resolve_model("unet3d.v1").files[0].parent.parent == shipped
    with pytest.raises(BadInput, match="not in your zoo"):
        remove("unet3d.v1")
    remove("unet3d.v1", zoo=shipped)
    assert list_weights() == []


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_verify_finds_nothing_wrong_with_what_was_just_published(make_run) -> None:
    publish(make_run(), tag="v1", measure=False)
    (check,) = verify(["unet3d.v1"])
    assert check.sound


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: _flip(f / "weights.safetensors", -1), "checksum"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"short"), "no safetensors"),
        (lambda f: (f / "weights.safetensors").unlink(), "missing"),
        (lambda f: (f / "README.md").write_text("other"), "README.md has another checksum"),
        (lambda f: (f / "more.txt").write_text("x"), "more.txt is not in the index"),
        (lambda f: (f / "card.json").write_text("{"), "no valid JSON"),
        (lambda f: f.rename(f.with_name("unet3d.v2")), "index"),
        (lambda f: (f.parent / "index.json").write_text("[]"), "damaged"),
        (
            lambda f: (f / "card.json").write_text(
                (f / "card.json").read_text().replace('"seed": 0', '"seed": 1')
            ),
            "differs",
        ),
    ],
)
def test_verify_names_every_kind_of_damage(make_run, harm, words: str) -> None:
    entry = publish(make_run(), tag="v1", measure=False)
    harm(entry.folder)
    found = " ".join(p for check in verify() for p in check.problems)
    assert words in found


def test_damaged_weights_are_refused_before_use(make_run) -> None:
    import ctseg

    entry = publish(make_run(), tag="v1", measure=False)
    _flip(entry.weights()[0], -1)
    with pytest.raises(CorruptWeights, match="changed or damaged"):
        ctseg.load("unet3d.v1", device="cpu")
    entry.weights()[0].unlink()
    with pytest.raises(CorruptWeights, match="missing"):
        resolve_model("unet3d.v1")


def test_a_copied_entry_is_sound_though_no_index_names_it(make_run, tmp_path: Path) -> None:
    entry = publish(make_run(), tag="v1", measure=False)
    copy = tmp_path / "copy"
    shutil.copytree(entry.folder, copy / entry.name)
    (check,) = verify(zoo=copy, names=["unet3d.v1"])
    assert check.sound
    assert "index" in check.notes[0]
    _flip(copy / entry.name / "weights.safetensors", -1)
    (check,) = verify(zoo=copy, names=["unet3d.v1"])
    assert "changed or damaged" in check.problems[0]


def test_a_card_that_describes_no_network_is_a_finding(make_run) -> None:
    for name, options in {"a": {"in_channels": 3}, "b": {"features": [10**14, 4]}}.items():
        publish(make_run(name, options=options), tag=name, measure=False)
    checks = verify()
    assert [c.sound for c in checks] == [False, False]
    assert "widths from 1 to 10000" in checks[1].problems[0]


def test_odd_files_of_a_zoo_are_findings_too(make_run, own_zoo: Path) -> None:
    entry = publish(make_run(), tag="v1", measure=False)
    (entry.folder / ".DS_Store").touch()  # of a file manager
    assert verify()[0].sound
    (own_zoo / "index.json").write_text('{"entries": {"unet3d.v1": {"files": {"a": 3}}}}')
    assert "damaged" in verify()[0].problems[0]
    with (entry.folder / "card.json").open("wb") as file:
        file.truncate(LARGEST_CARD + 1)
    assert "far too large" in " ".join(verify()[0].problems)
    (entry.folder / "card.json").write_text("[" * 100_000)
    assert "nested too deeply" in " ".join(verify()[0].problems)


def test_the_zoo_of_the_source_tree_is_what_was_published() -> None:
    zoo = Path(store.__file__).parents[2] / "zoo"
    if not zoo.is_dir():
        pytest.skip("ctseg is installed, not run from its source tree")
    checks = [check for check in verify(zoo=zoo) if check.zoo == zoo]
    assert checks
    assert not [check for check in checks if check.problems or check.notes]
