"""Runs with a first stage: what they train on, publish and predict, and that one resumed equals one left alone."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import ctseg
from ctseg.card import CoarseStage
from ctseg.config import load_config, override, parse_config
from ctseg.data.load import load_image
from ctseg.engine.evaluation.evaluate import evaluate
from ctseg.engine.inference.cascade import Cascade, find_region
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.weights import read_card
from ctseg.engine.prediction.api import Segmenter, scan_of
from ctseg.engine.training import run as training
from ctseg.engine.training.cross_validation.folds import train_folds
from ctseg.engine.training.job import Silent
from ctseg.engine.training.validate import validation_cases
from ctseg.errors import BadInput, CorruptWeights, FileProblem
from ctseg.zoo.publish import publish
from ctseg.zoo.verify import verify


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon folder of oblique scans with one small bright ball each, but one without any."""
    folder = tmp_path_factory.mktemp("seeds") / "Seeds"
    turn = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    rows = []
    for index in range(6):
        rng = np.random.default_rng(index)
        shape = (26, 34, 30)
        centre = rng.uniform(8, 18, 3)
        near = sum((a - c) ** 2 for a, c in zip(np.indices(shape), centre, strict=True)) < 12
        label = (near & (index != 5)).astype(np.uint8)
        hu = 200 * label + rng.normal(0, 15, shape)
        grid = {"spacing_xyz": (1.0, 1.0, 1.5), "direction": turn, "origin_xyz": (5.0, -9.0, 3.0)}
        name = f"seed_{index}.nii.gz"
        for kind, array in (("imagesTr", hu.astype(np.int16)), ("labelsTr", label)):
            path = folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            ctseg.write(ctseg.Volume.from_array(array, **grid), path)
        rows.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": "Seeds", "licence": "CC0", "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "seed"}, "training": rows,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def options(data: Path, *more: str) -> Any:
    """A run of few steps behind a first stage."""
    settings = [
        "model.options.features=[4, 8]", "train.patch_zyx=[8, 16, 16]", "train.batch_size=2",
        "train.steps=4", "train.steps_per_epoch=4", "train.device=cpu", "train.precision=fp32",
        "first_stage.use=on", "first_stage.share=0.5", "first_stage.margin_mm=3",
        "first_stage.spacing_xyz=[2, 2, 2]", "data.val=['seed_0', 'seed_1']",
        "data.train=['seed_2', 'seed_3', 'seed_4', 'seed_5']",
    ]  # fmt: skip
    return override(override(parse_config({"data": {"path": str(data)}}), settings), more)


@pytest.fixture(scope="module")
def staged(seeds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.train(options(seeds), output=tmp_path_factory.mktemp("staged") / "run").folder


def test_a_run_holds_both_stages(staged: Path) -> None:
    """The first stage is a run of its own, half as long; its weights lie beside those of the run."""
    inner = staged / "first_stage"
    assert load_config(inner / "config.toml").train.steps == 2
    card = read_card(staged / "best.safetensors")
    (stage,) = card.stages
    assert stage.card is not None and stage.margin_mm == 3.0
    kept = safetensors.torch.load_file(staged / "first_stage.safetensors")
    trained = safetensors.torch.load_file(inner / "best.safetensors")
    assert kept.keys() == trained.keys()
    assert all(torch.equal(kept[name], trained[name]) for name in kept)
    steps = {s["kind"]: s for s in stage.card.preprocess.steps}
    assert steps["resample"]["spacing_xyz"] == [2.0, 2.0, 2.0]
    assert steps["normalise"] == {s["kind"]: s for s in card.preprocess.steps}["normalise"]
    text = (staged / "report.html").read_text(encoding="utf-8")
    assert "<h2>First stage</h2>" in text and 'href="first_stage/report.html"' in text
    plan = json.loads((staged / "plan.json").read_text())
    assert plan["choices"]["first_stage"]["value"]["margin_mm"] == 3.0
    assert plan["fingerprint"] == json.loads((inner / "plan.json").read_text())["fingerprint"]


def test_a_run_looks_where_its_stages_do(staged: Path, seeds: Path) -> None:
    """Training regions hold the labels and what the first stage finds, validation regions the latter alone."""
    regions = json.loads((staged / "regions.json").read_text())["regions"]
    coarse = NetworkModel.from_files(
        [staged / "first_stage.safetensors"], device="cpu", precision="fp32"
    )
    assert list(regions) == [f"seed_{i}" for i in (2, 3, 4, 5, 0, 1)]
    for name, region in regions.items():
        scan = ctseg.read(seeds / "imagesTr" / f"{name}.nii.gz")
        label = ctseg.read(seeds / "labelsTr" / f"{name}.nii.gz").array
        found = find_region(coarse, scan_of(scan), margin_mm=3.0)
        boxes = [] if found is None else [np.array(found)]
        if name in ("seed_2", "seed_3", "seed_4"):
            at = np.argwhere(label)
            margin = np.ceil(3.0 / np.array(scan.geometry.spacing_zyx))
            low = np.maximum(at.min(0) - margin, 0)
            boxes.append(np.stack([low, np.minimum(at.max(0) + 1 + margin, label.shape)], 1))
        if name == "seed_5" and found is None:  # a healthy scan, whose labels say nothing
            boxes.append(np.stack([(0, 0, 0), label.shape], 1))
        if not boxes:
            assert region is None
            continue
        low = np.min([box[:, 0] for box in boxes], 0)
        high = np.max([box[:, 1] for box in boxes], 0)
        assert region == [[int(a), int(b)] for a, b in zip(low, high, strict=True)]


def test_the_entry_predicts_as_its_stages_one_after_the_other(
    staged: Path, seeds: Path, tmp_path: Path
) -> None:
    entry = publish(staged, tag="seeds_v1", dtype="fp32", zoo=tmp_path / "zoo")
    assert {path.name for path in entry.folder.iterdir()} == {
        "README.md", "card.json", "first_stage.safetensors", "probe.safetensors", "weights.safetensors",
    }  # fmt: skip
    (check,) = verify([entry.name], tmp_path / "zoo")
    assert check.sound and not check.notes
    model = ctseg.load(entry.name, zoo=tmp_path / "zoo", device="cpu", precision="fp32")
    run = ctseg.load(staged, device="cpu", precision="fp32")
    for case in validation_cases(staged)[1]:
        volume = load_image(case)
        by_hand = one_after_the_other(entry.folder, volume)
        assert np.array_equal(model.predict(volume).array, by_hand)
        assert np.array_equal(run.predict(volume).array, by_hand)
        model.predict_file(case.images[0].path, tmp_path / "masks" / f"{case.id}.nii.gz")
    report = evaluate(tmp_path / "masks", seeds, cases=["seed_0", "seed_1"])
    assert entry.card().metrics.dice == pytest.approx(report.dice, abs=0)
    # a published first stage is a model by itself
    alone = ctseg.load(entry.folder / "first_stage.safetensors", device="cpu")
    assert not isinstance(alone.model, Cascade)
    stage = CoarseStage(model=entry.name)
    with pytest.raises(BadInput, match="a first stage of its own"):
        publish(staged, tag="two", stages=[stage], zoo=tmp_path / "zoo", measure=False)


def one_after_the_other(
    entry: Path, volume: ctseg.Volume, members: Sequence[str] = ("weights",)
) -> Any:
    """What the two networks of an entry predict: the second on a copy of the box that the first one's labels fill."""
    firsts = ["first_stage" if name == "weights" else f"first_stage_{name}" for name in members]
    first, second = (
        Segmenter.from_files(
            [entry / f"{name}.safetensors" for name in names], device="cpu", precision="fp32"
        )
        for names in (firsts, members)
    )
    out = np.zeros(volume.geometry.shape_zyx, np.uint8)
    at = np.argwhere(first.predict(volume).array)
    if not len(at):
        return out
    margin_mm = second.card.stages[0].margin_mm
    margin = np.ceil(margin_mm / np.array(volume.geometry.spacing_zyx)).astype(int)
    box = tuple(
        slice(max(a - m, 0), b + 1 + m)
        for a, b, m in zip(at.min(0), at.max(0), margin, strict=True)
    )
    grid = volume.geometry
    part = ctseg.Volume.from_array(
        volume.czyx[0][box], spacing_xyz=grid.spacing_xyz, direction=grid.direction
    )
    out[box] = second.predict(part).array
    return out


def test_weights_of_another_first_stage_are_refused(staged: Path, tmp_path: Path) -> None:
    for file in ("best.safetensors", "first_stage.safetensors", "config.toml"):
        shutil.copy(staged / file, tmp_path / file)
    shutil.copy(staged / "best.safetensors", tmp_path / "first_stage.safetensors")
    with pytest.raises(CorruptWeights, match="another first stage"):
        ctseg.load(tmp_path, device="cpu")
    with pytest.raises(CorruptWeights, match="another first stage"):
        publish(tmp_path, tag="wrong", measure=False)
    (tmp_path / "first_stage.safetensors").unlink()
    with pytest.raises(FileProblem, match=r"first_stage\.safetensors does not exist"):
        ctseg.load(tmp_path, device="cpu")


def test_several_processes_train_without_one(seeds: Path) -> None:
    team: Any = SimpleNamespace(size=2)
    with pytest.raises(BadInput, match="2 were started"):
        training._alone(options(seeds), team)
    assert training._alone(options(seeds, "first_stage.use=auto"), team).first_stage.use == "off"
    assert training._alone(options(seeds), None).first_stage.use == "on"


class Stopping(Silent):
    """Presses Ctrl-C when a text is said."""

    def __init__(self, at: str) -> None:
        self.at = at

    def say(self, text: str) -> None:
        if text.startswith(self.at):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, even if the tests were started in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["step 4/8", "step 8/16", "Second stage"])
def test_a_run_stopped_in_either_stage_equals_one_left_alone(
    at: str, seeds: Path, tmp_path: Path, ctrl_c: None
) -> None:
    length = ["train.steps=16", "train.steps_per_epoch=4", "model.options.dropout=0.2"]
    alone = training.train(options(seeds, *length), output=tmp_path / "alone").folder
    with pytest.raises(KeyboardInterrupt):
        training.train(options(seeds, *length), output=tmp_path / "stopped", reporter=Stopping(at))
    began = (tmp_path / "stopped" / "last").exists()
    assert began == (at == "step 8/16")
    done = training.train(options(seeds), output=tmp_path / "stopped", resume=True)
    assert done.steps == 16
    for file in ("last/state.safetensors", "first_stage/last/state.safetensors"):
        one, two = (safetensors.torch.load_file(run / file) for run in (alone, done.folder))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    regions = [json.loads((run / "regions.json").read_text()) for run in (alone, done.folder)]
    assert regions[0] == regions[1]
    # a finished first stage is not touched again
    stamp = (done.folder / "first_stage" / "log.jsonl").stat().st_mtime_ns
    training.train(options(seeds), output=done.folder, resume=True)
    assert (done.folder / "first_stage" / "log.jsonl").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_time_budget_is_shared(seeds: Path, tmp_path: Path) -> None:
    config = options(seeds, "train.time=24s", "train.steps_per_epoch=null")
    run = training.train(config, output=tmp_path / "run").folder
    budgets = []
    for folder in (run / "first_stage", run):
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        budgets.append(lines[-1]["budget_seconds"])
        assert lines[-1]["kind"] == "outcome"
    assert budgets == [12.0, 24.0]  # half of it, and the whole of which the first half is spent


@pytest.mark.slow
def test_folds_behind_their_first_stages_make_one_entry(seeds: Path, tmp_path: Path) -> None:
    """Each member is measured behind its own first stage; the entry looks where their mean finds something."""
    config = options(
        seeds, "data.train=[]", "data.val=[]", "data.folds=2", "train.steps=200", "train.steps_per_epoch=100",
        "train.lr=0.01",
    )  # fmt: skip
    folder, report = train_folds(config, output=tmp_path / "folds")
    entry = publish(folder, tag="folds", dtype="fp32", zoo=tmp_path / "zoo")
    files = {path.name for path in entry.folder.glob("*.safetensors")}
    assert files == {
        "fold0.safetensors", "fold1.safetensors", "first_stage_fold0.safetensors",
        "first_stage_fold1.safetensors", "probe.safetensors",
    }  # fmt: skip
    assert verify([entry.name], tmp_path / "zoo")[0].sound
    card = entry.card()
    assert card.metrics.cases == 6
    # the validations of the runs, behind the same stages
    assert card.metrics.mean_dice == pytest.approx(report.mean_dice, abs=0.02)
    model = ctseg.load(entry.name, zoo=tmp_path / "zoo", device="cpu", precision="fp32")
    assert isinstance(model.model, Cascade)
    assert len(model.model.stages[0].model.networks) == 2
    runs = [folder / "fold0", folder / "fold1"]
    pair = ctseg.load(runs, device="cpu", precision="fp32")
    volume = ctseg.read(seeds / "imagesTr" / "seed_0.nii.gz")
    label = ctseg.read(seeds / "labelsTr" / "seed_0.nii.gz").array
    for mask in (model.predict(volume).array, pair.predict(volume).array):
        assert 2 * (mask & label).sum() / (mask.sum() + label.sum()) > 0.7
    region = find_region(model.model.stages[0].model, scan_of(volume), margin_mm=3.0)
    assert region is not None
    assert np.prod([b - a for a, b in region]) < 0.5 * label.size
    by_hand = one_after_the_other(entry.folder, volume, members=("fold0", "fold1"))
    assert np.array_equal(model.predict(volume).array, by_hand)
    for fold, run in enumerate(runs):
        alone = ctseg.load(
            entry.name, zoo=tmp_path / "zoo", fold=fold, device="cpu", precision="fp32"
        )
        assert len(alone.model.networks) == len(alone.model.stages[0].model.networks) == 1
        own = ctseg.load(run, device="cpu", precision="fp32").predict(volume).array
        assert np.array_equal(alone.predict(volume).array, own)
