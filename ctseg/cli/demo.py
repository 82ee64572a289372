"""`ctseg demo`: runs the whole workflow, from scans to a published model and its evaluation, command by command."""

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
"""Number of unseen scans in the pictures."""
SETTINGS = "demo.json"


@dataclass(frozen=True)
class DemoFolders:
    """The folders of a demonstration."""

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
    """Run the whole workflow once: train, publish, predict unseen scans, evaluate, and draw pictures.

    Takes five minutes on two CPU cores with CT phantoms. A second call continues.
    """
    begun = time.monotonic()
    _claim(output, {"data": data, "time": budget, "cases": cases, "seed": seed})
    own = data is not None
    folders = DemoFolders(output, output / "data" if data is None else data)
    if not own:
        _make_phantoms(folders.data, cases, seed)
    _inspect(folders)
    _train(folders, budget, seed, device)
    model = _publish(folders, own_data=own)
    predicted = _predict(folders, model, device, own_data=own)
    report = _evaluate(folders, own_data=own)
    pictures = _draw(folders, predicted, own_data=own)
    ui.say()
    _final_table(folders, report, own_data=own)
    ui.show()
    ui.show("Look at:")
    for picture in pictures:
        ui.show(f"  {picture}")
    minutes = (time.monotonic() - begun) / 60
    ui.say(f"\nDone in {minutes:.1f} minutes. The model is {model} in {folders.zoo}; use it:")
    _command("predict", "SCAN", "-m", model, "--zoo", folders.zoo, "-o", "mask.nii.gz")


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Record the settings of this folder; a later call continues only with the same settings.

    Raises:
        BadInput: the folder holds other files, or a demonstration with other settings.
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
                from ctseg.config.checking import parse_json

                recorded = dict(parse_json(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                raise BadInput(f"{file} is damaged.", hint=elsewhere) from None
            different = [key for key in plain if recorded.get(key) != plain[key]]
            if different:
                other = ", ".join(f"{key} {recorded.get(key)}" for key in different)
                raise BadInput(f"{folder} holds a demonstration made with {other}.", hint=elsewhere)
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

    _step(0, "Generate scans: CT phantoms of a child's trunk, no two alike")
    if (folder / "dataset.json").is_file():
        ui.say(f"   They are in {folder} already.")
        return
    with ui.progress("Making phantoms") as bar:
        write_phantom_dataset(folder, cases=cases, unseen=UNSEEN, seed=seed, progress=bar.update)
    ui.say(
        f"   {cases} for training and validation, {UNSEEN} unseen ones for evaluation, in {folder}"
    )


def _inspect(folders: DemoFolders) -> None:
    from ctseg.data.readers.find import open_dataset

    _step(1, "Look at the data set")
    _command("data", "inspect", folders.data)
    dataset = open_dataset(folders.data)
    labels = "read from the label maps in training"
    if dataset.task:
        labels = ", ".join(label.name for label in dataset.task.foreground)
    ui.say(
        f"   {dataset.name} ({dataset.reader}): {len(dataset.cases)} labelled scans, "
        f"{len(dataset.unlabelled)} without labels; {', '.join(dataset.channels)}; labels: {labels}"
    )
    if len(dataset.cases) < 2:
        raise BadInput(
            f"{folders.data} holds {len(dataset.cases)} labelled scan(s); the demonstration needs at least two.",
            hint=f"Train on a single volume: ctseg train {folders.data} --time 20m -o runs/first",
        )


def _train(folders: DemoFolders, budget: str, seed: int, device: str) -> None:
    from ctseg.config import DataConfig, RunConfig, TrainConfig
    from ctseg.engine.training.run import train

    _step(2, "Train: settings are planned, whole scans are validated, the best weights are kept")
    words: list[object] = ["train", folders.data, "-o", folders.run, "--fold", 0, "--time", budget]
    words += ["--seed", seed] if seed else []
    words += ["--device", device] if device != "auto" else []
    started = (folders.run / "config.toml").is_file()
    _command(*(["train", "--resume", folders.run] if started else words))
    config = RunConfig(
        seed=seed,
        data=DataConfig(path=str(folders.data), fold=0),
        train=TrainConfig(time=budget, device=device),
    )
    with ui.progress("Training") as bar:
        result = train(config, output=folders.run, resume=started, reporter=bar)
    if result.mean_dice is not None:
        ui.say(f"   mean Dice {result.mean_dice:.4f} on the validation scans")


def _publish(folders: DemoFolders, *, own_data: bool) -> str:
    from ctseg.engine.model.weights_header import read_card
    from ctseg.zoo.publish import publish

    _step(
        3,
        "Publish: weights without pickle, and a card that describes how to use and judge them",
    )
    words: list[object] = ["zoo", "publish", folders.run, "--tag", TAG, "--zoo", folders.zoo]
    licence = ""
    if own_data and not read_card(folders.run / "best.safetensors").training_data.licence:
        licence = "not for distribution"  # the data set names no licence
        words += ["--licence", licence]
    _command(*words)
    entry = publish(folders.run, tag=TAG, zoo=folders.zoo, licence=licence, overwrite=True)
    ui.say(f"   {entry.name}, {entry.size() / 2**20:.1f} MiB, in {entry.folder}")
    return entry.name


def _unseen(folders: DemoFolders, *, own_data: bool) -> tuple[Case, ...]:
    """The scans outside the training set, with their labels."""
    from ctseg.data.readers.find import open_dataset
    from ctseg.data.splits import fold_cases
    from ctseg.engine.evaluation.matching import find_pairs
    from ctseg.specs import Case

    if own_data:
        dataset = open_dataset(folders.data)
        validation = set(fold_cases(dataset, 0)[1])
        return tuple(case for case in dataset.cases if case.id in validation)
    pairs = find_pairs(folders.data / "imagesTs", folders.data / "labelsTs").pairs
    return tuple(Case(p.case, (p.prediction,), p.reference) for p in pairs)


def _predict(folders: DemoFolders, model: str, device: str, *, own_data: bool) -> dict[str, Path]:
    """The predicted files by case."""
    from ctseg.engine.prediction.folder import Listener, predict_folder
    from ctseg.engine.prediction.inputs import find_items
    from ctseg.engine.prediction.request import Request
    from ctseg.zoo.load import load

    _step(4, "Predict unseen scans with the published model")
    scans = [folders.data, "--fold", 0] if own_data else [folders.data / "imagesTs"]
    _command("predict", *scans, "-m", model, "--zoo", folders.zoo, "-o", folders.predictions)
    loaded = load(model, device, zoo=folders.zoo).model
    items = find_items(
        [str(scans[0])], channels=loaded.card.in_channels, fold=0 if own_data else None
    )
    with ui.progress("Predicting", total=len(items)) as bar:
        summary = predict_folder(
            loaded,
            items,
            Request(folders.predictions),
            listener=Listener(
                on_progress=lambda done, total, name: bar.update(round(done, 1), total, name)
            ),
        )
    for error in summary.failed.values():
        raise error
    seconds = sum(record["seconds"] for record in summary.done) / len(summary.done)
    ui.say(f"   {len(summary.done)} scans, {seconds:.1f} s each, in {folders.predictions}")
    return {record["case"]: Path(record["output"]) for record in summary.done}


def _evaluate(folders: DemoFolders, *, own_data: bool) -> Report:
    from ctseg.engine.evaluation.evaluate import evaluate

    _step(5, "Evaluate: each scan and label, in the geometry of the source")
    reference = folders.data if own_data else folders.data / "labelsTs"
    _command("evaluate", folders.predictions, reference, *(["--fold", 0] if own_data else []))
    cases = [case.id for case in _unseen(folders, own_data=own_data)]
    report = evaluate(folders.predictions, reference, cases=cases)
    for case in report.cases:
        if case.mean_dice is not None:
            ui.say(f"   {case.case}: mean Dice {case.mean_dice:.4f}")
    return report


def _draw(folders: DemoFolders, predicted: dict[str, Path], *, own_data: bool) -> list[Path]:
    from ctseg.data.load import load_image, load_label
    from ctseg.engine.model.weights_header import read_card
    from ctseg.report.overlay import Panel, draw_montage, draw_overlay
    from ctseg.volume.io import read

    task = read_card(folders.run / "best.safetensors").task.task()
    panels = []
    for case in _unseen(folders, own_data=own_data)[:SHOWN]:
        scan = load_image(case)
        layers = {"reference": load_label(case, task, scan), "prediction": read(predicted[case.id])}
        panels.append(Panel(case.id, scan, layers))
    first = panels[0]
    pictures = [folders.pictures / "unseen.png", folders.pictures / f"{first.title}.png"]
    draw_montage(panels, task, pictures[0], plane="axial" if own_data else "coronal")
    draw_overlay(first.volume, first.layers, task, pictures[1], title=first.title)
    return [*pictures, folders.run / "curves.png"]


def _final_table(folders: DemoFolders, report: Report, *, own_data: bool) -> None:
    """Print the Dice of each label next to that of the best Hounsfield interval (for CT)."""
    thresholds = _thresholds(folders, _unseen(folders, own_data=own_data))
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


def _thresholds(folders: DemoFolders, cases: Sequence[Case]) -> dict[str, Any]:
    """The best Hounsfield interval for each label, chosen on the training scans; empty except for classes in CT."""
    from ctseg.config import load_config
    from ctseg.data.load import load_image, load_label
    from ctseg.data.readers.find import open_dataset
    from ctseg.data.splits import depths, split
    from ctseg.data.threshold_baseline import threshold_baseline
    from ctseg.volume.volume import Volume

    dataset = open_dataset(folders.data)
    config = load_config(folders.run / "config.toml")
    assert config.task is not None
    task = config.task.task()
    if dataset.channels != ("CT",) or task.kind != "classes":
        return {}

    def pairs(which: Sequence[Case]) -> Iterator[tuple[Volume, Volume]]:
        for case in which:
            scan = load_image(case)
            yield Volume(scan.czyx[0], scan.geometry), load_label(case, task, scan)

    training, _ = split(dataset, config.data, depths(dataset))
    return threshold_baseline(pairs(training), pairs(cases), {i.name: i.value for i in task.labels})
