"""Reads a predicted map, its reference and the mask of the case onto one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ctseg.engine.evaluation.case_maps import CaseMaps
from ctseg.engine.evaluation.matching import Pair
from ctseg.engine.evaluation.overlapping import read_masks
from ctseg.specs import ImageRef, Task
from ctseg.volume.geometry import TOLERANCE_VOXELS, check_same
from ctseg.volume.io import read_ref
from ctseg.volume.lattice import CommonGrid, on_common_grid
from ctseg.volume.volume import Volume


def read_maps(
    pair: Pair, task: Task | None, tolerance: float | None = None
) -> tuple[CaseMaps, CommonGrid]:
    """Both maps of a pair, and its mask, on their common grid; the masks of labels that overlap for their map.

    Args:
        tolerance: largest offset between the voxels of the two maps, as a fraction of a voxel; None for the default.

    Raises:
        FileProblem: a file is missing or unreadable.
        GeometryMismatch: the voxels of the two maps differ, or those of the mask.
    """
    expected = read_map(pair.reference)
    predicted = read_masks(pair, task, expected) or read_map(pair.prediction)
    files = (pair.prediction.path, pair.reference.path)
    names = (str(files[0]), str(files[1]))
    common = common_grid(predicted, expected, names, files, tolerance, task)
    mask = None
    if pair.mask is not None:
        mask = common.to_common(mask_of(volume_of(pair.mask), expected))
    maps = CaseMaps(
        common.one, common.two, pair.case, names=names, mask=mask, group=pair.group,
        images=pair.images, drawn=pair.drawn,
    )  # fmt: skip
    return maps, common


def common_grid(
    prediction: Volume,
    reference: Volume,
    names: tuple[str, str],
    files: tuple[Path, Path] | None,
    tolerance: float | None,
    task: Task | None,
) -> CommonGrid:
    """Both maps on one grid; label maps are padded with background, which the values of a regression lack."""
    return on_common_grid(
        prediction,
        reference,
        names=names,
        files=files,
        tolerance=TOLERANCE_VOXELS if tolerance is None else tolerance,
        pad=task is None or task.kind != "regression",
    )


def squeezed(array: NDArray[Any]) -> NDArray[Any]:
    """A map [1, Z, Y, X] as [Z, Y, X]; others as they are."""
    return array[0] if array.ndim == 4 and array.shape[0] == 1 else array


def volume_of(
    item: Volume | ImageRef | Path | str, options: Mapping[str, Any] | None = None
) -> Volume:
    """A volume as it is, or the map in a file; errors as for `read_map`.

    Args:
        options: for the format's `open`, where the item is a path.
    """
    if isinstance(item, Volume):
        return item
    return read_map(item if isinstance(item, ImageRef) else ImageRef(Path(item), options or {}))


def mask_of(mask: Volume, reference: Volume) -> NDArray[Any]:
    """The array of a mask; raises `GeometryMismatch` where its grid is not that of the reference."""
    check_same(mask.geometry, reference.geometry, names=("The mask", "its reference"))
    return mask.array


def read_map(ref: ImageRef) -> Volume:
    """Read a label map [Z, Y, X], or [C, Z, Y, X] with several channels.

    Raises:
        FileProblem: the file is missing or unreadable.
    """
    volume = read_ref(ref)
    return replace(volume, array=squeezed(volume.array))
