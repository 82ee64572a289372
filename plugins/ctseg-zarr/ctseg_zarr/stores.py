"""Opens stores read-only, and finds the chosen image or array."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
import zarr.errors
import zarr.storage

from ctseg.errors import CtsegError, FileProblem
from ctseg.volume.formats.source import AGAIN, check_file, reading
from ctseg_zarr.paths import is_zarr

_UNKNOWN_CODEC = re.compile("codec not available|unknown codec", re.IGNORECASE)
"""Messages of numcodecs and zarr about an unknown codec."""
Node = zarr.Group | zarr.Array[Any]


@contextmanager
def zarr_errors(path: Path) -> Iterator[None]:
    """Turn errors of zarr and its codecs into a `FileProblem`."""
    try:
        with reading(path):
            yield
    except FileProblem as error:
        if _UNKNOWN_CODEC.search(str(error.__cause__)):
            raise _no_codec(path, str(error.__cause__)) from error.__cause__
        raise
    except CtsegError:
        raise
    except Exception as error:  # each codec library has its own errors
        message = str(error).strip().splitlines() or [type(error).__name__]
        if _UNKNOWN_CODEC.search(message[-1]):
            raise _no_codec(path, message[-1]) from error
        raise FileProblem(f"{path} cannot be read: {message[-1]}.", hint=AGAIN) from error


def _no_codec(path: Path, codec: str) -> FileProblem:
    return FileProblem(
        f"{path} is compressed with a codec that is not installed ({codec.rstrip('.')}).",
        hint="Install the package that has it, e.g.: pip install 'numcodecs[zfpy,pcodec]' imagecodecs",
    )


def open_store(path: Path) -> tuple[Node, Callable[[], None]]:
    """The node at a path, which may lie within a store, and a function that closes it.

    Raises:
        FileProblem: the path does not exist, or is not Zarr.
    """
    if not path.is_dir():
        check_file(path)
    if not is_zarr(path):
        raise FileProblem(
            f"{path} is not a Zarr store: it has neither zarr.json nor .zgroup, .zarray or .zattrs.",
            hint="Name the folder that holds one of these files.",
        )
    with zarr_errors(path):
        if path.is_dir():
            return zarr.open(zarr.storage.LocalStore(path, read_only=True), mode="r"), lambda: None
        store = zarr.storage.ZipStore(path, mode="r")
        return zarr.open(store, mode="r"), store.close


def attributes(node: Node) -> Mapping[str, Any]:
    """The attributes of a node, merged with those of OME-NGFF 0.5, which are under `ome`."""
    plain = dict(node.attrs)
    ome = plain.get("ome")
    return {**plain, **ome} if isinstance(ome, Mapping) else plain


def choose(root: Node, path: Path, dataset: str | None) -> Node:
    """The chosen multiscale image or array.

    Args:
        root: root of the store.
        path: for messages.
        dataset: name within the store. By default the root itself, or the only image within it.

    Raises:
        FileProblem: the node does not exist, or there are several to choose from.
    """
    if dataset is not None and dataset.strip("/"):
        try:
            node: Node | None = root[dataset.strip("/")] if isinstance(root, zarr.Group) else None
        except (KeyError, ValueError, FileNotFoundError):
            node = None
        if node is None:
            raise FileProblem(f"{path} holds no '{dataset}'.", hint=_listed(root))
        root = node
    if isinstance(root, zarr.Array) or "multiscales" in attributes(root):
        return root
    if "plate" in attributes(root) or "well" in attributes(root):
        raise FileProblem(
            f"{path} is a plate of many images.", hint="Name one of them: dataset=ROW/COLUMN/FIELD"
        )
    images = dict(_images(root))
    if len(images) == 1:
        return next(iter(images.values()))
    raise FileProblem(
        f"{path} holds {len(images) or 'no'} images; one must be chosen.",
        hint=f"Choose one with the option dataset.\n  {_listed(root)}" if images else _listed(root),
    )


def parts(path: Path) -> dict[str, dict[str, str]]:
    """The images of a store, including label images, by name, and the option that opens each."""
    root, close = open_store(path)
    try:
        with zarr_errors(path):
            if not isinstance(root, zarr.Group):
                return {"": {}}
            if "multiscales" not in attributes(root):
                return {name: {"dataset": name} for name, _ in _images(root)}
            options: dict[str, dict[str, str]] = {"": {}}
            labels = root.get("labels")
            if isinstance(labels, zarr.Group):
                names = [f"labels/{name}" for name, _ in _images(labels, 0)]
                options |= {name: {"dataset": name} for name in names}
            return options
    finally:
        close()


def _images(group: zarr.Group, depth: int = 2) -> Iterator[tuple[str, Node]]:
    """Images and arrays of three or more axes within a group, without the levels of images."""
    for name, node in sorted(group.members()):
        if isinstance(node, zarr.Array):
            if node.ndim >= 3:
                yield name, node
        elif "multiscales" in attributes(node):
            yield name, node
            if "labels" in node and isinstance(labels := node["labels"], zarr.Group):
                yield from ((f"{name}/labels/{one}", label) for one, label in _images(labels, 0))
        elif depth > 0 and name != "OME":
            yield from ((f"{name}/{one}", image) for one, image in _images(node, depth - 1))


def _listed(root: Node) -> str:
    names = [name for name, _ in _images(root)] if isinstance(root, zarr.Group) else []
    return f"It holds: {', '.join(names[:20])}" if names else "It holds nothing that is a volume."
