"""`ctseg train --fold all`: cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctseg.cli import ui
from ctseg.cli.signals import signals_raise
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.config import RunConfig

ALL = "all"


def parse_fold(text: str | None) -> tuple[int | None, bool]:
    """The number of a fold, and whether all of them are meant.

    Raises:
        BadInput: neither a number nor `all`.
    """
    if text is None or text == ALL:
        return None, text == ALL
    if not text.isdecimal():
        raise BadInput(
            f"'{text}' is no fold.", hint="Give its number, 0 for the first, or all: --fold all"
        )
    return int(text), False


def resumes_series(folder: Path | None) -> bool:
    """Whether a folder holds folds that `--fold all` began."""
    from ctseg.engine.training.cross_validation.folds import is_series

    return folder is not None and is_series(folder)


def train(
    config: RunConfig, output: Path | None, *, resume: bool, overwrite: bool, as_json: bool
) -> None:
    """Train every fold and print the validations of all of them as one table."""
    from ctseg.cli.scores import print_report
    from ctseg.engine.training.cross_validation.folds import train_folds
    from ctseg.metrics.bootstrap import BootstrapSample

    with signals_raise("SIGUSR1"), ui.progress("Training") as bar:
        folder, report = train_folds(
            config,
            output=output,
            resume=resume,
            overwrite=overwrite,
            reporter=bar,
        )
    if as_json:
        ui.print_json({"runs": folder, **report.to_dict(BootstrapSample())})
        return
    print_report(report, cases=False, resampling=BootstrapSample())
    ui.show(f"Runs: {folder}")
    ui.show(f"Report: {folder / 'report.html'}")
    ui.show(f"Next: ctseg zoo publish {folder} --tag NAME")
