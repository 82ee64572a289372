"""`ctseg tune`: a search for better settings of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options.settings import PANEL

RUNS = 20
"""Trials that fit into the time by default."""


def tune(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]", help="Data set, or run file (.toml); none to go on.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the search.", show_default=False)
    ] = Path("tuning"),
    time: Annotated[
        str, typer.Option("--time", metavar="8h", help="Time for the whole search.", show_default=False)
    ] = "8h",
    run_time: Annotated[
        str | None,
        typer.Option("--run-time", metavar="20m", help="Time for each trial (default: a twentieth)."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", min=1, help="Most trials.")
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option("--fold", metavar="N", min=0, help="Fold whose validation cases are kept out (default: 0)."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", metavar="FILE", help="What to search for (TOML).")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Database of the search (default: a file in the folder)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the run file; it is fixed.", rich_help_panel=PANEL),
    ] = None,
    device: ui.DeviceOption = "auto",
    as_json: ui.JsonOption = False,
) -> None:  # fmt: skip
    """Search for better settings of a training: width, normalisation, learning rate, batch, loss and patch."""
    from ctseg.cli.signals import signals_raise
    from ctseg.cli.train import configure
    from ctseg.config import parse_duration
    from ctseg_optuna.ranking import of_plan, ranking
    from ctseg_optuna.search import BEST, PAGE, best_of, search
    from ctseg_optuna.start import Search

    seconds = parse_duration(time)
    if run_time is not None:
        parse_duration(run_time)
    own = None if device == "auto" else device
    config = None
    if source is not None:
        each = run_time or f"{max(1, round(seconds / RUNS))}s"
        given = {"train.time": each, "data.fold": fold, "train.device": own}
        config = configure(source, given, settings or [])
    how = Search(output, seconds, run_time, trials, space, storage, tuple(settings or ()), own)
    with signals_raise("SIGUSR1"), ui.progress("Searching") as bar:
        study = search(config, how, bar)
    best = best_of(study)
    if as_json:
        ui.print_json({
            "folder": output, "trials": len(study.get_trials(deepcopy=False)),
            "best": None if best is None else best.first.number, "score": None if best is None else best.mean,
            "seeds": None if best is None else len(best.scores),
        })  # fmt: skip
        return
    if best is None:
        ui.show("No trial was completed.")
        raise typer.Exit(1)
    ui.show(f"Best: trial {best.first.number}, score {best}")
    plan = of_plan(ranking(study.get_trials(deepcopy=False)))
    if plan is not None:
        same = plan.first.number == best.first.number
        ui.show("That is the plan." if same else f"The plan, trial {plan.first.number}: {plan}")
    ui.show(f"Page: {output / PAGE}")
    ui.show(f"Next: ctseg train {output / BEST} -o runs/tuned")
