"""`ctseg evaluate`: predictions against references."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctseg.cli import ui
from ctseg.errors import BadInput, FileProblem

if TYPE_CHECKING:
    from ctseg.metrics.report import Report
    from ctseg.specs import DataSet

EXAMPLES = (
    "ctseg evaluate mask.nii.gz reference.nii.gz",
    "ctseg evaluate predictions/ DATA/labelsTr --csv scores.csv",
    "ctseg evaluate predictions/ DATA --fold 0",
    "ctseg evaluate runs/first",
)


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="Predicted file or folder; or a run, for its own validation.")
    ],
    reference: Annotated[
        Path | None, typer.Argument(help="Reference file, folder or data set.", show_default=False)
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold", min=0, help="Only the cases that validate in this fold of the data set."
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option("--folds", min=2, help="Number of folds where the data set brings none.")
    ] = 5,
    cases: Annotated[
        str | None, typer.Option("--cases", metavar="ID,ID", help="Only these cases.")
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option("--slices", metavar="START:STOP", help="Only these slices along z, e.g. 100:"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Dataset within predicted HDF5 files."),
    ] = None,
    reference_dataset: Annotated[
        str | None,
        typer.Option(
            "--reference-dataset", metavar="NAME", help="Dataset within reference HDF5 files."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a line for each case and label there."),
    ] = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Compare predictions with references: Dice, IoU and volumes for each case and label, and their means.

    A label that is in neither map counts nowhere; one that was missed or invented has Dice 0.
    """
    if reference is None:
        report = _of_run(predictions)
    else:
        from ctseg.engine.evaluate import evaluate as compare

        ids = [i.strip() for i in cases.split(",") if i.strip()] if cases else None
        where: Path | DataSet = reference
        if fold is not None:
            where, ids = _fold(reference, fold, folds, ids)
        with ui.progress("Evaluating") as bar:
            report = compare(
                predictions,
                where,
                cases=ids,
                slices=parse_slices(slices) if slices else None,
                prediction_options={"dataset": dataset} if dataset else None,
                reference_options={"dataset": reference_dataset} if reference_dataset else None,
                progress=lambda done, total, case: bar.update(done, total, case),
            )
    if csv is not None:
        from ctseg.files import write_text

        write_text(csv, report.to_csv())
    if as_json:
        ui.print_json(report.to_dict())
    else:
        print_report(report)


def print_report(report: Report, *, cases: bool = True) -> None:
    """The tables of a report, on stdout."""
    if cases:
        rows = [
            (
                r["case"],
                r["label"],
                r["dice"],
                r["iou"],
                r["predicted_ml"],
                r["reference_ml"],
                r["state"],
            )
            for r in report.rows()
        ]
        ui.table(("case", "label", "Dice", "IoU", "predicted ml", "reference ml", ""), rows)
        ui.show()
    means: list[tuple[object, ...]] = [
        (s.label, _four(s.dice), _four(s.iou), s.cases, s.missed, s.invented, s.absent)
        for s in report.summary()
    ]
    means.append(
        ("mean", _four(report.mean_dice), _four(report.mean_iou), len(report.cases), "", "", "")
    )
    ui.table(("label", "Dice", "IoU", "cases", "missed", "invented", "absent"), means)


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _of_run(run: Path) -> Report:
    from ctseg.metrics.report import Report

    if not run.exists():
        raise FileProblem(f"{run} does not exist.", hint="Check the path.")
    file = run / "validation" / "report.json"
    if not file.is_file():
        raise BadInput(
            f"Nothing to compare {run} with: no reference was given, and it is no run with a validation.",
            hint="Name the reference: ctseg evaluate PREDICTIONS REFERENCE",
        )
    return Report.from_json(file.read_text(encoding="utf-8"), where=str(file))


def _fold(
    reference: Path, fold: int, folds: int, ids: list[str] | None
) -> tuple[DataSet, list[str]]:
    from ctseg.data.readers.find import open_dataset
    from ctseg.data.splits import fold_cases

    found = open_dataset(reference)
    _, validation = fold_cases(found, fold, folds)
    if ids is None:
        return found, list(validation)
    outside = [i for i in ids if i not in validation]
    if outside:
        raise BadInput(f"The case '{outside[0]}' does not validate in fold {fold}.")
    return found, ids


def parse_slices(text: str) -> tuple[int | None, int | None]:
    """`START:STOP`, either of which may be left out.

    Raises:
        BadInput: something else.
    """
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if not match:
        raise BadInput(
            f"'{text}' is no range of slices.", hint="Write START:STOP, e.g. 100: or 0:50"
        )
    start, stop = (int(part) if part else None for part in match.groups())
    return start, stop
