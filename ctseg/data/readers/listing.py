"""A list of cases as a CSV or JSON file: image and label of each, and what else belongs to it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctseg.data.readers import layout
from ctseg.data.readers.pairs import stem_of
from ctseg.errors import BadInput, FileProblem, nearest
from ctseg.specs import Case, DataSet, ImageRef

_KNOWN = ("id", "image", "label", "weight", "mask", "group", "fold")
_SEVERAL = re.compile(r"image_(\w+)")


def recognise(path: Path) -> bool:
    """A CSV file whose header has `image` columns, or a JSON file with a list of objects that have images."""
    try:
        if path.suffix.lower() == ".csv" and path.is_file():
            with path.open(encoding="utf-8-sig", newline="") as file:
                header = file.readline()
            columns = next(csv.reader([header], delimiter=_separator(header)), [])
            return any(name.strip().lower().startswith("image") for name in columns)
        if path.suffix.lower() == ".json" and path.name != "dataset.json" and path.is_file():
            content = layout.load_json(path)
            rows = content.get("cases") if isinstance(content, dict) else content
            return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict)
    except (FileProblem, OSError, UnicodeDecodeError, csv.Error):
        return False
    return False


def cases(
    path: Path,
    *,
    channels: str | None = None,
    names: str | None = None,
    ignore: str | int | None = None,
) -> DataSet:
    """Read the list; paths in it are relative to it.

    The columns of a CSV file, or the keys of each object of a JSON file, are `image` (or `image_CT`, `image_PET`, ...:
    one a channel), and as far as they apply `id`, `label`, `weight`, `mask`, `group` (patient or specimen) and `fold`
    (the number of the fold in which the case validates). A JSON file is a list of such objects, or an object with
    the list under `cases` and `name`, `channels`, `labels` (names to values), `ignore`, `licence` beside it.

    Args:
        path: the file.
        channels: names of the channels with commas between them; `CT` means Hounsfield units.
        names: `liver=1,tumour=2`.
        ignore: value of voxels that nobody labelled.

    Raises:
        FileProblem: the list or files that it names are missing.
        BadInput: an unknown column, or rows that lack an image.
    """
    about, rows = _content(path)
    if not rows:
        raise BadInput(f"{path} lists no cases: the data set is empty.")
    columns = _image_columns(path, rows)
    found = [_case(path, number, row, columns) for number, row in enumerate(rows, start=1)]
    layout.check_files(found, where=path)
    labelled = layout.finish_cases([c for c in found if c.label is not None], where=path)
    given = about.get("channels") if channels is None else channels
    given = given.split(",") if isinstance(given, str) else given
    if given is not None and not isinstance(given, list):
        raise BadInput(f'{path}: "channels" should be a list of names, not {given!r}.')
    own = [match[1] for name in columns if (match := _SEVERAL.fullmatch(name))]
    known = tuple(str(name).strip() for name in given or own or ["image"])
    if len(columns) > 1 and len(known) != len(columns):
        raise BadInput(f"{path} names {len(known)} channels for {len(columns)} image columns.")
    asked = names if names is not None else about.get("labels") or None
    if asked is not None and not isinstance(asked, str | Mapping):
        raise BadInput(f'{path}: "labels" should be an object like {{"liver": 1}}, not {asked!r}.')
    return DataSet(
        name=layout.text(about, "name") or path.stem,
        path=path,
        reader="list",
        cases=labelled,
        unlabelled=layout.finish_cases([c for c in found if c.label is None], where=path),
        channels=known,
        task=layout.named_task(asked, about.get("ignore") if ignore is None else ignore),
        licence=layout.text(about, "licence", "license"),
        description=layout.text(about, "description"),
        reference=layout.text(about, "reference"),
        splits=_folds(path, rows, found),
    )


def _separator(header: str) -> str:
    """Spreadsheets of some countries put semicolons."""
    return ";" if ";" in header else ","


def _content(path: Path) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    if path.suffix.lower() == ".csv":
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                separator = _separator(file.readline())
                file.seek(0)
                read = list(csv.DictReader(file, delimiter=separator, restkey="..."))
        except OSError as error:
            raise FileProblem(f"{path} cannot be read: {error.strerror or error}.") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise FileProblem(f"{path} is no CSV file in UTF-8: {error}.") from error
        ragged = next((i for i, row in enumerate(read, start=2) if "..." in row), None)
        if ragged is not None:
            raise BadInput(f"{path}: line {ragged} has more fields than the header.")
        rows = [
            {k.strip().lower(): (v or "").strip() for k, v in row.items() if k.strip() or v}
            for row in read
        ]
        # names of channels keep their case
        for row, original in zip(rows, read, strict=True):
            for key, value in original.items():
                if _SEVERAL.fullmatch(key.strip()):
                    row.pop(key.strip().lower(), None)
                    row[key.strip()] = (value or "").strip()
        return {}, [row for row in rows if any(row.values())]
    content = layout.load_json(path)
    about: Mapping[str, Any] = content if isinstance(content, dict) else {}
    listed = about.get("cases") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise BadInput(
            f"{path} holds no list of cases.",
            hint='Write [{"image": "a.nii.gz", "label": "a_seg.nii.gz"}, ...]',
        )
    return about, listed


def _image_columns(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys: dict[str, None] = {key: None for row in rows for key in row}
    images = [key for key in keys if key == "image" or _SEVERAL.fullmatch(key)]
    if not images:
        raise BadInput(
            f"{path} has no column 'image'.", hint=f"Its columns: {', '.join(keys) or 'none'}"
        )
    strange = [key for key in keys if key not in _KNOWN and key not in images]
    if strange:
        near = nearest(strange[0], _KNOWN)
        raise BadInput(
            f"{path} has the unknown column '{strange[0]}'."
            + (f" Did you mean '{near}'?" if near else ""),
            hint=f"Known are: {', '.join(_KNOWN)}, and image_NAME for several channels.",
        )
    return images


def _case(path: Path, number: int, row: Mapping[str, Any], columns: Sequence[str]) -> Case:
    def ref(key: str) -> ImageRef | None:
        value = row.get(key)
        if not value:
            return None
        if not isinstance(value, str):
            raise BadInput(f"{path}: '{key}' of case {number} is {value!r}, no path.")
        return layout.ref(layout.listed_file(path.parent, value, where=path, allowed=True))

    listed = [ref(column) for column in columns]
    images = tuple(image for image in listed if image is not None)
    if len(images) != len(columns):
        raise BadInput(f"{path}: case {number} lacks an image ({', '.join(columns)}).")
    group, name = row.get("group"), row.get("id")
    return Case(
        id=stem_of(images[0].path) if name in (None, "") else str(name),
        images=images,
        label=ref("label"),
        weight=ref("weight"),
        mask=ref("mask"),
        group=str(group) if group not in (None, "") else None,
    )


def _folds(path: Path, rows: Sequence[Mapping[str, Any]], found: Sequence[Case]) -> layout.Splits:
    """Folds from the column `fold`: a case validates in the fold of its number and trains in the others."""
    numbers = {
        case.id: str(row["fold"])
        for row, case in zip(rows, found, strict=True)
        if case.label is not None and row.get("fold") not in (None, "")
    }
    if not numbers:
        return ()
    folds_of: dict[str, set[str]] = {}
    for case in found:
        if case.group is not None and case.id in numbers:
            folds_of.setdefault(case.group, set()).add(numbers[case.id])
    torn = [group for group, folds in folds_of.items() if len(folds) > 1]
    if torn:
        raise BadInput(
            f"{path}: the groups {layout.some(torn)} are in several folds; a patient would train and validate.",
            hint="Give all cases of a group the same fold.",
        )
    order = sorted(set(numbers.values()), key=lambda text: (len(text), text))
    without = [c.id for c in found if c.label is not None and c.id not in numbers]
    if without:
        raise BadInput(f"{path}: the cases {layout.some(without)} are in no fold, the others are.")
    if len(order) < 2:
        raise BadInput(f"{path}: all cases are in fold {order[0]}; two folds are the least.")
    if order != [str(number) for number in range(len(order))]:
        raise BadInput(
            f"{path} numbers its folds {layout.some(order)}; `--fold` counts from 0.",
            hint=f"Number them 0 to {len(order) - 1}.",
        )
    return tuple(
        (
            tuple(name for name, fold in numbers.items() if fold != this),
            tuple(name for name, fold in numbers.items() if fold == this),
        )
        for this in order
    )
