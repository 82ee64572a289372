"""What is to be predicted: scans named one by one, a folder of them, a DICOM study, or a data set."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctseg import plugins
from ctseg.data.readers.find import open_dataset
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
    """One scan to predict: an id that names the output, and one file or one for each channel."""

    id: str
    images: tuple[ImageRef, ...]

    @property
    def path(self) -> Path:
        return self.images[0].path


def find_items(
    inputs: Sequence[str],
    *,
    channels: int,
    dataset: str | None = None,
    fold: int | None = None,
    options: Mapping[str, str] | None = None,
) -> list[Item]:
    """The scans that the command line names.

    `name_0000`, `name_0001` are channels of one scan, in a folder or named one by one, where the model takes several.

    Args:
        inputs: files, `a,b` for a scan of two channels, folders, DICOM folders, or data sets.
        channels: what the model takes.
        dataset: name within HDF5 files.
        fold: of data sets only the validation cases of this fold.
        options: of the formats, for files and folders of those that have them.

    Raises:
        FileProblem: nothing is there.
        BadInput: no scans in a folder, two with one name, or an option that no format of theirs has.
    """
    find = _Finder(channels, {**(options or {}), **({"dataset": dataset} if dataset else {})}, fold)
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
    find.check_options()
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            raise BadInput(
                f"Two scans would be written as '{item.id}': {seen[item.id].path} and {item.path}.",
                hint="Predict them into two folders.",
            )
        seen[item.id] = item
    return items


def _expanded(inputs: Sequence[str]) -> list[str]:
    """The inputs, patterns such as `scans/*.nii.gz` as what they match, where the shell left them as they are."""
    out: list[str] = []
    for text in inputs:
        if Path(text).exists() or not glob.has_magic(text):
            out.append(text)
            continue
        matches = sorted(map(str, matching(Path(text))))
        if not matches:
            raise FileProblem(
                f"Nothing matches {text}.", hint=f"Look what there is: ls {Path(text).parent}"
            )
        out += matches
    return out


class _Finder:
    """Finds scans in one place after the other; arguments as those of `find_items`."""

    def __init__(self, channels: int, options: Mapping[str, str], fold: int | None) -> None:
        self._channels, self._options, self._fold = channels, options, fold
        self._known: set[str] = set()

    def is_set(self, path: Path) -> bool:
        """Whether the cases of a data set are asked for."""
        if self._fold is not None:
            return True
        return (path.is_dir() or format_of(path) is None) and self._recognised(path)

    def _recognised(self, path: Path) -> bool:
        return "dataset" not in self._options and any(s.recognise(path) for s in plugins.readers())

    def of_path(self, path: Path) -> list[Item]:
        """A data set, a folder that is one scan (DICOM, or a store), or a folder of scans."""
        _check_there(path)
        if self.is_set(path):
            found = open_dataset(path)
            cases = [*found.cases, *found.unlabelled]
            if self._fold is not None:
                wanted = set(fold_cases(found, self._fold)[1])
                cases = [case for case in cases if case.id in wanted]
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
        """The folders in a folder of several scans, such as the series of a DICOM study; none where it is one scan.

        Only a folder of folders alone (with DICOM's own index of it) is taken apart: a store, as of Zarr, holds its
        description beside them.
        """
        if spec.parts is None or set(spec.options) & set(self._options):
            return []
        inside = sorted(p for p in path.iterdir() if p.name.upper() != "DICOMDIR")
        if not inside or not all(p.is_dir() for p in inside) or len(spec.parts(path)) < 2:
            return []
        return [folder for folder in inside if format_of(folder) is not None]

    def of_files(self, files: Sequence[Path]) -> list[Item]:
        """Files by case: channels of one scan come together."""
        groups: dict[tuple[Path, str], list[Path]] = {}
        for file in files:
            if format_of(file) is None:
                raise FileProblem(f"{file} is of no format that ctseg reads.")
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
                    hint="If they are scans of their own, give them names that do not end in _0000.",
                )
            ordered = sorted(group, key=stem_of)
            items.append(Item(case, tuple(self.ref(file) for file in ordered)))
        return items

    def _numbered_scans(self, group: Sequence[Path]) -> bool:
        """Whether numbers at the end of names count scans: there is no channel 0000, and no room for several."""
        numbers = [m["channel"] for p in group if (m := CHANNEL.match(stem_of(p)))]
        return len(numbers) == len(group) and "0000" not in numbers and (
            self._channels == 1 or len(group) != self._channels
        )  # fmt: skip

    def ref(self, path: Path) -> ImageRef:
        """A file with those of the options that its format has."""
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
        """Refuse an option that was of no use anywhere."""
        for name in self._options:
            if name not in self._known and name != "dataset":
                raise BadInput(
                    f"No format of these scans has an option '{name}'.",
                    hint="The options of each: ctseg data inspect --help",
                )


def _case_of(path: Path) -> str:
    match = CHANNEL.match(stem_of(path))
    return match["case"] if match else stem_of(path)


def _check_there(path: Path) -> None:
    if not path.exists():
        raise FileProblem(f"{path} does not exist.", hint="Check the path.")
