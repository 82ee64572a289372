"""The frozen, typed objects that hooks return and rooms hand to each other.

Nothing here imports torch or NumPy, so that listing what exists costs nothing. Axis order stands in the names:
`shape_zyx`, `spacing_xyz`.
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

    from ctseg.card import Card
    from ctseg.volume.geometry import Geometry

TaskKind = Literal["classes", "channels", "regression"]
Zyx = tuple[int, int, int]


# ---------------------------------------------------------------- architectures and losses


@dataclass(frozen=True)
class Constraints:
    """What sampler and tiler must respect for one configured network.

    Attributes:
        stride_zyx: patch and tile sizes must be multiples of this, per axis.
        min_tile_zyx: the smallest patch that the network accepts.
        fixed_tile_zyx: the only patch that the network accepts, or None where it is free.
        context_slices: neighbouring slices on either side that a 2.5D network looks at.
        dims: 3 for volumetric networks, 2 for slice-wise ones.
    """

    stride_zyx: Zyx = (1, 1, 1)
    min_tile_zyx: Zyx = (1, 1, 1)
    fixed_tile_zyx: Zyx | None = None
    context_slices: int = 0
    dims: Literal[2, 3] = 3

    def fit(self, size_zyx: Zyx) -> Zyx:
        """The smallest patch or tile at least as large as asked that the network accepts."""
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
    """What a planner tells a network about the data, for `ArchitectureSpec.from_plan`.

    Attributes:
        patch_zyx: patch in voxels.
        spacing_zyx: target spacing in mm (z, y, x), which decides where strides and kernels are anisotropic.
        in_channels, out_channels: as the data and the task give them.
        features: suggested width per level; None leaves it to the network.
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
        build: makes the module. In training mode with deep supervision it returns a tuple of logits, finest
            first; in eval mode always one tensor [B, out_channels, Z, Y, X].
        config: a dataclass whose fields are the network's options; each field needs a default. A field's
            meaning is given by `field(metadata={"help": "..."})`; `"training_only": True` beside it keeps an
            option out of cards.
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
    voxels whose mask is False (where the task's ignore value stood) do not count.

    Attributes:
        name: lower-case identifier, e.g. `dice_ce`.
        build: makes the loss from its config.
        config: a dataclass whose fields are the loss's options; each field needs a default.
        tasks: the task kinds that the loss serves.
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
        values: the label-file values that belong to it. For `classes` a value belongs to one label only; for
            `channels` several labels may share values (ordered regions, as in BraTS and KiTS).
        value: the number written for it in a predicted label map.
        colour: red, green, blue in 0..255, or None to take one from the palette.
    """

    name: str
    values: tuple[int, ...]
    value: int
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Task:
    """What is to be predicted. Its behaviour (activation, targets, decoding) is in `ctseg.task`.

    Attributes:
        kind: `classes` (softmax over exclusive labels, the first one is the background), `channels`
            (a sigmoid per label) or `regression`.
        labels: for `classes` including the background at index 0; for `channels` the foreground labels only.
        ignore: a value in label files that takes part in neither loss nor metrics.
        mirror_pairs: pairs of label names that change places when the scan is mirrored left to right.
        stacked: for `channels`: label files are [C, Z, Y, X] with one binary map a label, rather than one map
            of values.
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
    """Where one image or label lies: a path and what is needed to open it.

    Attributes:
        path: file or folder.
        options: handed to the format's `open`, e.g. `{"dataset": "/raw"}` for HDF5.
        slices: start and stop along the stored slow axis (z) where only a part of the volume belongs to the
            case; None for all of it. The part's geometry has its origin moved accordingly.
        grid_tolerance: share of a voxel by which its grid may differ from that of its case's first image.
    """

    path: Path
    options: Mapping[str, Any] = field(default_factory=frozen)
    slices: tuple[int, int] | None = None
    grid_tolerance: float = 1e-3


@dataclass(frozen=True)
class Case:
    """One subject of a data set. Nothing is opened until somebody reads it.

    Attributes:
        id: unique within the data set; the stem of the files predicted for it.
        images: one reference with all channels, or one for each channel in the order of `DataSet.channels`.
        label: label map or float target, None where there is none.
        weight: voxel weights, float.
        mask: where labels are valid; nothing outside it counts.
        group: patient or specimen, so that one group is never split between training and validation.
    """

    id: str
    images: tuple[ImageRef, ...]
    label: ImageRef | None = None
    weight: ImageRef | None = None
    mask: ImageRef | None = None
    group: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=frozen)


@dataclass(frozen=True)
class DataSet:
    """What a reader finds: the cases and all that the files say about them.

    Attributes:
        name: short name, e.g. `Hippocampus`.
        path: the folder or file that was read.
        reader: the name of the reader.
        cases: those with a label, for training and validation.
        unlabelled: those without one.
        channels: the name of each image channel; `CT` switches to Hounsfield normalisation.
        task: as the files declare it, or None where they do not (then labels are found by looking).
        licence, description, reference: as the files give them, carried to the card.
        splits: five or so fixed folds, each a pair of case-id tuples (train, validation).
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
        recognise: says whether a path has this layout, by looking at names and small files only.
        cases: reads the layout, `cases(path, **options) -> DataSet`, opening no volumes.
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

    A source may be pickled, for the workers of a loader: it opens its file anew where it arrives.
    """

    path: Path
    geometry: Geometry
    channels: int
    dtype: np.dtype[Any]
    by_region: bool
    """Whether a part can be read without the rest (False for gzip-compressed files)."""
    metadata: Mapping[str, Any]

    def read(self, slices: tuple[int, int] | None = None) -> NDArray[Any]:
        """The volume, or its slices from start to stop along the slow (z) axis, as [C, Z, Y, X]."""
        ...

    def read_box(self, start_zyx: Zyx, stop_zyx: Zyx) -> NDArray[Any]:
        """The voxels from start to before stop, as [C, Z, Y, X]; the box must lie within the volume.

        Where `by_region` is False the answer is right all the same, and the whole file is read for it.
        """
        ...

    def close(self) -> None: ...


class VolumeWriter(Protocol):
    """Writes a volume slab by slab; it appears under its name only after `commit`."""

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
        suffixes: lower-case file endings, longest first; the first one is used for writing. Empty for folders
            of files, which are written by the name of the format.
        recognise: says whether a path is of this format, by name and, where names do not tell, content.
        open: `open(path, **options) -> VolumeSource`.
        writer: `writer(path, geometry, dtype, *, channels, labels, reference)`, None where read-only.
            `channels=None` writes [Z, Y, X]; a number writes [C, Z, Y, X].
        summary: one line for the listing.
        options: of `open`, and their meaning.
        writer_options: further keyword arguments of the writer, and their meaning. `algorithm` is given by ctseg
            where there is one: the name of the model whose prediction is written.
        needs_reference: whether the writer refuses a volume without `reference`, as DICOM must: what it writes names
            the images that it belongs to.
        lacks: what a written file cannot hold, of `origin`, `direction`, `channels` and `label names`.
        parts: `parts(path)` names the volumes that one path holds, each with the options that open it; None where
            it always holds one.
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


# ---------------------------------------------------------------- foreign models


@dataclass(frozen=True)
class ImportedWeights:
    """One member of an imported model.

    Attributes:
        name: of the weight file without its ending, e.g. `fold0`.
        tensors: under the names of the network that the card describes.
        fold: that validated it, where there is one.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    fold: int | None = None


@dataclass(frozen=True)
class ImportedModel:
    """A model of another project, described as one of ours.

    Attributes:
        card: complete but for its name and members, which the import adds. Its licence is empty where the source
            names none.
        members: the weights; several make an ensemble.
        tag: proposed second part of the name.
        notes: what the user should know, such as an option that makes predictions equal to those of the source.
    """

    card: Card
    members: Sequence[ImportedWeights]
    tag: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImporterSpec:
    """A kind of foreign model that `ctseg zoo import NAME PATH` takes over.

    Attributes:
        name: e.g. `nnunet`.
        recognise: says whether a path holds such a model, by looking at names and small files only; where it does,
            `ctseg predict -m PATH` imports on the way.
        read: `read(paths, **options) -> ImportedModel`. It runs no code of the source: no pickle with classes, no
            expressions.
        summary: one line for the listing.
        paths: what each path is, e.g. `RESULTS_FOLDER`.
        options: option names and their meaning; values arrive as text.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[..., ImportedModel]
    summary: str
    paths: tuple[str, ...] = ("PATH",)
    options: Mapping[str, str] = field(default_factory=frozen)
