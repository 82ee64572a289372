"""HDF5 data sets as pytorch-3dunet knows them: `/raw` and `/label` in one file, a folder of files, or a glob."""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py

from ctseg.config.checking import parse_json
from ctseg.data.readers import layout
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Case, DataSet, ImageRef, Label, Task
from ctseg.task import classes_task
from ctseg.volume.formats import paths
from ctseg.volume.formats.hdf5.links import Links, opened
from ctseg.volume.formats.hdf5.open import DEFAULT_DATASET, DEFAULT_LABEL
from ctseg.volume.formats.outside import is_allowed


def files_of(path: Path) -> list[Path]:
    """The HDF5 files that a file, folder or glob stands for, sorted."""
    if path.is_dir():
        found = list(path.iterdir())
    elif path.exists() or not glob.has_magic(str(path)):
        found = [path]
    else:
        anchor = Path(path.anchor)
        found = list(anchor.glob(str(path.relative_to(anchor))))
    return sorted(f for f in found if _is_name(f))


def _is_name(path: Path) -> bool:
    return paths.suffix_of(path, paths.HDF5) is not None and not path.name.startswith(".")


def recognise(path: Path) -> bool:
    """Whether the first file holds a volume besides label maps."""
    files = files_of(path)
    if not files:
        return False
    try:
        with opened(files[0]) as links:
            return bool((set(links.volumes()) | set(links.broken)) - {DEFAULT_LABEL})
    except FileProblem:  # damaged, which `cases` tells
        return False


def cases(
    path: Path,
    *,
    raw: str = DEFAULT_DATASET,
    label: str = DEFAULT_LABEL,
    weight: str | None = None,
    mask: str | None = None,
    names: str | None = None,
    ignore: str | int | None = None,
    outside: str = "no",
) -> DataSet:
    """Read which datasets the files have, and no voxels.

    Args:
        path: a file, a folder of files, or a glob.
        raw: dataset of the scan, DHW or CDHW.
        label: dataset of class ids (DHW), binary channels (CDHW) or float targets; files without it are unlabelled.
        weight: dataset of voxel weights; none by default.
        mask: dataset that is 0 where labels do not count; none by default.
        names: `liver=1,tumour=2`, where the file does not name them.
        ignore: value of voxels that nobody labelled.
        outside: `yes` also reads datasets that lie outside the folder of their file.

    Raises:
        FileProblem: no files, damaged ones, or no such scan in them.
        BadInput: files that differ in channels or labels.
    """
    raw, label = _absolute(raw), _absolute(label)
    allowed = is_allowed(outside)
    files = files_of(path)
    if not files:
        raise FileProblem(
            f"{path} holds no HDF5 files: the data set is empty.",
            hint=f"Their names end in one of: {', '.join(paths.HDF5)}",
        )
    found: list[Case] = []
    channels: dict[tuple[str, ...], Path] = {}
    tasks: dict[Task | None, Path] = {}
    for file in files:
        with opened(file, allowed=allowed) as links:
            volumes = links.volumes()
            if raw not in volumes:
                if raw in links.broken:
                    raise links.broken[raw]
                raise FileProblem(
                    f"{file} has no volume {raw}.",
                    hint=f"Name the scan's dataset with the option raw. It has: {layout.some(volumes)}",
                )
            channels.setdefault(_channel_names(_dataset(links, raw)), file)
            if label in links.broken:
                raise links.broken[label]
            labelled = label in volumes
            if labelled:
                tasks.setdefault(_task(_dataset(links, label), file), file)
            for option, name in (("weight", weight), ("mask", mask)):
                if name is not None and labelled and _absolute(name) not in volumes:
                    raise FileProblem(
                        f"{file} has no volume {name}.", hint=f"Check the option {option}."
                    )
        more = {"outside": outside} if allowed else {}
        found.append(
            Case(
                id=layout.stem_of(file.name, paths.HDF5),
                images=(layout.ref(file, dataset=raw, **more),),
                label=_beside(file, label, raw, more) if labelled else None,
                weight=_beside(file, weight, raw, more) if labelled else None,
                mask=_beside(file, mask, raw, more) if labelled else None,
            )
        )
    _check_alike(channels, "channels")
    _check_alike(tasks, "labels")
    ordered = layout.finish_cases(found, where=path)
    labelled_cases = tuple(case for case in ordered if case.label is not None)
    folder = path if path.is_dir() else path.parent
    return DataSet(
        name=path.resolve().name
        if path.is_dir()
        else files[0].stem
        if len(files) == 1
        else folder.resolve().name,
        path=path,
        reader="hdf5",
        cases=labelled_cases,
        unlabelled=tuple(case for case in ordered if case.label is None),
        channels=next(iter(channels)),
        task=_asked(next(iter(tasks), None), names, ignore),
        splits=layout.load_splits(path, labelled_cases) if path.is_dir() else (),
    )


def _beside(file: Path, name: str | None, raw: str, more: dict[str, str]) -> ImageRef | None:
    if name is None:
        return None
    return layout.ref(file, dataset=_absolute(name), geometry=raw, **more)


def _dataset(links: Links, name: str) -> h5py.Dataset:
    return links.find(name)


def _asked(found: Task | None, names: str | None, ignore: str | int | None) -> Task | None:
    """The task as the options name it, over what the file declares."""
    asked = layout.named_task(names, ignore)
    if asked is None or (names is None and found is not None):
        return found if asked is None or found is None else replace(found, ignore=asked.ignore)
    return asked


def _absolute(name: str) -> str:
    return name if name.startswith("/") else f"/{name}"


def _check_alike(found: dict[Any, Path], what: str) -> None:
    if len(found) > 1:
        one, two = list(found.values())[:2]
        raise BadInput(
            f"{one} and {two} differ in their {what}; the files of a data set are alike.",
            hint="Train on them apart, or bring them to the same form.",
        )


def _channel_names(stored: h5py.Dataset) -> tuple[str, ...]:
    """From the attribute `channels`; otherwise `raw`, which asks for no Hounsfield units."""
    count = stored.shape[0] if stored.ndim == 4 else 1
    names = stored.attrs.get("channels")
    if names is not None:
        listed = _decoded(names)
        if isinstance(listed, list) and len(listed) == count:
            return tuple(map(str, listed))
    return ("raw",) if count == 1 else tuple(f"raw_{index}" for index in range(count))


def _decoded(value: Any) -> Any:
    """An attribute that holds JSON, plain text or an array of strings."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        try:
            return parse_json(value, finite=False)
        except ValueError:
            return [value]
    return (
        [v.decode() if isinstance(v, bytes) else v for v in value]
        if isinstance(value, list)
        else value
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _task(stored: h5py.Dataset, file: Path) -> Task | None:
    """What the label dataset declares: names in its attribute `labels`, channels by its fourth axis.

    Float targets say so in the attribute `task`: regression; each of their channels is a value of its own.
    """
    names = _decoded(stored.attrs["labels"]) if "labels" in stored.attrs else None
    if _text(stored.attrs.get("task")) == "regression":
        count = stored.shape[0] if stored.ndim == 4 else 1
        listed = list(names) if isinstance(names, (list, dict)) else []
        if len(listed) != count:
            listed = ["value"] if count == 1 else [f"value_{index}" for index in range(count)]
        return Task("regression", tuple(Label(str(n), (), i) for i, n in enumerate(listed, 1)))
    if stored.ndim == 4:
        count = stored.shape[0]
        listed = list(names) if isinstance(names, (list, dict)) else []
        if len(listed) != count:
            listed = [f"channel_{index}" for index in range(count)]
        return Task(
            "channels",
            tuple(Label(str(name), (i,), i) for i, name in enumerate(listed, start=1)),
            mirror_pairs=layout.mirror_pairs(map(str, listed)),
            stacked=True,
        )
    if names is None:
        return None
    if isinstance(names, list):
        names = {str(name): value for value, name in enumerate(names)}
    if not isinstance(names, dict) or not all(
        isinstance(v, int) and v >= 0 for v in names.values()
    ):
        raise BadInput(
            f"{file}:{stored.name} has an attribute labels that is no list of names: {names!r}.",
            hint='It holds JSON: {"background": 0, "fibre": 1}',
        )
    return replace(classes_task(names), mirror_pairs=layout.mirror_pairs(names))
