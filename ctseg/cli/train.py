"""`ctseg train`: trains a model from a data set or a run file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg import machine
from ctseg.cli import folds, ui
from ctseg.cli.options import axes, completion
from ctseg.cli.options.data import HiddenGridTolerance, parse_options
from ctseg.cli.signals import signals_raise
from ctseg.errors import BadInput, FileProblem

if TYPE_CHECKING:
    from ctseg.config import RunConfig
    from ctseg.engine.training.job import RunResult

EXAMPLES = (
    "ctseg train DATA --fold 0 --time 20m -o runs/first",
    "ctseg train DATA --fold all --init unet3d.hippocampus_v1 --epochs 50",
    "ctseg train run.toml --set augment.rotation=0.5",
    "ctseg train --resume -o runs/first",
)
DATA, TRAINING = "Data and network", "Training"


def train(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Data sets, or a run file (.toml).", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Run folder.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the run file."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an existing run.")] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="New, later end of a resumed run.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run.")
    ] = False,
    as_json: ui.JsonOption = False,
    fold: Annotated[
        str | None,
        typer.Option(
            "--fold",
            metavar="N",
            help="Validation fold; all trains every fold.",
            rich_help_panel=DATA,
        ),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(
            "--reader",
            metavar="NAME",
            help="Layout of the data set.",
            autocompletion=completion.readers,
            rich_help_panel=DATA,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Option of the reader (repeatable).",
            rich_help_panel=DATA,
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            "--spacing",
            metavar=axes.XYZ,
            help="Target spacing in mm; 0 keeps an axis.",
            rich_help_panel=DATA,
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            "-a",
            metavar="NAME",
            help="Network architecture.",
            autocompletion=completion.architectures,
            rich_help_panel=DATA,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="NAME",
            help="Model to begin with: zoo name or path.",
            autocompletion=completion.models,
            rich_help_panel=DATA,
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            "--freeze",
            metavar="PATTERN",
            help="Parameters to keep, e.g. 'encoder.*'.",
            rich_help_panel=DATA,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="NAME",
            help="Loss.",
            autocompletion=completion.losses,
            rich_help_panel=DATA,
        ),
    ] = None,
    patch: Annotated[
        str | None,
        typer.Option("--patch", metavar=axes.ZYX, help="Patch in voxels.", rich_help_panel=DATA),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time", metavar="20m", help="Time for a run (each fold).", rich_help_panel=TRAINING
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", metavar="N", min=1, help="Number of epochs.", rich_help_panel=TRAINING
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            min=1,
            help="Number of optimizer steps.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            metavar="N",
            min=1,
            help="Epochs without improvement before stopping.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Patches per step.", rich_help_panel=TRAINING
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", metavar="RATE", help="Learning rate.", rich_help_panel=TRAINING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            help="Seed of all random numbers.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    grid_tolerance: HiddenGridTolerance = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="Device: auto, cpu, cuda, cuda:1 or mps.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="TYPE",
            help="Precision: auto, fp32, bf16 or fp16.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
) -> None:
    """Train a model; missing settings are planned from the data and the device."""
    from ctseg.config import LENGTHS
    from ctseg.engine.training.run import train as run

    source, further = (sources[0], sources[1:]) if sources else (None, [])
    number, every = folds.parse_fold(fold)
    resumed = (output or source) if resume else None
    every = every or folds.resumes_series(resumed)
    if every and extend:
        raise BadInput(
            "--extend makes one run longer, not a series of folds.",
            hint=f"Extend each fold: ctseg train --resume {resumed or 'RUNS'}/fold0 --extend --steps 9000",
        )
    given: dict[str, Any] = {
        "train.epochs": epochs, "train.steps": steps, "train.time": time,
        "train.patch_zyx": None if patch is None else axes.numbers(patch, int),
        "preprocess.spacing_xyz": None if spacing is None else axes.numbers(spacing, float, "xyz"),
        "train.batch_size": batch_size, "train.lr": lr, "train.patience": patience,
        "train.device": device, "train.precision": precision,
        "model.architecture": architecture, "model.init": init, "loss.name": loss,
        "train.freeze": freeze or None,
        "data.fold": number, "data.reader": reader, "seed": seed,
        "data.options": parse_options(option) if option else None,
        "data.grid_tolerance": grid_tolerance, "data.also": [str(path) for path in further] or None,
    }  # fmt: skip
    length = {name: given[f"train.{name}"] for name in LENGTHS}
    length = {name: value for name, value in length.items() if value is not None}
    if resume:
        kept = {**given, "train.device": None} if every else given
        _check_resumed(kept, settings or [], extend=extend)
        if overwrite:
            raise BadInput(
                "--resume and --overwrite contradict each other.", hint="Leave one of them out."
            )
        if output is not None and source is not None:
            raise BadInput(
                f"A resumed run keeps its data set; {source} has no effect.",
                hint=f"Leave it out: ctseg train --resume {output}",
            )
        output = output or source
        from ctseg.config import RunConfig

        config = RunConfig.model_validate({"train": {"device": device or "auto"}})
    else:
        config = configure(source, given, settings or [])
    if every:
        _check_single_process()
        folds.train(config, output, resume=resume, overwrite=overwrite, as_json=as_json)
        return
    leads = machine.process_rank() == 0
    with signals_raise("SIGUSR1"), ui.progress("Training", shown=leads) as bar:
        result = run(
            config,
            output=output,
            resume=resume,
            overwrite=overwrite,
            reporter=bar,
            extend=length if extend else None,
        )
    if not leads:
        return
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
    ui.show(f"Report: {result.folder / 'report.html'}")
    ui.show(f"Next: ctseg zoo publish {result.folder} --tag NAME")


def _check_resumed(given: dict[str, Any], settings: list[str], *, extend: bool) -> None:
    """Refuse options that a resumed run cannot take.

    Raises:
        BadInput: with the option, and where it is a length with the way to a longer run.
    """
    from ctseg.config import LENGTHS

    lengths = [f"train.{name}" for name in LENGTHS]
    others = [k for k, v in given.items() if v is not None and not (extend and k in lengths)]
    others += settings
    if others:
        longer = others[0].partition("=")[0].strip() in lengths
        raise BadInput(
            f"A resumed run keeps its settings; {others[0]} cannot be changed.",
            hint="Make the run longer with --extend and --steps, --epochs or --time."
            if longer
            else "Start a new run with -o, or leave the option out.",
        )


def _check_single_process() -> None:
    """Reject several processes for several folds, which are runs of their own."""
    size = os.environ.get("WORLD_SIZE", "1")
    if all(os.environ.get(name) for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")) and size != "1":
        raise BadInput(
            f"{size} processes were started for --fold all; they train one fold together.",
            hint="Name a fold (--fold 0), or start it without torchrun: --fold all --device cuda:0,cuda:1",
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


def configure(
    source: Path | None, given: dict[str, Any], settings: list[str], *, any_length: bool = False
) -> RunConfig:
    """The configuration from a run file or a data set, overridden by the options and settings.

    Args:
        any_length: whether the length of the training may be missing, as in a plan.
    """
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
    changes = {k: v for k, v in given.items() if v is not None}
    lengths = [name for name in LENGTHS if f"train.{name}" in changes]
    if len(lengths) > 1:
        raise BadInput(
            f"--{lengths[0]} and --{lengths[1]} both say how long to train.",
            hint="Give one of them.",
        )
    if lengths:  # the option replaces any length in the run file
        data["train"] |= dict.fromkeys(LENGTHS)
    if "data.options" in changes:
        changes["data.options"] = {**config.data.options, **changes["data.options"]}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (data[section] if section else data)[name] = value
    checked: RunConfig = parse_config(data, where="the options")
    checked = override(checked, settings)
    if not (any_length or any(getattr(checked.train, name) for name in LENGTHS)):
        raise BadInput(
            "The length of the training is missing.",
            hint="Give --time 30m, --epochs 100 or --steps 5000.",
        )
    if checked.model.init:
        from ctseg.zoo.resolve import weight_file

        init = {"init": str(weight_file(checked.model.init))}
        checked = checked.model_copy(update={"model": checked.model.model_copy(update=init)})
    if checked.preprocess.steps and checked.preprocess.spacing_xyz is not None:
        raise BadInput(
            "The run file lists its preprocessing steps, so a target spacing has no effect.",
            hint="Change the spacing of the step 'resample', or plan the steps again: --set preprocess.steps=[]",
        )
    return checked
