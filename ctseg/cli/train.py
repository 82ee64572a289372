"""`ctseg train`: from a data set or a run file to a trained model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ctseg.cli import ui
from ctseg.cli.data_options import GridToleranceOption, OptionOption, parse_options
from ctseg.errors import BadInput, FileProblem

if TYPE_CHECKING:
    from ctseg.config import RunConfig
    from ctseg.engine.training.job import RunResult

Number = TypeVar("Number", int, float)

EXAMPLES = (
    "ctseg train DATA --fold 0 --time 20m -o runs/first",
    "ctseg train DATA -a residual_unet3d --epochs 50 --patch 64,96,96",
    "ctseg train run.toml --set augment.rotation=0.5",
    "ctseg train --resume -o runs/first",
)


def train(
    source: Annotated[
        Path | None,
        typer.Argument(help="Data set, or run file (.toml).", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Run folder.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", "-a", metavar="NAME", help="Network.")
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", metavar="NAME", help="Loss.")] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Epochs of train.steps_per_epoch steps.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps.")] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="20m", help="Budget, preparation and validation included."),
    ] = None,
    patch: Annotated[
        str | None, typer.Option("--patch", metavar="Z,Y,X", help="Patch in voxels.")
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option("--spacing", metavar="X,Y,Z", help="Target spacing in mm, 0 keeps an axis."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Patches a step.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", min=1, help="Epochs without gain before a stop.")
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", min=0, help="The fold that validates.")
    ] = None,
    reader: Annotated[
        str | None, typer.Option("--reader", metavar="NAME", help="Layout of the data set.")
    ] = None,
    option: OptionOption = None,
    grid_tolerance: GridToleranceOption = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, mps.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="TYPE", help="auto, fp32, bf16, fp16.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any field of the run file."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in -o.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in -o.")] = False,
    as_json: ui.JsonOption = False,
) -> None:
    """Train a model and keep its best weights by mean foreground Dice over whole validation scans.

    What is not given is planned from the data and the device. Ctrl-C leaves a run that can be resumed.
    """
    _check_alone()
    from ctseg.engine.training.run import train as run

    given: dict[str, Any] = {
        "train.epochs": epochs, "train.steps": steps, "train.time": time,
        "train.patch_zyx": None if patch is None else numbers(patch, int),
        "preprocess.spacing_xyz": None if spacing is None else numbers(spacing, float),
        "train.batch_size": batch_size, "train.lr": lr, "train.patience": patience,
        "train.device": device, "train.precision": precision,
        "model.architecture": architecture, "loss.name": loss,
        "data.fold": fold, "data.reader": reader, "seed": seed,
        "data.options": parse_options(option) if option else None,
        "data.grid_tolerance": grid_tolerance,
    }  # fmt: skip
    if resume:
        others = [k for k, v in given.items() if v is not None] + list(settings or [])
        if others:
            raise BadInput(
                f"A resumed run keeps its settings; {others[0]} cannot be changed.",
                hint="Start a new run with -o, or leave the option out.",
            )
        if overwrite:
            raise BadInput("--resume and --overwrite contradict each other.")
        if output is not None and source is not None:
            raise BadInput(
                f"A resumed run keeps its data set; {source} has no part in it.",
                hint=f"Leave it out: ctseg train --resume {output}",
            )
        output = output or source
        from ctseg.config import RunConfig

        config = RunConfig()
    else:
        config = configure(source, given, settings or [])
    with ui.progress("Training") as bar:
        result = run(
            config, output=output, resume=resume, overwrite=overwrite, reporter=BarReporter(bar)
        )
    if as_json:
        ui.print_json(
            {
                "run": result.folder, "mean_dice": result.mean_dice, "dice": result.dice,
                "scores": result.scores, "steps": result.steps, "seconds": result.seconds,
            }
        )  # fmt: skip
        return
    _show_best(result)
    ui.show(f"Run: {result.folder}")
    ui.show(f"Next: ctseg zoo publish {result.folder} --tag NAME")


def _check_alone() -> None:
    """Refuse several processes, which would all write one run folder."""
    told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]
    if all(told) and told[1] != "1":
        raise BadInput(
            f"Training runs in one process, and {told[1]} were started.",
            hint="Start it without torchrun. Folds can train side by side: --fold 1 --device cuda:1",
        )


def _show_best(result: RunResult) -> None:
    if result.scores:
        names = list(result.scores)
        rows = [
            [s.label, *(s.means.get(n) for n in names), s.cases] for s in result.report.summary()
        ]
        ui.table(["channel", *(n.upper() for n in names), "cases"], rows, title="Best validation")
        return
    rows = [[s.label, s.dice, s.iou, s.cases, s.missed] for s in result.report.summary()]
    ui.table(["label", "Dice", "IoU", "cases", "missed"], rows, title="Best validation")
    mean = result.mean_dice
    ui.show(f"mean Dice {'-' if mean is None else f'{mean:.4f}'}")


def configure(source: Path | None, given: dict[str, Any], settings: list[str]) -> RunConfig:
    """The configuration from a run file or a data set, with the options and settings on top."""
    from ctseg.config import LENGTHS, load_config, override, parse_config

    if source is None:
        raise BadInput(
            "No data set and no run file is named.",
            hint="ctseg train DATA, ctseg train run.toml, or ctseg train --resume -o runs/NAME",
        )
    if source.suffix == ".toml":
        config = load_config(source)
    else:
        import glob

        if not source.exists() and not glob.has_magic(str(source)):
            raise FileProblem(f"{source} does not exist.", hint="Check the path of the data set.")
        config = parse_config({"data": {"path": str(source)}})
    data = config.model_dump(mode="json")
    wanted = {k: v for k, v in given.items() if v is not None}
    lengths = [name for name in LENGTHS if f"train.{name}" in wanted]
    if len(lengths) > 1:
        raise BadInput(
            f"--{lengths[0]} and --{lengths[1]} both say how long to train.",
            hint="Give one of them.",
        )
    if lengths:  # it takes the place of what the run file says
        data["train"] |= dict.fromkeys(LENGTHS)
    if "data.options" in wanted:
        wanted["data.options"] = {**config.data.options, **wanted["data.options"]}
    for key, value in wanted.items():
        section, _, name = key.rpartition(".")
        (data[section] if section else data)[name] = value
    checked: RunConfig = parse_config(data, where="the options")
    checked = override(checked, settings)
    if not any(getattr(checked.train, name) for name in LENGTHS):
        raise BadInput(
            "How long shall it train?", hint="Give --time 30m, --epochs 100 or --steps 5000."
        )
    if checked.preprocess.steps and checked.preprocess.spacing_xyz is not None:
        raise BadInput(
            "The run file names its preprocessing steps, so that a target spacing would change nothing.",
            hint="Change the spacing of the step 'resample', or plan the steps anew: --set preprocess.steps=[]",
        )
    return checked


def numbers(text: str, kind: Callable[[str], Number]) -> tuple[Number, Number, Number]:
    """`64,96,96` as three numbers."""
    try:
        one, two, three = (kind(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise BadInput(
            f"'{text}' does not give three numbers.", hint="Separate them by commas: 64,96,96"
        ) from None
    return one, two, three


class BarReporter:
    """Tells a progress bar."""

    def __init__(self, bar: ui.Progress) -> None:
        self.bar = bar

    def say(self, text: str) -> None:
        self.bar.say(text)

    def update(self, done: float, total: float, text: str) -> None:
        self.bar.update(done, total, text)
