"""`ctseg zoo fetch` and `ctseg zoo serve-index`: models from zoos elsewhere, and zoos for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ctseg.cli import ui
from ctseg.cli.zoo.listing import FromOption
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.zoo.remote.fetch import FetchOptions
    from ctseg.zoo.store import ZooEntry

T = TypeVar("T")
EXAMPLES = (
    "ctseg zoo fetch unet3d.liver_v3 --from https://HOST/zoo",
    "ctseg zoo fetch liver",
    "ctseg zoo fetch unet3d.liver_v3 --from /shared/zoo --from https://HOST/zoo",
)
SERVE_EXAMPLES = (
    "ctseg zoo serve-index zoo",
    "ctseg zoo serve-index zoo --alias liver=unet3d.liver_v3",
    "ctseg zoo serve-index zoo --deprecate unet3d.liver_v2=unet3d.liver_v3",
)


def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Full name, name without version, or alias.")
    ],
    source: FromOption = None,
    pin: Annotated[
        str,
        typer.Option(
            "--pin",
            metavar="SHA256",
            help="Checksum of the index or of the model, as serve-index prints it.",
            show_default=False,
        ),
    ] = "",
    max_size: Annotated[
        str, typer.Option("--max-size", metavar="SIZE", help="Size limit, e.g. 50G.")
    ] = "20G",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another model of that name.")
    ] = False,
    zoo: ui.ZooOption = None,
) -> None:
    """Fetch a model into your zoo; an interrupted download continues.

    Sources are asked in order. Nothing is used before its size and checksum are verified.
    """
    from ctseg.engine.inference.memory.fit import parse_size
    from ctseg.zoo.readme import usage
    from ctseg.zoo.remote.fetch import FetchOptions

    options = FetchOptions(
        sources=tuple(source or ()), pin=pin.lower(), zoo=zoo, max_bytes=parse_size(max_size),
        overwrite=overwrite,
    )  # fmt: skip
    entry = fetch_shown(name, options)
    ui.say(f"Use it: {usage(entry.card())}")
    ui.show(entry.name)


def fetch_shown(name: str, options: FetchOptions) -> ZooEntry:
    """Fetch a model with a progress bar; Ctrl-C tells how to continue."""
    from dataclasses import replace

    from ctseg.zoo.remote.fetch import fetch as get

    try:
        with ui.progress(f"Fetching {name} (MiB)") as bar:
            entry = get(
                name,
                replace(
                    options,
                    on_note=ui.say,
                    on_bytes=lambda done, total: bar.update(done / 2**20, total / 2**20),
                ),
            )
    except KeyboardInterrupt:
        ui.say("What was received is kept; the same command continues.")
        raise
    ui.say(f"{entry.name} is in {entry.folder}: {entry.size() / 2**20:.1f} MiB, checksums verified")
    return entry


def with_fetching(load: Callable[[], T], zoo: Path | None) -> T:
    """What `load` returns, once every model that it lacks is fetched from the user's sources."""
    from ctseg.zoo.remote.fetch import FetchOptions
    from ctseg.zoo.resolve import UnknownModel

    fetched: set[str] = set()
    while True:
        try:
            return load()
        except UnknownModel as missing:
            if missing.name in fetched:
                raise
            fetched.add(missing.name)
            fetch_shown(missing.name, FetchOptions(zoo=zoo))


def serve_index(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Zoo folder.")],
    alias: Annotated[
        list[str] | None,
        typer.Option("--alias", metavar="NAME=MODEL", help="Short name; NAME= removes it."),
    ] = None,
    deprecate: Annotated[
        list[str] | None,
        typer.Option(
            "--deprecate",
            metavar="MODEL=SUCCESSOR",
            help="Warn users of a model; the successor may be left out.",
        ),
    ] = None,
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="Why it is deprecated.", show_default=False),
    ] = "",
    as_json: ui.JsonOption = False,
) -> None:
    """Write the index of a zoo that others fetch from, and print checksums to pin.

    Any static web server, shared folder or bucket can offer the folder then.
    """
    from ctseg.zoo.serve_index import serve_index as write

    ui.check_zoo(folder)
    if reason and not deprecate:
        raise BadInput("--reason has no effect without --deprecate.", hint="Add --deprecate MODEL.")
    served = write(
        folder.expanduser(),
        aliases=_pairs(alias or [], "--alias", "liver=unet3d.liver_v3", bare=False),
        deprecate=_pairs(deprecate or [], "--deprecate", "unet3d.liver_v2=unet3d.liver_v3"),
        reason=reason,
    )
    entries = served.index.entries
    if as_json:
        sums = {name: entry.digest for name, entry in entries.items()}
        ui.print_json({"index": served.sha256, "models": sums, "aliases": served.index.aliases})
        return
    ui.say(f"Wrote {folder / 'index.json'}: {len(entries)} model(s)")
    for name in served.gone:
        ui.say(f"{name} is no longer there.")
    ui.show(f"{served.sha256}  index.json")
    for name, entry in entries.items():
        ui.show(f"{entry.digest}  {name}")


def _pairs(texts: Sequence[str], option: str, example: str, *, bare: bool = True) -> dict[str, str]:
    """Parse `["A=B", ...]`; without `bare`, the `=` must be there."""
    pairs = {}
    for text in texts:
        first, mark, second = (part.strip() for part in text.partition("="))
        if not first or not (mark or bare):
            raise BadInput(
                f"'{option} {text}' is not understood.", hint=f"For example: {option} {example}"
            )
        pairs[first] = second
    return pairs
