"""The size of the house: folders, files and signatures that a reader can hold in mind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    ROOT / "ctseg",
    *sorted(p for p in ROOT.glob("plugins/*/*") if (p / "__init__.py").is_file()),
]
FILES = sorted(file for room in ROOMS for file in room.rglob("*.py"))

LINES_OF_A_FILE = 400
FILES_IN_A_FOLDER = 25
PARAMETERS = 6
MANY_POSITIONAL = 8
"""So many functions, commands of the command line included, may take more positional parameters than that."""
MANY_IN_ALL = 15
"""So many may take more where those given by name count too: commands, readers, the writer's hook and public functions.
Lower it where one goes."""


def functions() -> Iterator[tuple[str, int, int]]:
    """Where each function of ctseg is, how many parameters it takes by position, and how many in all."""
    for file in (ROOT / "ctseg").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found = node.args
                places = [a.arg for a in (*found.posonlyargs, *found.args)]
                places = [name for name in places if name not in ("self", "cls")]
                rest = len(found.kwonlyargs) + bool(found.vararg) + bool(found.kwarg)
                where = f"{file.relative_to(ROOT).as_posix()}:{node.lineno} {node.name}"
                yield where, len(places), len(places) + rest


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_file_is_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_FILE


def test_a_folder_is_seen_at_one_glance() -> None:
    folders = {file.parent for file in FILES}
    counts = {f.relative_to(ROOT).as_posix(): len(list(f.glob("*.py"))) for f in folders}
    large = {name for name, count in counts.items() if count > FILES_IN_A_FOLDER}
    assert not large, large


def test_few_functions_take_many_parameters_by_position() -> None:
    many = sorted(where for where, places, _ in functions() if places > PARAMETERS)
    assert len(many) <= MANY_POSITIONAL, "\n".join(many)


def test_functions_with_many_parameters_do_not_multiply() -> None:
    many = sorted(where for where, _, count in functions() if count > PARAMETERS)
    assert len(many) <= MANY_IN_ALL, "\n".join(many)
