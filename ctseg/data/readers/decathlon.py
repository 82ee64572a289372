"""Folders of the Medical Segmentation Decathlon: `dataset.json`, `imagesTr`, `labelsTr`.

Layout: Antonelli et al. 2022, doi 10.1038/s41467-022-30695-9, and the files at medicaldecathlon.com.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctseg.data.readers import layout
from ctseg.errors import BadInput
from ctseg.specs import Case, DataSet, ImageRef, Task
from ctseg.task import classes_task
from ctseg.volume.formats import paths
from ctseg.volume.formats.outside import is_allowed

_SUFFIXES = (*paths.NIFTI, *paths.NRRD, *paths.METAIMAGE, *paths.TIFF, *paths.HDF5)
_MOST_DIGITS = 18


def recognise(path: Path) -> bool:
    return isinstance(layout.peek(path).get("training"), list)


def cases(path: Path, *, outside: str = "no") -> DataSet:
    """Read `dataset.json` and, where it is there, `splits.json`.

    Args:
        path: the folder, or its `dataset.json`.
        outside: `yes` also takes files that `dataset.json` names outside its folder.

    Raises:
        FileProblem: no such file, or files that it names and that do not exist.
        BadInput: no cases, doubled names, labels or folds that make no sense.
    """
    folder = layout.folder_of(path)
    file = folder / "dataset.json"
    content = layout.load_object(file)
    key = "modality" if "modality" in content or "channel_names" not in content else "channel_names"
    channels = layout.ordered(content.get(key, {"0": "CT"}), what=key, where=file)
    training = content.get("training")
    if not isinstance(training, list) or not training:
        raise BadInput(
            f"{file} lists no cases: the data set is empty.",
            hint='Fill its "training" list with {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}.',
        )
    unlabelled = content.get("test") or []
    if not isinstance(unlabelled, list):
        raise BadInput(
            f'{file}: "test" should be a list of images, not {layout.shown(unlabelled)}.'
        )
    allowed = is_allowed(outside)
    found = [_case(file, entry, len(channels), allowed) for entry in training]
    test = [_case(file, entry, len(channels), allowed) for entry in unlabelled]
    layout.check_files([*found, *test], where=file)
    labelled = layout.finish_cases([c for c in found if c.label is not None], where=file)
    unseen = [replace(c, label=None) for c in [*(c for c in found if c.label is None), *test]]
    return DataSet(
        name=layout.text(content, "name") or folder.resolve().name,
        path=folder,
        reader="decathlon",
        cases=labelled,
        unlabelled=layout.finish_cases(unseen, where=file),
        channels=channels,
        task=_task(content.get("labels"), file),
        licence=layout.text(content, "licence", "license"),
        description=layout.text(content, "description"),
        reference=layout.text(content, "reference"),
        splits=layout.load_splits(folder, labelled),
    )


def _case(file: Path, entry: Any, channels: int, allowed: bool) -> Case:
    """One entry: `{"image": ..., "label": ...}`, or a bare path for a test image."""
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, Mapping) or not entry.get("image"):
        raise BadInput(
            f"{file}: the entry {layout.shown(entry)} names no image.",
            hint='An entry is {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}.',
        )
    listed = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    label_name = entry.get("label") or None
    if len(listed) not in (1, channels):
        raise BadInput(f"{file}: {listed} are {len(listed)} images for {channels} modalities.")
    stacked = len(listed) == 1 and channels > 1

    def path(name: Any) -> Path:
        return layout.listed_file(file.parent, name, where=file, allowed=allowed)

    images = tuple(_image(path(name), stacked=stacked) for name in listed)
    label = None if label_name is None else layout.ref(path(label_name))
    name = layout.stem_of(Path(listed[0]).name, _SUFFIXES)
    if len(listed) > 1 or (label is not None and name.endswith("_0000")):
        name = name.removesuffix("_0000")
    group = entry.get("group", entry.get("patient"))
    drawn = None
    if "labels" in entry:
        drawn = layout.drawn_names(entry["labels"], where=f"{file}: case {name}")
    return Case(name, images, label, group=None if group is None else str(group), drawn=drawn)


def _image(path: Path, *, stacked: bool) -> ImageRef:
    nifti = paths.suffix_of(path, paths.NIFTI) is not None
    return layout.ref(path, channels="last") if stacked and nifti else layout.ref(path)


def _task(labels: Any, file: Path) -> Task | None:
    """The task that `{"0": "background", "1": "liver"}` declares; the other way round is understood too."""
    if not labels:
        return None
    if not isinstance(labels, Mapping):
        raise BadInput(
            f'{file}: "labels" should be an object like {{"0": "background", "1": "liver"}}.'
        )
    names: dict[str, int] = {}
    for key, value in labels.items():
        number, name = (key, value) if str(key).lstrip("-").isdecimal() else (value, key)
        if not _is_label(number) or not isinstance(name, str):
            raise BadInput(
                f"{file}: the label {layout.shown(key)}: {layout.shown(value)} gives no number and name."
            )
        if name in names or int(number) in names.values():
            raise BadInput(f"{file}: the label {number} '{name}' is declared twice.")
        names[name] = int(number)
    return replace(classes_task(names), mirror_pairs=layout.mirror_pairs(names))


def _is_label(number: Any) -> bool:
    """Whether a label map can hold such a value."""
    text = str(number) if isinstance(number, str | int) else ""
    return text.isdecimal() and len(text) <= _MOST_DIGITS
