"""`ctseg evaluate`: compares predictions with references."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui
from ctseg.cli.evaluate_outputs import Evaluated, OutputFiles
from ctseg.cli.options.data import GridToleranceOption
from ctseg.cli.options.settings import ConfigOption, SettingsOption, model_of
from ctseg.cli.options.spellings import respelled
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctseg.config.commands import EvaluateOptions
    from ctseg.metrics.bootstrap import BootstrapSample
    from ctseg.metrics.report import Report
    from ctseg.specs import DataSet

EXAMPLES = (
    "ctseg evaluate predictions/ DATA/labelsTr -o report.html -o scores.csv",
    "ctseg evaluate new/ DATA --fold 0 --against old/",
    "ctseg evaluate out.h5 weave.h5 --instance-ids --set dataset=/label",
    "ctseg evaluate runs/folds -o report.html",
)
OLD_SPELLINGS = MappingProxyType(
    {
        "--csv": "-o {}",
        "--instances": "--instance-ids",
        "--confidence": "--set confidence_level={}",
        "--iou": "--set iou={}",
        "--data-range": "--set data_range={}",
        "--mask": "--set mask={}",
        "--dataset": "--set dataset={}",
        "--reference-dataset": "--set reference_dataset={}",
        "--folds": "--set folds={}",
        "--resamples": "--set resamples={}",
        "--bootstrap": "--set bootstrap={}",
        "--seed": "--set seed={}",
    }
)
Command = respelled(OLD_SPELLINGS)
SCORES, CASES, COMPARISON = "What to measure", "Which cases", "Comparison and advice"
MEASURING = ("iou", "data_range", "mask")
"""Settings that affect the scores."""
READING = ("dataset", "reference_dataset", "folds")
"""Settings that affect which data are read."""


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Predicted file or folder, or a run.")],
    reference: Annotated[
        Path | None, typer.Argument(help="Reference file, folder or data set.", show_default=False)
    ] = None,
    outputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write: .html (report), .csv (a line for each case and label) or .json; repeatable.",
        ),
    ] = None,
    as_json: ui.JsonOption = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="NAME,NAME",
            help="Metrics or groups: overlap, surface, centreline, instances, regression, all.",
            show_default=False,
            rich_help_panel=SCORES,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="NAME,NAME", help="Labels to score.", rich_help_panel=SCORES
        ),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            "--tolerance",
            metavar="MM",
            help="Tolerance of the surface Dice; liver=2.",
            show_default=False,
            rich_help_panel=SCORES,
        ),
    ] = None,
    instance_ids: Annotated[
        bool,
        typer.Option(
            "--instance-ids",
            help="Values are ids of grains or cells.",
            rich_help_panel=SCORES,
        ),
    ] = False,
    fold: Annotated[
        str | None,
        typer.Option(
            "--fold",
            metavar="N",
            help="Fold of the data set to score, or all.",
            rich_help_panel=CASES,
        ),
    ] = None,
    cases: Annotated[
        str | None,
        typer.Option("--cases", metavar="ID,ID", help="Cases to score.", rich_help_panel=CASES),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(
            "--slices",
            metavar="START:STOP",
            help="Slices along z to score, e.g. 100:",
            rich_help_panel=CASES,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="OTHER",
            help="Other predictions, or run, to compare with.",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    grid_tolerance: GridToleranceOption = None,
    suggest_cleanup: Annotated[
        bool,
        typer.Option(
            "--suggest-cleanup",
            help="Suggest where to keep the largest part.",
            rich_help_panel=COMPARISON,
        ),
    ] = False,
    settings: SettingsOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare predictions with references, case by case and label by label."""
    from ctseg.config.settings import read_settings

    rare: Any = read_settings(model_of("evaluate"), settings or [], config, example="seed=1")
    resampling = _resampling(rare)
    options: dict[str, Any] = {
        "slices": parse_slices(slices) if slices else None,
        "metrics": metrics,
        "labels": _names(labels),
        "tolerance_mm": None if tolerance is None else parse_tolerance(tolerance),
        "iou_thresholds": rare.iou,
        "data_range": rare.data_range,
        "instances": instance_ids,
        "mask": rare.mask,
        "grid_tolerance": grid_tolerance,
        "prediction_options": {"dataset": rare.dataset} if rare.dataset else None,
        "reference_options": (
            {"dataset": rare.reference_dataset} if rare.reference_dataset else None
        ),
    }
    ids = _names(cases)
    source: Path | DataSet | None = reference
    scoring: dict[str, object] = {
        "--metrics": metrics, "--labels": labels, "--slices": slices, "--instance-ids": instance_ids or None,
        "--tolerance": tolerance, "--grid-tolerance": grid_tolerance, **_changed(rare, MEASURING),
    }  # fmt: skip
    selecting: dict[str, object] = {
        "--fold": fold, "--cases": cases, "--suggest-cleanup": suggest_cleanup or None, **_changed(rare, READING),
    }  # fmt: skip
    files = OutputFiles.check(outputs or [])
    if reference is None:
        _needs_reference(_given(scoring | selecting))
    elif fold is not None:
        source, ids = _fold(reference, fold, rare.folds, ids)
    elif "folds" in rare.model_fields_set:
        raise BadInput(
            "--set folds has no effect without --fold.", hint="Name a fold: --fold 0, or --fold all"
        )
    if suggest_cleanup and source is not None:
        if useless := _given(scoring | {"--against": against, "-o": outputs}):
            raise BadInput(
                f"{useless[0]} has no effect with --suggest-cleanup.",
                hint="Leave one of them out.",
            )
        from ctseg.cli.suggest import suggest

        formats = {key: options[key] for key in ("prediction_options", "reference_options")}
        suggest(predictions, source, ids, as_json=as_json, **formats)
        return
    looks = files.looks()
    report = _evaluated(predictions, source, ids, options | {"look": looks[0]})
    other = None
    if against is not None:
        other = _evaluated(against, source, ids, options | {"look": looks[1]})
    found = Evaluated(report, str(predictions), other, str(against), resampling)
    found.show(as_json=as_json)
    files.write(found)


def _evaluated(
    predictions: Path,
    reference: Path | DataSet | None,
    ids: list[str] | None,
    options: Mapping[str, Any],
) -> Report:
    if reference is None:
        from ctseg.engine.evaluation.runs import report_of

        return report_of(predictions)
    from ctseg.engine.evaluation.evaluate import evaluate as compare

    with ui.progress(f"Evaluating {predictions.name}") as bar:
        return compare(
            predictions,
            reference,
            cases=ids,
            progress=lambda done, total, case: bar.update(done, total, case),
            **options,
        )


def _given(options: Mapping[str, object]) -> list[str]:
    """The names of the options that were given."""
    return [name for name, value in options.items() if value is not None]


def _needs_reference(options: list[str]) -> None:
    if options:
        raise BadInput(
            f"{options[0]} needs a reference: for a run alone, its own validation report is shown.",
            hint="Predict the cases, then: ctseg evaluate PREDICTIONS REFERENCE",
        )


def _fold(
    reference: Path, fold: str, folds: int, ids: list[str] | None
) -> tuple[DataSet, list[str]]:
    """The data set, and the cases that validate in a fold, or in one of all folds."""
    from ctseg.cli.folds import parse_fold
    from ctseg.data.readers.find import open_dataset
    from ctseg.data.splits import all_folds, fold_cases

    number, _ = parse_fold(fold)
    dataset = open_dataset(reference)
    chosen = all_folds(dataset, folds) if number is None else [fold_cases(dataset, number, folds)]
    validation = list(dict.fromkeys(case for _, cases in chosen for case in cases))
    if ids is None:
        return dataset, validation
    outside = [i for i in ids if i not in validation]
    if outside:
        raise BadInput(
            f"The case '{outside[0]}' does not validate in {'any fold' if number is None else f'fold {number}'}.",
            hint="Leave out --fold, or name validation cases of this fold.",
        )
    return dataset, ids


def _changed(rare: EvaluateOptions, names: tuple[str, ...]) -> dict[str, object]:
    """The settings that were given with --set or a file, by their spelling on the command line."""
    changed = rare.model_fields_set.intersection(names)
    return {f"--set {name}": getattr(rare, name) for name in names if name in changed}


def _resampling(rare: EvaluateOptions) -> BootstrapSample | None:
    if not rare.resamples:
        return None
    from ctseg.metrics.bootstrap import BootstrapSample

    return BootstrapSample(rare.confidence_level / 100, rare.resamples, rare.bootstrap, rare.seed)


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise BadInput(f"'{text}' names nothing.", hint="Separate names by commas: liver,spleen")
    return names


def parse_tolerance(text: str) -> float | dict[str, float]:
    """Parse a tolerance in mm: `2`, or `liver=2,lesion=1`.

    Raises:
        BadInput: the text is neither.
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError as error:
        raise BadInput(
            f"'{text}' is no tolerance.",
            hint="Write a length in mm, or one for each label: --tolerance liver=2,lesion=1",
        ) from error


def parse_slices(text: str) -> tuple[int | None, int | None]:
    """Parse `START:STOP`; both are optional.

    Raises:
        BadInput: the text is no range.
    """
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if not match:
        raise BadInput(
            f"'{text}' is no range of slices.", hint="Write START:STOP, e.g. 100: or 0:50"
        )
    start, stop = (int(part) if part else None for part in match.groups())
    return start, stop
