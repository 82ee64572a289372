"""Opening stores read-only, and finding the image or array that is meant."""

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
"""What numcodecs and zarr say of a codec that they have not."""
Node = zarr.Group | zarr.Array[Any]


@contextmanager
def zarr_errors(path: Path) -> Iterator[None]:
    """Tell what zarr and its codecs raise as a `FileProblem`."""
    try:
        with reading(path):
            yield
    except FileProblem as error:
        if _UNKNOWN_CODEC.search(str(error.__cause__)):
            raise _no_codec(path, str(error.__cause__)) from error.__cause__
        raise
    except CtsegError:
        raise
    except Exception as error:  # codecs are libraries of their own, with errors of their own
        said = str(error).strip().splitlines() or [type(error).__name__]
        if _UNKNOWN_CODEC.search(said[-1]):
            raise _no_codec(path, said[-1]) from error
        raise FileProblem(f"{path} cannot be read: {said[-1]}.", hint=AGAIN) from error


def _no_codec(path: Path, said: str) -> FileProblem:
    return FileProblem(
        f"{path} is compressed with a codec that is not installed ({said.rstrip('.')}).",
        hint="Install the package that has it, e.g.: pip install 'numcodecs[zfpy,pcodec]' imagecodecs",
    )


def open_store(path: Path) -> tuple[Node, Callable[[], None]]:
    """The node at a path, which may lie within a store, and how to close it.

    Raises:
        FileProblem: nothing there, or no Zarr.
    """
    if not path.is_dir():
        check_file(path)
    if not is_zarr(path):
        raise FileProblem(
            f"{path} is no Zarr store: it has neither zarr.json nor .zgroup, .zarray or .zattrs.",
            hint="Name the folder that holds one of these files.",
        )
    with zarr_errors(path):
        if path.is_dir():
            return zarr.open(zarr.storage.LocalStore(path, read_only=True), mode="r"), lambda: None
        store = zarr.storage.ZipStore(path, mode="r")
        return zarr.open(store, mode="r"), store.close


def attributes(node: Node) -> Mapping[str, Any]:
    """The attributes of a node; those of OME-NGFF 0.5, which lie under `ome`, beside the others."""
    plain = dict(node.attrs)
    ome = plain.get("ome")
    return {**plain, **ome} if isinstance(ome, Mapping) else plain


def choose(root: Node, path: Path, dataset: str | None) -> Node:
    """The multiscale image or the array that is meant.

    Args:
        root: of the store.
        path: for messages.
        dataset: its name within the store. Without it: the root itself, or what alone is within it.

    Raises:
        FileProblem: no such node, or several to choose from.
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
        hint=f"Say which one with the option dataset.\n  {_listed(root)}"
        if images
        else _listed(root),
    )


def parts(path: Path) -> dict[str, dict[str, str]]:
    """The images of a store, its label images too, by name, and the option that opens each."""
    root, close = open_store(path)
    try:
        with zarr_errors(path):
            if not isinstance(root, zarr.Group):
                return {"": {}}
            if "multiscales" not in attributes(root):
                return {name: {"dataset": name} for name, _ in _images(root)}
            found: dict[str, dict[str, str]] = {"": {}}
            labels = root.get("labels")
            if isinstance(labels, zarr.Group):
                names = [f"labels/{name}" for name, _ in _images(labels, 0)]
                found |= {name: {"dataset": name} for name in names}
            return found
    finally:
        close()


def _images(group: zarr.Group, depth: int = 2) -> Iterator[tuple[str, Node]]:
    """Images and arrays of three axes and more within a group; the levels of an image are none themselves."""
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
    found = [name for name, _ in _images(root)] if isinstance(root, zarr.Group) else []
    return f"It holds: {', '.join(found[:20])}" if found else "It holds nothing that is a volume."
