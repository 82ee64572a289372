"""Frozen, typed objects that hooks return and packages exchange.

This module imports neither torch nor NumPy, so that listings are fast. Names state the axis order: `shape_zyx`,
`spacing_xyz`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ctseg.spec_tools import Frozen as Frozen
from ctseg.spec_tools import check_spec as check_spec
from ctseg.spec_tools import frozen as frozen
from ctseg.spec_tools import option_help as option_help
from ctseg.spec_tools import training_only as training_only

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ctseg.volume.geometry import Geometry

TaskKind = Literal["classes", "channels", "regression"]
Zyx = tuple[int, int, int]


# ---------------------------------------------------------------- architectures and losses


@dataclass(frozen=True)
class Constraints:
    """Constraints of one configured network on patches and tiles.

    Attributes:
        stride_zyx: patch and tile sizes must be multiples of this, along each axis.
        min_tile_zyx: the smallest patch that the network accepts.
        fixed_tile_zyx: the only patch size that the network accepts; None if sizes are free.
        context_slices: neighbouring slices on either side that a 2.5D network takes as context.
        dims: 3 for volumetric networks, 2 for slice-wise ones.
    """

    stride_zyx: Zyx = (1, 1, 1)
    min_tile_zyx: Zyx = (1, 1, 1)
    fixed_tile_zyx: Zyx | None = None
    context_slices: int = 0
    dims: Literal[2, 3] = 3

    @property
    def sizes(self) -> str:
        """The sizes (z, y, x) that the network accepts, in words."""
        if self.fixed_tile_zyx is not None:
            return f"exactly {self.fixed_tile_zyx}"
        return f"multiples of {self.stride_zyx}, at least {self.min_tile_zyx}"

    def fit(self, size_zyx: Zyx) -> Zyx:
        """The smallest patch or tile of at least this size that the network accepts."""
        if self.fixed_tile_zyx is not None:
            return self.fixed_tile_zyx
        z, y, x = (
            math.ceil(max(size, least) / stride) * stride
            for size, stride, least in zip(
                size_zyx, self.stride_zyx, self.min_tile_zyx, strict=True
            )
        )
        return z, y, x


class BuildNetwork(Protocol):
    """`build(config, in_channels=, out_channels=) -> nn.Module`."""

    def __call__(self, config: Any, *, in_channels: int, out_channels: int) -> torch.nn.Module: ...


@dataclass(frozen=True)
class NetworkPlan:
    """The plan for a data set, from which `ArchitectureSpec.from_plan` derives a config.

    Attributes:
        patch_zyx: patch in voxels.
        spacing_zyx: target spacing in mm (z, y, x), which determines anisotropic strides and kernels.
        in_channels, out_channels: channels of the data, and outputs of the task.
        features: suggested width of each level; None leaves it to the network.
        dims: 3, or 2 for slice-wise networks.
    """

    patch_zyx: Zyx
    spacing_zyx: tuple[float, float, float]
    in_channels: int
    out_channels: int
    features: tuple[int, ...] | None = None
    dims: Literal[2, 3] = 3


@dataclass(frozen=True)
class ArchitectureSpec:
    """A network that can be trained, published and predicted with by name.

    Attributes:
        name: lower-case identifier without a dot, e.g. `unet3d`.
        build: builds the module. In training mode with deep supervision the module returns a tuple of logits, finest
            first; in eval mode always one tensor [B, out_channels, Z, Y, X].
        config: a dataclass whose fields are the network's options; each field needs a default.
            `field(metadata={"help": "..."})` describes an option; `"training_only": True` in the metadata keeps it
            out of cards.
        summary: one line for the listing.
        constraints: `Constraints`, or a function from config to them.
        from_plan: optional function from a `NetworkPlan` to a config fitted to the data.
        reference: paper or source.
    """

    name: str
    build: BuildNetwork
    config: type
    summary: str
    constraints: Constraints | Callable[[Any], Constraints] = Constraints()
    from_plan: Callable[[NetworkPlan], Any] | None = None
    reference: str = ""

    def __post_init__(self) -> None:
        check_spec(self.name, self.config)

    def constraints_for(self, config: Any) -> Constraints:
        return self.constraints(config) if callable(self.constraints) else self.constraints


@dataclass(frozen=True)
class LossSpec:
    """A loss: `build(config) -> loss(logits, target, *, weight=None, mask=None) -> scalar tensor`.

    The call takes logits [B, C, Z, Y, X]; the target is int64 [B, Z, Y, X] of class indices for the task
    `classes` and float [B, C, Z, Y, X] for `channels` and `regression`. `weight` and `mask` are [B, Z, Y, X];
    voxels whose mask is False (which had the task's ignore value) do not count.

    Attributes:
        name: lower-case identifier, e.g. `dice_ce`.
        build: builds the loss from its config.
        config: a dataclass whose fields are the loss's options; each field needs a default.
        tasks: the task kinds that the loss supports.
        summary: one line for the listing.
    """

    name: str
    build: Callable[[Any], Callable[..., torch.Tensor]]
    config: type
    tasks: frozenset[TaskKind]
    summary: str
    reference: str = ""

    def __post_init__(self) -> None:
        check_spec(self.name, self.config)


# ---------------------------------------------------------------- the task


@dataclass(frozen=True)
class Label:
    """One output of a segmentation task.

    Attributes:
        name: e.g. `liver`.
        values: its values in label files. For `classes` each value belongs to one label; for `channels` several labels
            may share values (ordered regions, as in BraTS and KiTS).
        value: its value in predicted label maps.
        colour: red, green, blue in 0..255; None to use the palette.
    """

    name: str
    values: tuple[int, ...]
    value: int
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Task:
    """The labels or values to predict; `ctseg.task` implements activation, targets and decoding.

    Attributes:
        kind: `classes` (softmax over exclusive labels, of which the first is the background), `channels` (a sigmoid
            for each label) or `regression`.
        labels: for `classes` including the background at index 0; for `channels` only the foreground labels.
        ignore: a value in label files that is excluded from loss and metrics.
        mirror_pairs: pairs of label names that are swapped when the scan is mirrored left to right.
        stacked: for `channels`: label files are [C, Z, Y, X] with one binary map for each label, instead of one map of
            values.
    """

    kind: TaskKind
    labels: tuple[Label, ...]
    ignore: int | None = None
    mirror_pairs: tuple[tuple[str, str], ...] = ()
    stacked: bool = False

    @property
    def out_channels(self) -> int:
        return len(self.labels)

    @property
    def foreground(self) -> tuple[Label, ...]:
        return self.labels[1:] if self.kind == "classes" else self.labels


# ---------------------------------------------------------------- cases and data sets


@dataclass(frozen=True)
class ImageRef:
    """A reference to an image or label: a path with the options to open it.

    Attributes:
        path: file or folder.
        options: options for the format's `open`, e.g. `{"dataset": "/raw"}` for HDF5.
        slices: start and stop along the stored slow axis (z) if only a part of the volume belongs to the case; None
            for all of it. The origin of the part is shifted accordingly.
        grid_tolerance: largest offset from the grid of the case's first image, as a fraction of a voxel.
        onto: the image of the case onto whose grid this one is brought where it has a grid of its own, as PET has
            beside CT; None if it is used as it lies.
    """

    path: Path
    options: Mapping[str, Any] = field(default_factory=frozen)
    slices: tuple[int, int] | None = None
    grid_tolerance: float = 1e-3
    onto: ImageRef | None = None


@dataclass(frozen=True)
class Case:
    """One case of a data set, with references to its files.

    Attributes:
        id: unique within the data set; the stem of the files predicted for it.
        images: one reference with all channels, or one for each channel in the order of `DataSet.channels`.
        label: label map or float target; None if there is none.
        weight: voxel weights, float.
        mask: region with valid labels; voxels outside it do not count.
        group: patient or specimen; a group is never split between training and validation.
        drawn: names of the labels that were drawn; None for all. The others may be in the scan all the same.
        task: meaning of its label file if it is not that of the data set: the same labels with other `values`, of which
            none belongs to two labels.
        metadata: further information about the case.
    """

    id: str
    images: tuple[ImageRef, ...]
    label: ImageRef | None = None
    weight: ImageRef | None = None
    mask: ImageRef | None = None
    group: str | None = None
    drawn: tuple[str, ...] | None = None
    task: Task | None = None
    metadata: Mapping[str, Any] = field(default_factory=frozen)


@dataclass(frozen=True)
class DataSet:
    """A data set as read from disk: its cases and metadata.

    Attributes:
        name: short name, e.g. `Hippocampus`.
        path: the folder or file that was read.
        reader: name of the reader.
        cases: cases with a label, for training and validation.
        unlabelled: cases without a label.
        channels: the name of each image channel; `CT` selects Hounsfield normalisation.
        task: the task that the files declare; None if they declare none (then labels are read from the label maps).
        licence, description, reference: as given in the files; copied to the card.
        splits: fixed folds, each a pair of tuples of case ids (train, validation).
    """

    name: str
    path: Path
    reader: str
    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...] = ()
    channels: tuple[str, ...] = ("CT",)
    task: Task | None = None
    licence: str = ""
    description: str = ""
    reference: str = ""
    splits: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class ReaderSpec:
    """A layout of data sets on disk.

    Attributes:
        name: e.g. `decathlon`.
        recognise: tells whether a path has this layout, from names and small files only.
        cases: reads the layout, `cases(path, **options) -> DataSet`, without opening volumes.
        summary: one line for the listing.
        options: option names and their meaning.
    """

    name: str
    recognise: Callable[[Path], bool]
    cases: Callable[..., DataSet]
    summary: str
    options: Mapping[str, str] = field(default_factory=frozen)


# ---------------------------------------------------------------- formats


class VolumeSource(Protocol):
    """A scan on disk, opened read-only. Arrays are [C, Z, Y, X] and belong to the caller.

    A source can be pickled for the workers of a loader; unpickling opens the file again.
    """

    path: Path
    geometry: Geometry
    channels: int
    dtype: np.dtype[Any]
    by_region: bool
    """Whether a region can be read without the rest of the file (False for gzip-compressed files)."""
    metadata: Mapping[str, Any]

    def read(self, slices: tuple[int, int] | None = None) -> NDArray[Any]:
        """Read the volume, or its slices from start to stop along the slow (z) axis, as [C, Z, Y, X]."""
        ...

    def read_box(self, start_zyx: Zyx, stop_zyx: Zyx) -> NDArray[Any]:
        """Read the voxels from start to before stop, as [C, Z, Y, X]; the box must lie within the volume.

        If `by_region` is False, this reads the whole file.
        """
        ...

    def close(self) -> None: ...


class VolumeWriter(Protocol):
    """Writes a volume slab by slab; the file appears under its name only after `commit`."""

    def write(self, start: int, slab: NDArray[Any]) -> None:
        """Write [Z, Y, X] or [C, Z, Y, X] from slice `start` on; slabs come in ascending order."""
        ...

    def commit(self) -> None: ...

    def abort(self) -> None: ...


class OpenWriter(Protocol):
    """`writer(path, geometry, dtype, ...) -> VolumeWriter`, and the format's `writer_options` as keywords."""

    def __call__(
        self,
        path: Path,
        geometry: Geometry,
        dtype: np.dtype[Any],
        *,
        channels: int | None = None,
        labels: Sequence[Label] = (),
        reference: VolumeSource | None = None,
    ) -> VolumeWriter: ...


@dataclass(frozen=True)
class FormatSpec:
    """A volume format.

    Attributes:
        name: e.g. `nifti`.
        suffixes: lower-case file endings, longest first; the first one is used for writing. Empty for folders of
            files, for which the name of the format is given instead.
        recognise: tells whether a path has this format, from its name and, if necessary, its content.
        open: `open(path, **options) -> VolumeSource`.
        writer: `writer(path, geometry, dtype, *, channels, labels, reference)`; None for a read-only format.
            `channels=None` writes [Z, Y, X]; a number writes [C, Z, Y, X].
        summary: one line for the listing.
        options: options of `open`, and their meaning.
        writer_options: further keyword arguments of the writer, and their meaning. ctseg sets `algorithm`, if present,
            to the name of the model whose prediction is written, and `label_map` to True for a converted volume without
            names whose content is that of a label map.
        needs_reference: whether the writer requires `reference`, as DICOM does, since its files refer to the images
            that they belong to.
        lacks: properties that a written file cannot store: `origin`, `direction`, `channels`, `label names`.
        parts: `parts(path)` names the volumes at a path, each with the options that open it; None if there is always
            one.
    """

    name: str
    suffixes: tuple[str, ...]
    recognise: Callable[[Path], bool]
    open: Callable[..., VolumeSource]
    summary: str
    writer: OpenWriter | None = None
    options: Mapping[str, str] = field(default_factory=frozen)
    writer_options: Mapping[str, str] = field(default_factory=frozen)
    needs_reference: bool = False
    lacks: frozenset[str] = frozenset()
    parts: Callable[[Path], Mapping[str, Mapping[str, Any]]] | None = None
