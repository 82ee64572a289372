"""Conversion from one format to another, slab by slab; geometry, voxel type and label names are kept."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctseg import plugins
from ctseg.errors import BadInput
from ctseg.specs import FormatSpec, Label, VolumeSource, frozen
from ctseg.volume.empty_slices import FilledEmptySlices
from ctseg.volume.formats.calibration import known_spacing
from ctseg.volume.formats.units import read_spacing
from ctseg.volume.geometry import IDENTITY, Geometry
from ctseg.volume.header import VolumeHeader
from ctseg.volume.io import format_of, notes_of, open_volume, open_writer, scan_files, writer_format
from ctseg.volume.labels import labels_in
from ctseg.volume.onto_grid import OntoGrid, interpolation_for
from ctseg.volume.spool import by_region

SLAB_BYTES = 1 << 28
_IN_MEMORY = 1 << 30
"""Largest compressed scan that is unpacked in memory; larger ones go to a temporary file."""


@dataclass(frozen=True)
class Conversion:
    """One scan to convert.

    Attributes:
        source: file or folder.
        target: the file to write.
        options: options of the format that is read.
        format: name of the format to write, if the target's name does not give it.
        part: which volume of the source, e.g. a series of a study; empty if there is only one.
        like: a scan whose grid the result gets; None keeps the scan's own grid.
        interpolation: `nearest`, `linear`, or `auto`, which chooses by content, where voxels do not coincide.
        empty_slices: value of slices without any label, e.g. `255` or `y=255`; empty leaves them as they are.
    """

    source: Path
    target: Path
    options: Mapping[str, Any] = field(default_factory=frozen)
    format: str | None = None
    part: str = ""
    like: Path | None = None
    interpolation: str = "auto"
    empty_slices: str = ""

    @property
    def name(self) -> str:
        """The source, with the volume's name if it has several; unique within a folder."""
        return f"{self.source} ({self.part})" if self.part else str(self.source)

    @property
    def spec(self) -> FormatSpec:
        """The format to write."""
        return plugins.format_named(self.format) if self.format else writer_format(self.target)


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        lost: what the target cannot store: `origin`, `direction`, `label names`.
        notes: oddities found while reading, e.g. copies of slices.
    """

    source: Path
    target: Path
    shape_zyx: tuple[int, int, int]
    channels: int
    spacing_xyz: tuple[float, float, float]
    unit: str
    dtype: str
    labels: tuple[str, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def find_jobs(source: Path, target: Path, to: str, options: Mapping[str, Any]) -> list[Conversion]:
    """The scans of a folder, each with its target below `target`; subfolders are kept.

    A file of several volumes, or a study of several series, gives one conversion for each.

    Args:
        to: the suffix of the files to write, or the name of a format.

    Raises:
        BadInput: there are no scans, or two would get the same name.
    """
    suffix, name_of_format = _suffix_and_format(to)
    jobs: list[Conversion] = []
    for path, spec in _scans(source):
        inside = path.relative_to(source) if path != source else Path(path.resolve().name)
        parts = _parts(spec, path, options)
        for name, extra in parts.items():
            stem = _stem(inside.name, spec) + (f"_{name}" if len(parts) > 1 and name else "")
            jobs.append(
                Conversion(
                    path,
                    target / inside.parent / f"{stem}{suffix}",
                    frozen({**options, **extra}),
                    name_of_format,
                    name,
                )
            )
    if not jobs:
        known = ", ".join(s for spec in plugins.formats() for s in spec.suffixes)
        raise BadInput(
            f"{source} holds no scans.", hint=f"Known are: {known}, and folders of slices."
        )
    sources: dict[Path, Path] = {}
    for job in jobs:
        if job.target in sources:
            raise BadInput(
                f"{sources[job.target]} and {job.source} would both become {job.target}.",
                hint="Convert them into folders of their own.",
            )
        sources[job.target] = job.source
    return jobs


def _suffix_and_format(to: str) -> tuple[str, str | None]:
    """The suffix of the files to write, and the name of the format if `to` is such a name."""
    spec = next((s for s in plugins.formats() if s.name == to and s.writer is not None), None)
    if spec is not None:
        return spec.suffixes[0] if spec.suffixes else "", spec.name
    suffix = to if to.startswith(".") else f".{to}"
    writer_format(Path(f"x{suffix}"))
    return suffix, None


def _scans(folder: Path) -> Iterator[tuple[Path, FormatSpec]]:
    spec = format_of(folder)
    if spec is not None and not (folder.is_dir() and _is_mixed(folder, spec)):
        yield folder, spec
        return
    if not folder.is_dir():
        return
    slices = sum(format_of(entry) == spec for entry in _files(folder)) > 1
    if spec is not None and slices:
        yield folder, spec  # with its parts; the files beside them follow
    for entry in sorted([*scan_files(_files(folder)), *filter(Path.is_dir, folder.iterdir())]):
        if entry.name.startswith("."):
            continue
        entry_spec = None if entry.is_dir() else format_of(entry)
        inside = _scans(entry) if entry.is_dir() else [(entry, entry_spec)] if entry_spec else []
        yield from (scan for scan in inside if not (slices and scan[1] == spec))


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _is_mixed(folder: Path, spec: FormatSpec) -> bool:
    """Whether a folder holds files of several formats, such as a DICOM SEG beside a NIfTI file, and so is no scan."""
    if any(folder.name.lower().endswith(suffix) for suffix in spec.suffixes):
        return False
    formats = {
        entry_spec.name for entry in _files(folder) if (entry_spec := format_of(entry)) is not None
    }
    return len(formats) > 1


def _parts(
    spec: FormatSpec, path: Path, options: Mapping[str, Any]
) -> Mapping[str, Mapping[str, Any]]:
    """The volumes of one path and the options that open each; the user's options take precedence."""
    if spec.parts is None:
        return {"": {}}
    parts = spec.parts(path)
    if len(parts) < 2 or any(set(extra) & set(options) for extra in parts.values()):
        return {"": {}}
    named: dict[str, Mapping[str, Any]] = {}
    for name, extra in parts.items():
        plain = unique = re.sub(r"[^\w.-]+", "_", name).strip("_")
        number = 2
        while unique in named:  # `a/b` and `a_b`
            unique, number = f"{plain}_{number}", number + 1
        named[unique] = extra
    return named


def _stem(name: str, spec: FormatSpec) -> str:
    """The name without the suffix of its format or of another one: a DICOM SEG may be called `a.dcm`."""
    known = [*spec.suffixes, *(s for other in plugins.formats() for s in other.suffixes)]
    suffix = next((s for s in known if name.lower().endswith(s) and len(name) > len(s)), "")
    return name[: len(name) - len(suffix)]


def convert(
    job: Conversion,
    *,
    spacing: str | None = None,
    labels: Sequence[Label] = (),
    allow_loss: bool = False,
    reference: VolumeSource | None = None,
    advance: Callable[[float], None] | None = None,
) -> Converted:
    """Convert one scan.

    Args:
        spacing: voxel size that replaces the file's, e.g. `5um`; see `ctseg.volume.formats.units.read_spacing`.
        labels: names of label values; by default those in the file.
        allow_loss: whether to write even if the target cannot store everything.
        reference: the scan that labels belong to, for targets such as DICOM SEG; by default the source itself.
        advance: called with the fraction of the scan that was just written.

    Raises:
        BadInput: the target would lose origin or direction, or cannot be written; or an option is unknown.
        FileProblem: the source is damaged, or the disk is full.
    """
    start, spec = time.monotonic(), job.spec
    _check_apart(job)
    with ExitStack() as stack:
        source = open_volume(job.source, **job.options)
        stack.callback(source.close)
        notes = notes_of([source])
        names = _labels(source, labels)
        if job.like is not None:
            like = open_volume(job.like)
            stack.callback(like.close)
            reference = reference or like
            source = _onto(job, source, like.geometry, names, notes)
            stack.callback(source.close)
        if job.empty_slices:
            source = FilledEmptySlices(by_region(source, _folder(job)), job.empty_slices)
            stack.callback(source.close)
            notes.append(str(source))
        options: dict[str, Any] = {}
        if "label_map" in spec.writer_options and source.channels == 1 and not names:
            source = by_region(source, _folder(job))
            stack.callback(source.close)
            kind, why = _kind(job, source, names)
            options["label_map"] = kind == "nearest"
            notes += [f"written as a label map ({why})"] * (kind == "nearest")
        geometry = source.geometry
        if spacing is not None:
            size, unit = read_spacing(spacing)
            geometry = replace(geometry, spacing_xyz=size, unit=unit)
            source.metadata = known_spacing(source.metadata)
        if "channels" in spec.lacks and source.channels > 1:
            raise BadInput(
                f"{spec.name} cannot hold the {source.channels} channels of {job.source}.",
                hint="Choose another format, such as .nii.gz or .h5",
            )
        lost = _lost(spec, geometry, names)
        refused = [what for what in lost if what != "label names"]
        if refused and not allow_loss:
            raise BadInput(
                f"{spec.name} cannot hold the {' and '.join(refused)} of {job.source}: "
                f"{_describe(geometry, refused)}.",
                hint="Choose another format, such as .nii.gz or .nrrd, or lose it knowingly: --allow-loss",
            )
        # A scan of one channel is written with three axes.
        channels = source.channels if source.channels > 1 else None
        header = VolumeHeader(geometry, source.dtype, channels, names, reference or source)
        _stream(source, spec, job.target, header, advance or (lambda _: None), options)
        return Converted(
            source=job.source,
            target=job.target,
            shape_zyx=geometry.shape_zyx,
            channels=source.channels,
            spacing_xyz=geometry.spacing_xyz,
            unit=geometry.unit,
            dtype=str(source.dtype),
            labels=tuple(label.name for label in names),
            lost=lost,
            notes=tuple(notes),
            seconds=time.monotonic() - start,
        )


def _onto(
    job: Conversion, source: VolumeSource, grid: Geometry, labels: Sequence[Label], notes: list[str]
) -> VolumeSource:
    """The scan on another grid; appends a note on the method."""
    if job.interpolation not in ("auto", "nearest", "linear"):
        raise BadInput(
            f"'{job.interpolation}' is no interpolation.", hint="There are: auto, nearest, linear"
        )
    region = by_region(source, _folder(job))
    kind, why = _kind(job, region, labels)
    outside = 0.0 if kind == "nearest" else _lowest(region)
    regridded = OntoGrid(region, grid, "nearest" if kind == "nearest" else "linear", outside)
    where = f"where it does not reach, the value is {outside:g}"
    if regridded.moved:
        notes.append(f"moved by whole voxels onto the grid of {job.like}; {where}")
    else:
        notes.append(f"resampled onto the grid of {job.like}, {kind} ({why}); {where}")
    return regridded


def _kind(job: Conversion, source: VolumeSource, labels: Sequence[Label]) -> tuple[str, str]:
    """Nearest for label maps, linear for images, and the reason."""
    if job.interpolation != "auto":
        return job.interpolation, "as asked"
    return ("nearest", "a label map by its names") if labels else interpolation_for(source)


def _folder(job: Conversion) -> Path | None:
    """The folder of temporary files: that of the target, if it is there."""
    return job.target.parent if job.target.parent.is_dir() else None


def _lowest(source: VolumeSource) -> float:
    """The lowest value of a scan, used as the value of the air around it."""
    depth, y, x = source.geometry.shape_zyx
    step = slab_depth(y * x * source.channels * source.dtype.itemsize)
    slabs = (source.read((z, min(z + step, depth))) for z in range(0, depth, step))
    return float(min(np.nanmin(slab) for slab in slabs))


def _check_apart(job: Conversion) -> None:
    """Check that the target is neither the input nor inside a folder of slices that is read."""
    one, two = job.source.resolve(), job.target.resolve()
    if one == two or (job.source.is_dir() and one in two.parents):
        raise BadInput(
            f"{job.target} lies in what is read, or is it.",
            hint="Choose another place for the output.",
        )


def _labels(source: VolumeSource, labels: Sequence[Label]) -> tuple[Label, ...]:
    """Label names for a label map: whole numbers, one channel."""
    if labels and (source.dtype.kind == "f" or source.channels != 1):
        raise BadInput(
            f"{source.path} has {source.channels} channels of {source.dtype}, which are no label map.",
            hint="Omit --label.",
        )
    one_map = source.dtype.kind in "iub" and source.channels == 1
    return tuple(labels) or (labels_in(source.metadata) if one_map else ())


def _lost(spec: FormatSpec, geometry: Geometry, labels: Sequence[Label]) -> tuple[str, ...]:
    out = []
    if "origin" in spec.lacks and np.abs(geometry.origin_xyz).max() > 1e-6:
        out.append("origin")
    if "direction" in spec.lacks and not np.allclose(geometry.direction, IDENTITY, atol=1e-6):
        out.append("direction")
    if "label names" in spec.lacks and labels:
        out.append("label names")
    return tuple(out)


def _describe(geometry: Geometry, what: Sequence[str]) -> str:
    described = {
        "origin": f"origin {np.round(geometry.origin_xyz, 3).tolist()} mm",
        "direction": f"direction {np.round(geometry.direction, 3).tolist()}",
    }
    return ", ".join(described[word] for word in what)


def _stream(
    source: VolumeSource,
    spec: FormatSpec,
    target: Path,
    header: VolumeHeader,
    advance: Callable[[float], None],
    options: Mapping[str, Any],
) -> None:
    depth, y, x = header.geometry.shape_zyx
    plane = y * x * source.channels * source.dtype.itemsize
    region = source
    array = None
    if not source.by_region and plane * depth <= _IN_MEMORY:
        array = source.read()
    elif not source.by_region:
        region = by_region(source, target.parent if target.parent.is_dir() else None)
    writer = open_writer(target, header, options, spec)
    step = slab_depth(plane)
    try:
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            slab = region.read((start, stop)) if array is None else array[:, start:stop]
            writer.write(start, slab if header.channels else slab[0])
            advance((stop - start) / depth)
        writer.commit()
    except BaseException:
        writer.abort()
        raise
    finally:
        if region is not source:
            region.close()


def slab_depth(plane_bytes: int) -> int:
    """Slices a slab: a power of two, so that slabs and the chunks of an HDF5 file end together."""
    fits = max(1, SLAB_BYTES // max(1, plane_bytes))
    return min(256, 1 << (fits.bit_length() - 1))
