"""OME-XML metadata of a stack, checked before tifffile uses them.

https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from ctseg.errors import FileProblem
from ctseg.volume.formats import outside
from ctseg.volume.formats.tiff.structure import check_structure

_MOST_TEXT = 1 << 28
_MOST_STEPS = 1 << 20


@dataclass(frozen=True)
class Ome:
    """The metadata of an OME-TIFF.

    Attributes:
        root: the element `OME`.
        text: text that it was read from; None if it is in the TIFF itself.
    """

    root: Element
    text: str | None

    def pixels(self) -> Element | None:
        """The `Pixels` element of the first image."""
        image = next(_named(self.root, "Image"), None)
        return None if image is None else next(_named(image, "Pixels"), None)

    def planes(self) -> int:
        """The number of planes that the first image declares."""
        pixels = self.pixels()
        if pixels is None:
            return 0
        return math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT")


def read_ome(description: str, path: Path, pages: int, *, allowed: bool) -> Ome:
    """Read and check the metadata of a file.

    Args:
        description: the text in its first page.
        path: the file.
        pages: number of pages in the file.
        allowed: whether files outside the folder are read.

    Raises:
        FileProblem: damaged metadata, or files that are missing or lie elsewhere.
        EOFError: the files have fewer pages than declared planes.
    """
    root, text = _parse(description, path), None
    binary = next(_named(root, "BinaryOnly"), None)
    if binary is not None:  # this is a part of a scan, described in a file beside it
        companion = outside.follow(
            path, binary.get("MetadataFile", ""), allowed=allowed, what="metadata"
        )
        root = _parse(_text(companion, path), companion)
        # tifffile identifies the opened file by the UUID in the metadata
        root.attrib.pop("UUID", None)
        text = ET.tostring(root, encoding="unicode")
        if next(_named(root, "BinaryOnly"), None) is not None:
            raise FileProblem(f"{companion}, which {path} names, names another file in turn.")
    counts = {"": pages}
    for image in _named(root, "Image"):
        for pixels in _named(image, "Pixels"):
            _check_pixels(pixels, path)
            for block in _named(pixels, "TiffData"):
                _check_block(block, counts, path, allowed=allowed)
    for along in root.iter():
        if _name(along).startswith("Along"):
            _check_steps(along, path)
    return Ome(root, text)


def _text(companion: Path, path: Path) -> str:
    """The text of a metadata file, or the metadata in another TIFF."""
    if companion.suffix.lower() in (".tif", ".tiff"):
        raise FileProblem(
            f"{path} is a part of the scan that {companion} describes.",
            hint=f"Name that file: {companion}",
        )
    if companion.stat().st_size > _MOST_TEXT:
        raise FileProblem(f"{companion}, which {path} names, is too large for metadata.")
    return companion.read_text(encoding="utf-8")


def _parse(text: str, path: Path) -> Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # not part of OME-XML, but of XML bombs
        raise FileProblem(f"{path} has OME-XML with a document type, which is not allowed.")
    try:
        return ET.fromstring(text)  # noqa: S314 (no document type, so no entities)
    except (ET.ParseError, ValueError) as error:
        raise FileProblem(
            f"{path} has damaged OME-XML: {error}.", hint="Copy or download the file again."
        ) from error


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _named(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if _name(child) == name)


def _whole(element: Element, name: str, default: int | None, path: Path) -> int:
    """A whole number of 0 or more from an attribute."""
    text = element.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal() or len(text) > 18:
        raise FileProblem(
            f"{path} has damaged OME-XML: {name} of {_name(element)} is {text!r}, not a whole number."
        )
    return int(text)


def _check_pixels(pixels: Element, path: Path) -> None:
    order = pixels.get("DimensionOrder", "")
    if sorted(order) != sorted("XYZCT") or not order.startswith("XY"):
        raise FileProblem(f"{path} has damaged OME-XML: DimensionOrder is {order!r}.")
    if min(_whole(pixels, f"Size{axis}", None, path) for axis in "XYZCT") < 1:
        raise FileProblem(f"{path} has damaged OME-XML: an axis of 0 voxels.")


def _check_block(block: Element, counts: dict[str, int], path: Path, *, allowed: bool) -> None:
    """Check that the pages of a `TiffData` element exist.

    Args:
        counts: number of pages of the files seen so far; others are added.
    """
    uuid = next(_named(block, "UUID"), None)
    name = "" if uuid is None else uuid.get("FileName", "")
    if name == path.name:
        name = ""
    if name not in counts:
        target = outside.follow(path, name, allowed=allowed, what="voxels")
        counts[name] = check_structure(target)
    first = _whole(block, "IFD", 0, path)
    announced = _whole(block, "NumPlanes", 1 if "IFD" in block.attrib else 0, path)
    announced = _whole(block, "PlaneCount", announced, path)
    if first + announced > counts[name]:
        raise EOFError(
            f"{name or 'it'} has {counts[name]} of the {first + announced} pages that its OME-XML announces"
        )


def _check_steps(along: Element, path: Path) -> None:
    """Check the range of a `ModuloAlong`, of which tifffile would make a list."""
    if "Start" not in along.attrib:
        return
    try:
        start, stop, step = (
            float(along.get(name, default))
            for name, default in (("Start", "nan"), ("End", "nan"), ("Step", "1"))
        )
        steps = (stop - start) / step
    except (ValueError, ZeroDivisionError):
        steps = math.nan
    if not 0 <= steps <= _MOST_STEPS:
        raise FileProblem(f"{path} has damaged OME-XML: a range of {steps} steps.")
