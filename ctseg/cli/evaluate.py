"""`ctseg evaluate`: predictions against references."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ctseg.cli import scores, ui
from ctseg.errors import BadInput, FileProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctseg.metrics.bootstrap import BootstrapSample
    from ctseg.metrics.compare import Difference
    from ctseg.metrics.report import Report
    from ctseg.specs import DataSet

EXAMPLES = (
    "ctseg evaluate mask.nii.gz reference.nii.gz",
    "ctseg evaluate predictions/ DATA/labelsTr --csv scores.csv",
    "ctseg evaluate predictions/ DATA --fold 0 --tolerance 2",
    "ctseg evaluate new/ DATA --fold 0 --against old/",
    "ctseg evaluate out.h5 weave.h5 --dataset /label --instances --metrics instances",
    "ctseg evaluate runs/first",
)


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="Predicted file or folder; or a run, for its own validation.")
    ],
    reference: Annotated[
        Path | None, typer.Argument(help="Reference file, folder or data set.", show_default=False)
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="NAME,NAME",
            help="Of: dice, iou, precision, recall, volume_difference_ml, volume_difference, hd95, hausdorff, "
            "surface_distance, surface_dice, centreline_dice, adapted_rand_error, average_precision, mse, mae, psnr; "
            "or overlap, surface, centreline, instances, regression, all.  "
            "[default: dice,iou,hd95,surface_distance,surface_dice]",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="NAME,NAME", help="Only these labels.")
    ] = None,
    tolerance: Annotated[
        str,
        typer.Option(
            "--tolerance",
            metavar="MM",
            help="Of the surface Dice, mm; or by label: liver=2,lesion=1.",
        ),
    ] = "1",
    iou: Annotated[
        str,
        typer.Option(
            "--iou",
            metavar="IOU,IOU",
            help="At which instances match; their precision is averaged.",
        ),
    ] = "0.5",
    instances: Annotated[
        bool,
        typer.Option(
            "--instances", help="The values are ids of instances (grains, cells), not labels."
        ),
    ] = False,
    data_range: Annotated[
        float | None,
        typer.Option(
            "--data-range", metavar="WIDTH", help="To which the PSNR refers.", show_default=False
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="OTHER",
            help="Other predictions (or another run) of the same cases, to compare with.",
        ),
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
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask", metavar="FILE", help="Only where this map is above 0, for one case."
        ),
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
    confidence: Annotated[
        float, typer.Option("--confidence", min=50, max=99.9, help="Of the intervals, per cent.")
    ] = 95,
    resamples: Annotated[
        int,
        typer.Option("--resamples", min=0, help="Draws of the bootstrap; 0 leaves intervals out."),
    ] = 2000,
    bootstrap: Annotated[
        str, typer.Option("--bootstrap", metavar="NAME", help="bca or percentile.")
    ] = "bca",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a line for each case and label there."),
    ] = None,
    suggest_cleanup: Annotated[
        bool,
        typer.Option(
            "--suggest-cleanup",
            help="Say instead whether keeping largest parts alone would raise the Dice.",
        ),
    ] = False,
    as_json: ui.JsonOption = False,
) -> None:
    """Compare predictions with references: overlap, surface distances and more for each case and label.

    A label that is in neither map counts nowhere; one that was missed or invented has Dice 0 and, as a distance, the
    scan's diagonal. Means come with bootstrap intervals over patients; --against adds a paired test.
    """
    resampling = _resampling(confidence, resamples, bootstrap, seed)
    options: dict[str, Any] = {
        "slices": parse_slices(slices) if slices else None,
        "metrics": metrics,
        "labels": _names(labels),
        "tolerance_mm": parse_tolerance(tolerance),
        "iou_thresholds": _numbers(iou, "--iou"),
        "data_range": data_range,
        "instances": instances,
        "mask": mask,
        "prediction_options": {"dataset": dataset} if dataset else None,
        "reference_options": {"dataset": reference_dataset} if reference_dataset else None,
    }
    ids = _names(cases)
    where: Path | DataSet | None = reference
    given: dict[str, object] = {
        "--metrics": metrics, "--labels": labels, "--mask": mask, "--slices": slices,
        "--data-range": data_range, "--instances": instances or None,
        "--tolerance": None if tolerance == "1" else tolerance, "--iou": None if iou == "0.5" else iou,
    }  # fmt: skip
    named: dict[str, object] = {
        "--fold": fold, "--cases": cases, "--dataset": dataset, "--reference-dataset": reference_dataset,
        "--suggest-cleanup": suggest_cleanup or None,
    }  # fmt: skip
    if csv is not None:
        from ctseg.files import check_replaceable

        check_replaceable(csv, option="--csv")
    if reference is None:
        _needs_reference(_set(given | named))
    elif fold is not None:
        where, ids = _fold(reference, fold, folds, ids)
    if suggest_cleanup and where is not None:
        if useless := _set(given | {"--against": against, "--csv": csv}):
            raise BadInput(
                f"{useless[0]} has no part in --suggest-cleanup.", hint="Leave one of them out."
            )
        from ctseg.cli.suggest import suggest

        formats = {key: options[key] for key in ("prediction_options", "reference_options")}
        suggest(predictions, where, ids, as_json=as_json, **formats)
        return
    report = _measured(predictions, where, ids, options)
    other = None if against is None else _measured(against, where, ids, options)
    _give(report, other, (predictions, against), resampling, csv=csv, as_json=as_json)


def _give(
    report: Report,
    other: Report | None,
    paths: tuple[Path, Path | None],
    resampling: BootstrapSample | None,
    *,
    csv: Path | None,
    as_json: bool,
) -> None:
    found: tuple[Difference, ...] = ()
    if other is not None:
        from ctseg.metrics.compare import compare

        found = compare(report, other, resampling)
    names = (str(paths[0]), str(paths[1]))
    if as_json:
        out = report.to_dict(resampling)
        if other is not None:
            out["against"] = {"predictions": names[1], **other.to_dict(resampling)}
            out["comparison"] = [difference.to_dict() for difference in found]
        ui.print_json(out)
    else:
        scores.print_report(report, resampling=resampling)
        if other is not None:
            scores.print_comparison(found, names, resampling)
    if csv is not None:  # last, so that a full disk does not take what was measured
        from ctseg.files import write_text

        text = report.to_csv() if other is None else _both(report, other, names)
        write_text(csv, text, option="--csv")


def _both(report: Report, other: Report, names: tuple[str, str]) -> str:
    from ctseg.metrics.report import csv_text

    rows = [
        {"predictions": name, **row}
        for name, one in zip(names, (report, other), strict=True)
        for row in one.rows()
    ]
    return csv_text(dict.fromkeys(key for row in rows for key in row), rows)


def _measured(
    predictions: Path,
    reference: Path | DataSet | None,
    ids: list[str] | None,
    options: Mapping[str, Any],
) -> Report:
    if reference is None:
        return _of_run(predictions)
    from ctseg.engine.evaluation.evaluate import evaluate as compare

    with ui.progress(f"Evaluating {predictions.name}") as bar:
        return compare(
            predictions,
            reference,
            cases=ids,
            progress=lambda done, total, case: bar.update(done, total, case),
            **options,
        )


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
    return Report.read(file)


def _set(options: Mapping[str, object]) -> list[str]:
    """The names of the options that were given."""
    return [name for name, value in options.items() if value is not None]


def _needs_reference(options: list[str]) -> None:
    if options:
        raise BadInput(
            f"{options[0]} needs a reference: a run alone shows what its own validation measured.",
            hint="Predict the cases, then: ctseg evaluate PREDICTIONS REFERENCE",
        )


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


def _resampling(
    confidence: float, resamples: int, method: str, seed: int
) -> BootstrapSample | None:
    if not resamples:
        return None
    from ctseg.metrics.bootstrap import BootstrapSample

    known: dict[str, Literal["bca", "percentile"]] = {"bca": "bca", "percentile": "percentile"}
    if method not in known:
        raise BadInput(f"'{method}' is no bootstrap.", hint="There are: bca, percentile")
    return BootstrapSample(confidence / 100, resamples, known[method], seed)


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise BadInput(f"'{text}' names nothing.", hint="Separate names by commas: liver,spleen")
    return names


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(
            f"'{text}' is no list of numbers.", hint=f"Write: {option} 0.5,0.75"
        ) from error


def parse_tolerance(text: str) -> float | dict[str, float]:
    """`2`, or `liver=2,lesion=1`, in mm.

    Raises:
        BadInput: something else.
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError as error:
        raise BadInput(
            f"'{text}' is no tolerance.",
            hint="Write a length in mm, or one a label: --tolerance liver=2,lesion=1",
        ) from error


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
