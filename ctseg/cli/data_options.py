"""What the commands of `ctseg data` share: options of readers and formats, given as NAME=VALUE."""

from __future__ import annotations

from typing import Annotated

import typer

OptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Option of the reader or format (repeatable).",
    ),
]


GridToleranceOption = Annotated[
    float | None,
    typer.Option(
        "--grid-tolerance",
        metavar="SHARE",
        min=0.0,
        max=0.5,
        help="Share of a voxel by which files of a case may lie apart; 0.001 when left out.",
        show_default=False,
    ),
]
HiddenGridTolerance = Annotated[
    float | None,
    typer.Option(
        "--grid-tolerance",
        metavar="SHARE",
        min=0.0,
        max=0.5,
        help="Share of a voxel by which files of a case may lie apart.",
        hidden=True,
    ),
]
"""The same where the run file has it, as `data.grid_tolerance`."""


def parse_options(pairs: list[str]) -> dict[str, str]:
    """`["series=1.2", ...]` as a dictionary.

    Raises:
        BadInput: a word without `=`.
    """
    from ctseg.errors import BadInput

    options: dict[str, str] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise BadInput(f"'{pair}' is no option.", hint="Write --option NAME=VALUE")
        options[name] = value
    return options
