"""Finds the scans to predict: single files, folders of scans, DICOM studies, or data sets."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctseg import plugins
from ctseg.data.readers.find import open_dataset
from ctseg.data.readers.grids import on_one_grid
from ctseg.data.splits import fold_cases
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import FormatSpec, ImageRef, frozen
from ctseg.volume.file_names import file_name, matching, stem_of
from ctseg.volume.formats.companion_files import without_companions
from ctseg.volume.formats.source import COMMON_OPTIONS
from ctseg.volume.io import format_of, scan_files

CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Item:
    """One scan to predict: an id that names the output, and one file or one file for each channel."""

    id: str
    images: tuple[ImageRef, ...]

    @property
    def path(self) -> Path:
        return self.images[0].path


def find_items(
    inputs: Sequence[str],
    *,
    channels: int,
    grid: int = 0,
    fold: int | None = None,
    folds: int = 5,
    options: Mapping[str, str] | None = None,
) -> list[Item]:
    """The scans that the command line names.

    For a model with several channels, `name_0000` and `name_0001` are channels of one scan.

    Args:
        inputs: files, `a,b` for a scan of two channels, folders, DICOM folders, or data sets.
        channels: input channels of the model.
        grid: the channel onto whose grid the others are brought where they have grids of their own.
        fold: select only the validation cases of this fold of data sets.
        folds: number of folds into which the cases of a data set without folds of its own are dealt.
        options: options of formats and of readers of data sets, passed to those that have them.

    Raises:
        FileProblem: a path does not exist, or a pattern matches nothing.
        BadInput: a folder without scans, two scans with the same name, or an option that no format or reader of
            theirs has.
    """
    find = _Finder(channels, options or {}, None if fold is None else (fold, folds))
    items: list[Item] = []
    loose: list[Path] = []
    for text in _expanded(inputs):
        parts = [Path(part) for part in text.split(",")] if "," in text else [Path(text)]
        if len(parts) > 1 and not Path(text).exists():
            for part in parts:
                _check_there(part)
            items.append(Item(_case_of(parts[0]), tuple(find.ref(part) for part in parts)))
        elif Path(text).is_file() and not find.is_set(Path(text)):
            loose.append(Path(text))
        else:
            items += find.of_path(Path(text))
    items += find.of_files(without_companions(loose))
    items = find.with_common_options(items)
    items = [replace(item, images=_on_one_grid(item.images, channels, grid)) for item in items]
    find.check_options()
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            raise BadInput(
                f"Two scans would be written as '{item.id}': {seen[item.id].path} and {item.path}.",
                hint="Predict them in two runs, with a different -o each.",
            )
        seen[item.id] = item
    return items


def _expanded(inputs: Sequence[str]) -> list[str]:
    """Replace patterns such as `scans/*.nii.gz`, which the shell may leave unexpanded, by their matches."""
    out: list[str] = []
    for text in inputs:
        if Path(text).exists() or not glob.has_magic(text):
            out.append(text)
            continue
        matches = sorted(map(str, matching(Path(text))))
        if not matches:
            raise FileProblem(
                f"Nothing matches {text}.", hint=f"List the folder: ls {Path(text).parent}"
            )
        out += matches
    return out


class _Finder:
    """Finds the scans at one path after another; arguments as in `find_items`, the fold with the number of folds."""

    def __init__(
        self, channels: int, options: Mapping[str, str], fold: tuple[int, int] | None
    ) -> None:
        self._channels, self._options, self._fold = channels, options, fold
        self._known: set[str] = set()

    def is_set(self, path: Path) -> bool:
        """Whether the path is to be read as a data set.

        Without a fold, a study of several series is read as scans, even if a reader recognises it by the labels in it,
        and so is a folder from which an option of its format chooses a scan.
        """
        if self._fold is not None:
            return True
        spec = format_of(path)
        if "dataset" in self._options or (spec is not None and not path.is_dir()):
            return False
        if not any(reader.recognise(path) for reader in plugins.readers()):
            return False
        if spec is None or spec.parts is None or self._reader_options(path):
            return True
        own = set(spec.options) - set(COMMON_OPTIONS)
        return not (own & set(self._options) or self._scans_inside(path, spec))

    def _reader_options(self, path: Path) -> dict[str, Any]:
        """The options of the readers that recognise a path; one that a format also has is the format's."""
        readers = [reader for reader in plugins.readers() if reader.recognise(path)]
        names = {name for reader in readers for name in reader.options}
        names -= {name for spec in plugins.formats() for name in spec.options}
        return {name: value for name, value in self._options.items() if name in names}

    def of_path(self, path: Path) -> list[Item]:
        """A data set, a folder that is one scan (DICOM, or a store), or a folder of scans."""
        _check_there(path)
        if self.is_set(path):
            options = self._reader_options(path)
            self._known |= set(options)
            dataset = open_dataset(path, **options)
            cases = [*dataset.cases, *dataset.unlabelled]
            if self._fold is not None:
                validation = set(fold_cases(dataset, *self._fold)[1])
                cases = [case for case in cases if case.id in validation]
            return [Item(file_name(case.id), case.images) for case in cases]
        spec = format_of(path)
        if spec is not None:
            if inside := self._scans_inside(path, spec):
                return [item for folder in inside for item in self.of_path(folder)]
            name = path.resolve().name
            suffix = next((s for s in spec.suffixes if name.lower().endswith(s)), "")
            return [Item(name[: len(name) - len(suffix)] or name, (self.ref(path),))]
        files = scan_files(p for p in sorted(path.iterdir()) if not p.name.startswith("."))
        if not files:
            raise BadInput(
                f"{path} holds no scans.",
                hint="Name a folder of NIfTI, NRRD, MHA, TIFF or HDF5 files, a DICOM folder, or a file.",
            )
        return self.of_files(files)

    def _scans_inside(self, path: Path, spec: FormatSpec) -> list[Path]:
        """The subfolders of a folder with several scans, such as the series of a DICOM study; empty for a single scan.

        The folder must hold only subfolders (and a DICOMDIR): a store such as Zarr also holds its metadata. Those
        without a scan, such as reports and segmentations, are left out. It is empty, too, if a scan lies deeper, in a
        folder that is no scan or study itself: it would be left out.
        """
        parts = spec.parts
        if parts is None or set(spec.options) & set(self._options):
            return []
        inside = sorted(p for p in path.iterdir() if p.name.upper() != "DICOMDIR")
        if not inside or not all(p.is_dir() for p in inside):
            return []
        scans = len(parts(path))
        if scans < 2:
            return []
        counts = {folder: len(parts(folder)) for folder in inside if format_of(folder) is spec}
        if sum(counts.values()) < scans:
            return []
        return [folder for folder, count in counts.items() if count]

    def of_files(self, files: Sequence[Path]) -> list[Item]:
        """Group files into scans: channels of one scan belong together."""
        groups: dict[tuple[Path, str], list[Path]] = {}
        for file in files:
            if format_of(file) is None:
                raise FileProblem(f"{file} has no format that ctseg reads.")
            match = CHANNEL.match(stem_of(file))
            case = match["case"] if match else stem_of(file)
            groups.setdefault((file.parent, case), []).append(file)
        items = []
        for (_, case), group in groups.items():
            if self._numbered_scans(group):
                items += [Item(stem_of(file), (self.ref(file),)) for file in group]
                continue
            if len(group) > self._channels:
                raise BadInput(
                    f"{group[0].parent} holds {len(group)} files for the scan '{case}', but the model takes "
                    f"{self._channels} channel(s): {', '.join(p.name for p in group[:4])}.",
                    hint="If they are separate scans, give them names that do not end in _0000.",
                )
            ordered = sorted(group, key=stem_of)
            items.append(Item(case, tuple(self.ref(file) for file in ordered)))
        return items

    def _numbered_scans(self, group: Sequence[Path]) -> bool:
        """Whether the numbers at the end of names count scans instead of channels.

        They do if there is no 0000, and the model takes one channel or another number than there are files.
        """
        numbers = [m["channel"] for p in group if (m := CHANNEL.match(stem_of(p)))]
        return len(numbers) == len(group) and "0000" not in numbers and (
            self._channels == 1 or len(group) != self._channels
        )  # fmt: skip

    def ref(self, path: Path) -> ImageRef:
        """A reference to a file, with the options that its format has."""
        spec = format_of(path)
        known = set(spec.options) & set(self._options) if spec is not None else set()
        self._known |= known
        return ImageRef(path, frozen({name: self._options[name] for name in sorted(known)}))

    def with_common_options(self, items: Sequence[Item]) -> list[Item]:
        """The scans with the options that every format has, where no format of theirs has an own one of the name."""
        added = {n: self._options[n] for n in COMMON_OPTIONS if n in self._options}
        added = {name: value for name, value in added.items() if name not in self._known}
        if not added:
            return list(items)
        self._known |= set(added)
        return [
            Item(
                item.id,
                tuple(
                    replace(ref, options=frozen({**ref.options, **added})) for ref in item.images
                ),
            )
            for item in items
        ]

    def check_options(self) -> None:
        """Reject an option that no format of the scans has."""
        for name in self._options:
            if name not in self._known and name != "dataset":
                raise BadInput(
                    f"No format of these scans has an option '{name}'.",
                    hint="List the options of each format: ctseg data inspect --help",
                )


def _on_one_grid(images: tuple[ImageRef, ...], channels: int, grid: int) -> tuple[ImageRef, ...]:
    plain = [replace(ref, onto=None) for ref in images]
    return on_one_grid(plain, grid if len(plain) == channels else 0)


def _case_of(path: Path) -> str:
    match = CHANNEL.match(stem_of(path))
    return match["case"] if match else stem_of(path)


def _check_there(path: Path) -> None:
    if not path.exists():
        raise FileProblem(f"{path} does not exist.", hint="Check the path.")
