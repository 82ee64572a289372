"""What the readers of data sets share: small files, lists of cases, folds, and what is wrong with them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from ctseg.config.checking import parse_json
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Case, DataSet, ImageRef, Task, frozen
from ctseg.task import classes_task
from ctseg.volume.formats.source import what_is
from ctseg.volume.io import format_of

DRAWN = "labels.json"
SPLIT_FILES = ("splits.json", "splits_final.json")
Splits = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
_SHOWN = 8
_LONG = 200


def folder_of(path: Path) -> Path:
    """The data set's folder, where the path may be its `dataset.json` as well."""
    return path.parent if path.name == "dataset.json" else path


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileProblem: missing, unreadable, or no JSON; with the line.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), finite=False)
    except OSError as error:
        raise FileProblem(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FileProblem(f"{path} is no text in UTF-8: {error.reason}.") from error
    except json.JSONDecodeError as error:
        raise FileProblem(
            f"{path} is no valid JSON: {error.msg} in line {error.lineno}, column {error.colno}.",
            hint="Correct that line; a comma too many or too few is the usual cause.",
        ) from error
    except ValueError as error:
        raise FileProblem(f"{path} is no valid JSON: {error}.") from error


def load_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file whose top level is an object."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise FileProblem(
            f"{path} holds a {type(content).__name__} where an object {{...}} is expected."
        )
    return content


def peek(path: Path) -> Mapping[str, Any]:
    """`dataset.json` of a folder for recognising it; empty where there is none that can be used."""
    file = folder_of(path) / "dataset.json"
    try:
        return load_object(file) if file.is_file() else {}
    except (FileProblem, OSError):
        return {}


def text(content: Mapping[str, Any], *keys: str) -> str:
    """The first of several fields that is there, as text."""
    value = next((content[key] for key in keys if content.get(key)), "")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def ordered(table: Any, *, what: str, where: Path) -> tuple[str, ...]:
    """`{"0": "CT", "1": "PET"}` as names in the order of their numbers."""
    if not isinstance(table, Mapping) or not table:
        raise BadInput(f'{where}: "{what}" should be an object like {{"0": "CT"}}, not {table!r}.')
    try:
        numbered = sorted((int(key), str(name)) for key, name in table.items())
    except ValueError as error:
        raise BadInput(
            f'{where}: the keys of "{what}" should be numbers, not {list(table)}.'
        ) from error
    if [number for number, _ in numbered] != list(range(len(numbered))):
        raise BadInput(f'{where}: the keys of "{what}" should count from 0, not {list(table)}.')
    return tuple(name for _, name in numbered)


def listed_file(folder: Path, name: Any, *, where: Path, allowed: bool) -> Path:
    """The path of a file that a description of a data set names.

    Symbolic links are followed wherever they lead: who placed them in the folder meant them.

    Args:
        folder: from which relative names count.
        name: as it stands in the description.
        where: the description, for messages.
        allowed: whether it may name files outside the folder.

    Raises:
        BadInput: no path, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadInput(
            f"{where} names {shown(name)} where the path of a file is expected.",
            hint='A path is text, such as "./imagesTr/a.nii.gz".',
        )
    path = PureWindowsPath(name)  # which knows both slashes, and drives
    inside = os.path.normpath(folder.absolute() / name)
    if not allowed and (
        path.anchor or not Path(inside).is_relative_to(os.path.normpath(folder.absolute()))
    ):
        raise BadInput(
            f"{where} names {shown(name)}, which lies outside the folder of the data set.",
            hint="Where you trust the data set, allow it: --option outside=yes",
        )
    return folder / name


def check_files(cases: Iterable[Case], *, where: Path) -> None:
    """Refuse cases whose files do not exist, listing them.

    Raises:
        FileProblem: with the first missing files.
    """
    refs = [ref for c in cases for ref in (*c.images, c.label, c.weight, c.mask) if ref is not None]
    missing = [ref.path for ref in refs if not what_is(ref.path)]
    if missing:
        raise FileProblem(
            f"{where} names {len(missing)} file{'s' if len(missing) > 1 else ''} that do"
            f"{'' if len(missing) > 1 else 'es'} not exist: {some(missing)}.",
            hint="Copy the missing files, or take their entries out of the list.",
        )


def finish_cases(cases: Sequence[Case], *, where: Path) -> tuple[Case, ...]:
    """Cases sorted by id.

    Raises:
        BadInput: an id that occurs twice, or that leads out of the folder in which files are named by it.
    """
    out = [case.id for case in cases if _leads_out(case.id)]
    if out:
        raise BadInput(
            f"{where} names cases that are no names for files: {some(map(repr, out))}.",
            hint="The files of a case are named by its id; it holds no '..' and starts with no slash.",
        )
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise BadInput(
            f"{where} has several cases of the same name: {some(twice)}.",
            hint="Rename the files so that each case has a name of its own.",
        )
    return tuple(sorted(map(_lend_grid, cases), key=lambda case: case.id))


def _lend_grid(case: Case) -> Case:
    """The same case; labels of formats that may know no voxel size take the image's grid then."""
    image = case.images[0] if case.images else None
    if image is None or image.options or image.slices is not None:
        return case

    def lent(part: ImageRef | None) -> ImageRef | None:
        spec = None if part is None else format_of(part.path)
        if part is None or spec is None or "like" not in spec.options:
            return part
        if {"like", "spacing"} & set(part.options) or part.slices is not None:
            return part
        return replace(part, options=frozen({**part.options, "like": str(image.path)}))

    return replace(case, label=lent(case.label), weight=lent(case.weight), mask=lent(case.mask))


def _leads_out(name: str) -> bool:
    path = PureWindowsPath(name)  # which knows both slashes, and drives
    return not name.strip() or bool(path.anchor) or ".." in path.parts or "\0" in name


def load_splits(folder: Path, cases: Iterable[Case]) -> Splits:
    """The fixed folds beside a data set, `[{"train": [...], "val": [...]}, ...]`; empty where there are none.

    Raises:
        BadInput: another layout, ids that the data set has not, or ids on both sides of a fold.
    """
    file = next((folder / name for name in SPLIT_FILES if (folder / name).is_file()), None)
    if file is None:
        return ()
    content = load_json(file)
    known = {case.id for case in cases}
    folds: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for number, fold in enumerate(content if isinstance(content, list) else [content]):
        if not isinstance(fold, dict) or not {"train", "val"} <= set(fold):
            raise BadInput(f'{file}: fold {number} is no object with "train" and "val".')
        if not all(isinstance(fold[key], list) for key in ("train", "val")):
            raise BadInput(
                f'{file}: "train" and "val" of fold {number} should be lists of case names.'
            )
        train, val = (tuple(map(str, fold[key])) for key in ("train", "val"))
        strange = sorted((set(train) | set(val)) - known)
        if strange:
            raise BadInput(
                f"{file}: fold {number} names cases that the data set has not: {some(strange)}.",
                hint="Case names carry no suffix and no channel number, e.g. case_01.",
            )
        both = sorted(set(train) & set(val))
        if both or not train or not val:
            what = f"has {some(both)} on both sides" if both else "has an empty side"
            raise BadInput(f"{file}: fold {number} {what}.")
        folds.append((train, val))
    return tuple(folds)


def with_drawn_labels(dataset: DataSet, folder: Path) -> DataSet:
    """The data set, with the labels that were drawn in each case as `labels.json` beside it lists them.

    It holds `{"CASE": ["liver", ...], ...}`; cases that are not in it have every label drawn.

    Raises:
        BadInput: another layout, or cases or labels that the data set does not have.
    """
    file = folder / DRAWN
    if not file.is_file():
        return dataset
    content = load_object(file)
    strange = sorted(set(content) - {case.id for case in dataset.cases})
    if strange:
        raise BadInput(
            f"{file} names cases that the data set has not: {some(strange)}.",
            hint="Case names carry no suffix and no channel number, e.g. case_01.",
        )
    cases = [
        replace(case, drawn=drawn_names(content[case.id], where=f"{file}: case {case.id}"))
        if case.id in content
        else case
        for case in dataset.cases
    ]
    return replace(dataset, cases=tuple(cases))


def drawn_names(value: Any, *, where: str) -> tuple[str, ...]:
    """The names of the labels that were drawn in a case.

    Raises:
        BadInput: no list of names.
    """
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise BadInput(
            f'{where} should list the labels that were drawn, such as ["liver"], not {shown(value)}.'
        )
    return tuple(dict.fromkeys(value))


def mirror_pairs(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of names that differ in left and right alone, e.g. `left kidney` and `right kidney`."""
    known = list(names)
    pairs = []
    for name in known:
        other = name.replace("left", "right").replace("Left", "Right").replace("LEFT", "RIGHT")
        if other != name and other in known:
            pairs.append((name, other))
    return tuple(pairs)


def named_task(names: str | Mapping[str, Any] | None, ignore: str | int | None) -> Task | None:
    """A task of exclusive classes from `names` (`liver=1,tumour=2`, or values by name) and `ignore` of a reader.

    Without names the labels are found by looking, and then `ignore` belongs into `[task]` of the run.

    Raises:
        BadInput: something else than NAME=VALUE, or a value given twice.
    """
    if names is None:
        return None if ignore is None else Task("classes", (), int(whole_number(ignore, "ignore")))
    values: dict[str, int] = {}
    for name, value in names.items() if isinstance(names, Mapping) else _parted(names):
        if name.strip() in values:
            raise BadInput(f"The label '{name.strip()}' is named twice: {names}.")
        values[name.strip()] = whole_number(str(value), name.strip())
    if len(set(values.values())) < len(values):
        raise BadInput(f"Two labels have the same value: {names}.")
    task = classes_task(values, ignore=None if ignore is None else whole_number(ignore, "ignore"))
    return replace(task, mirror_pairs=mirror_pairs(values))


def _parted(names: str) -> Iterable[tuple[str, str]]:
    for part in names.split(","):
        name, mark, value = part.partition("=")
        if not mark or not name.strip():
            raise BadInput(f"'{part}' names no label.", hint="For example: names=liver=1,tumour=2")
        yield name, value


def whole_number(value: Any, what: str) -> int:
    """The number that a value of a file means.

    Raises:
        BadInput: no number, or a negative one.
    """
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"'{what}' should be a whole number, not '{value}'.") from error
    if number < 0:
        raise BadInput(f"'{what}' should not be negative: {number}.")
    return number


def some(items: Iterable[Any]) -> str:
    """A list for a message, cut after a few."""
    listed = [str(item) for item in items]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def ref(path: Path, **options: Any) -> ImageRef:
    return ImageRef(path, frozen(options))


def stem_of(name: str, suffixes: Iterable[str]) -> str:
    """A file name without the suffix of its format, `.nii.gz` included."""
    lower = name.lower()
    suffix = max((s for s in suffixes if lower.endswith(s)), key=len, default="")
    return name[: -len(suffix)] if suffix else Path(name).stem
