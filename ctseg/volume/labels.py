"""Names and colours of label values in files: 3D Slicer's segments in NRRD, attributes in HDF5."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctseg.config.checking import parse_json
from ctseg.specs import Label
from ctseg.volume.geometry import Geometry


def labels_in(metadata: Mapping[str, Any]) -> tuple[Label, ...]:
    """The labels that the metadata of an opened file declare, by value; empty without such a declaration."""
    labels = _segments(metadata) or _attributes(metadata)
    return tuple(sorted(labels, key=lambda label: label.value))


@dataclass(frozen=True)
class Segment:
    """A segment of 3D Slicer: the layer and the value of its voxels."""

    name: str
    layer: int
    value: int
    colour: tuple[int, int, int] | None


def segments_in(metadata: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The segments that `Segment0_Name`, `Segment0_Layer`, `Segment0_LabelValue`, `Segment0_Color` ... declare."""
    segments = {}
    for key, value in metadata.items():
        match = re.fullmatch(r"Segment(\d{1,6})_LabelValue", str(key))
        if match is None:
            continue
        prefix = f"Segment{match[1]}_"
        layer = str(metadata.get(f"{prefix}Layer", "0")).strip()
        if not all(re.fullmatch(r"\d{1,9}", text) for text in (str(value).strip(), layer)):
            continue
        number = int(str(value))
        name = str(metadata.get(f"{prefix}Name") or f"label_{number}")
        colour = _colour(metadata.get(f"{prefix}Color"))
        segments[int(match[1])] = Segment(name, int(layer), number, colour)
    return tuple(segments[index] for index in sorted(segments))


def slicer_segments(labels: Sequence[Label], geometry: Geometry) -> dict[str, str]:
    """3D Slicer's `Segment` fields: name, colour and value of each label, so that it opens as a segmentation."""
    from ctseg.task import PALETTE

    z, y, x = geometry.shape_zyx
    fields: dict[str, str] = {}
    foreground = [label for label in labels if label.value != 0]
    for index, label in enumerate(foreground):
        colour = label.colour or PALETTE[index % len(PALETTE)]
        prefix = f"Segment{index}_"
        fields |= {
            f"{prefix}ID": label.name,
            f"{prefix}Name": label.name,
            f"{prefix}Color": " ".join(f"{c / 255:.6g}" for c in colour),
            f"{prefix}LabelValue": str(label.value),
            f"{prefix}Layer": "0",
            f"{prefix}Extent": f"0 {x - 1} 0 {y - 1} 0 {z - 1}",
        }
    return fields


def channel_names(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels of an opened file; empty if it has none."""
    return tuple(map(str, metadata.get("channel_names", ())))


def _segments(metadata: Mapping[str, Any]) -> list[Label]:
    """The segments of the first layer as labels; segments of further layers overlap them."""
    return [
        Label(one.name, (one.value,), one.value, one.colour)
        for one in segments_in(metadata)
        if one.layer == 0
    ]


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
    except (TypeError, ValueError, OverflowError):  # attributes of other programs may hold anything
        return None
    return red, green, blue


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    try:
        return parse_json(value, finite=False) if isinstance(value, str) else None
    except ValueError:
        return None
