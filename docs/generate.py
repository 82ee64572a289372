"""Write the reference pages that are generated from the code: commands, run file, card, built-in names.

python docs/generate.py            writes them
python docs/generate.py --check    fails where a page on disk differs from the code
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

REFERENCE = Path(__file__).resolve().parent / "reference"
RUN_FILE = """\
A run file is TOML. Every key is optional: the planner chooses missing values from the data set, and the `config.toml`
in the run folder is complete. An unknown key is an error that names the nearest valid key. On the command line,
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
The model card contains everything that is needed to use a model's weights and to judge them, as data without code.
It is stored in the header of each safetensors file (under the key `ctseg_card`), so one file is a complete model, and
as `card.json` in a zoo entry. `ctseg zoo show NAME --json` prints it; `ctseg zoo verify NAME` checks it
and the weights against their checksums.
"""
IN_THE_BOX = """\
Architectures, losses, metrics, steps, augmentations, readers, formats and importers that ctseg includes. `ctseg plugins
list` also shows those of installed plugins; `ctseg architectures show NAME` and `ctseg losses show NAME` print the
options of one.
"""
SHOWN = (
    (
        "Curves of a training, such as Dice against epoch",
        "`ctseg train DATA -o RUN`: `RUN/curves.png`, `RUN/report.html`",
        "[Run folder](run-folder.md)",
    ),
    (
        "Curves, slices, and surfaces of reference and prediction in TensorBoard",
        "`ctseg train DATA -o RUN`, then `tensorboard --logdir RUN`",
        "[Train](../how-to/train.md)",
    ),
    (
        "Overlays of a scan and its label map",
        "`ctseg render SCAN MASK -o picture.png`, or 12 slices: `--at 12`",
        "[Pictures](../how-to/render.md)",
    ),
    (
        "A film through the scan with the label map over it, slice by slice",
        "`ctseg render SCAN MASK -o film.mp4`; also `.gif`, `.webm`",
        "[Films](../how-to/render.md)",
    ),
    (
        "Surface meshes of labels",
        "`ctseg render MASK -o surfaces.glb`; also `.stl`, `.ply`",
        "[Meshes](../how-to/render.md)",
    ),
    (
        "Scan, label maps and surfaces in a browser",
        "`ctseg view SCAN MASK -o page.html`",
        "[View](../how-to/view.md)",
    ),
    (
        "Volume, position and values (mean, median, percentiles) of each label",
        "`ctseg statistics SCAN MASK`, or `--statistics` of `ctseg predict`",
        "[Measure labels](../how-to/statistics.md)",
    ),
    (
        "A picture of each predicted scan",
        "`ctseg predict SCANS -m MODEL -o OUT --preview`",
        "[Results](../how-to/outputs.md)",
    ),
    (
        "RT structure set and DICOM SEG of one prediction",
        "`ctseg predict STUDY -m MODEL -o liver.seg.dcm --set format=.seg.dcm,.rt.dcm`",
        "[DICOM](../how-to/dicom.md)",
    ),
    (
        "Label names within NIfTI, as TotalSegmentator reads and writes them",
        "`ctseg predict SCAN -m MODEL -o mask.nii.gz`",
        "[Formats](../how-to/formats.md)",
    ),
    (
        "Where a prediction is uncertain",
        "`ctseg predict SCAN -m MODEL -o mask.nii.gz --uncertainty`",
        "[From few slices](../how-to/few-slices.md)",
    ),
    (
        "Volume fractions and surfaces",
        "`ctseg measure LABELS -o OUT --only fractions`",
        "[Measure](../how-to/measure.md)",
    ),
    (
        "Two-point correlation S2 by FFT, cluster function C2, lineal path, correlation length",
        "`ctseg measure LABELS -o OUT --only correlation`",
        "[Measure](../how-to/measure.md)",
    ),
    (
        "Representative volume",
        "`ctseg measure LABELS -o OUT --only windows`",
        "[Measure](../how-to/measure.md)",
    ),
    (
        "Local thickness, pore sizes",
        "`ctseg measure LABELS -o OUT --only thickness`",
        "[Measure](../how-to/measure.md)",
    ),
    (
        "Percolation, connected pores",
        "`ctseg measure LABELS -o OUT --only connectivity`",
        "[Measure](../how-to/measure.md)",
    ),
    (
        "Objects and grains, one row each",
        "`ctseg measure LABELS -o OUT --only objects --split 0.7`",
        "[Measure](../how-to/measure.md)",
    ),
    (
        "Fibre orientation, from grey values or from predicted vectors",
        "`ctseg measure LABELS -o OUT --scan SCAN`",
        "[Measure](../how-to/measure.md)",
    ),
)
"""Pictures, films, meshes and measurements: what, the command, and its page."""
CLI = """\
An option means the same in every command. A value for each axis is read in the order that the option shows (`Z,Y,X`
for voxels, `X,Y,Z` for millimetres), or in any order where the axes are named: `--patch x=96,z=64,y=96`.

`--set KEY=VALUE` sets what has no option of its own; values are TOML, and bare words are strings. `--config FILE` reads
such keys from a TOML file, and `--set list` prints those of `ctseg predict` and `ctseg evaluate`.

`ctseg --install-completion` lets the shell complete commands, options, and the names of models, architectures, losses
and readers.
"""
NOTE = "<!-- Generated by docs/generate.py from the code: change it there. -->\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a page is out of date"
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
            f"Out of date: {', '.join(old)}. Run: python docs/generate.py",
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
    parts = [NOTE, "# Commands and options\n", _prose(root.help), CLI, _parameters(root, ["ctseg"])]
    for words, command in _commands(root, ["ctseg"]):
        level = "#" * min(len(words), 3)
        parts.append(f"{level} `{' '.join(words)}`\n")
        parts.append(_prose(command.help))
        if not hasattr(command, "commands"):
            parts.append(_usage(command, words))
            parts.append(_parameters(command, words))
            parts.append(_settings(words[-1]))
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
        first, *others = sorted(parameter.opts, key=len, reverse=True)
        value = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or ''}"
        names = ", ".join(f"`{name}`" for name in (f"{first}{value}".rstrip(), *others))
        if parameter.secondary_opts:
            names += ", " + ", ".join(f"`{name}`" for name in parameter.secondary_opts)
        rows.append((names, help_text, _default(parameter)))
    if not rows:
        return ""
    return _table(("name", "meaning", "default"), rows)


def _settings(command: str) -> str:
    """The keys of a command's `--set`; those of a run file have a page of their own."""
    from ctseg.cli.options.settings import MODELS, describe, model_of

    if command not in MODELS:
        return ""
    rows = [
        (f"`{key}`", _cell(meaning), f"`{default}`" if default else "")
        for key, default, meaning in describe(model_of(command))
    ]
    return "Keys of `--set`:\n\n" + _table(("key", "meaning", "default"), rows)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is True:
        return f"`{parameter.opts[0]}`"
    if value is None or value is False or callable(value) or value in ((), [], ""):
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
    parts += ["## Top-level keys\n", _table(("key", "type", "default", "meaning"), top)]
    for name, model in sections:
        parts += [f"## `[{name}]`\n", _model(model)]
    return "\n".join(parts)


def card() -> str:
    """`reference/card.md`: every field of a model's card."""
    from ctseg.card import CARD_VERSION, Card, CoarseStage

    CoarseStage.model_rebuild()  # it names the class of cards, which follows it
    parts = [
        NOTE,
        "# The model card\n",
        CARD,
        f"This page describes card version {CARD_VERSION}.\n",
    ]
    top, sections = _fields(Card)
    parts += ["## Fields\n", _table(("field", "type", "default", "meaning"), top)]
    for name, model in sections:
        parts += [f"## `{name}`\n", _model(model)]
    parts.append(
        "`task`, `preprocess`, `predict` and `loss` have the keys of [the run file](config.md). Each of\n"
        "`parts`, and the `card` of a stage, is a card with the fields of this page.\n"
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
    """The rows of a model's plain fields, and the fields that are models themselves."""
    from ctseg.card import Card

    rows, sections = [], []
    documented = _attributes(model.__doc__ or "")
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is Card:  # a card may hold cards: their fields are listed once
            inner = None
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
    """The descriptions under `Attributes:` in a docstring, by name."""
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
    """`reference/in-the-box.md`: built-in networks, losses, readers and formats."""
    from ctseg import plugins

    builtin = plugins.Registry([_builtin_entry_point()])
    parts = [
        NOTE,
        "# What is in the box\n",
        IN_THE_BOX,
        "## Architectures\n",
        "Set options under `[model.options]` in the run file, or with `--set model.options.NAME=VALUE`.\n",
    ]
    for name, entry in builtin.table("architecture").items():
        parts += [f"### `{name}`\n", _sentence(entry.spec.summary, entry.spec.reference)]
        parts.append(_options(entry.spec.config))
    parts += [
        "## Losses\n",
        "Set options under `[loss.options]`, or with `--set loss.options.NAME=VALUE`.\n",
    ]
    for name, entry in builtin.table("loss").items():
        spec = entry.spec
        parts += [f"### `{name}`\n", _sentence(spec.summary, spec.reference)]
        parts.append(f"Tasks: {', '.join(f'`{task}`' for task in sorted(spec.tasks))}.\n")
        parts.append(_options(spec.config))
    rows = [
        (f"`{name}`", f"`{entry.spec.group}`", _cell(entry.spec.summary))
        for name, entry in builtin.table("metric").items()
    ]
    parts += ["## Metrics\n", _table(("name", "group", "meaning"), rows)]
    parts += [
        "## Preprocessing steps\n",
        'Name the `kind` of each of `steps` under `[preprocess]`: `{ kind = "clip", low = [-160], high = [240] }`.\n',
    ]
    for name, entry in builtin.table("step").items():
        parts += [f"### `{name}`\n", _step(entry.spec)]
    parts += [
        "## Augmentations\n",
        "Set `probability` and options under `[augment.extra.NAME]`; others have keys in [the run file](config.md).\n",
    ]
    for name, entry in builtin.table("augmentation").items():
        parts += [f"### `{name}`\n", _sentence(entry.spec.summary, entry.spec.reference)]
        parts.append(_options(entry.spec.config))
    rows = [
        (f"`{name}`", _cell(entry.spec.summary), f"`{entry.spec.install}`")
        for name, entry in builtin.table("tracker").items()
    ]
    parts += [
        "## Trackers\n",
        "Name them in `train.trackers`.\n",
        _table(("name", "meaning", "install"), rows),
    ]
    parts += [
        "## Data set readers\n",
        "Set options under `[data.options]`, or with `--option NAME=VALUE`.\n",
    ]
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
    parts += ["## File formats\n", _table(("name", "description", "suffixes", "written"), formats)]
    parts.append("Set options of a format with `--option NAME=VALUE`:\n")
    options = {name: entry.spec.options for name, entry in builtin.table("format").items()}
    parts.append(_table(("option", "format", "meaning"), _shared(options)))
    parts += [
        "## Importers\n",
        "Kinds of models that [`ctseg zoo import`](../how-to/import.md) reads.\n",
    ]
    for name, entry in builtin.table("importer").items():
        parts += [f"### `{name}`\n", _sentence(entry.spec.summary)]
        rows = [(f"`{key}`", _cell(text)) for key, text in entry.spec.options.items()]
        parts.append(_table(("option", "meaning"), rows))
    parts += [
        "## Pictures, films, meshes and measurements\n",
        _table(("what", "command", "page"), SHOWN),
    ]
    return "\n".join(part for part in parts if part)


def _shared(options: Mapping[str, Mapping[str, str]]) -> list[tuple[str, ...]]:
    """Rows of option, formats and meaning: one for the formats in which an option means the same."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, found in options.items():
        for key, text in found.items():
            names.setdefault((key, text), []).append(f"`{name}`")
    return [(f"`{key}`", ", ".join(who), _cell(text)) for (key, text), who in sorted(names.items())]


def _builtin_entry_point() -> Any:
    from importlib.metadata import EntryPoint

    from ctseg.plugins import BUILTIN, ENTRY_POINT_GROUP

    return EntryPoint("builtin", BUILTIN, ENTRY_POINT_GROUP)


def _step(spec: Any) -> str:
    """A step's summary and the table of its options, whose meanings stand in the docstring of its class."""
    step, rows = spec.load(), []
    hints, documented = typing.get_type_hints(step), _attributes(step.__doc__ or "")
    for field in dataclasses.fields(step):
        meaning = _cell(documented.get(field.name, "")).removesuffix(".")
        rows.append(
            (
                f"`{field.name}`",
                _cell(_type(hints[field.name])),
                f"`{_toml(field.default)}`",
                meaning,
            )
        )
    table = _table(("option", "type", "default", "meaning"), rows) if rows else ""
    return _sentence(spec.summary, spec.reference) + "\n" + table


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
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]  # code is shown as it is
    return "`".join(parts)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table without its empty columns."""
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
