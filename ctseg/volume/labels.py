"""Names and colours of label values that files carry: 3D Slicer's segments in NRRD, attributes in HDF5."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ctseg.specs import Label


def labels_in(metadata: Mapping[str, Any]) -> tuple[Label, ...]:
    """The labels that the metadata of an opened file declare, by value; empty where they declare none."""
    found = _segments(metadata) or _attributes(metadata)
    return tuple(sorted(found, key=lambda label: label.value))


def _segments(metadata: Mapping[str, Any]) -> list[Label]:
    """`Segment0_Name`, `Segment0_LabelValue`, `Segment0_Color`; segments of further layers share voxels."""
    out = []
    for key, value in metadata.items():
        match = re.fullmatch(r"Segment(\d+)_LabelValue", str(key))
        if match is None:
            continue
        prefix = f"Segment{match[1]}_"
        if (
            str(metadata.get(f"{prefix}Layer", "0")).strip() != "0"
            or not str(value).strip().isdigit()
        ):
            continue
        number = int(str(value))
        name = str(metadata.get(f"{prefix}Name") or f"label_{number}")
        out.append(Label(name, (number,), number, _colour(metadata.get(f"{prefix}Color"))))
    return out


def _colour(value: Any) -> tuple[int, int, int] | None:
    """Three numbers from 0 to 1, as text."""
    try:
        red, green, blue = (round(float(word) * 255) for word in str(value).split())
    except (ValueError, OverflowError):
        return None
    return red, green, blue


def _attributes(metadata: Mapping[str, Any]) -> list[Label]:
    """`labels` and `colours`: JSON by name in the attributes of HDF5, mappings from DICOM SEG and other plugins."""
    names, colours = (_decoded(metadata.get(key)) for key in ("labels", "colours"))
    if isinstance(names, list):
        names = {str(name): value for value, name in enumerate(names)}
    if not isinstance(names, dict) or not all(isinstance(v, int) for v in names.values()):
        return []
    shades = colours if isinstance(colours, dict) else {}
    return [Label(name, (value,), value, _rgb(shades.get(name))) for name, value in names.items()]


def _rgb(value: Any) -> tuple[int, int, int] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    try:
        red, green, blue = map(int, value)
    except (TypeError, ValueError, OverflowError):  # what another program wrote
        return None
    return red, green, blue


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    try:
        return json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None
