"""Write the reference pages that are made from the code: the command line, the run file, the card, what ships.

python docs/generate.py            writes them
python docs/generate.py --check    fails where a page on disk is not what the code says
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

REFERENCE = Path(__file__).resolve().parent / "reference"
RUN_FILE = """\
A run file is TOML. Every key may be left out: what is missing is chosen from the data set, and the `config.toml` in
the run folder leaves nothing out. An unknown key is refused with the nearest valid one. On the command line,
`--set train.epochs=50` sets any key; values are TOML, and bare words are strings.

```toml
[data]
path = "Task09_Spleen"
fold = 0

[model]
architecture = "unet3d"

[train]
time = "2h"
```
"""
CARD = """\
The card says all that is needed to use a model's weights and to judge them. It is data only and holds no code. It
stands in the header of each safetensors file (under the key `ctseg_card`), so that the weights alone are enough, and
as `card.json` beside them in a zoo entry. `ctseg zoo show NAME --json` prints it; `ctseg zoo verify NAME` checks it
and the weights against their checksums.
"""
IN_THE_BOX = """\
What is there without any plugin. `ctseg plugins list` shows what is installed, and `ctseg architectures show NAME`
the options of one network.
"""
NOTE = "<!-- Made by docs/generate.py from the code: change it there. -->\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a page is old"
    )
    check = parser.parse_args(arguments).check
    old = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        old.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and old:
        print(
            f"Out of date: {', '.join(old)}. Write them again: python docs/generate.py",
            file=sys.stderr,
        )
        return 1
    return 0


# ---------------------------------------------------------------- the command line


def command_line() -> str:
    """`reference/cli.md`: every command with its arguments and options."""
    from typer.main import get_command

    from ctseg.cli.app import app

    root = get_command(app)
    parts = [NOTE, "# Command line\n", _prose(root.help), _parameters(root, ["ctseg"])]
    for words, command in _commands(root, ["ctseg"]):
        level = "#" * min(len(words), 3)
        parts.append(f"{level} `{' '.join(words)}`\n")
        parts.append(_prose(command.help))
        if not hasattr(command, "commands"):
            parts.append(_usage(command, words))
            parts.append(_parameters(command, words))
            parts.append(_examples(command))
    return "\n".join(part for part in parts if part)


def _commands(group: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield [*words, name], command
        if hasattr(command, "commands"):
            yield from _commands(command, [*words, name])


def _usage(command: Any, words: list[str]) -> str:
    arguments = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = _metavar(parameter) + ("..." if parameter.nargs == -1 else "")
            arguments.append(name if parameter.required else f"[{name}]")
    return f"```\n{' '.join([*words, *arguments, '[OPTIONS]'])}\n```\n"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _parameters(command: Any, words: list[str]) -> str:
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        help_text = _cell(getattr(parameter, "help", None) or "")
        if parameter.param_type_name == "argument":
            rows.append((f"`{_metavar(parameter)}`", help_text, ""))
            continue
        names = ", ".join(f"`{name}`" for name in sorted(parameter.opts, key=len, reverse=True))
        if parameter.secondary_opts:
            names += ", " + ", ".join(f"`{name}`" for name in parameter.secondary_opts)
        rows.append((names, help_text, _default(parameter)))
    if not rows:
        return ""
    return _table(("", "meaning", "default"), rows)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or callable(value) or value in ((), []):
        return ""
    return f"`{value}`" if isinstance(value, int | float | str | Path) else ""


def _examples(command: Any) -> str:
    lines = [line.replace("\\[", "[") for line in (command.epilog or "").splitlines()]
    lines = [line for line in lines if line and not line.startswith("[bold]")]
    return "```\n" + "\n".join(lines) + "\n```\n" if lines else ""


# ---------------------------------------------------------------- models of pydantic


def run_file() -> str:
    """`reference/config.md`: every key of a run file."""
    from ctseg.config import RunConfig

    parts = [
        NOTE,
        "# The run file\n",
        RUN_FILE,
    ]
    top, sections = _fields(RunConfig)
    parts += ["## At the top\n", _table(("key", "type", "default", "meaning"), top)]
    for name, model in sections:
        parts += [f"## `[{name}]`\n", _model(model)]
    return "\n".join(parts)


def card() -> str:
    """`reference/card.md`: every field of a model's card."""
    from ctseg.card import CARD_VERSION, Card

    parts = [
        NOTE,
        "# The card\n",
        f"Card version {CARD_VERSION}. {CARD}",
    ]
    top, sections = _fields(Card)
    parts += ["## Fields\n", _table(("field", "type", "default", "meaning"), top)]
    for name, model in sections:
        parts += [f"## `{name}`\n", _model(model)]
    parts.append(
        "`task`, `preprocess`, `predict` and `loss` are as in [the run file](config.md).\n"
    )
    return "\n".join(parts)


def _model(model: type[BaseModel]) -> str:
    lead = _prose((model.__doc__ or "").partition("Attributes:")[0])
    lead = lead.partition("`: ")[2].capitalize() if lead.startswith("`[") else lead
    rows, inner = _fields(model)
    text = lead + ("\n" if lead else "") + _table(("key", "type", "default", "meaning"), rows)
    for name, section in inner:
        text += f"\nEach of `{name}`:\n\n" + _table(
            ("key", "type", "default", "meaning"), _fields(section)[0]
        )
    return text


def _fields(
    model: type[BaseModel],
) -> tuple[list[tuple[str, ...]], list[tuple[str, type[BaseModel]]]]:
    """The rows of a model's plain fields, and its fields that are models themselves."""
    rows, sections = [], []
    documented = _attributes(model.__doc__ or "")
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            sections.append((name, inner))
            if not _repeated(field.annotation):
                continue
        default = "required" if field.default is PydanticUndefined else f"`{_toml(field.default)}`"
        if (
            field.default in (None, "", (), {})
            and field.default is not False
            and default != "required"
        ):
            default = ""
        meaning = _cell(field.description or documented.get(name, "")).removesuffix(".")
        rows.append((f"`{name}`", _cell(_type(field.annotation)), default, meaning))
    shared = {"task", "preprocess", "predict", "loss"} if model.__name__ == "Card" else set()
    return rows, [(name, section) for name, section in sections if name not in shared]


def _attributes(docstring: str) -> dict[str, str]:
    """What the `Attributes:` of a docstring say, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Attributes:")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if (
            colon
            and head.replace("_", "").replace(", ", "").isalnum()
            and line.startswith("        ")
        ):
            for name in head.split(", "):
                found[name] = rest
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


def _repeated(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, list)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)


def _type(annotation: Any) -> str:
    """A type in words that a user of TOML knows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any"}
    if annotation in plain:
        return plain[annotation]
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return "table"
    if origin in (tuple, list):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {_type(arguments[0])}"
        return f"[{', '.join(map(_type, arguments))}]"
    inner = [_type(argument) for argument in arguments if argument is not type(None)]
    if inner:
        return " or ".join(inner)
    return "table" if isinstance(annotation, type) else str(annotation)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)


# ---------------------------------------------------------------- what ships in the box


def in_the_box() -> str:
    """`reference/in-the-box.md`: networks, losses, readers and formats that need no plugin."""
    from ctseg import plugins

    builtin = plugins.Registry([_builtin_entry_point()])
    parts = [
        NOTE,
        "# In the box\n",
        IN_THE_BOX,
        "## Architectures\n",
        "Options go into `[model.options]` of the run file, or after `--set model.options.`.\n",
    ]
    for name, entry in builtin.table("architecture").items():
        parts += [f"### `{name}`\n", _sentence(entry.spec.summary, entry.spec.reference)]
        parts.append(_options(entry.spec.config))
    parts += ["## Losses\n", "Options go into `[loss.options]`.\n"]
    for name, entry in builtin.table("loss").items():
        spec = entry.spec
        parts += [f"### `{name}`\n", _sentence(spec.summary, spec.reference)]
        parts.append(f"Tasks: {', '.join(f'`{task}`' for task in sorted(spec.tasks))}.\n")
        parts.append(_options(spec.config))
    parts += ["## Readers of data sets\n", "Options go into `[data.options]`.\n"]
    for name, entry in builtin.table("reader").items():
        parts += [f"### `{name}`\n", _sentence(entry.spec.summary)]
        if entry.spec.options:
            rows = [(f"`{key}`", _cell(text)) for key, text in entry.spec.options.items()]
            parts.append(_table(("option", "meaning"), rows))
    formats = [
        (
            f"`{name}`",
            _cell(entry.spec.summary),
            ", ".join(f"`{suffix}`" for suffix in entry.spec.suffixes) or "by content",
            "yes" if entry.spec.writer else "no",
        )
        for name, entry in builtin.table("format").items()
    ]
    parts += ["## Formats of volumes\n", _table(("name", "what", "suffixes", "written"), formats)]
    return "\n".join(part for part in parts if part)


def _builtin_entry_point() -> Any:
    from importlib.metadata import EntryPoint

    from ctseg.plugins import BUILTIN, ENTRY_POINT_GROUP

    return EntryPoint("builtin", BUILTIN, ENTRY_POINT_GROUP)


def _options(config: type) -> str:
    hints = typing.get_type_hints(config)
    rows = []
    for field in dataclasses.fields(config):
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        meaning = _cell(str(field.metadata.get("help", "")))
        shown = "" if default is None else f"`{_toml(default)}`"
        rows.append((f"`{field.name}`", _cell(_type(hints[field.name])), shown, meaning))
    return _table(("option", "type", "default", "meaning"), rows) if rows else ""


# ---------------------------------------------------------------- markdown


def _sentence(*texts: str) -> str:
    parts = [text.strip().rstrip(".") + "." for text in texts if text.strip()]
    return " ".join(parts) + "\n" if parts else ""


def _prose(text: str | None) -> str:
    """A docstring as paragraphs."""
    paragraphs = (text or "").replace("\b", "").strip().split("\n\n")
    joined = [" ".join(line.strip() for line in p.splitlines()) for p in paragraphs]
    return "\n\n".join(p for p in joined if p) + "\n" if any(joined) else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; a column in which nothing stands is left out."""
    listed = list(rows)
    kept = [i for i in range(len(columns)) if any(row[i] for row in listed)]
    lines = [[columns[i] for i in kept], ["---"] * len(kept)]
    lines += [[row[i] for i in kept] for row in listed]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": command_line,
    "config.md": run_file,
    "card.md": card,
    "in-the-box.md": in_the_box,
}

if __name__ == "__main__":
    raise SystemExit(main())
