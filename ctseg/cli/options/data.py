"""Options that several commands share: reader and format options as NAME=VALUE, and the grid tolerance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ctseg.specs import Label

OptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Option of the reader or format (repeatable).",
    ),
]

LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="Label of a label map (repeatable)."),
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


def parse_labels(pairs: list[str]) -> list[Label]:
    """Parse `["liver=1", ...]` into labels.

    Raises:
        BadInput: an item is not NAME=VALUE, or its value is no whole number.
    """
    from ctseg.errors import BadInput
    from ctseg.specs import Label

    values = parse_options(pairs)
    wrong = [f"{name}={value}" for name, value in values.items() if not value.isdecimal()]
    if wrong:
        raise BadInput(f"'{wrong[0]}' is no label.", hint="Write --label NAME=VALUE, e.g. liver=1")
    return [Label(name, (int(value),), int(value)) for name, value in values.items()]
