"""Entries that hold a first stage of their own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import ctseg
from ctseg.card import CoarseStage, Member
from ctseg.config import PreprocessConfig
from ctseg.engine.inference.cascade import Cascade, asked_of_stages
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.model.runtime import choose
from ctseg.engine.model.weights import read_weights, save_weights, tensors_sha256
from ctseg.errors import BadInput, CorruptWeights, CtsegError
from ctseg.zoo.exporters.export import export_model
from ctseg.zoo.probe import read_probe
from ctseg.zoo.publish import publish
from ctseg.zoo.remote.fetch import FetchOptions, fetch
from ctseg.zoo.resolve import resolve_model
from ctseg.zoo.serve_index import serve_index
from ctseg.zoo.store import ZooEntry
from ctseg.zoo.verify import verify


@pytest.fixture
def staged_run(make_run):
    """Make a run behind a first stage of its own, as training leaves it."""

    def make(
        name: str = "run",
        *,
        seed: int = 0,
        fold: int = 0,
        margin_mm: float = 2.0,
        spacing_mm: float = 3.0,
    ) -> Path:
        run = make_run(name, seed=seed, fold=fold)
        tensors, card = read_weights(
            make_run(f"{name}_low", seed=seed + 50, fold=fold) / "best.safetensors"
        )
        member = Member(
            file="first_stage.safetensors", tensors_sha256=tensors_sha256(tensors), fold=fold
        )
        steps = ({"kind": "resample", "spacing_xyz": [spacing_mm] * 3},)
        update = {"members": (member,), "preprocess": PreprocessConfig(steps=steps)}
        first = card.model_copy(update=update)
        save_weights(run / "first_stage.safetensors", tensors, first)
        stage = CoarseStage(model="unet3d.first_stage", margin_mm=margin_mm, card=first)
        tensors, card = read_weights(run / "best.safetensors")
        behind = card.model_copy(update={"stages": (stage,), "card_version": 2})
        save_weights(run / "best.safetensors", tensors, behind)
        return run

    return make


@pytest.fixture
def entry(staged_run) -> ZooEntry:
    return publish(staged_run(), tag="both", measure=False)


def test_one_entry_holds_both(entry: ZooEntry) -> None:
    (stage,) = entry.card().stages
    assert stage.card is not None
    assert (stage.model, stage.card.name) == ("unet3d.both.first_stage",) * 2
    assert stage.card.licence == entry.card().licence
    text = (entry.folder / "README.md").read_text()
    assert (
        "| First stage | `unet3d.both.first_stage`: only the box of its labels, 2 mm wider" in text
    )
    assert "| first_stage.safetensors | 0.0" in text
    assert verify(["unet3d.both"])[0].sound
    model = ctseg.load("unet3d.both", device="cpu", margin_mm=7.0)
    assert isinstance(model.model, Cascade)
    assert model.model.stages[0].margin_mm == 7.0
    other = ctseg.load("unet3d.both", device="cpu", coarse=entry.folder / "first_stage.safetensors")
    assert isinstance(other.model, Cascade)
    assert other.model.stages[0].margin_mm == 10.0


def test_a_damaged_or_missing_first_stage_is_noticed(entry: ZooEntry) -> None:
    file = entry.folder / "first_stage.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + bytes(4 * [7]))
    (check,) = verify(["unet3d.both"])
    assert any("checksum" in problem for problem in check.problems)
    with pytest.raises(CorruptWeights, match="checksum"):
        ctseg.load("unet3d.both", device="cpu")
    shutil.copy(entry.folder / "weights.safetensors", file)
    with pytest.raises(CorruptWeights, match=r"first_stage\.safetensors differs"):
        resolve_model("unet3d.both")
    file.unlink()
    assert "first_stage.safetensors is missing" in verify(["unet3d.both"])[0].problems
    with pytest.raises(
        CorruptWeights, match=r"first_stage\.safetensors of unet3d\.both is missing"
    ):
        resolve_model("unet3d.both")


def test_the_probe_holds_logits_of_both(entry: ZooEntry) -> None:
    assert set(read_probe(entry.folder)) == {"weights.safetensors", "first_stage.safetensors"}


def test_folds_are_one_ensemble_behind_one(staged_run) -> None:
    runs = [staged_run("a", fold=0), staged_run("b", seed=1, fold=1)]
    entry = publish(runs, tag="folds", measure=False)
    (stage,) = entry.card().stages
    assert stage.card is not None
    assert [m.file for m in stage.card.members] == [
        f"first_stage_fold{i}.safetensors" for i in (0, 1)
    ]
    assert verify(["unet3d.folds"])[0].sound
    model = ctseg.load("unet3d.folds", device="cpu")
    assert isinstance(model.model, Cascade)
    assert len(model.model.stages[0].model.networks) == len(model.model.networks) == 2
    # two runs that are averaged look each behind its own
    pair = ctseg.load(runs, device="cpu")
    assert isinstance(pair.model, Ensemble)
    assert all(isinstance(one, Cascade) for one in pair.model.models)


def test_runs_of_different_first_stages_are_no_ensemble(staged_run, make_run) -> None:
    first = staged_run("a")
    for other in (staged_run("b", margin_mm=9.0), make_run("c")):
        with pytest.raises(BadInput, match="their first stages differ, or one has none"):
            publish([first, other], tag="folds", measure=False)
        with pytest.raises(BadInput, match="their first stages differ, or one has none"):
            publish([other, first], tag="folds", measure=False)
    finer = staged_run("e", spacing_mm=2.0)
    with pytest.raises(
        BadInput, match=r"e/first_stage cannot be one ensemble: they differ in preprocess"
    ):
        publish([first, finer], tag="folds", measure=False)
    with pytest.raises(BadInput, match="--coarse"):
        ctseg.load([first, make_run("d")], device="cpu")


def test_a_stage_is_computed_as_its_model() -> None:
    exact = choose("cpu", "fp32", "torch")
    assert asked_of_stages(exact) == ("cpu", "fp32", "torch")
    assert asked_of_stages(dataclasses.replace(exact, exact=False)) == ("cpu", "auto", "torch")
    # a first stage has no ranges for 8-bit integers
    assert asked_of_stages(dataclasses.replace(exact, precision="int8")) == ("cpu", "auto", "auto")


def test_nothing_is_fitted_behind_one(staged_run) -> None:
    with pytest.raises(BadInput, match="behind a coarse one"):
        publish(staged_run(), tag="fitted", fit=True)


def test_it_is_fetched_with_its_entry(entry: ZooEntry, own_zoo: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.move(own_zoo, source)
    served = serve_index(source)
    options = FetchOptions(sources=(str(source),), pin=served.index.entries["unet3d.both"].digest)
    assert (fetch("unet3d.both", options).folder / "first_stage.safetensors").is_file()
    assert verify(["unet3d.both"])[0].sound
    shutil.rmtree(own_zoo)
    (source / "unet3d.both" / "first_stage.safetensors").unlink()
    (source / "index.json").unlink()
    serve_index(source)
    with pytest.raises(CtsegError, match=r"without its weights first_stage\.safetensors"):
        fetch("unet3d.both", FetchOptions(sources=(str(source),)))


def test_nnunet_has_no_such_stage(entry: ZooEntry, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nnU-Net has no such stage"):
        export_model("unet3d.both", "nnunet", tmp_path / "Dataset001_Both")


@pytest.mark.slow
def test_other_tools_get_the_stages_one_by_one(entry: ZooEntry, tmp_path: Path) -> None:
    done = export_model("unet3d.both", "torch-export", tmp_path / "torch")
    file = entry.folder / "first_stage.safetensors"
    assert done.notes == (
        f"It needs its first stage, which is exported by itself: ctseg zoo export {file}",
    )
    about = json.loads((tmp_path / "torch" / "model.json").read_text())
    assert about["coarse_models"][0]["model"] == "unet3d.both.first_stage"
