"""Folders of image and label pairs, found by the names of folders or by two patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ctseg import plugins
from ctseg.data.readers import layout
from ctseg.data.readers.scans import find_scans
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Case, DataSet
from ctseg.volume.formats.source import what_is
from ctseg.volume.io import format_of

IMAGES = ("images", "image", "imagestr", "scans", "volumes", "raw", "ct")
LABELS = ("labels", "label", "labelstr", "masks", "mask", "segmentations", "seg", "annotations")
_ENDINGS = re.compile(r"[-_.](seg(mentation)?|label(s|map)?|mask|gt|roi)$", re.IGNORECASE)
_ALIKE = "What the * stand for is the case, and must be the same in all patterns."
_CHANNEL = re.compile(r"_(\d{4})$")


def recognise(path: Path) -> bool:
    """Whether a folder without a `dataset.json` has one folder of images and one of labels."""
    if not path.is_dir() or (path / "dataset.json").is_file():
        return False
    found = _subfolder(path, IMAGES), _subfolder(path, LABELS)
    return all(folder is not None and _has_volumes(folder) for folder in found)


def cases(
    path: Path,
    *,
    images: str | None = None,
    labels: str | None = None,
    weights: str | None = None,
    masks: str | None = None,
    channels: str | None = None,
    names: str | None = None,
    ignore: str | int | None = None,
) -> DataSet:
    """Pair images with labels.

    Args:
        path: the folder.
        images: pattern below it, e.g. `scans/*.nii.gz`; what the `*` stand for is the case's name, and links it to
            its label. Several channels are patterns with commas between them. Without it the folders `images` and
            `labels` (or names like them) are paired by file name.
        labels, weights, masks: patterns likewise.
        channels: names of the channels with commas between them; `CT` means Hounsfield units.
        names: `liver=1,tumour=2`; found by looking where it is not given.
        ignore: value of voxels that nobody labelled (sparse labels).

    Raises:
        FileProblem: no such folder or files.
        BadInput: images without their channels, or a pattern that names a case twice.
    """
    folder = path
    if not folder.is_dir():
        raise FileProblem(f"{folder} is no folder.", hint="Name the folder that holds the pairs.")
    lonely = [
        name
        for name, given in (("labels", labels), ("weights", weights), ("masks", masks))
        if given
    ]
    if images is None and lonely:
        raise BadInput(
            f"The option {lonely[0]} is a pattern, and goes with one for the images.",
            hint="Give both, e.g. --option images='scans/*.nii.gz' --option labels='masks/*.nii.gz'",
        )
    if images is None:
        found = _by_folder(folder)
        count = len(found[0].images)
    else:
        patterns = [part.strip() for part in images.split(",")]
        found = _by_pattern(folder, patterns, labels, weights, masks)
        count = len(patterns)
    known = _channels(channels, count, folder)
    labelled = layout.finish_cases([c for c in found if c.label is not None], where=folder)
    return DataSet(
        name=folder.resolve().name,
        path=folder,
        reader="pairs",
        cases=labelled,
        unlabelled=layout.finish_cases([c for c in found if c.label is None], where=folder),
        channels=known,
        task=layout.named_task(names, ignore),
        splits=layout.load_splits(folder, labelled),
    )


def _channels(given: str | None, count: int, folder: Path) -> tuple[str, ...]:
    if given is None:
        return ("image",) if count == 1 else tuple(f"image_{index}" for index in range(count))
    listed = tuple(name.strip() for name in given.split(","))
    if len(listed) != count:
        raise BadInput(
            f"The option channels names {len(listed)} channels; the images of {folder} have {count} files each."
        )
    return listed


# ---------------------------------------------------------------- two folders


def _subfolder(path: Path, names: Sequence[str]) -> Path | None:
    folders = {p.name.lower(): p for p in path.iterdir() if p.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def _has_volumes(folder: Path) -> bool:
    return any(
        format_of(entry) is not None
        for entry in (folder, *folder.iterdir())
        if not entry.name.startswith(".")
    )


def _by_folder(folder: Path) -> list[Case]:
    images, labels = _subfolder(folder, IMAGES), _subfolder(folder, LABELS)
    if images is None or labels is None:
        raise BadInput(
            f"{folder} has no folder of images beside one of labels.",
            hint="Name them: --option images='scans/*.nii.gz' --option labels='masks/*.nii.gz'",
        )
    scans: dict[str, dict[int, Path]] = {}
    stems = {
        entry: folder.resolve().name if entry == images else stem_of(entry)
        for entry in find_scans(images)
    }
    drawn = find_scans(labels)
    by_number = _numbers_are_channels(stems.values(), drawn)
    for entry, stem in stems.items():
        match = _CHANNEL.search(stem) if by_number else None
        name, number = (stem[: match.start()], int(match[1])) if match else (stem, 0)
        if number in scans.setdefault(name, {}):
            raise BadInput(
                f"{scans[name][number]} and {entry} are two images of the case '{name}'.",
                hint="Keep one of them in the folder.",
            )
        scans[name][number] = entry
    if not scans:
        raise BadInput(f"{images} holds no volumes: the data set is empty.")
    count = max(len(found) for found in scans.values())
    for name, found in scans.items():
        if sorted(found) != list(range(count)):
            raise FileProblem(
                f"The case '{name}' has {len(found)} of {count} channels: {layout.some(found.values())}."
            )
    targets = _labels_for(labels, drawn, set(scans))
    return [
        Case(
            name,
            tuple(layout.ref(found[number]) for number in range(count)),
            layout.ref(targets[name]) if name in targets else None,
        )
        for name, found in scans.items()
    ]


def _numbers_are_channels(stems: Iterable[str], drawn: Iterable[Path]) -> bool:
    """Whether `_0000` at the end of names counts channels, not cases: one is 0000, and no label has another number."""
    numbered = {stem: match[1] for stem in stems if (match := _CHANNEL.search(stem))}
    if "0000" not in numbered.values():
        return False
    named = {name for path in drawn for name in (stem_of(path), _ENDINGS.sub("", stem_of(path)))}
    return not any(number != "0000" and stem in named for stem, number in numbered.items())


def _labels_for(folder: Path, entries: Sequence[Path], known: set[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    orphans = []
    if len(entries) == len(known) == 1:  # one of each belong together, whatever their names
        return {known.pop(): entries[0]}
    for entry in entries:
        stem = stem_of(entry)
        name = stem if stem in known else _ENDINGS.sub("", stem)
        if name not in known:
            orphans.append(entry)
        elif name in found:
            raise BadInput(
                f"{found[name]} and {entry} are two labels of the case '{name}'.",
                hint="Keep one of them in the folder.",
            )
        else:
            found[name] = entry
    if orphans:
        raise FileProblem(
            f"{folder} has {len(orphans)} labels without an image: {layout.some(orphans)}.",
            hint="A label has its image's name, with _seg, _label or _mask after it if you like.",
        )
    return found


def stem_of(path: Path) -> str:
    """The name of a volume without the ending of its format."""
    if what_is(path) == "folder":
        return path.name
    return layout.stem_of(path.name, [s for spec in plugins.formats() for s in spec.suffixes])


# ---------------------------------------------------------------- patterns


def _by_pattern(
    folder: Path,
    images: Sequence[str],
    labels: str | None,
    weights: str | None,
    masks: str | None,
) -> list[Case]:
    scans = [_matching(folder, pattern) for pattern in images]
    for pattern, found in zip(images[1:], scans[1:], strict=True):
        lacking = sorted(set(scans[0]) - set(found))
        if lacking:
            raise FileProblem(
                f"The cases {layout.some(lacking)} have no image '{pattern}' in {folder}."
            )
    extra = {
        what: _matching(folder, pattern) if pattern is not None else {}
        for what, pattern in (("label", labels), ("weight", weights), ("mask", masks))
    }
    if labels is not None and not set(extra["label"]) & set(scans[0]):
        raise FileProblem(
            f"No label '{labels}' belongs to an image '{images[0]}' in {folder}: the cases are "
            f"{layout.some(sorted(scans[0]))}, the labels {layout.some(sorted(extra['label']))}.",
            hint=_ALIKE,
        )
    for what, found in extra.items():
        orphans = sorted(set(found) - set(scans[0]))
        if orphans:
            raise FileProblem(
                f"{len(orphans)} {what} maps in {folder} belong to no image '{images[0]}': "
                f"{layout.some(orphans)}.",
                hint=_ALIKE,
            )

    def ref(what: str, name: str) -> Any:
        return layout.ref(extra[what][name]) if name in extra[what] else None

    return [
        Case(
            name,
            tuple(layout.ref(found[name]) for found in scans),
            ref("label", name),
            ref("weight", name),
            ref("mask", name),
        )
        for name in scans[0]
    ]


def _matching(folder: Path, pattern: str) -> dict[str, Path]:
    """Case name -> path for a pattern; the name is what its `*` stand for, joined by an underscore."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise BadInput(f"The pattern '{pattern}' leads out of {folder}; patterns stay below it.")
    if "**" in pattern:
        raise BadInput(
            f"The pattern '{pattern}' holds '**'; each * stands for a part of one name.",
            hint="Write a star for each folder, e.g. */*/ct.nii.gz",
        )
    matcher = re.compile("".join(r"([^/]*)" if c == "*" else re.escape(c) for c in pattern))
    found: dict[str, Path] = {}
    for path in sorted(_glob(folder, pattern)):
        match = matcher.fullmatch(path.relative_to(folder).as_posix())
        if match is None or path.name.startswith("."):
            continue
        name = "_".join(match.groups()) or folder.resolve().name
        if name in found:
            raise BadInput(f"The pattern '{pattern}' names the case '{name}' twice in {folder}.")
        found[name] = path
    if not found:
        raise FileProblem(f"Nothing in {folder} has a name like '{pattern}'.")
    return found


def _glob(folder: Path, pattern: str) -> Iterable[Path]:
    literal = re.sub(r"([\[\]?])", r"[\1]", pattern)  # the star alone is a wildcard here
    return folder.glob(literal)
