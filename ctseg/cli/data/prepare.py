"""`ctseg data prepare`: preprocesses a data set before training, and lists or removes prepared data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options import completion
from ctseg.cli.options.data import GridToleranceOption, OptionOption, parse_options
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctseg.config import RunConfig

EXAMPLES = (
    "ctseg data prepare DATA --fold 0",
    "ctseg data prepare runs/first/config.toml --workers 8",
    "ctseg data prepare --list",
    "ctseg data prepare --clear 3fa9",
)


def prepare(
    source: Annotated[
        Path | None,
        typer.Argument(help="Data set, run file (.toml) or run folder.", show_default=False),
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", metavar="N", min=0, help="Validation fold.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Cases at a time (default: cores, at most 4)."
        ),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(
            "--reader",
            metavar="NAME",
            help="Layout of the data set.",
            autocompletion=completion.readers,
        ),
    ] = None,
    option: OptionOption = None,
    grid_tolerance: GridToleranceOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the run file."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List prepared data sets with size and last use.")
    ] = False,
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Remove all prepared data sets, or the one named."),
    ] = False,
    yes: ui.YesOption = False,
    as_json: ui.JsonOption = False,
) -> None:
    """Preprocess every case once and store it, as the start of training does."""
    if show or clear:
        if show and clear:
            raise BadInput("--list and --clear exclude each other.", hint="Leave one of them out.")
        _clear(source, yes=yes, as_json=as_json) if clear else _list(as_json=as_json)
        return
    if source is None:
        raise BadInput(
            "No data set and no run file is named.", hint="ctseg data prepare DATA | RUN.toml"
        )
    given = {"fold": fold, "reader": reader, "grid_tolerance": grid_tolerance}
    config = _config(source, given, parse_options(option or []), settings or [])
    from ctseg.engine.training.prepare import prepare as run

    with ui.progress("Preparing") as bar:
        store, cases = run(config, workers=workers, reporter=bar)
    rows = [
        {
            "case": case.id,
            "shape_zyx": list(case.image.shape[1:]),
            "spacing_xyz": [round(s, 4) for s in case.applied.target.spacing_xyz],
            "bytes": case.image.nbytes + case.target.nbytes,
            "lazy": case.lazy,
        }
        for case in cases
    ]
    if as_json:
        ui.print_json({"folder": store.folder, "key": store.folder.name, "cases": rows})
        return
    ui.table(
        ["case", "voxels z y x", "spacing x y z", "MiB", "patches from"],
        [
            [
                row["case"],
                " x ".join(map(str, case.image.shape[1:])),
                " x ".join(f"{s:.4g}" for s in case.applied.target.spacing_xyz),
                round((case.image.nbytes + case.target.nbytes) / 2**20),
                "the scan's file" if case.lazy else "the store",
            ]
            for row, case in zip(rows, cases, strict=True)
        ],
    )
    ui.show(f"{len(cases)} cases in {store.folder}")


def _config(
    source: Path, given: Mapping[str, object], options: dict[str, str], settings: list[str]
) -> RunConfig:
    """The configuration from a run file or a data set; `given` overrides fields of its `[data]`."""
    from ctseg.config import load_config, override, parse_config
    from ctseg.errors import FileProblem

    if source.is_dir() and (source / "config.toml").is_file():
        source = source / "config.toml"
    if source.suffix == ".toml":
        config = load_config(source)
    else:
        if not source.exists() and not any(c in str(source) for c in "*?["):
            raise FileProblem(f"{source} does not exist.", hint="Check the path of the data set.")
        config = parse_config({"data": {"path": str(source)}})
    data = config.model_dump(mode="json")
    data["data"] |= {key: value for key, value in given.items() if value is not None}
    data["data"]["options"] |= options
    return override(parse_config(data, where="the options"), settings)


def _list(*, as_json: bool) -> None:
    import time

    from ctseg.data.store_entries import entries

    prepared = entries()
    if as_json:
        ui.print_json(prepared)
        return
    if not prepared:
        ui.show("Nothing is prepared.")
        return
    rows = [
        [
            entry.key,
            entry.cases,
            round(entry.bytes / 2**20),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
            ", ".join(entry.labels),
            ", ".join(entry.steps),
        ]
        for entry in prepared
    ]
    ui.table(
        ["entry", "cases", "MiB", "last used", "labels", "steps"], rows, prose=("labels", "steps")
    )
    total = sum(entry.bytes for entry in prepared) / 2**20
    ui.show(f"{total:.0f} MiB in {prepared[0].folder.parent}")


def _clear(source: Path | None, *, yes: bool, as_json: bool) -> None:
    from ctseg.data.store_entries import clear, entries

    keys = [] if source is None else [str(source)]
    if not keys:
        prepared = entries()
        if not prepared:
            ui.print_json([]) if as_json else ui.show("Nothing is prepared.")
            return
        size = sum(entry.bytes for entry in prepared) / 2**20
        ui.confirm(f"Remove {len(prepared)} prepared data sets ({size:.0f} MiB)?", yes=yes)
    removed = clear(keys)
    if as_json:
        ui.print_json(removed)
        return
    size = sum(entry.bytes for entry in removed) / 2**20
    ui.show(f"Removed {', '.join(entry.key for entry in removed)} ({size:.0f} MiB).")
