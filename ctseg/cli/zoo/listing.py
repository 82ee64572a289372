"""`ctseg zoo list`: models to choose from, here or in zoos elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui
from ctseg.errors import BadInput, CtsegError

if TYPE_CHECKING:
    from ctseg.zoo.index import About, IndexEntry, ZooIndex
    from ctseg.zoo.store import ZooEntry

EXAMPLES = (
    "ctseg zoo list",
    "ctseg zoo list 'unet3d.*' --where labels=liver --sort dice",
    "ctseg zoo list --from https://HOST/zoo --json",
)
FromOption = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="URL or folder of a zoo, or sources.toml for those listed there (repeatable).",
    ),
]


class Key(StrEnum):
    """Columns to sort by."""

    name = "name"
    task = "task"
    labels = "labels"
    spacing = "spacing"
    dice = "dice"
    size = "size"
    licence = "licence"
    provider = "provider"


SELECTABLE = (Key.task, Key.labels, Key.spacing, Key.licence, Key.provider)


def list_(
    pattern: Annotated[str, typer.Argument(help="Names with wildcards, e.g. 'unet3d.*'.")] = "*",
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Condition, e.g. labels=liver,spleen or 'licence=CC BY*' (repeatable).",
        ),
    ] = None,
    sort: Annotated[
        Key, typer.Option("--sort", metavar="COLUMN", help="Column; best or smallest first.")
    ] = Key.name,
    source: FromOption = None,
    zoo: ui.ZooOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """List published models, here or elsewhere."""
    import fnmatch

    ui.check_zoo(zoo)
    conditions = [_condition(text) for text in where or []]
    found = list(_elsewhere(source, zoo) if source else _here(zoo))
    rows = [
        row
        for row in found
        if fnmatch.fnmatch(row["name"], pattern)
        and all(_meets(row, column, value) for column, value in conditions)
    ]
    rows.sort(key=lambda row: (_order(row, sort), row["name"]))
    if as_json:
        ui.print_json(rows)
    elif rows:
        _show(rows)
        if source:
            ui.say("To fetch one: ctseg zoo fetch NAME" + "".join(f" --from {s}" for s in source))
    elif found:
        ui.say(f"No model matches {' and '.join([repr(pattern), *(where or [])])}.")
    else:
        _say_how_to_fill(zoo)


def _say_how_to_fill(zoo: Path | None) -> None:
    from ctseg.zoo.folders import user_zoo

    ui.say("No model is published.")
    ui.say(f"Publish a run with: ctseg zoo publish RUN --tag TAG   (your zoo: {user_zoo(zoo)})")
    ui.say("Or fetch a model with: ctseg zoo fetch NAME --from URL")


def _condition(text: str) -> tuple[Key, str]:
    """Parse `COLUMN=VALUE`."""
    column, mark, value = (part.strip() for part in text.partition("="))
    if column not in SELECTABLE or not mark:
        raise BadInput(
            f"'--where {text}' is not understood.",
            hint=f"Write COLUMN=VALUE with one of {', '.join(SELECTABLE)}: --where labels=liver",
        )
    return Key(column), value


def _meets(row: dict[str, Any], column: Key, value: str) -> bool:
    """Whether the model has all the labels, or else the value; both may have wildcards."""
    import fnmatch

    cells = {**row, Key.spacing.value: _spacing(row["spacing_xyz"])}
    has, wanted = [cells[column]], [value]
    if column is Key.labels:
        has, wanted = row["labels"], [one.strip() for one in value.split(",") if one.strip()]
    return all(
        any(fnmatch.fnmatch(one.casefold(), pattern.casefold()) for one in has)
        for pattern in wanted
    )


def _order(row: dict[str, Any], key: Key) -> tuple[bool, Any]:
    """The largest Dice first, everything else from the smallest; unknown values last."""
    if key is Key.dice:
        return row["mean_dice"] is None, -(row["mean_dice"] or 0.0)
    if key is Key.spacing:
        spacing = row["spacing_xyz"]
        return spacing is None, tuple(sorted(spacing or ()))
    value = row["bytes" if key is Key.size else key.value]
    return not value, value


def _here(zoo: Path | None) -> Iterator[dict[str, Any]]:
    from ctseg.zoo.index import ZooIndex
    from ctseg.zoo.resolve import all_entries
    from ctseg.zoo.store import read_index

    indexes: dict[Path, ZooIndex] = {}
    for entries in all_entries(zoo).values():
        for entry in entries:
            if entry.zoo not in indexes:
                try:
                    indexes[entry.zoo] = read_index(entry.zoo)
                except CtsegError:  # `verify` tells
                    indexes[entry.zoo] = ZooIndex()
            yield _row(entry, indexes[entry.zoo])


def _row(entry: ZooEntry, index: ZooIndex) -> dict[str, Any]:
    from ctseg.zoo.index import About

    listed = index.entries.get(entry.name)
    about, problem, size = About(), None, 0
    try:
        size = entry.size()
        about = About.of(entry.card())
    except CtsegError as error:  # one damaged entry must not hide the others
        problem = error.message
    except OSError as error:
        problem = f"{entry.folder} cannot be read: {error.strerror}"
    return _line(entry.name, about, listed, index) | {
        "bytes": size, "zoo": str(entry.zoo), "problem": problem,
    }  # fmt: skip


def _elsewhere(urls: list[str], zoo: Path | None) -> Iterator[dict[str, Any]]:
    from ctseg.zoo.index import About
    from ctseg.zoo.remote.catalogue import listings
    from ctseg.zoo.resolve import all_entries
    from ctseg.zoo.sources import chosen

    here = all_entries(zoo)
    for listing in listings(chosen(urls), ui.warn):
        for name, entry in listing.index.entries.items():
            yield _line(name, entry.about or About(), entry, listing.index) | {
                "bytes": entry.size, "zoo": listing.source.url, "problem": None,
                "fetched": name in here, "sha256": entry.digest,
            }  # fmt: skip


def _line(name: str, about: About, listed: IndexEntry | None, index: ZooIndex) -> dict[str, Any]:
    deprecated = listed.deprecated if listed is not None else None
    return {
        "name": name,
        **about.model_dump(),
        "aliases": sorted(alias for alias, model in index.aliases.items() if model == name),
        "deprecated": None if deprecated is None else deprecated.about(name),
    }


def _show(rows: Sequence[dict[str, Any]]) -> None:
    """A table of what differs; what all models share stands below it."""
    columns = {
        "task": [row["task"] for row in rows],
        "labels": [row["problem"] or ", ".join(row["labels"]) for row in rows],
        "spacing": [_spacing(row["spacing_xyz"]) for row in rows],
        "Dice": [row["mean_dice"] for row in rows],
        "MiB": _mib([row["bytes"] for row in rows]),
        "licence": [row["licence"] for row in rows],
        "provider": [row["provider"] for row in rows],
        "zoo": [row["zoo"] for row in rows],
    }
    shared = [
        title
        for title in ("task", "provider", "zoo")
        if len(set(columns[title])) == 1 and (title == "zoo" or len(rows) > 1)
    ]
    titles = [title for title in columns if title not in shared]
    names = [row["name"] for row in rows]
    cells = zip(names, *(columns[title] for title in titles), strict=True)
    ui.table(("name", *titles), cells, prose=("labels", "licence"))
    for title in shared:
        ui.show(f"{title.capitalize()}: {columns[title][0]}")
    for row in rows:
        for alias in row["aliases"]:
            ui.show(f"Alias: {alias} = {row['name']}")
    for row in rows:
        if row["deprecated"]:
            ui.show(row["deprecated"])


def _spacing(spacing: Sequence[float] | None) -> str:
    return "native" if spacing is None else ",".join(f"{mm:.3g}" for mm in spacing)


def _mib(sizes: Sequence[int]) -> list[str]:
    """Sizes in MiB, aligned at the right."""
    texts = [f"{size / 2**20:.1f}" for size in sizes]
    width = max(map(len, texts))
    return [text.rjust(width) for text in texts]
