"""How far the files of a case may lie beside its first image, and which of them do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ctseg.specs import Case, DataSet, ImageRef
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
