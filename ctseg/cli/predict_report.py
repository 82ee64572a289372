"""The summary of `ctseg predict`, and its exit code."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import typer

from ctseg.cli import ui
from ctseg.errors import EXIT_BAD_INPUT, EXIT_FAILED
from ctseg.metrics.units import volume_unit

if TYPE_CHECKING:
    from ctseg.engine.inference.model import Model
    from ctseg.engine.prediction.queue import Summary
    from ctseg.engine.prediction.request import Request

SHOWN_LABELS = 6
"""The table omits volumes of more labels than this; predictions.json has all of them."""
SHOWN_NAMES = 8


def print_summary(
    summary: Summary, model: Model, request: Request, *, scans: int, as_json: bool, debug: bool
) -> None:  # fmt: skip
    """Print results on stdout and failures on stderr.

    Raises:
        typer.Exit: a scan failed: 2 if all scans are bad input, else 1; for a single scan, the code of its error.
    """
    if as_json:
        ui.print_json(_data(summary))
    else:
        _table(summary, model, request)
    if summary.failed:
        _failures(summary, scans, debug=debug)
        raise typer.Exit(_exit_code(summary, scans))


def _data(summary: Summary) -> dict[str, Any]:
    return {
        "cases": summary.done, "skipped": summary.skipped, "missing": summary.missing,
        "failed": {name: error.message for name, error in summary.failed.items()},
    }  # fmt: skip


def _table(summary: Summary, model: Model, request: Request) -> None:
    """A row for each scan with its state, seconds, and the volumes of a few labels."""
    from ctseg.engine.prediction.outputs import written_labels

    names = [label.name for label in written_labels(model.task, request.labels)]
    shown = names if len(names) <= SHOWN_LABELS else []
    sizes = {name: volume_unit(r["volumes_ml"].get(name) for r in summary.done) for name in shown}
    heads = ["", "case", "seconds", *(["uncertainty"] if request.uncertainty else [])]
    heads += [f"{name} {unit.name}" for name, unit in sizes.items()]
    rows: list[list[object]] = [
        ["done", r["case"], r["seconds"]]
        + ([r["uncertainty"]["per_labelled_voxel"]] if request.uncertainty else [])
        + [unit.of(r["volumes_ml"].get(name)) for name, unit in sizes.items()]
        for r in summary.done
    ]
    for what, ids in (("failed", summary.failed), ("missing", summary.missing)):
        rows += [[what, name, *([None] * (len(heads) - 2))] for name in ids]
    if rows:
        ui.table(heads, rows, keys=2)
    for result in summary.done[:SHOWN_NAMES] if request.uncertainty else ():
        slices = ", ".join(map(str, result["uncertainty"]["slices"]["z"])) or "none"
        ui.show(f"{result['case']}: most uncertain slices along z, from 0: {slices}")
    if summary.skipped:
        ui.say(f"{len(summary.skipped)} skipped: their outputs exist.")


def _failures(summary: Summary, scans: int, *, debug: bool) -> None:
    for name, error in summary.failed.items():
        ui.say(f"Error: {name}: {error.message}", style="red")
        if error.hint:
            ui.say(f"  {error.hint}")
        if debug:
            ui.say("".join(traceback.format_exception(error)))
    if summary.missing:
        ids, more = summary.missing[:SHOWN_NAMES], len(summary.missing) - SHOWN_NAMES
        ui.say(
            f"Not predicted for want of disk space: {', '.join(ids)}{f' and {more} more' if more > 0 else ''}."
        )
        ui.say("  Free some space, then continue with --skip-existing.")
    if scans > 1:
        ui.say(f"{len(summary.failed)} of {scans} scans failed.")


def _exit_code(summary: Summary, scans: int) -> int:
    """2 if all scans are bad input, else 1; for a single scan, the code of its error."""
    codes = {error.exit_code for error in summary.failed.values()}
    if scans == 1:
        return codes.pop()
    others = summary.done or summary.skipped or summary.missing
    return EXIT_BAD_INPUT if codes == {EXIT_BAD_INPUT} and not others else EXIT_FAILED
