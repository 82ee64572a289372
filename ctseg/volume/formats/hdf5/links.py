"""The volumes of an HDF5 file, including those behind soft and external links, and where each is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from ctseg.errors import CtsegError, FileProblem
from ctseg.volume.formats import outside
from ctseg.volume.formats.hdf5.structure import suspicion
from ctseg.volume.formats.probe import try_open
from ctseg.volume.formats.source import AGAIN, check_file, reading

_MOST_LINKS = 32
"""Most links that one name may lead through."""
_MOST_GROUPS = 100_000
_MOST_ATTRIBUTE = 1 << 20
_TRIED: set[tuple[Path, int, int]] = set()
"""Odd files that a helper process opened successfully, with their sizes and times."""
_LOOK = "ctseg.volume.formats.hdf5.links:look"


@dataclass(frozen=True)
class StoredDataset:
    """A dataset and where it is stored.

    Attributes:
        file: file that contains it.
        name: name in that file.
        shape: shape of the dataset.
        key: equal for all names of one dataset.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    key: tuple[Path, int]


@contextmanager
def opened(path: Path, *, allowed: bool = False) -> Iterator[Links]:
    """Open a file, and those that its links lead to; all are closed at the end.

    Args:
        path: the file.
        allowed: whether links may lead outside its folder.

    Raises:
        FileProblem: missing, damaged or not HDF5.
    """
    with reading(path):
        links = Links(path, allowed=allowed)
        try:
            yield links
        finally:
            links.close()


def open_file(path: Path) -> h5py.File:
    """Open a file read-only; a file with odd structures is first tried by a helper process.

    Raises:
        FileProblem: missing, damaged or not HDF5.
    """
    check_file(path)
    with reading(path):
        if not h5py.is_hdf5(path):
            raise FileProblem(
                f"{path} is not an HDF5 file.",
                hint="Check what it is (file PATH) and give it the suffix of its format.",
            )
        state = path.stat()
        state_key = (path.resolve(), state.st_size, state.st_mtime_ns)
        if state_key not in _TRIED and suspicion(path):
            try_open(path, _LOOK)
            _TRIED.add(state_key)
        return h5py.File(path, "r")


def look(path: Path) -> None:
    """Follow all structures of a file; called in a helper process."""
    with h5py.File(path, "r") as file:

        def visit(_: str, item: Any) -> None:
            attributes_of(item)
            if isinstance(item, h5py.Dataset) and item.shape and item.size:
                item.id.get_storage_size()
                for corner in ((0,) * item.ndim, tuple(n - 1 for n in item.shape)):
                    item.__getitem__(corner)

        file.visititems(visit)


def attributes_of(item: h5py.HLObject) -> dict[str, Any]:
    """The attributes of an object, without those too large for a header."""
    attributes: dict[str, Any] = {}
    for name in item.attrs:
        about = item.attrs.get_id(name)
        if math.prod(about.shape or ()) * about.dtype.itemsize <= _MOST_ATTRIBUTE:
            attributes[name] = item.attrs[name]
    return attributes


class Links:
    """A file whose links ctseg follows itself, since HDF5 would follow them anywhere.

    Args:
        path: the file.
        allowed: whether links may lead outside its folder.
    """

    def __init__(self, path: Path, *, allowed: bool) -> None:
        self.path = path
        self._allowed = allowed
        self._files: dict[Path, h5py.File] = {path: open_file(path)}
        self.broken: dict[str, FileProblem] = {}
        """Links that lead nowhere; filled by `volumes`."""

    @property
    def root(self) -> h5py.File:
        return self._files[self.path]

    def file(self, place: StoredDataset) -> h5py.File:
        """The open file that contains a dataset."""
        return self._files[place.file]

    def take(self, place: StoredDataset) -> h5py.File:
        """The same file, which the caller then closes."""
        return self._files.pop(place.file)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def find(self, name: str) -> h5py.HLObject | None:
        """The object of a name; None if nothing has that name.

        Raises:
            FileProblem: a link leads outside the folder, to a missing file, or in a circle.
        """
        item = self._resolve(self.path, self.root, name, _MOST_LINKS)
        return None if item is None else item[1]

    def place(self, name: str) -> StoredDataset | None:
        """The dataset of a name; None if the name is not a dataset."""
        item = self._resolve(self.path, self.root, name, _MOST_LINKS)
        if item is None or not isinstance(item[1], h5py.Dataset):
            return None
        return _place(*item)

    def volumes(self) -> dict[str, StoredDataset]:
        """The datasets of three or four axes, by absolute name; a dataset with several names has several entries."""
        volumes: dict[str, StoredDataset] = {}
        self.broken = {}
        waiting: list[tuple[str, Path, h5py.Group]] = [("", self.path, self.root)]
        visited = {_key(self.path, self.root)}
        while waiting:
            prefix, path, group = waiting.pop(0)
            for name in group:
                if isinstance(name, bytes):  # h5py's answer where a name is no UTF-8
                    full = f"{prefix}/{name.decode(errors='replace')}"
                    self.broken[full] = FileProblem(
                        f"{path}:{full} has a name that is no text.", hint=AGAIN
                    )
                    continue
                full = f"{prefix}/{name}"
                try:
                    item = self._step(path, group, name, _MOST_LINKS)
                except (CtsegError, OSError, RuntimeError, KeyError, ValueError) as error:
                    if not isinstance(error, FileProblem):
                        error = FileProblem(f"{path}:{full} cannot be opened: {error}.", hint=AGAIN)
                    self.broken[full] = error
                    continue
                if item is None:
                    continue
                owner, thing = item
                if isinstance(thing, h5py.Dataset):
                    if thing.ndim in (3, 4):
                        volumes[full] = _place(owner, thing)
                elif isinstance(thing, h5py.Group) and _key(owner, thing) not in visited:
                    visited.add(_key(owner, thing))
                    if len(visited) > _MOST_GROUPS:
                        raise FileProblem(f"{self.path} has more than {_MOST_GROUPS} groups.")
                    waiting.append((full, owner, thing))
        return dict(sorted(volumes.items()))

    def _resolve(
        self, path: Path, group: h5py.Group, name: str, links: int
    ) -> tuple[Path, h5py.HLObject] | None:
        """Follow a name from a group, part by part."""
        owner: tuple[Path, h5py.HLObject] = (path, group.file if name.startswith("/") else group)
        for part in name.split("/"):
            if part in ("", "."):
                continue
            if not isinstance(owner[1], h5py.Group):
                return None
            following = self._step(owner[0], owner[1], part, links)
            if following is None:
                return None
            owner = following
        return owner

    def _step(
        self, path: Path, group: h5py.Group, name: str, links: int
    ) -> tuple[Path, h5py.HLObject] | None:
        """The object of one name in a group, and the file that contains it."""
        if not group.id.links.exists(name.encode()):
            return None
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            return path, group[name]
        if not links:
            raise FileProblem(f"{self.path}: {group.name}/{name} leads through too many links.")
        if isinstance(link, h5py.SoftLink):
            return self._resolve(path, group, link.path, links - 1)
        target = outside.follow(path, link.filename, allowed=self._allowed, what="data")
        if target not in self._files:
            self._files[target] = open_file(target)
        item = self._resolve(target, self._files[target], f"/{link.path}", links - 1)
        if item is None:
            raise FileProblem(f"{path} takes {name} from {target}, which has no {link.path}.")
        return item


def _key(path: Path, item: h5py.HLObject) -> tuple[Path, int]:
    return path.resolve(), int(h5py.h5o.get_info(item.id).addr)


def _place(path: Path, stored: h5py.Dataset) -> StoredDataset:
    return StoredDataset(path, stored.name, stored.shape, _key(path, stored))
