"""From a path to a data set: the layout is recognised, or named."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from ctseg import plugins
from ctseg.data.readers.grids import with_grid_tolerance, with_one_grid
from ctseg.data.readers.layout import folder_of, load_object, with_drawn_labels
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import DataSet
from ctseg.task import undrawn
from ctseg.volume.formats.source import check_file, what_is


def open_dataset(
    path: str | Path,
    reader: str | None = None,
    *,
    grid_tolerance: float | None = None,
    grid: str = "",
    **options: Any,
) -> DataSet:
    """Find the cases of a data set without opening a volume.

    Args:
        path: a folder, a file or a glob, as the layout asks for.
        reader: the layout's name, where it is not recognised or several fit.
        grid_tolerance: share of a voxel by which the files of a case may lie beside its first image.
        grid: the channel onto whose grid the others are brought where they have grids of their own; the first one
            by default.
        options: of the layout, e.g. `raw` and `label` for HDF5.

    Raises:
        FileProblem: nothing there, or files that are missing or damaged.
        BadInput: no known layout, an unknown option, or an empty data set.
    """
    path = Path(path)
    if not what_is(path) and not glob.has_magic(str(path)):
        check_file(path)  # a folder that may not be entered, for example
        raise FileProblem(f"{path} does not exist.", hint="Check the path of the data set.")
    spec = plugins.reader(reader) if reader else _recognise(path, set(options))
    strange = sorted(set(options) - set(spec.options))
    if strange:
        known = ", ".join(spec.options) or "none"
        raise BadInput(
            f"The reader {spec.name} has no option '{strange[0]}'.", hint=f"Its options: {known}"
        )
    found = spec.cases(path, **options)
    if not found.cases and not found.unlabelled:
        raise BadInput(
            f"{path} holds no cases: the data set is empty.",
            hint="Look at it with: ctseg data inspect",
        )
    found = with_drawn_labels(found, folder_of(path))
    if found.task is not None and found.task.kind != "regression":
        for case in found.cases:
            undrawn(found.task, case.drawn)  # unknown names are refused
    if grid_tolerance is not None:
        found = with_grid_tolerance(found, grid_tolerance)
    return with_one_grid(found, grid)


def _recognise(path: Path, options: set[str]) -> Any:
    fitting = [spec for spec in plugins.readers() if spec.recognise(path)]
    if not fitting and options:  # patterns, for example, say by themselves that these are pairs
        fitting = [spec for spec in plugins.readers() if options <= set(spec.options)]
        fitting = fitting if len(fitting) == 1 else []
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(spec.name for spec in fitting)
        raise BadInput(
            f"{path} fits several layouts: {names}.", hint="Choose one with --reader NAME."
        )
    described = path if path.name == "dataset.json" else path / "dataset.json"
    hint = "Known layouts are: " + "; ".join(f"{s.name} ({s.summary})" for s in plugins.readers())
    if described.is_file():
        keys = sorted(load_object(described))  # a damaged file is told as such
        raise BadInput(f"{described} is of no known layout; it has the keys {keys}.", hint=hint)
    if path.is_dir() and not any(path.iterdir()):
        raise BadInput(f"{path} is an empty folder: the data set is empty.", hint=hint)
    raise BadInput(f"{path} is no data set of a known layout.", hint=hint)
