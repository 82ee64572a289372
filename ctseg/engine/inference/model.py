"""Models in memory that predict scans: networks with their card on a device.

`Model` is the protocol that the rest of the engine uses. `NetworkModel` holds the networks of one card,
`ctseg.engine.inference.ensemble.Ensemble` averages several models, and `ctseg.engine.inference.cascade.Cascade`
restricts a model to the region that a coarse model finds. Result files belong to `ctseg.engine.prediction`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.card import Card
from ctseg.data.pipeline import AppliedPipeline, AppliedStep, Pipeline
from ctseg.data.steps.base import Step
from ctseg.data.steps.target import Scale, target_scale
from ctseg.data.stream import PART_BYTES, Scan, Stream, open_stream
from ctseg.engine.inference import tiling
from ctseg.engine.inference.backends.choice import identify, use_ranges
from ctseg.engine.inference.backends.int8 import ranges_of
from ctseg.engine.inference.check_scan import PlannedGrid, check_scan, plan_grid
from ctseg.engine.inference.decoders import Decoder, LabelMap, Probabilities, Values
from ctseg.engine.inference.memory.estimate import MemoryRequest, waiting_bytes
from ctseg.engine.inference.memory.fit import FitRequest, Fitted, fit, halved
from ctseg.engine.inference.predictor import Predictor
from ctseg.engine.inference.sinks import ToArray
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.inference.tiling_settings import TilingSettings
from ctseg.engine.model.build import build_for, check_provider, constraints_of
from ctseg.engine.model.measure_runtime import choose_for_card
from ctseg.engine.model.runtime import Runtime, choose
from ctseg.engine.model.weights import load_strictly, read_weights
from ctseg.errors import BadInput, CtsegError, CtsegWarning
from ctseg.specs import Task
from ctseg.task import select
from ctseg.version import __version__
from ctseg.volume.geometry import Geometry


class Model(Protocol):
    """A model that predicts scans.

    Attributes:
        card: description of the model.
        networks: the networks, in eval mode on the runtime's device.
        runtime: device, precision and memory layout.
        task: meaning of the logits.
        scale: scale of a regression's targets; None if the model returns values in the unit of the target.
        settings: tiling of a scan.
        on_note: called with notes about changes, such as a smaller batch, and about what may make a result wrong; if
            it is None, these are Python warnings.
        on_plan: called with the grid of a scan before memory for it is allocated.
    """

    card: Card
    networks: tuple[torch.nn.Module, ...]
    runtime: Runtime
    task: Task
    scale: Scale | None
    settings: TilingSettings
    on_note: Callable[[str], None] | None
    on_plan: Callable[[PlannedGrid], None] | None

    @property
    def predictor(self) -> Predictor:
        """Runs the networks over a scan."""
        ...

    @property
    def reads_ahead(self) -> bool:
        """Whether the next scan can be opened during a prediction, since `open` runs no network."""
        ...

    def open(self, scan: Scan, folder: Path | None = None, first: Sequence[Step] = ()) -> Stream:
        """Open a scan, preprocessed for the networks.

        Args:
            folder: folder for temporary files.
            first: steps that precede those of the card, such as a region.

        Raises:
            BadInput: the scan has another number of channels than the training scans, contains NaN, or has an
                implausible voxel size or grid (see `ctseg.engine.inference.check_scan`).
        """
        ...

    def with_settings(self, **changes: Any) -> Model:
        """The same model with another tiling; arguments as in `retile`."""
        ...

    def fit(self, scan: Stream | Geometry, request: FitRequest) -> tuple[Model, Fitted]:
        """The same model with a tiling that fits in memory.

        Args:
            scan: the opened scan, or its geometry, for which no crop is assumed.

        Raises:
            BadInput: even the smallest tile does not fit.
        """
        ...

    def shrink(self, original: Self) -> Model | None:
        """The same model with tiles of half the voxels; None if the networks take no smaller tile.

        Args:
            original: the model before any shrinking; each axis keeps at least a quarter of its tile.
        """
        ...


class NetworkModel:
    """The network of one card, or the networks of an ensemble of folds; implements `Model`.

    Args:
        networks: one for each member, with weights loaded, in eval mode on the runtime's device.
    """

    def __init__(self, card: Card, networks: Sequence[torch.nn.Module], runtime: Runtime) -> None:
        self.card = card
        self.networks = tuple(networks)
        self.runtime = runtime
        self.task: Task = card.task.task()
        self.pipeline = Pipeline.of(
            card.preprocess, {kind: p.package for kind, p in card.step_providers.items()}
        )
        self.scale = target_scale(card.preprocess.steps, card.out_channels)
        self.settings = settings_of(card)
        self.force = False
        for network in self.networks:
            identify(network, _identity(card))
        self.on_note: Callable[[str], None] | None = None
        self.on_plan: Callable[[PlannedGrid], None] | None = None

    @classmethod
    def from_files(
        cls,
        files: Sequence[Path],
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "torch",
        force: bool = False,
    ) -> NetworkModel:
        """Load a model from its weight files and verify their checksums.

        Args:
            backend: `torch`, `openvino`, or `auto` for the faster one.
            force: warn where another version of a plugin, or a scan unlike those of training, would be refused.

        Raises:
            CorruptWeights: a file does not match its card.
            UnknownName: the architecture is not installed; the message names the plugin that provides it.
            PluginError: the plugin that provides it is of another major version, or fails to build it.
            BadInput: int8 is asked for, and a card has no ranges for it.
        """
        default = choose(device, precision, backend)
        networks, card = [], None
        for path in files:
            tensors, whole = read_weights(path)
            card = whole.of_file(path.name)
            check_provider(card, force=force)
            network = build_for(card, tensors)
            load_strictly(network, tensors, path)
            networks.append(network.eval())
            if default.precision == "int8":
                use_ranges(network, ranges_of(whole, path.name, network))
        if card is None:
            raise BadInput("A model needs at least one weight file.")
        runtime = choose_for_card(default, card, networks[0], precision)
        model = cls(card, [runtime.place(network) for network in networks], runtime)
        model.force = force
        return model

    @property
    def predictor(self) -> Predictor:
        return Predictor(self.networks, self.task, self.settings, self.runtime, self.on_note)

    @property
    def reads_ahead(self) -> bool:
        return True

    def open(self, scan: Scan, folder: Path | None = None, first: Sequence[Step] = ()) -> Stream:
        check_channels(self.card, scan)
        pipeline = Pipeline((*first, *self.pipeline.steps)) if first else self.pipeline
        demands = self.settings.constraints
        flat = demands.dims == 2 and not demands.context_slices
        for text in check_scan(self.card, pipeline, scan, flat=flat, force=self.force):
            caution(self, text)
        if self.on_plan:
            self.on_plan(plan_grid(pipeline, scan, self.settings))
        return open_stream(pipeline, scan, folder=folder)

    def with_settings(self, **changes: Any) -> NetworkModel:
        return self.tiled(retile(self, **changes))

    def tiled(self, settings: TilingSettings) -> NetworkModel:
        """The same model with these settings."""
        out = copy.copy(self)
        out.settings = settings
        return out

    def fit(self, scan: Stream | Geometry, request: FitRequest) -> tuple[NetworkModel, Fitted]:
        decoders = request.decoders or (decoder_of(self),)
        job = memory_request(
            self, scan, decoders, buffered=request.buffered, buffered_bytes=request.buffered_bytes
        )
        fitted = fit(job, self.settings, limit=request.limit, keep_batch=request.keep_batch)
        return (self if fitted.settings == self.settings else self.tiled(fitted.settings)), fitted

    def shrink(self, original: NetworkModel) -> NetworkModel | None:
        tile = halved(self.settings, original.settings.tile_zyx)
        if tile is None:
            return None
        return self.tiled(dataclasses.replace(self.settings, tile_zyx=tile, batch_size=1))


def _identity(card: Card) -> str:
    """All that a network's logits depend on besides its weights."""
    parts = {
        "architecture": card.architecture, "options": card.options,
        "provider": card.provider.model_dump(), "ctseg": __version__,
        "channels": [card.network_channels, card.out_channels],
    }  # fmt: skip
    return json.dumps(parts, sort_keys=True, default=str)


M = TypeVar("M", bound=Model)


def listening(model: M, like: Model) -> M:
    """The same model, which tells what another one tells to the same listeners."""
    out = copy.copy(model)
    out.on_note, out.on_plan = like.on_note, like.on_plan
    return out


def caution(model: Model, text: str) -> None:
    """Tell what may make a result wrong: to the model's listener, or as a Python warning."""
    if model.on_note is not None:
        model.on_note(text)
    else:
        warnings.warn(CtsegWarning(text), stacklevel=2)


def retile(
    model: Model,
    *,
    tile_zyx: tuple[int, int, int] | None = None,
    overlap: tiling.Overlap | None = None,
    tta: bool = False,
    batch_size: int | None = None,
    skip_air: float | None = None,
) -> TilingSettings:
    """The model's settings with these changes; see `ctseg.engine.inference.tiling_settings.TilingSettings`.

    Raises:
        BadInput: the network does not accept the tile, or the model was trained without mirroring.
    """
    changes: dict[str, Any] = {}
    if tile_zyx is not None:
        changes["tile_zyx"] = fitting_tile(model.card, tile_zyx)
    if overlap is not None:
        changes["overlap"] = overlap
    if batch_size is not None:
        changes["batch_size"] = batch_size
    if skip_air is not None:
        if not math.isfinite(skip_air):
            raise BadInput(
                f"The value of air cannot be {skip_air}; it must be a finite number.",
                hint="For CT: --set skip_air=-900",
            )
        if model.task.kind == "regression":
            raise BadInput(
                "A regression cannot skip air: it has no background.",
                hint="Leave out --set skip_air.",
            )
        changes["skip_air"] = skip_air
    if tta:
        axes = model.card.predict.mirror_axes
        if not axes:
            raise BadInput(
                "This model was trained without mirroring; averaging mirrored views would harm its results.",
                hint="Leave out --tta, or train with augment.mirror_axes.",
            )
        changes["mirror_axes"] = tuple("zyx".index(axis) for axis in axes)
    settings = dataclasses.replace(model.settings, **changes)
    tiling.check(settings.tile_zyx, settings.overlap, settings.constraints.context_slices)
    return settings


def fitting_tile(card: Card, tile_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """The smallest tile of at least this size that the card's network accepts.

    Raises:
        BadInput: a size below 1, or not three of them.
    """
    tiling.check(tile_zyx, 0.0)
    return constraints_of(card).fit(tile_zyx)


def settings_of(card: Card) -> TilingSettings:
    """The tiling that the card proposes."""
    predict = card.predict
    if predict.tile_zyx is None:
        raise CtsegError("The card names no tile size.")
    return TilingSettings(
        predict.tile_zyx, predict.overlap, predict.blend, constraints=constraints_of(card),
        padding=predict.padding, average=predict.average,
    )  # fmt: skip


def check_channels(card: Card, scan: Scan) -> None:
    """Reject a scan whose number of channels differs from that of the training scans."""
    if scan.channels != card.in_channels:
        raise BadInput(
            f"The model takes {card.in_channels} channel(s) ({', '.join(card.channels)}), "
            f"the scan has {scan.channels}.",
            hint="Give one file for each channel, separated by commas: ctseg predict a.nii.gz,b.nii.gz",
        )


def decoder_of(
    model: Model, *, probabilities: bool = False, labels: Iterable[str] | None = None
) -> Decoder:
    """The decoder of a prediction's main result: labels or regression values; or of label probabilities."""
    selected = None if labels is None else select(model.task, labels)
    if model.task.kind == "regression":
        return Values(model.task, model.scale, selected=selected, squeeze=not probabilities)
    if probabilities:
        return Probabilities(model.task, temperature=model.card.temperature, selected=selected)
    return LabelMap(model.task, selected)


def predict_array(
    model: Model, stream: Stream, decoder: Decoder, on_tiles: OnTiles | None = None
) -> NDArray[Any]:
    """Predict a whole result [.., Z, Y, X] on the scan's own grid, in memory."""
    mapper = SourceGridMapper(stream.applied)
    front = () if decoder.channels is None else (decoder.channels,)
    out = np.zeros((*front, *mapper.source), decoder.dtype)
    sink = ToArray(out, mapper.box, decoder.fill)
    model.predictor.run(stream, [(decoder, sink)], mapper=mapper, on_tiles=on_tiles)
    return out


def name_of(model: Model) -> str:
    """The name of a model in messages and records."""
    return model.card.name or model.card.architecture


def memory_request(
    model: NetworkModel,
    scan: Stream | Geometry,
    decoders: Sequence[Decoder],
    *,
    buffered: Sequence[Decoder] = (),
    buffered_bytes: int = 0,
) -> MemoryRequest:
    """The inputs of the memory estimate for this model on this scan.

    Args:
        buffered: decoders whose results are buffered until the end of the scan in any case, for post-processing.
        buffered_bytes: further bytes that are held until the end of the scan.
    """
    if isinstance(scan, Stream):
        applied, part_bytes = scan.applied, scan.part_bytes
    else:
        applied, part_bytes = _uncropped(model, scan), PART_BYTES
    mapper = SourceGridMapper(applied)
    in_file_order = mapper.axis == 0 and mapper.ascending
    waiting = buffered_bytes + waiting_bytes(
        applied.source, buffered if in_file_order else decoders
    )
    return MemoryRequest(
        model.networks, model.runtime,
        (model.card.network_channels, *applied.target.shape_zyx),
        model.task.out_channels, mapper.plane, mapper.slices, part_bytes, decoders, waiting,
    )  # fmt: skip


def _uncropped(model: NetworkModel, source: Geometry) -> AppliedPipeline:
    """The pipeline applied to a scan whose voxels are unknown: without a crop, which takes the most memory."""
    geometry, steps = source, []
    for step in model.pipeline.steps:
        if not step.fits:
            steps.append(AppliedStep(step, geometry, {}))
            geometry = step.grid(geometry, {})
    return AppliedPipeline(tuple(steps), source, geometry)
