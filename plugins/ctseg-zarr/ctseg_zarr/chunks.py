"""Checks that the chunks of an array are present and complete; Zarr itself reads missing ones as the fill value."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec

from ctseg.errors import FileProblem
from ctseg.volume.formats.source import AGAIN

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_EMPTY = 2**64 - 1
"""Offset and size of a chunk that a shard leaves out."""
_LARGE_CHUNK = 1 << 30


def check_chunks(array: zarr.Array[Any], store: Path, *, allowed: bool) -> list[str]:
    """Check the chunks of an array, by their names, and the indices in its shards.

    Args:
        array: array of the store.
        store: path of the store; a zipped store is not checked, since its reader does that.
        allowed: whether links may lead outside the store's folder.

    Returns:
        A note with the number of missing chunks, if there are any.

    Raises:
        FileProblem: truncated shards, links that lead outside, or chunks far larger than the array.
    """
    shards = array.shards or array.chunks
    nbytes = math.prod(array.chunks) * array.dtype.itemsize
    if nbytes > max(_LARGE_CHUNK, 4 * math.prod(array.shape) * array.dtype.itemsize):
        raise FileProblem(f"{store}: the array {array.path or '/'} has chunks of {nbytes} bytes.")
    if not store.is_dir():
        return []
    folder = store / array.path
    home = store.resolve().parent
    _check_link(folder, home, store, allowed=allowed)
    sharding = _sharding(array)
    grid = [-(-n // c) for n, c in zip(array.shape, shards, strict=True)]
    present = 0
    for entry, key in _files(folder, home, store, allowed=allowed):
        if not _is_chunk(key, grid):
            continue
        present += 1
        if sharding is not None:
            _check_shard(Path(entry.path), sharding, shards, store)
    missing = math.prod(grid) - present
    if missing <= 0:
        return []
    what = f"{missing} of {math.prod(grid)} {'chunks' if sharding is None else 'shards'}"
    why = "the fill value: they were never written, or the copy is incomplete"
    return [f"{what} are not there and count as {array.fill_value}, {why}."]


def _check_link(target: Path, home: Path, store: Path, *, allowed: bool) -> None:
    real = target.resolve()
    if not allowed and not real.is_relative_to(home):
        raise FileProblem(
            f"{store} takes its voxels from {real}, which lies outside its folder.",
            hint="If you trust the store, allow it with the option outside=yes",
        )


def _files(
    folder: Path, home: Path, store: Path, *, allowed: bool
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """The files of an array and their keys."""
    waiting = [(str(folder), "")]
    depth = folder.resolve()
    while waiting:
        place, prefix = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_symlink():
                    _check_link(Path(entry.path), home, store, allowed=allowed)
                    if depth.is_relative_to(Path(entry.path).resolve()):
                        raise FileProblem(f"{store}: the link {entry.path} leads in a circle.")
                if entry.is_dir():
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.name not in _METADATA:
                    yield entry, f"{prefix}{entry.name}"


def _is_chunk(key: str, grid: Sequence[int]) -> bool:
    """Whether a key is that of a chunk within the array: `c/0/1/2`, `c.0.1.2`, `0/1/2` or `0.1.2`."""
    parts = key.replace("/", ".").split(".")
    parts = parts[1:] if parts[0] == "c" else parts
    return len(parts) == len(grid) and all(
        part.isdecimal() and int(part) < count for part, count in zip(parts, grid, strict=True)
    )


def _sharding(array: zarr.Array[Any]) -> ShardingCodec | None:
    codecs = getattr(array.metadata, "codecs", ())
    return codecs[0] if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec) else None


def _check_shard(file: Path, codec: ShardingCodec, shard: Sequence[int], store: Path) -> None:
    """Check the index of a shard: the position of each of its chunks.

    https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
    """
    if not all(isinstance(one, BytesCodec | Crc32cCodec) for one in codec.index_codecs):
        return
    count = math.prod(n // c for n, c in zip(shard, codec.chunk_shape, strict=True))
    checked = any(isinstance(one, Crc32cCodec) for one in codec.index_codecs)
    length = 16 * count + (4 if checked else 0)
    size = file.stat().st_size
    at_end = codec.index_location.value == "end"
    if size < length:
        raise FileProblem(f"{store} is truncated: {file} has {size} bytes.", hint=AGAIN)
    with file.open("rb") as opened:
        opened.seek(size - length if at_end else 0)
        listed = np.frombuffer(opened.read(16 * count), "<u8").reshape(-1, 2)
    used = listed[(listed != _EMPTY).any(1)]
    limit = size - length if at_end else size
    if used.size and ((used > limit).any() or (used.sum(1) > limit).any()):
        raise FileProblem(
            f"{store} is truncated: a chunk in {file} should lie beyond its end.", hint=AGAIN
        )


def needs_sizes(array: zarr.Array[Any], store: Path) -> bool:
    """Whether an array needs `check_sizes`: Blosc reads beyond the end of a truncated chunk."""
    if not store.is_dir() or _sharding(array) is not None:
        return False
    codecs = getattr(array.metadata, "codecs", None) or [
        getattr(array.metadata, "compressor", None)
    ]
    last = codecs[-1]
    return isinstance(last, BloscCodec) or getattr(last, "codec_id", "") == "blosc"


def check_sizes(array: zarr.Array[Any], store: Path, box: Sequence[slice | int]) -> None:
    """Compare the sizes of the chunks in a box with those in their Blosc headers.

    https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst

    Raises:
        FileProblem: a chunk is truncated.
    """
    ranges = []
    for part, size, chunk in zip(box, array.shape, array.chunks, strict=True):
        start, stop, _ = part.indices(size) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    for key in itertools.product(*ranges):
        file = store / array.path / array.metadata.encode_chunk_key(key)
        try:
            with file.open("rb") as opened:
                head = opened.read(16)
                size = os.fstat(opened.fileno()).st_size
        except FileNotFoundError:
            continue
        if len(head) < 16 or size < int.from_bytes(head[12:16], "little"):
            raise FileProblem(f"{store} is truncated: {file} has {size} bytes.", hint=AGAIN)
