"""Options that several commands share: reader and format options as NAME=VALUE, and the grid tolerance."""

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
        help="Grid tolerance in voxels (default: 0.001).",
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
    """Parse `["series=1.2", ...]` into a dictionary.

    Raises:
        BadInput: an item is not NAME=VALUE.
    """
    from ctseg.errors import BadInput

    options: dict[str, str] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise BadInput(f"'{pair}' is no option.", hint="Write --option NAME=VALUE")
        options[name] = value
    return options
