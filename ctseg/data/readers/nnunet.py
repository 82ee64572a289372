"""nnU-Net raw folders: `dataset.json`, `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`.

Layout: nnU-Net's documentation/dataset_format.md, regions and the ignore label as in region_based_training.md and
ignore_label.md of the same folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctseg.data.readers import layout
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Case, DataSet, ImageRef, Label, Task
from ctseg.task import classes_task
from ctseg.volume.formats.outside import is_allowed

_DIGITS = 4


def recognise(path: Path) -> bool:
    content = layout.peek(path)
    return isinstance(content.get("channel_names"), Mapping) and "training" not in content


def cases(path: Path, *, outside: str = "no") -> DataSet:
    """Read `dataset.json`, the folders and, where they are there, the folds.

    Args:
        path: the folder, or its `dataset.json`.
        outside: `yes` also takes files that `dataset.json` names outside its folder.

    Raises:
        FileProblem: no such file, or channels or labels that are missing.
        BadInput: no cases, labels or folds that make no sense.
    """
    folder = layout.folder_of(path)
    file = folder / "dataset.json"
    content = layout.load_object(file)
    channels = layout.ordered(content.get("channel_names"), what="channel_names", where=file)
    ending = str(content.get("file_ending", ".nii.gz"))
    if content.get("dataset"):
        found = _listed(file, content["dataset"], len(channels), is_allowed(outside))
    else:
        found = _in_folders(folder, ending, len(channels))
    labelled = layout.finish_cases([c for c in found if c.label is not None], where=folder)
    if not labelled:
        raise BadInput(
            f"{folder} has no case with a label: the data set is empty.",
            hint=f"Label maps belong into {folder / 'labelsTr'}, named CASE{ending}.",
        )
    unlabelled = [c for c in found if c.label is None]
    unlabelled += _images(folder / "imagesTs", ending, len(channels))
    return DataSet(
        name=layout.text(content, "name") or folder.resolve().name.partition("_")[2] or folder.name,
        path=folder,
        reader="nnunet",
        cases=labelled,
        unlabelled=layout.finish_cases(unlabelled, where=folder),
        channels=channels,
        task=_task(content, file),
        licence=layout.text(content, "licence", "license"),
        description=layout.text(content, "description"),
        reference=layout.text(content, "reference"),
        splits=layout.load_splits(folder, labelled),
    )


def _images(folder: Path, ending: str, channels: int) -> list[Case]:
    """The cases of an image folder, each with all its channels.

    Raises:
        FileProblem: channels that are missing.
    """
    files: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []:
        stem = file.name[: -len(ending)]
        name, mark, number = stem.rpartition("_")
        if file.name.startswith("."):
            continue
        if not mark or len(number) != _DIGITS or not number.isdigit():
            raise FileProblem(
                f"{file} has no channel number: nnU-Net's images end in _0000{ending}, _0001{ending}, ...",
                hint=f"Rename it, e.g. to {stem}_0000{ending}",
            )
        files[name][int(number)] = file
    missing = [
        folder / f"{name}_{channel:04d}{ending}"
        for name, found in files.items()
        for channel in range(channels)
        if channel not in found
    ]
    if missing:
        raise FileProblem(
            f"{folder} lacks {len(missing)} of the images that {channels} channel_names ask for: "
            f"{layout.some(missing)}.",
            hint="Copy the missing files, or correct channel_names in dataset.json.",
        )
    return [
        Case(name, tuple(layout.ref(found[channel]) for channel in range(channels)))
        for name, found in files.items()
    ]


def _in_folders(folder: Path, ending: str, channels: int) -> list[Case]:
    found = {case.id: case for case in _images(folder / "imagesTr", ending, channels)}
    labels = {
        label.name[: -len(ending)]: label
        for label in sorted((folder / "labelsTr").glob(f"*{ending}"))
        if not label.name.startswith(".")
    }
    orphans = [folder / "imagesTr" / f"{name}_0000{ending}" for name in labels if name not in found]
    if orphans:
        raise FileProblem(
            f"{folder} has {len(orphans)} label maps without an image; missing: {layout.some(orphans)}.",
            hint="Copy the missing images, or remove the label maps.",
        )
    return [
        replace(case, label=layout.ref(labels[name]) if name in labels else None)
        for name, case in found.items()
    ]


def _listed(file: Path, listed: Any, channels: int, allowed: bool) -> list[Case]:
    """Cases that dataset.json names itself: `{"CASE": {"images": [...], "label": ...}}`."""
    if not isinstance(listed, Mapping):
        raise BadInput(f'{file}: "dataset" should be an object of cases.')
    out = []
    for name, entry in listed.items():
        images = entry.get("images") if isinstance(entry, Mapping) else None
        if not isinstance(images, list) or len(images) != channels:
            raise BadInput(f"{file}: the case '{name}' needs {channels} images, not {images!r}.")

        def ref(name: Any) -> ImageRef:
            path = layout.listed_file(file.parent, name, where=file, allowed=allowed)
            return layout.ref(path)

        label = ref(entry["label"]) if entry.get("label") else None
        out.append(Case(str(name), tuple(map(ref, images)), label))
    layout.check_files(out, where=file)
    return out


def _task(content: Mapping[str, Any], file: Path) -> Task:
    labels = content.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise BadInput(
            f'{file}: "labels" should be an object like {{"background": 0, "liver": 1}}.'
        )
    values = {str(name): _values(name, value, file) for name, value in labels.items()}
    ignored = values.pop("ignore", None)
    ignore = ignored[0] if ignored else None
    if all(len(numbers) == 1 for numbers in values.values()):
        single = {name: numbers[0] for name, numbers in values.items()}
        if len(set(single.values())) < len(single):
            raise BadInput(f"{file}: two labels have the same value: {single}.")
        task = classes_task(single, ignore=ignore)
    else:
        values = {name: numbers for name, numbers in values.items() if numbers != (0,)}
        order = content.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(values):
            raise BadInput(
                f'{file}: {len(values)} regions need a "regions_class_order" of as many values, not {order!r}.',
                hint="It gives the value written for each region, in the order of the labels; later ones win.",
            )
        task = Task(
            "channels",
            tuple(
                Label(name, numbers, layout.whole_number(value, "regions_class_order"))
                for (name, numbers), value in zip(values.items(), order, strict=True)
            ),
            ignore=ignore,
        )
    return replace(task, mirror_pairs=layout.mirror_pairs(values))


def _values(name: Any, value: Any, file: Path) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(v, int) and v >= 0 for v in listed):
        raise BadInput(f"{file}: the label '{name}' has the value {value!r}, which is no number.")
    return tuple(listed)
