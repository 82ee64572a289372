"""Folders of slices: one grey TIFF or PNG a slice, in the order of the numbers in their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats import itk, paths, tiff_metadata
from ctseg.volume.formats.pictures import PICTURES, natural_key, slice_files
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.units import read_spacing


def open_slices(path: Path, *, spacing: str | None = None, gaps: str = "no") -> Source:
    """Open a folder of pictures as one scan; any slices are read alone.

    Args:
        path: the folder.
        spacing: voxel size x, y, z, e.g. `0.7 0.7 2.5` in mm or `5um`; without it that of the first TIFF, or 1 mm.
        gaps: `yes` takes names whose numbers have gaps as they are; otherwise they are refused.

    Raises:
        FileProblem: no such pictures, missing numbers, colours, or slices that differ in size.
    """
    if gaps not in ("yes", "no"):
        raise BadInput(f"The option gaps of a folder of slices is 'yes' or 'no', not '{gaps}'.")
    if not path.is_dir():
        raise FileProblem(
            f"{path} is no folder of slices.", hint="Name the folder, not a file in it."
        )
    files = slice_files(path)
    if not files:
        raise FileProblem(
            f"{path} holds no pictures whose names differ in their numbers alone.",
            hint=f"Slices are named like scan_0001.tif; they end in one of: {', '.join(PICTURES)}",
        )
    if gaps == "no":
        _check_numbers(files, path)
    first = _picture(files[0])
    dtype, shape = first.dtype.newbyteorder("="), first.shape
    size, unit = read_spacing(spacing) if spacing is not None else _calibration(files[0])
    geometry = itk.make_geometry(path, (len(files), *shape), size, (0.0, 0.0, 0.0), np.eye(3), unit)

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        out = np.empty((1, *(b - a for a, b in zip(start, stop, strict=True))), dtype)
        for index, file in enumerate(files[start[0] : stop[0]]):
            plane = _picture(file)
            if plane.shape != shape or plane.dtype.newbyteorder("=") != dtype:
                raise FileProblem(
                    f"{file} has {plane.shape} voxels of {plane.dtype} where {files[0].name} has {shape} of {dtype}.",
                    hint="Keep the slices of one scan in a folder of their own.",
                )
            out[0, index] = plane[start[1] : stop[1], start[2] : stop[2]]
        return out

    return Source(
        path,
        geometry,
        dtype,
        lambda start, stop: load_box((start, 0, 0), (stop, *shape)),
        metadata={"files": [str(file) for file in files]},
        load_box=load_box,
    )


def _check_numbers(files: Sequence[Path], path: Path) -> None:
    keys = np.array([natural_key(file) for file in files])
    running = [column for column in keys.T if len(set(column.tolist())) > 1]
    if len(running) != 1:
        return
    steps = np.diff(running[0])
    step = int(np.median(steps))
    if steps.min() < 1:
        at = int(steps.argmin())
        raise FileProblem(
            f"{path}: {files[at].name} and {files[at + 1].name} have the same number.",
            hint="Keep one file a slice.",
        )
    odd = np.flatnonzero(steps != step)
    if odd.size:
        at = int(odd[0])
        raise FileProblem(
            f"{path}: {odd.size} gaps in the numbers of the slices, the first between {files[at].name} and "
            f"{files[at + 1].name}.",
            hint="Copy the missing slices, or take them as they are with the option gaps=yes.",
        )


def _picture(file: Path) -> NDArray[Any]:
    """One slice as [Y, X]."""
    check_file(file)
    with reading(file):
        if paths.suffix_of(file, (".png",)):
            try:
                plane = np.asarray(imagecodecs.png_decode(file.read_bytes()))
            except imagecodecs.PngError as error:
                raise ValueError(str(error)) from error
        else:
            with tifffile.TiffFile(file) as tif:
                if len(tif.pages) != 1:
                    raise FileProblem(
                        f"{file} has {len(tif.pages)} pages; a slice has one.",
                        hint="Name the file itself: it is a stack.",
                    )
                plane = np.asarray(tif.pages.first.asarray())
    if plane.ndim != 2 or plane.dtype.kind not in "biuf":
        raise FileProblem(
            f"{file} is a colour picture of shape {plane.shape}; a scan holds one number a voxel.",
            hint="Convert the slices to grey values first, e.g. in Fiji: Image > Type > 16-bit.",
        )
    return plane


def _calibration(file: Path) -> tuple[tuple[float, float, float], str]:
    if paths.suffix_of(file, paths.TIFF) is None:
        return (1.0, 1.0, 1.0), "mm"
    with reading(file), tifffile.TiffFile(file) as tif:
        return tiff_metadata.voxel_size(tif)
