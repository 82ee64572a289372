"""What is to be predicted: scans named one by one, a folder of them, a DICOM study, or a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctseg import plugins
from ctseg.data.readers.find import open_dataset
from ctseg.data.splits import fold_cases
from ctseg.engine.pairs import stem_of
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import ImageRef, frozen
from ctseg.volume.io import format_of

CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Item:
    """One scan to predict: an id that names the output, and one file or one for each channel."""

    id: str
    images: tuple[ImageRef, ...]

    @property
    def path(self) -> Path:
        return self.images[0].path


def find_items(
    inputs: Sequence[str], *, channels: int, dataset: str | None = None, fold: int | None = None
) -> list[Item]:
    """The scans that the command line names.

    Args:
        inputs: files, `a,b` for a scan of two channels, folders, DICOM folders, or data sets.
        channels: what the model takes.
        dataset: name within HDF5 files.
        fold: of data sets only the validation cases of this fold.

    Raises:
        FileProblem: nothing is there.
        BadInput: no scans in a folder, or two with one name.
    """
    items: list[Item] = []
    for text in inputs:
        parts = [Path(part) for part in text.split(",")] if "," in text else [Path(text)]
        if len(parts) == 1 or Path(text).exists():
            items += _of_path(Path(text), channels, dataset, fold)
        else:
            for part in parts:
                _check_there(part)
            items.append(Item(_case_of(parts[0]), tuple(_ref(part, dataset) for part in parts)))
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            raise BadInput(
                f"Two scans would be written as '{item.id}': {seen[item.id].path} and {item.path}.",
                hint="Predict them into two folders.",
            )
        seen[item.id] = item
    return items


def _of_path(path: Path, channels: int, dataset: str | None, fold: int | None) -> list[Item]:
    _check_there(path)
    is_set = dataset is None and any(spec.recognise(path) for spec in plugins.readers())
    if fold is not None or (is_set and path.is_dir()):
        found = open_dataset(path)
        cases = [*found.cases, *found.unlabelled]
        if fold is not None:
            wanted = set(fold_cases(found, fold)[1])
            cases = [case for case in cases if case.id in wanted]
        return [Item(case.id, case.images) for case in cases]
    if path.is_file():
        spec = format_of(path)
        if spec is None:
            raise FileProblem(f"{path} is of no format that ctseg reads.")
        return [Item(_case_of(path) if channels == 1 else stem_of(path), (_ref(path, dataset),))]
    spec = format_of(path)
    if spec is not None:  # a folder that is one scan: DICOM, or a store
        name = path.resolve().name
        suffix = next((s for s in spec.suffixes if name.lower().endswith(s)), "")
        return [Item(name[: len(name) - len(suffix)] or name, (_ref(path, dataset),))]
    return _of_folder(path, channels, dataset)


def _of_folder(folder: Path, channels: int, dataset: str | None) -> list[Item]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and format_of(p))
    cases: dict[str, list[Path]] = {}
    for file in files:
        match = CHANNEL.match(stem_of(file))
        cases.setdefault(match["case"] if match else stem_of(file), []).append(file)
    if any(len(group) > channels for group in cases.values()):
        worst = next(group for group in cases.values() if len(group) > channels)
        raise BadInput(
            f"{folder} holds {len(worst)} files for the scan '{_case_of(worst[0])}', but the model takes "
            f"{channels} channel(s): {', '.join(p.name for p in worst[:4])}."
        )
    if not cases:
        raise BadInput(
            f"{folder} holds no scans.",
            hint="Name a folder of NIfTI, NRRD, MHA, TIFF or HDF5 files, a DICOM folder, or a file.",
        )
    return [
        Item(name, tuple(_ref(path, dataset) for path in group)) for name, group in cases.items()
    ]


def _case_of(path: Path) -> str:
    match = CHANNEL.match(stem_of(path))
    return match["case"] if match else stem_of(path)


def _ref(path: Path, dataset: str | None) -> ImageRef:
    spec = format_of(path)
    options = {"dataset": dataset} if dataset and spec and "dataset" in spec.options else {}
    return ImageRef(path, frozen(options))


def _check_there(path: Path) -> None:
    if not path.exists():
        raise FileProblem(f"{path} does not exist.", hint="Check the path.")
