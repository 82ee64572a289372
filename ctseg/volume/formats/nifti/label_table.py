"""Names and colours of label values in a header extension, as TotalSegmentator and Connectome Workbench write them.

The extension holds XML of Caret: `CaretExtension/VolumeInformation/LabelTable/Label`, with the value as `Key`, colours
from 0 to 1, and the name as text. TotalSegmentator marks it with code 0, Connectome Workbench with code 30.
https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields/nifti1fields_pages/extension.html
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any
from xml.etree import ElementTree as ET

from ctseg.specs import Label
from ctseg.task import PALETTE

_CODE = 0
_MOST_BYTES = 1 << 24
_STEP = 16
"""Extensions have a multiple of this many bytes."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DAMAGED = "its table of label names is damaged and left out"


def label_extension(labels: Sequence[Label]) -> bytes:
    """The extension for these labels, without the background; empty if there are none."""
    named = [label for label in labels if label.value != 0]
    if not named:
        return b""
    rows = []
    for index, label in enumerate(named):
        colour = label.colour or PALETTE[index % len(PALETTE)]
        red, green, blue = (f"{part / 255:.6g}" for part in colour)
        name = _NOT_IN_XML.sub("?", label.name).strip() or f"label_{label.value}"
        text = name.replace("]]>", "]]]]><![CDATA[>")
        rows.append(
            f'<Label Key="{label.value}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="1">'
            f"<![CDATA[{text}]]></Label>\n"
        )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<CaretExtension><VolumeInformation Index="0"><LabelTable>\n'
        f"{''.join(rows)}</LabelTable><VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation>"
        "</CaretExtension>\n"
    ).encode()
    size = -(-(8 + len(xml)) // _STEP) * _STEP
    return struct.pack("<2i", size, _CODE) + xml.ljust(
        size - 8
    )  # blanks, since XML ends with no zero bytes


def read_extensions(file: IO[bytes], header_end: int, stop: int | None) -> bytes:
    """The bytes after the header that hold extensions; empty if it declares none.

    Args:
        file: stands right after the header.
        header_end: length of the header.
        stop: first byte of the voxels; None if they are in another file, and extensions end with this one.
    """
    flag = file.read(4)
    if len(flag) < 4 or flag[0] == 0:
        return b""
    wanted = _MOST_BYTES if stop is None else stop - header_end - 4
    return file.read(wanted) if 0 < wanted <= _MOST_BYTES else b""


def labels_of(extensions: bytes, order: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The metadata `labels` and `colours` by name, as far as a table declares them, and notes.

    Args:
        order: byte order of the header, `<` or `>`.
    """
    for content in _contents(extensions, order):
        if b"<LabelTable" not in content:
            continue
        if (
            b"<!DOCTYPE" in content or b"<!ENTITY" in content
        ):  # not part of Caret's XML, but of XML bombs
            return {}, (_DAMAGED,)
        try:
            root = ET.fromstring(content.strip(b"\0 \t\r\n"))  # noqa: S314 (no document type, so no entities)
        except (ET.ParseError, ValueError, LookupError):  # LookupError: an unknown encoding
            return {}, (_DAMAGED,)
        return _metadata(root), ()
    return {}, ()


def _contents(extensions: bytes, order: str) -> Iterator[bytes]:
    at = 0
    while at + 8 <= len(extensions):
        size, _ = struct.unpack_from(f"{order}2i", extensions, at)
        if size < 8 or at + size > len(extensions):
            return
        yield extensions[at + 8 : at + size]
        at += size


def _metadata(root: ET.Element) -> dict[str, Any]:
    names: dict[str, int] = {}
    colours: dict[str, tuple[int, ...]] = {}
    for item in root.iter("Label"):
        key = (item.get("Key") or "").strip()
        if not re.fullmatch(r"[1-9]\d{0,8}", key, re.ASCII):
            continue
        value = int(key)
        name = (item.text or "").strip() or f"label_{value}"
        if names.get(name, value) != value:
            name = f"{name} ({value})"
        names[name] = value
        try:
            shares = [float(item.get(part, "")) for part in ("Red", "Green", "Blue")]
        except ValueError:
            continue
        if all(0 <= share <= 1 for share in shares):
            colours[name] = tuple(round(share * 255) for share in shares)
    return {"labels": names, "colours": colours} if names else {}
