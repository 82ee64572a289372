"""Old structures of HDF5, which carry no checksums, checked before the library follows them.

Files of h5py's default, `libver="earliest"`, keep groups and chunks in B-trees of version 1. Damage there makes the
library follow arbitrary addresses. Newer versions write checksums, which the library checks itself.
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = 2**64 - 1
_CONTINUATION, _SYMBOL_TABLE, _LAYOUT = 0x10, 0x11, 0x08
_CHUNKED = 2
_MOST_NODES = 20_000
"""Most nodes to check; larger files are left to the library."""
_MOST_HEADER = 1 << 24


class OddStructureError(Exception):
    """A structure that no writer produces."""


def suspicion(path: Path) -> str:
    """Description of what is odd in a file; empty if nothing is, or if checksums protect it.

    Raises:
        EOFError: the file is truncated.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start + 8 <= size:
            file.seek(start)
            if file.read(8) == _SIGNATURE:
                break
            start = 512 if start == 0 else start * 2
        else:
            return ""
        try:
            _Walk(file, start, size).superblock()
        except OddStructureError as odd:
            return str(odd)
        except struct.error:
            return "a structure ends too early"
    return ""


class _Walk:
    """An open file whose structures are followed.

    Args:
        file: opened for reading.
        base: offset of the superblock, to which addresses are relative.
        size: size of the file.
    """

    def __init__(self, file: BinaryIO, base: int, size: int) -> None:
        self._file = file
        self._base = base
        self._size = size
        self._seen: set[int] = set()
        self._leaf = 4

    def superblock(self) -> None:
        """Check a superblock of version 0 or 1 and everything it leads to."""
        head = self._bytes(0, 112)
        version, offsets, lengths = head[8], head[13], head[14]
        if version not in (0, 1) or (offsets, lengths) != (8, 8):
            return
        (self._leaf,) = struct.unpack_from("<H", head, 16)
        at = 24 if version == 0 else 28
        _, _, end, driver = struct.unpack_from("<4Q", head, at)
        if driver != _UNDEFINED:
            raise OddStructureError("it names a driver")
        if self._base + end > self._size:
            raise EOFError(f"it has {self._size} of {self._base + end} bytes")
        (root,) = struct.unpack_from("<Q", head, at + 40)
        self._object(root)

    def _bytes(self, address: int, length: int) -> bytes:
        place = self._base + address
        if address == _UNDEFINED or place + length > self._size:
            raise OddStructureError("an address lies beyond its end")
        self._file.seek(place)
        return self._file.read(length)

    def _is_new(self, address: int, what: str) -> bool:
        """Whether an address is new; a tree never leads back to one."""
        if address in self._seen:
            raise OddStructureError(f"{what} leads back into itself")
        self._seen.add(address)
        return len(self._seen) < _MOST_NODES

    def _object(self, address: int) -> None:
        """Check an object header of version 1; several names may lead to one object."""
        if address in self._seen or len(self._seen) >= _MOST_NODES:
            return
        self._seen.add(address)
        head = self._bytes(address, 16)
        if head[:4] == b"OHDR":
            return
        version, messages, length = head[0], *struct.unpack_from("<H4xI", head, 2)
        if version != 1 or length > _MOST_HEADER:
            raise OddStructureError("an object has no header")
        blocks = [self._bytes(address + 16, length)]
        while blocks:
            block, at = blocks.pop(), 0
            while at + 8 <= len(block) and messages:
                kind, size = struct.unpack_from("<HH", block, at)
                data = block[at + 8 : at + 8 + size]
                if len(data) < size:
                    raise OddStructureError("a message leaves its header")
                if kind == _CONTINUATION:
                    place, length = struct.unpack_from("<QQ", data)
                    if length <= _MOST_HEADER and self._is_new(place, "a header"):
                        blocks.append(self._bytes(place, length))
                elif kind == _SYMBOL_TABLE:
                    self._group(*struct.unpack_from("<QQ", data))
                elif kind == _LAYOUT:
                    self._layout(data)
                at += 8 + size
                messages -= 1

    def _group(self, tree: int, heap: int) -> None:
        """Check the names of a group."""
        head = self._bytes(heap, 32)
        names, _, place = struct.unpack_from("<QQQ", head, 8)
        if head[:4] != b"HEAP" or names > _MOST_HEADER:
            raise OddStructureError("a group has no names")
        self._bytes(place, names)
        for leaf in self._leaves(tree, 0, 8):
            node = self._bytes(leaf, 8)
            (count,) = struct.unpack_from("<H", node, 6)
            if node[:4] != b"SNOD" or count > 2 * self._leaf:
                raise OddStructureError("a group has a node that is none")
            entries = self._bytes(leaf + 8, count * 40)
            for at in range(0, len(entries), 40):
                name, header, cached = struct.unpack_from("<QQI", entries, at)
                if name >= names:
                    raise OddStructureError("a name lies elsewhere")
                if cached != 2:  # 2 is a soft link, which has no header
                    self._object(header)

    def _layout(self, data: bytes) -> None:
        """Check the addresses of a dataset's chunks."""
        version = data[0] if data else 0
        if version == 3 and data[1] == _CHUNKED:
            axes, tree = data[2], struct.unpack_from("<Q", data, 3)[0]
        elif version in (1, 2) and data[2] == _CHUNKED:
            axes, tree = data[1], struct.unpack_from("<Q", data, 8)[0]
        else:
            return
        if tree != _UNDEFINED:
            chunks = self._leaves(tree, 1, 8 + 8 * axes)
            if chunks and self._base + max(chunks) >= self._size:
                raise OddStructureError("an address lies beyond its end")

    def _leaves(self, tree: int, kind: int, key: int) -> list[int]:
        """The addresses in the lowest nodes of a B-tree.

        Args:
            kind: 0 for groups, 1 for chunks.
            key: bytes of a key.
        """
        addresses: list[int] = []
        waiting: list[tuple[int, int | None]] = [(tree, None)]
        while waiting:
            address, expected = waiting.pop()
            if not self._is_new(address, "a tree"):
                return []
            head = self._bytes(address, 24)
            mark, of, level, count = struct.unpack_from("<4sBBH", head)
            if mark != b"TREE" or of != kind or (expected is not None and level != expected):
                raise OddStructureError("a tree has a node that is none")
            block = self._bytes(address + 24, count * (key + 8))
            children = [
                struct.unpack_from("<Q", block, at + key)[0] for at in range(0, len(block), key + 8)
            ]
            if level == 0:
                addresses += children
            else:
                waiting += [(child, level - 1) for child in children]
        return addresses
