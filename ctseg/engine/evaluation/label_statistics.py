"""Statistics of the labels of a mask that exists, and of the values of its scan: `ctseg statistics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctseg.data.readers.grids import grid_image
from ctseg.data.stream import OnDisk
from ctseg.errors import BadInput
from ctseg.metrics.statistics.gather import LabelStatistics
from ctseg.metrics.statistics.summary import MeasuredLabel
from ctseg.specs import ImageRef, Label, frozen
from ctseg.volume.convert import slab_depth
from ctseg.volume.distinct_values import whole_numbers
from ctseg.volume.formats.calibration import UNKNOWN
from ctseg.volume.formats.source import options_of
from ctseg.volume.geometry import check_same
from ctseg.volume.io import format_of, notes_of, open_ref
from ctseg.volume.labels import labels_in
from ctseg.volume.spool import by_region


@dataclass(frozen=True)
class ScanStatistics:
    """The statistics of a scan and a mask.

    Attributes:
        labels: by value.
        channels: of the scan.
        error: largest relative error of median and percentiles; 0 if they are exact.
        notes: what is odd about the files.
    """

    labels: tuple[MeasuredLabel, ...]
    channels: int
    error: float
    notes: tuple[str, ...]


def statistics_of_files(
    images: Sequence[ImageRef],
    mask: ImageRef,
    names: Sequence[Label] = (),
    *,
    advance: Callable[[float], None] | None = None,
) -> ScanStatistics:
    """The statistics of each label of a mask; scan and mask are read once, slab by slab.

    Args:
        images: the scan, in one file or one for each channel.
        names: names of values, before those that the mask declares. A named label without voxels is listed, too.
        advance: called with the share of the mask that was just read.

    Raises:
        BadInput: the mask has several channels, or values that are not whole numbers.
        GeometryMismatch: scan and mask lie on different grids.
    """
    scan = OnDisk(images)
    try:
        own = open_ref(mask)
        try:
            if own.channels != 1:
                raise BadInput(
                    f"{mask.path} has {own.channels} channels; statistics need one map of label values.",
                    hint="Labels that overlap need a map, or a file, each: ctseg predict --masks writes them.",
                )
            shown = grid_image(images).path
            check_same(
                own.geometry, scan.geometry, names=(str(mask.path), str(shown)),
                files=(mask.path, shown),
            )  # fmt: skip
            source = by_region(own)
            try:
                gathered = LabelStatistics(scan)
                depth, height, width = own.geometry.shape_zyx
                step = slab_depth(height * width * own.dtype.itemsize)
                for start in range(0, depth, step):
                    stop = min(start + step, depth)
                    slab = source.read((start, stop))[0]
                    gathered.add(whole_numbers(slab, where=str(mask.path)))
                    if advance is not None:
                        advance((stop - start) / depth)
            finally:
                if source is not own:
                    source.close()
            known = {label.value: label for label in (*labels_in(own.metadata), *names)}
            notes = list(dict.fromkeys([*scan.notes, *notes_of([own])]))
        finally:
            own.close()
        found = gathered.result(calibrated=not scan.reference.metadata.get(UNKNOWN))
    finally:
        scan.close()
    listed = {one.label.value: one for one in found}
    for value, label in known.items():
        if value != 0:
            empty = MeasuredLabel(label, None, None, None, False, ())
            listed[value] = replace(listed.get(value, empty), label=label)
    labels = tuple(listed[value] for value in sorted(listed))
    return ScanStatistics(labels, scan.channels, gathered.error, tuple(notes))


def refs_of(
    scan: Sequence[Path], mask: Path, options: Mapping[str, str]
) -> tuple[list[ImageRef], ImageRef]:
    """References to the files of a scan and to its mask, each with the options that its format has.

    A segmentation that belongs to a series, such as DICOM SEG, is read on that of the scan.

    Raises:
        BadInput: none of the formats has an option.
    """
    refs, known = [], set[str]()
    for file in (*scan, mask):
        spec = format_of(file)
        names = set(options_of(spec)) & set(options) if spec is not None else set()
        own = {name: options[name] for name in sorted(names)}
        if file == mask and spec is not None and spec.needs_reference and "series" in spec.options:
            own["series"] = str(scan[0])
        known |= set(own)
        refs.append(ImageRef(file, frozen(own)))
    for name in sorted(set(options) - known):
        raise BadInput(
            f"No format of these files has an option '{name}'.",
            hint="List the options of each format: ctseg data inspect --help",
        )
    return refs[:-1], refs[-1]
