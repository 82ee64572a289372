"""Parses options with a value for each axis: `64,96,96` in the metavar's order, or `z=64,y=96,x=96` in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from ctseg.errors import BadInput

Order = Literal["zyx", "xyz"]
Number = TypeVar("Number", int, float)
ZYX, XYZ = "Z,Y,X", "X,Y,Z"
"""Metavars: the order in which values without names are read."""


def in_order(text: str, order: Order = "zyx", *, example: str = "64,96,96") -> tuple[str, str, str]:
    """The three parts of a value, in the given order.

    Args:
        text: three parts separated by commas (or `x`) in that order, or `z=..,y=..,x=..` in any order.
        order: order of the result, and of parts without names.
        example: a value in that order, for the error message.

    Raises:
        BadInput: an axis is missing, named twice or unknown.

    Example:
        >>> in_order("x=96,z=64,y=80")
        ('64', '80', '96')
    """
    named = "=" in text
    parts = text.split(",") if named else text.replace("x", ",").split(",")
    by_axis = (
        dict(_axis(part) for part in parts) if named else dict(zip(order, parts, strict=False))
    )
    if len(parts) != 3 or set(by_axis) != set(order):
        names = ",".join(
            f"{axis}={value}" for axis, value in zip(order, example.split(","), strict=True)
        )
        raise BadInput(
            f"'{text}' does not give three numbers, one for each axis.",
            hint=f"Write {example} ({', '.join(order)}), or {names} in any order.",
        )
    one, two, three = (by_axis[axis].strip() for axis in order)
    return one, two, three


def _axis(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip().lower(), value


def numbers(
    text: str, kind: Callable[[str], Number], order: Order = "zyx"
) -> tuple[Number, Number, Number]:
    """Parse `64,96,96`, or `z=64,y=96,x=96` in any order, into three numbers.

    Raises:
        BadInput: an axis is missing, or a value is no number.
    """
    parts = in_order(text, order)
    try:
        one, two, three = (kind(part) for part in parts)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise BadInput(
            f"'{text}' does not give three {what}.",
            hint=f"Separate them by commas: 64,96,96 ({', '.join(order)})",
        ) from None
    return one, two, three


def fractions(text: str) -> float | tuple[float, float, float]:
    """Parse an overlap: one number for all axes, or one for each.

    Raises:
        BadInput: the text is neither.
    """
    try:
        return float(text)
    except ValueError:
        return numbers(text, float)
