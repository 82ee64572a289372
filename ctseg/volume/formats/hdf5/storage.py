"""Checks that the voxels of an HDF5 dataset exist: in chunks, in external files, in other datasets."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from ctseg.errors import FileProblem
from ctseg.volume.formats import outside
from ctseg.volume.formats.hdf5.links import opened
from ctseg.volume.formats.source import AGAIN

_DEPTH = 8
"""Largest nesting of virtual datasets."""
_LARGE_CHUNK = 1 << 30
_MANY_CHUNKS = 50_000
"""Number of chunks above which only their number is checked, to save time."""
_CHECKSUM = 4
_OVERHEAD, _HEADER = 1.1, 4096
"""Bytes that compression may add to an incompressible chunk."""


def is_external(stored: h5py.Dataset) -> bool:
    """Whether the voxels are stored in files of their own, without a header."""
    return bool(stored.id.get_create_plist().get_external_count())


def open_external(file: h5py.File, name: str) -> h5py.Dataset:
    """Open a dataset with its external files relative to the folder of its file instead of the working directory.

    While it is open, the library does not open it any other way; so use this only to read voxels of such datasets.
    """
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def check_storage(
    stored: h5py.Dataset, path: Path, *, allowed: bool, depth: int = _DEPTH
) -> list[str]:
    """Find voxels that are missing from where the dataset refers to them.

    Args:
        stored: the dataset.
        path: file of the dataset.
        allowed: whether references may lead outside the folder.
        depth: how deep virtual datasets may be nested.

    Returns:
        Notes on voxels that were never written and have the fill value.

    Raises:
        FileProblem: a file or dataset is missing, too short, or lies outside.
    """
    if stored.is_virtual:
        return _check_virtual(stored, path, allowed=allowed, depth=depth)
    if is_external(stored):
        _check_external(stored, path, allowed=allowed)
        return []
    if stored.chunks is not None:
        nbytes = math.prod(stored.chunks) * stored.dtype.itemsize
        if nbytes > max(_LARGE_CHUNK, 4 * stored.nbytes):
            raise FileProblem(
                f"{path}:{stored.name} has chunks of {nbytes} bytes for {stored.nbytes}."
            )
        count = math.prod(-(-n // c) for n, c in zip(stored.shape, stored.chunks, strict=True))
        written = stored.id.get_num_chunks()
        if written > 0 and (written <= _MANY_CHUNKS or stored.fletcher32):
            _check_chunks(stored, path, nbytes)
        missing = count - written
        return [_note(f"{missing} of {count} chunks", stored)] if missing > 0 else []
    written = stored.id.get_storage_size()
    return [_note("All of it", stored)] if not written and stored.nbytes else []


def _note(what: str, stored: h5py.Dataset) -> str:
    return f"{what} of {stored.name} were never written and count as {stored.fillvalue}."


def _check_chunks(stored: h5py.Dataset, path: Path, nbytes: int) -> None:
    """Find a chunk whose stored size cannot be.

    HDF5 would unpack all of one that exceeds its unpacked size, and reads far behind one that is shorter than its
    checksum (Fletcher32).

    Args:
        nbytes: size of an unpacked chunk.
    """
    most = int(nbytes * _OVERHEAD) + _HEADER

    least = _CHECKSUM if stored.fletcher32 else 1

    def look(chunk: h5py.h5d.StoreInfo) -> int | None:
        return None if least <= chunk.size <= most else chunk.size + 1  # an answer of 0 would go on

    if found := stored.id.chunk_iter(look):
        raise FileProblem(
            f"{path}:{stored.name} has a chunk of {nbytes} bytes that is stored in {found - 1}.",
            hint=AGAIN,
        )


def _check_external(stored: h5py.Dataset, path: Path, *, allowed: bool) -> None:
    layout = stored.id.get_create_plist()
    remaining = stored.nbytes
    for number in range(layout.get_external_count()):
        name, offset, size = layout.get_external(number)
        target = outside.follow(
            path, name.decode(errors="surrogateescape"), allowed=allowed, what="voxels"
        )
        size = min(size, remaining)
        present = max(target.stat().st_size - offset, 0)
        if present < size:
            raise FileProblem(
                f"{path} takes its voxels from {target}, which is truncated: it has {present} of {size} bytes.",
                hint="Copy that file again.",
            )
        remaining -= size
    if remaining > 0:
        raise FileProblem(f"{path}:{stored.name} is truncated: its files lack {remaining} bytes.")


def _check_virtual(stored: h5py.Dataset, path: Path, *, allowed: bool, depth: int) -> list[str]:
    if not depth:
        raise FileProblem(f"{path}:{stored.name} is a virtual dataset of too many others.")
    covered, notes = 0, []
    for source in stored.virtual_sources():
        covered += max(int(source.vspace.get_select_npoints()), 0)
        # Printf-style names stand for a series of files, of which only the first is checked.
        name, inner = (
            text.replace("%b", "0").replace("%%", "%")
            for text in (source.file_name, source.dset_name)
        )
        target = path if name == "." else outside.follow(path, name, allowed=allowed, what="voxels")
        with opened(target, allowed=allowed) as links:
            place = links.place(inner)
            shape = source.src_space.shape
            if place is None or any(n < m for n, m in zip(place.shape, shape, strict=False)):
                what = "is missing" if place is None else f"has {place.shape} of {shape} voxels"
                raise FileProblem(
                    f"{path}:{stored.name} takes its voxels from {target}:{inner}, which {what}.",
                    hint="The scan is incomplete without it.",
                )
            stored_source = links.file(place)[place.name]
            notes += check_storage(stored_source, place.file, allowed=allowed, depth=depth - 1)
    if 0 <= covered < stored.size:
        notes.append(
            f"{stored.size - covered} voxels of {stored.name} have no source and count as {stored.fillvalue}."
        )
    return notes
