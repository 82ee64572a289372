"""The grid of a case: how far its files may lie beside it, and which image has it where channels have their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ctseg.errors import BadInput
from ctseg.specs import Case, DataSet, ImageRef
from ctseg.volume.channel_grids import ChannelOntoGrid
from ctseg.volume.geometry import TOLERANCE_VOXELS, Geometry
from ctseg.volume.io import open_ref


def with_grid_tolerance(dataset: DataSet, tolerance: float) -> DataSet:
    """The data set, all of whose files may lie a share of a voxel beside the first image of their case."""

    def of(ref: ImageRef | None) -> ImageRef | None:
        return None if ref is None else replace(ref, grid_tolerance=tolerance)

    def case_of(case: Case) -> Case:
        return replace(
            case,
            images=tuple(replace(ref, grid_tolerance=tolerance) for ref in case.images),
            label=of(case.label),
            weight=of(case.weight),
            mask=of(case.mask),
        )

    return replace(
        dataset,
        cases=tuple(map(case_of, dataset.cases)),
        unlabelled=tuple(map(case_of, dataset.unlabelled)),
    )


def on_one_grid(images: Sequence[ImageRef], channel: int = 0) -> tuple[ImageRef, ...]:
    """The images of a case, the others to be brought onto the grid of one; see `ctseg.specs.ImageRef.onto`."""
    if len(images) < 2:
        return tuple(images)
    own = images[channel]
    return tuple(ref if ref is own else replace(ref, onto=own) for ref in images)


def grid_image(images: Sequence[ImageRef]) -> ImageRef:
    """The image whose grid is that of its case."""
    return next(ref for ref in images if ref.onto is None)


def with_one_grid(dataset: DataSet, channel: str = "") -> DataSet:
    """The data set, all of whose channels are brought onto the grid of one.

    Args:
        channel: its name; the first one by default.

    Raises:
        BadInput: the data set has no channel of that name.
    """
    number = number_of(channel, dataset.channels)

    def case_of(case: Case) -> Case:
        stacked = len(case.images) != len(dataset.channels)
        return replace(case, images=on_one_grid(case.images, 0 if stacked else number))

    return replace(
        dataset,
        cases=tuple(map(case_of, dataset.cases)),
        unlabelled=tuple(map(case_of, dataset.unlabelled)),
    )


def number_of(channel: str, channels: Sequence[str]) -> int:
    """The number of a channel, from 0; 0 without a name.

    Raises:
        BadInput: no channel has the name.
    """
    if not channel:
        return 0
    if channel not in channels:
        raise BadInput(
            f"There is no channel '{channel}', whose grid the others are to be brought onto.",
            hint=f"The channels are: {', '.join(channels)}",
        )
    return list(channels).index(channel)


def tolerated_offsets(cases: Iterable[Case]) -> str | None:
    """A sentence on the files that lie beside their image and are used as they are, since the tolerance was raised.

    Only the headers of cases with a raised tolerance are read.
    """
    found = sorted(
        ((apart, str(ref.path)) for case in cases for ref, apart in _offsets(case)), reverse=True
    )
    if not found:
        return None
    apart, path = found[0]
    many = f"{len(found)} files lie" if len(found) > 1 else "A file lies"
    return (
        f"{many} up to {apart:.2g} of a voxel beside the image of their case and are taken as they are: {path}"
        + (" and others." if len(found) > 1 else ".")
    )


def interpolated_channels(cases: Iterable[Case]) -> str | None:
    """A sentence on the channels that have grids of their own and are interpolated; only headers are read."""
    names: list[str] = []
    for case in cases:
        for ref in case.images:
            if ref.onto is None:
                continue
            with contextlib.closing(open_ref(ref)) as source:
                if isinstance(getattr(source, "whole", source), ChannelOntoGrid):
                    names.append(ref.path.name)
    if len(names) > 1:
        return (
            f"{len(names)} images have grids of their own and are interpolated onto that of another channel of their "
            f"case: {names[0]} and others."
        )
    if names:
        return f"{names[0]} has a grid of its own and is interpolated onto that of another channel of its case."
    return None


def _offsets(case: Case) -> Iterator[tuple[ImageRef, float]]:
    """The files of a case that lie beside its first image within a raised tolerance, and how far."""
    others = (*case.images[1:], case.label, case.mask, case.weight)
    refs = [ref for ref in others if ref and ref.grid_tolerance > TOLERANCE_VOXELS]
    if not refs:
        return
    first = _grid(case.images[0])
    for ref in refs:
        apart = _grid(ref).offset_voxels(first)
        if apart is not None and TOLERANCE_VOXELS < apart <= ref.grid_tolerance:
            yield ref, apart


def _grid(ref: ImageRef) -> Geometry:
    source = open_ref(ref)
    source.close()
    return source.geometry
