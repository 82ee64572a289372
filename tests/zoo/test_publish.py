"""Publishing: whole or not at all, with figures that belong to the very weights."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

import ctseg
from ctseg.card import Metrics, TrainingData, TrainingScans, parse_card
from ctseg.engine.evaluation.evaluate import evaluate
from ctseg.engine.model.weights import read_card, read_weights
from ctseg.errors import BadInput, FileProblem, NameClash
from ctseg.zoo.publish import publish, trained_on
from ctseg.zoo.readme import usage
from ctseg.zoo.remove import remove
from ctseg.zoo.resolve import list_weights, resolve_model


def test_an_entry_holds_weights_card_page_and_a_line_in_the_index(make_run, own_zoo) -> None:
    entry = publish(make_run(), tag="balls_v1", summary="Finds balls.", measure=False)
    assert entry.folder == own_zoo / "unet3d.balls_v1"
    assert sorted(f.name for f in entry.folder.iterdir()) == [
        "README.md", "card.json", "probe.safetensors", "weights.safetensors",
    ]  # fmt: skip
    card = parse_card((entry.folder / "card.json").read_text(), where="card.json")
    assert read_card(entry.folder / "weights.safetensors") == card
    assert (card.name, card.licence) == ("unet3d.balls_v1", "CC BY 4.0")
    index = json.loads((own_zoo / "index.json").read_text())
    for file in entry.folder.iterdir():
        record = index["entries"]["unet3d.balls_v1"]["files"][file.name]
        assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert sorted(f.name for f in own_zoo.iterdir()) == ["index.json", "unet3d.balls_v1"]
    page = (entry.folder / "README.md").read_text()
    for words in ("Finds balls.", "CC BY 4.0", "Balls", "-m unet3d.balls_v1"):
        assert words in page


def test_the_command_on_the_page_names_a_file_for_each_channel(make_run) -> None:
    card = publish(make_run(), tag="v1", measure=False).card()
    assert usage(card) == "ctseg predict scan.nii.gz -m unet3d.v1 -o mask.nii.gz"
    card = card.model_copy(update={"channels": ("CT", "PET (SUV)")})
    assert usage(card) == "ctseg predict ct.nii.gz,pet_suv.nii.gz -m unet3d.v1 -o mask.nii.gz"


def test_the_figures_are_those_of_predicting_and_evaluating_with_the_published_weights(
    make_run, dataset: Path, tmp_path: Path
) -> None:
    entry = publish(make_run(), tag="balls_v1")
    segmenter = ctseg.load("unet3d.balls_v1", device="cpu", precision="fp32")
    for name in ("ball_0", "ball_1"):
        segmenter.predict_file(
            dataset / "imagesTr" / f"{name}.nii.gz", tmp_path / "out" / f"{name}.nii.gz"
        )
    report = evaluate(tmp_path / "out", dataset, cases=["ball_0", "ball_1"])
    card = entry.card()
    assert card.metrics.dice == pytest.approx(report.dice, abs=0)
    assert card.metrics.mean_dice == report.mean_dice
    assert card.metrics.cases == 2
    assert card.metrics.command.endswith("ctseg evaluate predictions Balls --fold 0")


@pytest.mark.parametrize(
    ("dtype", "kind"), [("fp16", "float16"), ("bf16", "bfloat16"), ("fp32", "float32")]
)
def test_weights_are_stored_as_asked(make_run, dtype, kind: str) -> None:
    entry = publish(make_run(), tag="t", dtype=dtype, measure=False)
    tensors, _ = read_weights(entry.weights()[0])
    assert {str(t.dtype) for t in tensors.values() if t.is_floating_point()} == {f"torch.{kind}"}


def test_folds_become_one_ensemble(make_run) -> None:
    near, far = (
        TrainingScans(spacing_min_zyx=(mm,) * 3, spacing_max_zyx=(mm,) * 3) for mm in (1.0, 2.0)
    )
    runs = [
        make_run("a", fold=0, training_scans=near, card_version=2),
        make_run("b", fold=1, seed=1, training_scans=far, card_version=2),
    ]
    entry = publish(runs, tag="both")
    card = entry.card()
    assert card.card_version == 2
    assert card.training_scans == TrainingScans(
        spacing_min_zyx=(1.0, 1.0, 1.0), spacing_max_zyx=(2.0, 2.0, 2.0)
    )
    assert [(m.file, m.fold) for m in card.members] == [
        ("fold0.safetensors", 0), ("fold1.safetensors", 1),
    ]  # fmt: skip
    assert card.metrics.cases == 4
    assert card.training_data.fold is None
    assert len(resolve_model("unet3d.both").files) == 2


def test_runs_that_do_not_belong_together_are_refused(make_run, own_zoo: Path) -> None:
    runs = [make_run("a"), make_run("b", predict={"tile_zyx": (8, 8, 8)})]
    with pytest.raises(BadInput, match="differ in predict"):
        publish(runs, tag="both")
    assert not own_zoo.exists()


@pytest.mark.parametrize("tag", ["", "V1", "a-b", "../x", "_a", "a.b"])
def test_an_unusable_tag_is_refused(make_run, tag: str) -> None:
    with pytest.raises(BadInput, match="tag"):
        publish(make_run(), tag=tag)


def test_weights_without_a_licence_are_refused(make_run, own_zoo: Path) -> None:
    run = make_run(training_data=TrainingData(name="Balls"))
    with pytest.raises(BadInput) as found:
        publish(run, tag="v1")
    assert "--licence" in str(found.value)
    assert not own_zoo.exists()
    assert publish(run, tag="v1", licence="CC0", measure=False).card().licence == "CC0"


def test_a_taken_name_is_refused_and_replaced_only_when_asked(make_run) -> None:
    first, second = make_run("a"), make_run("b", seed=1)
    publish(first, tag="v1", measure=False)
    with pytest.raises(NameClash, match="published already"):
        publish(second, tag="v1", measure=False)
    entry = publish(second, tag="v1", measure=False, overwrite=True)
    assert entry.card().seed == 1
    assert list_weights() == ["unet3d.v1"]


def test_a_failure_half_way_leaves_the_zoo_as_it_was(
    make_run, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(make_run("a"), tag="v1", measure=False)
    before = {f: f.read_bytes() for f in own_zoo.rglob("*") if f.is_file()}

    def broken(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctseg.zoo.store.write_index_entry", broken)
    with pytest.raises(FileProblem, match="disk is full"):
        publish(make_run("b", seed=1), tag="v1", measure=False, overwrite=True)
    with pytest.raises(FileProblem):
        publish(make_run("c", seed=1), tag="v2", measure=False)
    assert {f: f.read_bytes() for f in own_zoo.rglob("*") if f.is_file()} == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        publish(tmp_path / "none", tag="v1")
    with pytest.raises(FileProblem, match="best"):
        publish(tmp_path, tag="v1")


def test_figures_cannot_be_measured_without_the_data(make_run, own_zoo: Path) -> None:
    run = make_run()
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("/Balls", "/Gone"))
    with pytest.raises(FileProblem, match="Gone") as found:
        publish(run, tag="v1")
    assert "--no-measure" in str(found.value)
    assert not own_zoo.exists()


def test_remove_takes_folder_and_record(make_run, own_zoo: Path) -> None:
    publish(make_run(), tag="v1", measure=False)
    remove("unet3d.v1")
    assert [f.name for f in own_zoo.iterdir()] == ["index.json"]
    assert json.loads((own_zoo / "index.json").read_text())["entries"] == {}
    with pytest.raises(LookupError):
        remove("unet3d.v1")


@pytest.mark.parametrize("architecture", ["../elsewhere", "/tmp/elsewhere", "Unet", "un.et", ""])
def test_an_architecture_that_cannot_be_part_of_a_name_is_refused(
    make_run, own_zoo: Path, architecture: str
) -> None:
    run = make_run(architecture=architecture)
    with pytest.raises(BadInput, match="cannot be the name"):
        publish(run, tag="v1", measure=False)
    assert not own_zoo.exists()


def test_any_architecture_that_a_plugin_may_register_is_found_again(make_run) -> None:
    run = make_run(architecture="3d_net")
    publish(run, tag="v1", measure=False)
    assert list_weights() == ["3d_net.v1"]
    assert resolve_model("3d_net").card.architecture == "3d_net"


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links")
def test_of_a_linked_entry_only_the_link_is_removed_or_replaced(
    make_run, own_zoo: Path, tmp_path: Path
) -> None:
    run = make_run()
    elsewhere = publish(run, tag="v1", measure=False, zoo=tmp_path / "shared").folder
    own_zoo.mkdir()
    (own_zoo / "unet3d.v1").symlink_to(elsewhere, target_is_directory=True)
    remove("unet3d.v1")
    assert [f.name for f in own_zoo.iterdir()] == ["index.json"]
    (own_zoo / "unet3d.v1").symlink_to(elsewhere, target_is_directory=True)
    publish(run, tag="v1", measure=False, overwrite=True)
    assert sorted(f.name for f in own_zoo.iterdir()) == ["index.json", "unet3d.v1"]
    assert not (own_zoo / "unet3d.v1").is_symlink()
    assert len(list(elsewhere.iterdir())) == 4


def test_an_entry_whose_record_cannot_be_written_is_not_removed(
    make_run, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(make_run(), tag="v1", measure=False)

    def broken(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctseg.zoo.remove.write_index_entry", broken)
    with pytest.raises(FileProblem, match="disk is full") as found:
        remove("unet3d.v1")
    assert "--zoo" in str(found.value)
    assert list_weights() == ["unet3d.v1"]


def test_a_data_set_with_a_space_in_its_name(make_run, dataset: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "Balls of tests"
    shutil.copytree(dataset, spaced)
    run = make_run()
    text = (run / "config.toml").read_text().replace(str(dataset), str(spaced))
    (run / "config.toml").write_text(text)
    words = [shlex.split(s) for s in publish(run, tag="v1").card().metrics.command.splitlines()]
    assert [words[0][2], words[1][3]] == ["Balls of tests"] * 2


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ('[data.options]\noutside = "yes"\n', ""),
        ("grid_tolerance = 0.003\n", "--fold 0 --grid-tolerance 0.003"),
    ],
)
def test_the_command_finds_the_data_set_as_the_run_did(make_run, line: str, end: str) -> None:
    run = make_run()
    text = (run / "config.toml").read_text()
    before = "[data.options]\n" if "options" in line else "grid_tolerance = 0.001\n"
    assert before in text
    (run / "config.toml").write_text(text.replace(before, line))
    command = publish(run, tag="v1").card().metrics.command
    assert command.endswith(end) if end else not command


def test_an_ensemble_of_folds_has_seen_every_case(make_run) -> None:
    """Each fold of a cross-validation leaves out the cases that validate in it, and the others train on them."""
    cards = [read_weights(make_run(str(k), fold=k) / "best.safetensors")[1] for k in (0, 1)]
    trained = cards[0].training_data.cases
    cards = [c.model_copy(update={"metrics": Metrics(cases=2)}) for c in cards]
    assert trained_on(cards) == trained + 2
    assert trained_on([cards[0], cards[0]]) == trained
    command = publish(make_run("one"), tag="one").card().metrics.command
    assert command.splitlines()[0].endswith("--fold 0 -o predictions")
