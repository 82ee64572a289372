"""`ctseg demo`: the whole path, from scans to a published model and back, told command by command."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui
from ctseg.cli.options.spellings import respelled
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.metrics.report import Report
    from ctseg.specs import Case
    from ctseg.volume.volume import Volume

EXAMPLES = (
    "ctseg demo",
    "ctseg demo -o elsewhere --time 10m",
    "ctseg demo --data Task09_Spleen -o spleen-demo --time 30m",
)
Command = respelled(MappingProxyType({"--cases": "--phantoms {}"}))
TAG = "demo"
UNSEEN = 5
SHOWN = 3
"""So many unseen scans get into the pictures."""
SETTINGS = "demo.json"


@dataclass(frozen=True)
class DemoFolders:
    """The folder of a demonstration and what is where in it."""

    folder: Path
    data: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def zoo(self) -> Path:
        return self.folder / "zoo"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of all results.")
    ] = Path("demo"),
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DATA", help="Data set to use instead of phantoms."),
    ] = None,
    budget: Annotated[
        str, typer.Option("--time", metavar="20m", help="Time for the training.")
    ] = "3m30s",
    cases: Annotated[
        int, typer.Option("--phantoms", metavar="N", min=5, help="Number of phantoms.")
    ] = 20,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of all random numbers.")
    ] = 0,
    device: ui.DeviceOption = "auto",
) -> None:
    """Go the whole way once: train, publish, predict scans never seen, evaluate, and look at it.

    It takes five minutes on two CPU cores with CT phantoms. Called again, it continues.
    """
    begun = time.monotonic()
    _claim(output, {"data": data, "time": budget, "cases": cases, "seed": seed})
    own = data is not None
    stage = DemoFolders(output, output / "data" if data is None else data)
    if not own:
        _make_phantoms(stage.data, cases, seed)
    _inspect(stage)
    _train(stage, budget, seed, device)
    model = _publish(stage, own_data=own)
    predicted = _predict(stage, model, device, own_data=own)
    report = _evaluate(stage, own_data=own)
    pictures = _draw(stage, predicted, own_data=own)
    ui.say()
    _final_table(stage, report, own_data=own)
    ui.show()
    ui.show("Look at:")
    for picture in pictures:
        ui.show(f"  {picture}")
    minutes = (time.monotonic() - begun) / 60
    ui.say(f"\nDone in {minutes:.1f} minutes. The model is {model} in {stage.zoo}; use it:")
    _command("predict", "SCAN", "-m", model, "--zoo", stage.zoo, "-o", "mask.nii.gz")


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Note what this folder is made with; another call may go on with the same settings only.

    Raises:
        BadInput: the folder holds something else, or a demonstration with other settings.
    """
    from ctseg.config import parse_duration
    from ctseg.files import disk_errors, write_text

    try:
        parse_duration(settings["time"])
    except ValueError as error:
        raise BadInput(f"--time: {error}.") from error
    plain = ui.plain(settings)
    file = folder / SETTINGS
    elsewhere = "Choose another folder with -o, or remove this one."
    with disk_errors(folder):
        if file.is_file():
            try:
                found = dict(json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                raise BadInput(f"{file} is damaged.", hint=elsewhere) from None
            different = [key for key in plain if found.get(key) != plain[key]]
            if different:
                told = ", ".join(f"{key} {found.get(key)}" for key in different)
                raise BadInput(f"{folder} holds a demonstration made with {told}.", hint=elsewhere)
            return
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(f"{folder} holds something else.", hint=elsewhere)
    write_text(file, json.dumps(plain, indent=2) + "\n")


def _step(number: int, title: str) -> None:
    ui.say(f"\n{number}. {title}", style="bold")


def _command(*words: object) -> None:
    ui.say(f"   $ ctseg {shlex.join(map(str, words))}", style="cyan")


def _make_phantoms(folder: Path, cases: int, seed: int) -> None:
    from ctseg.data.phantom import write_phantom_dataset

    _step(0, "Make up scans: CT phantoms of a child's trunk, no two alike")
    if (folder / "dataset.json").is_file():
        ui.say(f"   They are in {folder} already.")
        return
    with ui.progress("Making phantoms") as bar:
        write_phantom_dataset(folder, cases=cases, unseen=UNSEEN, seed=seed, progress=bar.update)
    ui.say(f"   {cases} to train and validate on, {UNSEEN} that nobody trains on, in {folder}")


def _inspect(stage: DemoFolders) -> None:
    from ctseg.data.readers.find import open_dataset

    _step(1, "Look at the data set")
    _command("data", "inspect", stage.data)
    found = open_dataset(stage.data)
    labels = (
        ", ".join(label.name for label in found.task.foreground) if found.task else "found later"
    )
    ui.say(
        f"   {found.name} ({found.reader}): {len(found.cases)} labelled scans, {len(found.unlabelled)} "
        f"without labels; {', '.join(found.channels)}; labels: {labels}"
    )
    if len(found.cases) < 2:
        raise BadInput(
            f"{stage.data} holds {len(found.cases)} labelled scan(s); the demonstration needs two at least.",
            hint=f"One volume alone can be trained on: ctseg train {stage.data} --time 20m -o runs/first",
        )


def _train(stage: DemoFolders, budget: str, seed: int, device: str) -> None:
    from ctseg.cli.train import BarReporter
    from ctseg.config import DataConfig, RunConfig, TrainConfig
    from ctseg.engine.training.run import train

    _step(
        2, "Train: what nobody decided is planned, whole scans validate, the best weights are kept"
    )
    words: list[object] = ["train", stage.data, "-o", stage.run, "--fold", 0, "--time", budget]
    words += ["--seed", seed] if seed else []
    words += ["--device", device] if device != "auto" else []
    started = (stage.run / "config.toml").is_file()
    _command(*(["train", "--resume", stage.run] if started else words))
    config = RunConfig(
        seed=seed,
        data=DataConfig(path=str(stage.data), fold=0),
        train=TrainConfig(time=budget, device=device),
    )
    with ui.progress("Training") as bar:
        result = train(config, output=stage.run, resume=started, reporter=BarReporter(bar))
    if result.mean_dice is not None:
        ui.say(f"   mean Dice {result.mean_dice:.4f} on the scans that validate")


def _publish(stage: DemoFolders, *, own_data: bool) -> str:
    from ctseg.engine.model.weights_header import read_card
    from ctseg.zoo.publish import publish

    _step(
        3,
        "Publish: weights without pickle, and a card with all that is needed to use and judge them",
    )
    words: list[object] = ["zoo", "publish", stage.run, "--tag", TAG, "--zoo", stage.zoo]
    licence = ""
    if own_data and not read_card(stage.run / "best.safetensors").training_data.licence:
        licence = "not for distribution"  # the data set names none, and nobody was asked
        words += ["--licence", licence]
    _command(*words)
    entry = publish(stage.run, tag=TAG, zoo=stage.zoo, licence=licence, overwrite=True)
    ui.say(f"   {entry.name}, {entry.size() / 2**20:.1f} MiB, in {entry.folder}")
    return entry.name


def _unseen(stage: DemoFolders, *, own_data: bool) -> tuple[Case, ...]:
    """The scans that took no part in training, with their labels."""
    from ctseg.data.readers.find import open_dataset
    from ctseg.data.splits import fold_cases
    from ctseg.engine.evaluation.matching import find_pairs
    from ctseg.specs import Case

    if own_data:
        found = open_dataset(stage.data)
        validation = set(fold_cases(found, 0)[1])
        return tuple(case for case in found.cases if case.id in validation)
    pairs = find_pairs(stage.data / "imagesTs", stage.data / "labelsTs").pairs
    return tuple(Case(p.case, (p.prediction,), p.reference) for p in pairs)


def _predict(stage: DemoFolders, model: str, device: str, *, own_data: bool) -> dict[str, Path]:
    """The predicted files by case."""
    from ctseg.engine.prediction.folder import predict_folder
    from ctseg.engine.prediction.inputs import find_items
    from ctseg.engine.prediction.request import Request
    from ctseg.zoo.load import load_model

    _step(4, "Predict scans that it never saw, by name")
    scans = [stage.data, "--fold", 0] if own_data else [stage.data / "imagesTs"]
    _command("predict", *scans, "-m", model, "--zoo", stage.zoo, "-o", stage.predictions)
    loaded = load_model(model, device, zoo=stage.zoo)
    items = find_items(
        [str(scans[0])], channels=loaded.card.in_channels, fold=0 if own_data else None
    )
    with ui.progress("Predicting", total=len(items)) as bar:
        summary = predict_folder(
            loaded,
            items,
            Request(stage.predictions),
            on_progress=lambda done, total, name: bar.update(round(done, 1), total, name),
        )
    for error in summary.failed.values():
        raise error
    seconds = sum(record["seconds"] for record in summary.done) / len(summary.done)
    ui.say(f"   {len(summary.done)} scans, {seconds:.1f} s each, in {stage.predictions}")
    return {record["case"]: Path(record["output"]) for record in summary.done}


def _evaluate(stage: DemoFolders, *, own_data: bool) -> Report:
    from ctseg.engine.evaluation.evaluate import evaluate

    _step(5, "Evaluate: each scan and label, in the geometry of the source")
    reference = stage.data if own_data else stage.data / "labelsTs"
    _command("evaluate", stage.predictions, reference, *(["--fold", 0] if own_data else []))
    cases = [case.id for case in _unseen(stage, own_data=own_data)]
    report = evaluate(stage.predictions, reference, cases=cases)
    for case in report.cases:
        if case.mean_dice is not None:
            ui.say(f"   {case.case}: mean Dice {case.mean_dice:.4f}")
    return report


def _draw(stage: DemoFolders, predicted: dict[str, Path], *, own_data: bool) -> list[Path]:
    from ctseg.data.load import load_image, load_label
    from ctseg.engine.model.weights_header import read_card
    from ctseg.report.overlay import Panel, draw_montage, draw_overlay
    from ctseg.volume.io import read

    task = read_card(stage.run / "best.safetensors").task.task()
    panels = []
    for case in _unseen(stage, own_data=own_data)[:SHOWN]:
        scan = load_image(case)
        layers = {"reference": load_label(case, task, scan), "prediction": read(predicted[case.id])}
        panels.append(Panel(case.id, scan, layers))
    first = panels[0]
    pictures = [stage.pictures / "unseen.png", stage.pictures / f"{first.title}.png"]
    draw_montage(panels, task, pictures[0], plane="axial" if own_data else "coronal")
    draw_overlay(first.volume, first.layers, task, pictures[1], title=first.title)
    return [*pictures, stage.run / "curves.png"]


def _final_table(stage: DemoFolders, report: Report, *, own_data: bool) -> None:
    """Dice of each label beside what the best Hounsfield interval reaches, where there are Hounsfield units."""
    thresholds = _thresholds(stage, _unseen(stage, own_data=own_data))
    rows: list[tuple[object, ...]] = []
    for label, dice in report.dice.items():
        best = thresholds.get(label)
        interval = f"{best.low} to {best.high} HU" if best else ""
        rows.append((label, dice, best.dice if best else None, interval))
    mean = sum(t.dice for t in thresholds.values()) / len(thresholds) if thresholds else None
    rows.append(("mean", report.mean_dice, mean, ""))
    title = f"Dice on {len(report.cases)} scans never trained on"
    if thresholds:
        ui.table(("label", "model", "best threshold", "which"), rows, title=title)
    else:
        ui.table(("label", "model"), [row[:2] for row in rows], title=title)


def _thresholds(stage: DemoFolders, cases: Sequence[Case]) -> dict[str, Any]:
    """The best interval for each label, chosen on the scans that trained; none where it would mean nothing."""
    from ctseg.config import load_config
    from ctseg.data.load import load_image, load_label
    from ctseg.data.readers.find import open_dataset
    from ctseg.data.splits import depths, split
    from ctseg.data.threshold_baseline import threshold_baseline
    from ctseg.volume.volume import Volume

    found = open_dataset(stage.data)
    config = load_config(stage.run / "config.toml")
    assert config.task is not None
    task = config.task.task()
    if found.channels != ("CT",) or task.kind != "classes":
        return {}

    def pairs(which: Sequence[Case]) -> Iterator[tuple[Volume, Volume]]:
        for case in which:
            scan = load_image(case)
            yield Volume(scan.czyx[0], scan.geometry), load_label(case, task, scan)

    training, _ = split(found, config.data, depths(found))
    return threshold_baseline(pairs(training), pairs(cases), {i.name: i.value for i in task.labels})
