"""AmiraMesh (`.am`): uniform lattices in bytes, text, run lengths (HxByteRLE) or deflate (HxZip)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctseg.specs import VolumeSource
from ctseg.volume.formats.calibration import Calibration, unknown_spacing
from ctseg.volume.formats.grids import make_geometry
from ctseg.volume.formats.raw import Raw
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import check_file, reading
from ctseg.volume.formats.text_source import text_source
from ctseg.volume.formats.units import MM, shown_in
from ctseg_microct.readers.amira_header import AmiraHeader, read_amira_header
from ctseg_microct.readers.run_lengths import run_length_source


def open_amira(path: Path, *, unit: str | None = None) -> VolumeSource:
    """Open a uniform lattice; several numbers a voxel are channels, materials are the names of labels.

    Args:
        path: the file.
        unit: unit of its coordinates, which many files do not state: `mm`, `um`, `nm` ...

    Raises:
        FileProblem: missing, damaged, or no uniform lattice in three dimensions.
    """
    check_file(path)
    with reading(path):
        header = read_amira_header(path)
        calibration = _calibration(header, unit)
        factor = 1.0 if not calibration.is_known else MM[_unit(header, unit)]
        geometry = make_geometry(
            path,
            header.shape_zyx,
            calibration.spacing_xyz,
            (0.0, 0.0, 0.0)
            if header.box is None or not calibration.is_known
            else tuple(low * factor for low in header.box[::2]),
            np.eye(3),
            calibration.unit,
        )
        metadata = {**calibration.metadata(), **header.labels()}
        raw = Raw(
            path,
            header.dtype,
            header.shape_zyx,
            channels=header.components,
            interleaved=header.components > 1,
            start=header.start,
            compression="zlib" if header.encoding == "hxzip" else "",
        )
        if header.is_text:
            return text_source(raw, path, geometry, metadata, hexadecimal=False)
        if header.encoding == "hxbyterle":
            return run_length_source(raw, header.encoded_bytes, geometry, metadata)
        raw.check_size()
        return raw_source(raw, path, geometry, metadata)


def _unit(header: AmiraHeader, unit: str | None) -> str:
    return (unit or header.unit).strip().lower()


def _calibration(header: AmiraHeader, unit: str | None) -> Calibration:
    """The voxel size: the box runs from the centre of the first voxel to that of the last.

    Raises:
        ValueError: the box or the unit is impossible.
    """
    name = _unit(header, unit)
    option = "unit, e.g. --option unit=um"
    if header.box is None:
        return unknown_spacing("the file gives no bounding box")
    steps = [n - 1 for n in header.shape_zyx[::-1]]
    edges = [high - low for low, high in zip(header.box[::2], header.box[1::2], strict=True)]
    if any(edge <= 0 and step for edge, step in zip(edges, steps, strict=True)):
        raise ValueError(f"its bounding box is {header.box}")
    sizes = [edge / step for edge, step in zip(edges, steps, strict=True) if step]
    each = [
        edge / step if step else min(sizes, default=0.0)
        for edge, step in zip(edges, steps, strict=True)
    ]
    if not min(each) > 0:
        return unknown_spacing("a single voxel has no step")
    if not name:
        shown = " x ".join(f"{size:g}" for size in each)
        x, y, z = (size / min(each) for size in each)
        return unknown_spacing(f"{shown} without a unit", option, (x, y, z))
    if name not in MM:
        raise ValueError(f"its unit '{name[:20]}' is no known length")
    factor = MM[name]
    x, y, z = (size * factor for size in each)
    return Calibration((x, y, z), shown_in(factor))
