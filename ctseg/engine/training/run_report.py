"""What a run shows while it goes on: its curves, its pictures and `report.html`."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from ctseg import machine
from ctseg.engine.training.job import Reporter
from ctseg.errors import CtsegError, DiskFull
from ctseg.metrics.bootstrap import BootstrapSample
from ctseg.metrics.report import Report
from ctseg.report.curves import draw_curves
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.html.evaluation import write_evaluation
from ctseg.report.html.run import write_pictures, write_run
from ctseg.version import __version__


def show_progress(folder: Path, reporter: Reporter) -> None:
    """Draw the curves and write the report of a run; files that cannot be read end no training."""
    _try(
        "curves.png is not drawn",
        lambda: draw_curves(folder / "log.jsonl", folder / "curves.png"),
        reporter,
    )
    _try("report.html is not written", lambda: write_run(folder), reporter)


def show_scans(folder: Path, report: Report, slices: CaseSlices, reporter: Reporter) -> None:
    """Draw the worst, the median and the best scan of a validation."""
    _try("scans are not drawn", lambda: write_pictures(folder, report, slices), reporter)


def show_folds(folder: Path, report: Report, reporter: Reporter) -> None:
    """Write `report.html` of a folder of folds: the validations of all of them together."""
    _try(
        "report.html is not written",
        lambda: write_evaluation(
            report, folder / "report.html", folder.name, CaseSlices(), resampling=BootstrapSample()
        ),
        reporter,
    )


def _try(failed: str, draw: Callable[[], None], reporter: Reporter) -> None:
    try:
        draw()
    except CtsegError as error:
        if isinstance(error, DiskFull):
            raise
        reporter.say(f"Warning: {failed}. {error.message}")


def environment_of() -> dict[str, str]:
    """The machine and the software, for `plan.json`."""
    out = {
        "ctseg": __version__,
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "timm")},
        "system": platform.platform(),
        "processor": f"{machine.processor()}, {machine.cores()} cores",
    }
    if torch.cuda.is_available():
        out["GPU"] = torch.cuda.get_device_name()
        out["CUDA"] = str(torch.version.cuda)
    known = machine.memory()
    if known is not None:
        out["memory"] = f"{known[0] / 2**30:.0f} GiB"
    return out
