"""Checks of data set readers and volume formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctseg.specs import DataSet, FormatSpec, ReaderSpec
from ctseg.testing.options import require
from ctseg.volume.geometry import Geometry


def check_reader(spec: ReaderSpec, path: Path, **options: Any) -> DataSet:
    """Check a reader on a data set that it should recognise; returns the data set.

    Ids are unique and valid as file names; every reference exists and opens; image and label share a grid; reading
    twice gives equal data sets.
    """
    from ctseg.volume.io import open_ref

    require(spec.recognise(path), f"{spec.name}: does not recognise {path}")
    missing = path / "nothing-of-this-name"
    require(not spec.recognise(missing), f"{spec.name}: recognises a path that does not exist")
    data = spec.cases(path, **options)
    require(isinstance(data, DataSet), f"{spec.name}: gives {type(data).__name__}, not a DataSet")
    require(data == spec.cases(path, **options), f"{spec.name}: reading twice gives two data sets")
    require(data.reader == spec.name, f"{spec.name}: says that '{data.reader}' read the data set")
    cases = (*data.cases, *data.unlabelled)
    require(cases, f"{spec.name}: found no case in {path}")
    ids = [case.id for case in cases]
    require(len(set(ids)) == len(ids), f"{spec.name}: two cases have one id")
    for case in cases:
        where = f"{spec.name}, case '{case.id}'"
        require(
            case.id and not set(case.id) & set('/\\:*?"<>|'), f"{where}: the id is no file name"
        )
        references = [*case.images, case.label, case.weight, case.mask]
        for reference in filter(None, references):
            require(reference.path.exists(), f"{where}: {reference.path} does not exist")
    for case in data.cases:
        require(
            case.label is not None, f"{spec.name}: '{case.id}' has no label but is listed to train"
        )
    case_ids = set(ids)
    for train, validation in data.splits:
        require(
            {*train, *validation} <= case_ids and not set(train) & set(validation),
            f"{spec.name}: a split names unknown cases, or a case on both sides",
        )
    first = cases[0]
    sources = [open_ref(r) for r in (*first.images, first.label) if r is not None]
    try:
        channels = sum(source.channels for source in sources[: len(first.images)])
        require(
            channels == len(data.channels),
            f"{spec.name}: '{first.id}' has {channels} channels, the data set {len(data.channels)}",
        )
        for source in sources[1:]:
            difference = source.geometry.difference(sources[0].geometry)
            require(difference is None, f"{spec.name}: grids of '{first.id}' differ: {difference}")
    finally:
        for source in sources:
            source.close()
    return data


def check_format(
    spec: FormatSpec,
    folder: Path,
    *,
    oblique: bool = True,
    channel_options: Mapping[str, Any] | None = None,
) -> None:
    """Check that a format reads back what it wrote, voxels and grid, and that no partial file appears.

    Args:
        folder: an empty folder for files.
        oblique: whether the format stores origin and direction; False checks the spacing only.
        channel_options: options of `open` that reading several channels needs.
    """
    require(spec.writer is not None, f"{spec.name}: has no writer, so there is nothing to check")
    require(all(s == s.lower() for s in spec.suffixes), f"{spec.name}: suffixes must be lower case")
    rotation = ((0.8, 0.6, 0.0), (-0.6, 0.8, 0.0), (0.0, 0.0, -1.0))  # oblique, left-handed
    geometry = Geometry((5, 6, 7), (0.7, 0.8, 2.5), (-31.5, 12.25, 400.0), rotation)
    if not oblique:
        geometry = Geometry((5, 6, 7), (0.7, 0.8, 2.5))
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 200, geometry.shape_zyx)
    values = generator.normal(0, 1000, (2, *geometry.shape_zyx))
    suffix = spec.suffixes[0] if spec.suffixes else ""
    plain: Mapping[str, Any] = {}
    for name, array, options in (
        ("labels", labels.astype(np.uint8), plain),
        ("hounsfield", labels.astype(np.int16) - 99, plain),
        ("channels", values.astype(np.float32), channel_options or plain),
    ):
        if array.ndim == 4 and "channels" in spec.lacks:
            continue
        _check_written(spec, folder / f"{name}{suffix}", geometry, array, options)


def _check_written(
    spec: FormatSpec, path: Path, geometry: Geometry, array: Any, options: Mapping[str, Any]
) -> None:
    where = f"{spec.name}, {path.name} ({array.dtype}, {array.ndim} axes)"
    assert spec.writer is not None
    before = set(path.parent.iterdir())
    channels = array.shape[0] if array.ndim == 4 else None
    for commit in (False, True):
        writer = spec.writer(path, geometry, array.dtype, channels=channels)
        for start in range(0, geometry.shape_zyx[0], 2):
            writer.write(start, array[..., start : start + 2, :, :])
            require(not path.exists(), f"{where}: appears under its name before it is complete")
        if commit:
            writer.commit()
        else:
            writer.abort()
            remaining = set(path.parent.iterdir()) - before
            require(
                not remaining,
                f"{where}: after abort {sorted(p.name for p in remaining)} are left",
            )
    require(spec.recognise(path), f"{where}: is not recognised by its own format")
    source = spec.open(path, **options)
    try:
        difference = geometry.difference(source.geometry)
        require(difference is None, f"{where}: the grid comes back changed: {difference}")
        expected = array if array.ndim == 4 else array[None]
        require(
            source.channels == len(expected), f"{where}: comes back with {source.channels} channels"
        )
        for slices in (None, (0, 1), (2, 5)):
            part = expected[:, slice(*slices)] if slices else expected
            got = np.asarray(source.read(slices))
            require(
                got.shape == part.shape and np.array_equal(got, part),
                f"{where}: voxels of slices {slices or 'all'} come back changed",
            )
        for first, last in (((0, 0, 0), (1, 1, 1)), ((1, 2, 3), (4, 6, 5)), ((4, 0, 6), (5, 6, 7))):
            part = expected[(slice(None), *map(slice, first, last))]
            got = np.asarray(source.read_box(first, last))
            require(
                got.shape == part.shape and np.array_equal(got, part),
                f"{where}: the box {first} to {last} comes back changed",
            )
    finally:
        source.close()
