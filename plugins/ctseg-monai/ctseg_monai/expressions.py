"""The configuration of a bundle as data: references are followed, and of expressions only arithmetic is understood.

MONAI evaluates every text that begins with `$` as Python. Here nothing is evaluated: an expression is parsed, and only
numbers, texts, lists, references, arithmetic, comparison, `x if y else z`, and `len`, `int`, `float`, `str`, `list`
and `tuple` of them have a value. Whatever else is needed for the model is rejected with its file and key.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ctseg.errors import BadInput, CtsegError

REFERENCE = re.compile(r"@(?:[A-Za-z_]\w*|\d+)(?:(?:::|\#)(?:[A-Za-z_]\w*|\d+))*")
"""`@key`, or `@key::part` (formerly `@key#part`), of the configuration."""
DEEPEST = 50
LONGEST = 10_000
MOST_VALUES = 100_000
"""Size of what a configuration resolves to, in values and characters: references can multiply without end."""
_PLACE = "_reference_{}_"
_OPERATIONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "len": len, "int": int, "float": float, "str": str, "list": list, "tuple": tuple,
}  # fmt: skip
_IMAGE_KEYS = {"IMAGE": "image", "PRED": "pred", "LABEL": "label"}
"""`monai.utils.CommonKeys`, which some configurations name their keys by."""


class Settings:
    """The tables of a configuration file.

    Args:
        content: what JSON or YAML gave.
        where: the file, for messages.
    """

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content, self.where = content, where
        self._left = MOST_VALUES

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key at the top, with everything in it resolved."""
        if key not in self.content:
            return default
        return self.resolve(self.content[key], key)

    def resolve(self, value: Any, key: str, depth: int = 0) -> Any:
        """A value without references and expressions; tables with a `_target_` remain tables.

        Raises:
            BadInput: an expression without a value here, a reference that leads nowhere or in a circle, or references
                that multiply beyond `MOST_VALUES`.
        """
        self._count(value, key)
        if depth > DEEPEST:
            raise BadInput(
                f"{self.where} refers to itself at '{key}', or is nested too deeply.",
                hint="MONAI itself cannot read such a configuration.",
            )
        if isinstance(value, dict):
            return {k: self.resolve(v, f"{key}::{k}", depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.resolve(v, f"{key}::{i}", depth + 1) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        if value.startswith("%"):
            return self._macro(value, key, depth)
        if value.startswith("$"):
            return self._expression(value, key, depth)
        if REFERENCE.fullmatch(value):
            return self._at(value[1:], key, depth)
        return value

    def refuse(self, value: str, key: str, reason: str) -> BadInput:
        """The error for a text that is not understood."""
        shown = value if len(value) < 200 else f"{value[:200]}..."
        return BadInput(
            f"{self.where}, key '{key}': {shown!r} {reason}; it was not run.",
            hint="References, numbers, lists and arithmetic are understood. Write the value in its place.",
        )

    def _count(self, value: Any, key: str) -> None:
        """Take the size of a value, without what is in it, from what is left."""
        self._left -= 1
        if isinstance(value, str):
            self._left -= len(value)
        elif isinstance(value, int):
            self._left -= value.bit_length() // 64
        if self._left < 0:
            raise BadInput(
                f"{self.where}, key '{key}' grows beyond all bounds when its references are followed.",
                hint="Write the value in its place.",
            )

    def _counted(self, value: Any, key: str) -> Any:
        """The value of an expression, after its size and that of everything in it are counted."""
        parts = [value]
        while parts:
            part = parts.pop()
            self._count(part, key)
            if isinstance(part, list | tuple):
                parts += part
            elif isinstance(part, dict):
                parts += part.values()
        return value

    def _macro(self, value: str, key: str, depth: int) -> Any:
        """`%key` stands for the content of another key, which is resolved in the same way as a reference."""
        path = value[1:]
        if not REFERENCE.fullmatch(f"@{path}"):
            raise self.refuse(value, key, "refers to another file")
        return self._at(path, key, depth)

    def _at(self, path: str, key: str, depth: int) -> Any:
        found: Any = self.content
        for part in re.split(r"::|\#", path):
            if isinstance(found, str):  # a reference to a table elsewhere
                found = self.resolve(found, path, depth + 1)
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise BadInput(
                    f"{self.where}, key '{key}': '@{path}' refers to nothing.",
                    hint="Is the configuration complete?",
                ) from None
        return self.resolve(found, path, depth + 1)

    def _expression(self, value: str, key: str, depth: int) -> Any:
        places: dict[str, str] = {}

        def place(match: re.Match[str]) -> str:
            name = _PLACE.format(len(places))
            places[name] = match[0][1:]
            return name

        text = REFERENCE.sub(place, value[1:].strip())
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self.refuse(value, key, "is no expression with a value") from None

        def value_of(node: ast.AST) -> Any:
            return self._counted(uncounted(node), key)

        def uncounted(node: ast.AST) -> Any:
            match node:
                case ast.Expression(body=body):
                    return value_of(body)
                case ast.Constant(value=int() | float() | str() | bool() | None as constant):
                    return constant
                case ast.List(elts=parts) | ast.Tuple(elts=parts):
                    return [value_of(part) for part in parts]
                case ast.Name(id=name) if name in places:
                    return self._at(places[name], key, depth)
                case ast.UnaryOp(op=ast.USub(), operand=operand):
                    return -value_of(operand)
                case ast.UnaryOp(op=ast.Not(), operand=operand):
                    return not value_of(operand)
                case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
                    return _limited(_OPERATIONS[type(op)], value_of(left), value_of(right))
                case ast.Compare(left=left, ops=[op], comparators=[right]) if (
                    type(op) in _OPERATIONS
                ):
                    return _OPERATIONS[type(op)](value_of(left), value_of(right))
                case ast.IfExp(test=test, body=body, orelse=other):
                    return value_of(body) if value_of(test) else value_of(other)
                case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if (
                    name in _FUNCTIONS
                ):
                    return _FUNCTIONS[name](value_of(argument))
                case ast.Attribute(attr=name) if (
                    name in _IMAGE_KEYS and ast.unparse(node) == f"monai.utils.CommonKeys.{name}"
                ):
                    return _IMAGE_KEYS[name]
            raise self.refuse(value, key, f"asks for '{ast.unparse(node)}' to be run")

        try:
            return value_of(tree)
        except CtsegError:
            raise
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise self.refuse(value, key, f"has no value ({error})") from None


def _limited(operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """The result of an operation; texts and lists are not multiplied without end.

    Raises:
        ValueError: the result would be too long.
    """
    sizes = [len(one) for one in (left, right) if isinstance(one, str | list)]
    counts = [abs(one) for one in (left, right) if isinstance(one, int)]
    if operation is operator.mul and sizes and counts and sizes[0] * counts[0] > LONGEST:
        raise ValueError("it is too long")
    if operation is operator.mod and isinstance(left, str):
        raise ValueError("texts are not formatted")
    return operation(left, right)
