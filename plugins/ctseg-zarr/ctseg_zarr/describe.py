"""Attributes of OME-NGFF 0.4 and 0.5 that describe an image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctseg.specs import Label
from ctseg.task import PALETTE
from ctseg.volume.geometry import Geometry
from ctseg_zarr.paths import suffix_of


def multiscales(
    geometry: Geometry,
    factors: Sequence[tuple[int, int, int]],
    with_channels: bool,
    is_labels: bool,
    name: str,
    version: str,
) -> dict[str, Any]:
    """The `multiscales` entry: axes, and scale and translation of each level in the unit of the geometry."""
    micro = geometry.unit == "um"
    per_mm = 1000.0 if micro else 1.0
    unit = "micrometer" if micro else "millimeter"
    scale = np.array(geometry.spacing_zyx) * per_mm
    place = np.array(geometry.origin_xyz[::-1]) * per_mm
    front = [1.0] if with_channels else []
    datasets = []
    for number, step in enumerate([(1, 1, 1), *factors]):
        if not is_labels:  # the mean of two voxels lies between them; a kept label stays at the first one's position
            place = place + scale * (np.array(step) - 1) / 2
        scale = scale * np.array(step)
        still = [0.0] if with_channels else []
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*front, *scale.tolist()]},
                    {"type": "translation", "translation": [*still, *place.tolist()]},
                ],
            }
        )
    space = [{"name": axis, "type": "space", "unit": unit} for axis in "zyx"]
    described: dict[str, Any] = {
        "name": name.removesuffix(suffix_of(Path(name))),
        "axes": [{"name": "c", "type": "channel"}, *space] if with_channels else space,
        "datasets": datasets,
        "type": "nearest" if is_labels else "mean",
    }
    return {"version": version, **described} if version == "0.4" else described


def image_label(
    labels: Sequence[Label], version: str, source: Path | None, path: Path
) -> dict[str, Any]:
    """Colours and names of label values, as far as they have names."""
    named = [label for label in labels if label.value != 0]
    colours = [label.colour or PALETTE[i % len(PALETTE)] for i, label in enumerate(named)]
    described: dict[str, Any] = {}
    if named:
        described["colors"] = [
            {"label-value": label.value, "rgba": [*colour, 255]}
            for label, colour in zip(named, colours, strict=True)
        ]
        described["properties"] = [
            {"label-value": label.value, "name": label.name} for label in named
        ]
    if version == "0.4":
        described["version"] = version
    if source is not None:
        described["source"] = {"image": os.path.relpath(source, path)}
    return {"image-label": described}


def channel_names(
    labels: Sequence[Label], channels: int | None, dtype: np.dtype[Any]
) -> dict[str, Any]:
    """Names and colours of channels, for viewers."""
    if channels is None or len(labels) != channels:
        return {}
    top = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
    window = {"start": 0.0, "end": top, "min": 0.0, "max": top}
    listed = [
        {
            "label": label.name,
            "color": "{:02X}{:02X}{:02X}".format(*(label.colour or PALETTE[i % len(PALETTE)])),
            "window": window,
            "active": True,
        }
        for i, label in enumerate(labels)
    ]
    return {"omero": {"channels": listed}}
