"""What `ctseg evaluate` prints, and the files that it writes."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctseg.cli import scores, ui
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.metrics.aligned import Look
    from ctseg.metrics.bootstrap import BootstrapSample
    from ctseg.metrics.compare import Difference
    from ctseg.metrics.report import Report
    from ctseg.report.html.case_slices import CaseSlices

SUFFIXES = (".html", ".csv", ".json")


@dataclass(frozen=True)
class Evaluated:
    """The results of an evaluation, and of a second one where two are compared.

    Attributes:
        report, other: the two.
        name, other_name: of the predictions.
        resampling: of the confidence intervals; None without them.
    """

    report: Report
    name: str
    other: Report | None
    other_name: str
    resampling: BootstrapSample | None

    @functools.cached_property
    def differences(self) -> tuple[Difference, ...]:
        from ctseg.metrics.compare import compare

        return () if self.other is None else compare(self.report, self.other, self.resampling)

    def data(self) -> dict[str, Any]:
        """Everything as plain data."""
        out = self.report.to_dict(self.resampling)
        if self.other is not None:
            out["against"] = {
                "predictions": self.other_name,
                **self.other.to_dict(self.resampling),
            }
            out["comparison"] = [difference.to_dict() for difference in self.differences]
        return out

    def csv(self) -> str:
        """A line for each case and label."""
        if self.other is None:
            return self.report.to_csv()
        from ctseg.metrics.report import csv_text

        rows = [
            {"predictions": name, **row}
            for name, one in ((self.name, self.report), (self.other_name, self.other))
            for row in one.rows()
        ]
        return csv_text(dict.fromkeys(key for row in rows for key in row), rows)

    def show(self, *, as_json: bool) -> None:
        """Print the results."""
        if self.other is not None:
            _ = self.differences  # what cannot be compared is told before anything is printed
        if as_json:
            ui.print_json(self.data())
            return
        scores.print_report(self.report, resampling=self.resampling)
        if self.other is not None:
            names = (self.name, self.other_name)
            scores.print_comparison(self.differences, names, self.resampling)


@dataclass(frozen=True)
class OutputFiles:
    """The files named by `-o`, which their suffixes tell apart."""

    paths: tuple[Path, ...]
    _slices: list[CaseSlices] = field(default_factory=list)

    @classmethod
    def check(cls, paths: Sequence[Path]) -> OutputFiles:
        """Refuse files that cannot be written before any case is read.

        Raises:
            BadInput: another suffix.
            FileProblem: a place that cannot become a file.
        """
        from ctseg.files import check_replaceable

        for path in paths:
            if path.suffix.lower() not in SUFFIXES:
                raise BadInput(
                    f"'{path.name}' is no kind of file that evaluations are written to.",
                    hint=f"Suffixes: {', '.join(SUFFIXES)}",
                )
            check_replaceable(path)
        return cls(tuple(paths))

    def looks(self) -> tuple[Look | None, Look | None]:
        """Who looks at the cases of the evaluation, and at those of a second one: nobody without a page."""
        if not any(path.suffix.lower() == ".html" for path in self.paths):
            return None, None
        from ctseg.report.html.case_slices import CaseSlices

        self._slices.append(CaseSlices())
        return self._slices[0].add, self._slices[0].add_other

    def write(self, found: Evaluated) -> None:
        """Write the files, after the results were printed, in case the disk is full."""
        from ctseg.files import write_text

        for path in self.paths:
            suffix = path.suffix.lower()
            if suffix == ".csv":
                write_text(path, found.csv())
            elif suffix == ".json":
                data = ui.plain(found.data())
                text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
                write_text(path, text + "\n")
            else:
                self._page(path, found)

    def _page(self, path: Path, found: Evaluated) -> None:
        from ctseg.report.html.evaluation import Comparison, write_evaluation

        compared = None
        if found.other is not None:
            compared = Comparison(found.other, found.other_name, found.differences)
        write_evaluation(
            found.report, path, found.name, self._slices[0],
            resampling=found.resampling, comparison=compared,
        )  # fmt: skip
