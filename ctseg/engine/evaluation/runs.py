"""The validations of runs: of one, or of the folds in a folder together, as in cross-validation."""

from __future__ import annotations

import re
from pathlib import Path

from ctseg.config.checking import parse_json
from ctseg.errors import BadInput, FileProblem
from ctseg.metrics.report import Report

RUN_FILE = "config.toml"
SPLITS = "splits.json"
"""In a folder of folds: the cases of each, as data sets hold them."""
VALIDATION = Path("validation", "report.json")
FOLD = "fold{}"


def runs_in(folder: Path) -> tuple[Path, ...]:
    """The runs in a folder in the order of their names, `fold10` after `fold9`; none where it is a run itself.

    Raises:
        BadInput: the folder says which folds it holds, and one is missing.
    """
    if not folder.is_dir() or (folder / RUN_FILE).is_file():
        return ()
    if (folder / SPLITS).is_file():
        folds = [folder / FOLD.format(number) for number in range(len(_splits(folder)))]
        lacking = [run.name for run in folds if not (run / RUN_FILE).is_file()]
        if lacking:
            raise BadInput(
                f"{folder} is not complete: {', '.join(lacking)} of {len(folds)} folds did not train.",
                hint=f"Go on: ctseg train --resume {folder}",
            )
        return tuple(folds)
    found = [run for run in folder.iterdir() if (run / RUN_FILE).is_file()]
    return tuple(sorted(found, key=lambda run: _natural(run.name)))


def report_of(path: Path) -> Report:
    """The best validation of a run; of a folder of runs all of theirs as one report, each case out of its fold.

    Raises:
        FileProblem: nothing is there.
        BadInput: no run, one that was not validated yet, or a case that validates in two of them.
    """
    if not path.exists():
        raise FileProblem(f"{path} does not exist.", hint="Check the path.")
    runs = runs_in(path)
    if not runs:
        return _validation(path)
    reports = {run: _validation(run) for run in runs}
    seen: dict[str, Path] = {}
    for run, report in reports.items():
        for case in report.cases:
            if case.case in seen:
                raise BadInput(
                    f"Case {case.case} validates in {seen[case.case]} and in {run}: these are no folds of one set.",
                    hint="Compare them instead: ctseg compare RUN RUN",
                )
            seen[case.case] = run
    cases = tuple(case for report in reports.values() for case in report.cases)
    return Report(cases, next(iter(reports.values())).settings)


def _validation(run: Path) -> Report:
    if (run / VALIDATION).is_file():
        return Report.read(run / VALIDATION)
    if (run / RUN_FILE).is_file():
        raise BadInput(
            f"The run {run} was not validated yet.", hint=f"Go on: ctseg train --resume {run}"
        )
    raise BadInput(
        f"There is no reference for {run}, and it is neither a run with a validation report nor a folder of such runs.",
        hint="Name the reference: ctseg evaluate PREDICTIONS REFERENCE",
    )


def _splits(folder: Path) -> list[object]:
    file = folder / SPLITS
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileProblem(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, list):
        raise FileProblem(f"{file} holds no list of folds.")
    return content


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
