"""Voxels without a header: `.raw` and `.vol`, described by a file beside them, by their name or by options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ctseg.cli.options.axes import numbers
from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats.calibration import calibration_of_option, grid_of
from ctseg.volume.formats.header_numbers import check_voxels, integer
from ctseg.volume.formats.raw import Raw
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg_microct.readers.description import DTYPES, Description, describe

_HEADERS = (".mhd", ".nhdr", ".hdr")
HINT = "Say what it holds: --option shape=X,Y,Z --option dtype=uint16"


def open_raw(
    path: Path,
    *,
    shape: str | None = None,
    dtype: str | None = None,
    spacing: str | None = None,
    skip: str | None = None,
    order: str | None = None,
) -> Source:
    """Open voxels without a header; x runs fastest. Boxes are read one by one.

    Options count before what is found beside the file or in its name. The size of the file must be the one promised.

    Args:
        shape: voxels along x, y and z.
        dtype: one of `DTYPES`.
        spacing: one number or x, y, z, in mm or with a unit.
        skip: bytes before the voxels.
        order: `little` or `big`, the order of the bytes of a number.

    Raises:
        FileProblem: nothing tells the shape or the type, or the size of the file contradicts them.
        BadInput: an option has an impossible value.
    """
    check_file(path)
    with reading(path):
        found = _with_options(describe(path), shape, dtype, skip, order)
        if found.shape_zyx is None or found.dtype is None:
            raise FileProblem(_missing(path, found), hint=_hint(path))
        check_voxels(found.shape_zyx, path)
        raw = Raw(
            path,
            np.dtype(found.dtype).newbyteorder("<" if found.order == "little" else ">"),
            found.shape_zyx,
            start=found.skip,
        )
        _check_size(path, raw, found)
        calibration = calibration_of_option(spacing) if spacing else found.calibration
        geometry, metadata = grid_of(path, found.shape_zyx, calibration, None)
        notes = [
            *metadata.get("notes", ()),
            *([f"described by {found.where}"] if found.where else []),
        ]
        return raw_source(raw, path, geometry, {**metadata, "notes": notes})


def _with_options(
    found: Description, shape: str | None, dtype: str | None, skip: str | None, order: str | None
) -> Description:
    if shape is not None:
        x, y, z = numbers(shape, int, "xyz")
        if min(x, y, z) < 1:
            raise BadInput(f"shape={shape} has an axis without voxels.", hint="Write shape=X,Y,Z")
        found = replace(found, shape_zyx=(z, y, x))
    if dtype is not None:
        if dtype not in DTYPES:
            raise BadInput(f"There is no type '{dtype}'.", hint=f"Types: {', '.join(DTYPES)}")
        found = replace(found, dtype=dtype)
    if skip is not None:
        try:
            found = replace(found, skip=integer(skip, "skip", 0))
        except ValueError:
            raise BadInput(f"skip={skip} is no number of bytes.", hint="Write skip=512") from None
    if order is not None:
        if order not in ("little", "big"):
            raise BadInput(
                f"There is no byte order '{order}'.", hint="Write order=little or order=big"
            )
        found = replace(found, order=order)
    return found


def _missing(path: Path, found: Description) -> str:
    lacks = " and ".join(
        what for what, value in (("shape", found.shape_zyx), ("type", found.dtype)) if value is None
    )
    return f"{path} has no header, and nothing beside it tells the {lacks} of its voxels."


def _hint(path: Path) -> str:
    for suffix in _HEADERS:
        header = path.with_suffix(suffix)
        if header.is_file():
            return f"Open its header: {header}"
    return HINT


def _check_size(path: Path, raw: Raw, found: Description) -> None:
    """Refuse a file of another size: its shape, type or start would be wrong.

    Raises:
        FileProblem: bytes are missing or left over.
    """
    size, needed = path.stat().st_size, raw.start + raw.nbytes
    if size == needed:
        return
    z, y, x = raw.shape_zyx
    what = f"{x} x {y} x {z} voxels (x, y, z) of {found.dtype}"
    start = f" after {raw.start} bytes" if raw.start else ""
    more = size - needed
    hint = (
        f"If {more} bytes stand before the voxels: --option skip={raw.start + more}. Or the shape or type is another."
        if more > 0
        else "It is truncated, or its shape or type is another: copy it again, or give --option shape=X,Y,Z dtype=TYPE"
    )
    raise FileProblem(f"{path} has {size} bytes, where {what}{start} take {needed}.", hint=hint)
