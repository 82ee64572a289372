"""A model ready to use: networks, card and runtime in one object."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg import plugins
from ctseg.card import Card
from ctseg.config.postprocess import PostprocessRule
from ctseg.data.pipeline import Pipeline, Trail
from ctseg.data.steps.base import Step
from ctseg.data.steps.target import target_scale
from ctseg.data.stream import InMemory, Scan, Stream, open_stream, ready
from ctseg.engine.inference import tiling
from ctseg.engine.inference.decoders import FloatType, LabelMap, Probabilities, Product, Values
from ctseg.engine.inference.predictor import Engine
from ctseg.engine.inference.sinks import ToArray
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import Back
from ctseg.engine.inference.tiling_settings import Settings
from ctseg.engine.model.runtime import Runtime, choose
from ctseg.engine.model.weights import load_strictly, read_weights
from ctseg.engine.prediction.outputs import Outputs
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.scan_job import predict_scan
from ctseg.errors import BadInput, CtsegError, UnknownName
from ctseg.specs import Constraints, ImageRef, Label, Task
from ctseg.task import select
from ctseg.volume.io import writer_format
from ctseg.volume.volume import Volume


class Segmenter:
    """Predicts scans with one model or an ensemble.

    Args:
        card: what the model is.
        networks: one a member, with their weights, in eval mode on the runtime's device.
        runtime: device, precision and memory layout.
    """

    def __init__(self, card: Card, networks: Sequence[torch.nn.Module], runtime: Runtime) -> None:
        self.card = card
        self.networks = tuple(networks)
        self.runtime = runtime
        self.task: Task = card.task.task()
        self.pipeline = Pipeline.of(card.preprocess)
        self.scale = target_scale(card.preprocess.steps, card.out_channels)
        self.settings = settings_of(card)
        self.on_note: Callable[[str], None] | None = None

    @classmethod
    def from_files(
        cls, files: Sequence[Path], *, device: str = "auto", precision: str = "auto"
    ) -> Segmenter:
        """A model from its weight files, checksums checked.

        Raises:
            CorruptWeights: a file that is not what its card says.
            UnknownName: the architecture is not installed; the message names the plugin that provides it.
        """
        runtime = choose(device, precision)
        networks, card = [], None
        for path in files:
            tensors, card = read_weights(path)
            network = build(card)
            load_strictly(network, tensors, path)
            networks.append(runtime.place(network.eval()))
        if card is None:
            raise BadInput("A model needs at least one weight file.")
        return cls(card, networks, runtime)

    def with_settings(
        self,
        *,
        tile_zyx: tuple[int, int, int] | None = None,
        overlap: float | None = None,
        tta: bool = False,
        batch_size: int | None = None,
        skip_air: float | None = None,
    ) -> Segmenter:
        """The same model with another tiling; see `ctseg.engine.inference.tiling_settings.Settings`.

        Raises:
            BadInput: a tile that the network does not accept, or no axis that may be mirrored.
        """
        settings = self.settings
        if tile_zyx is not None:
            settings = dataclasses.replace(settings, tile_zyx=fitting_tile(self.card, tile_zyx))
        if overlap is not None:
            settings = dataclasses.replace(settings, overlap=overlap)
        if batch_size is not None:
            settings = dataclasses.replace(settings, batch_size=batch_size)
        if skip_air is not None:
            if not math.isfinite(skip_air):
                raise BadInput(
                    f"The value of air cannot be {skip_air}.", hint="For CT: --skip-air -900"
                )
            if self.task.kind == "regression":
                raise BadInput(
                    "A regression has no background that air could be.",
                    hint="Leave out --skip-air.",
                )
            settings = dataclasses.replace(settings, skip_air=skip_air)
        if tta:
            if not self.card.predict.mirror_axes:
                raise BadInput(
                    "This model was trained without mirroring; averaging mirrored views would harm it.",
                    hint="Leave out --tta, or train with augment.mirror_axes.",
                )
            axes = tuple("zyx".index(a) for a in self.card.predict.mirror_axes)
            settings = dataclasses.replace(settings, mirror_axes=axes)
        tiling.check(settings.tile_zyx, settings.overlap, settings.constraints.context_slices)
        return self.tiled(settings)

    def tiled(self, settings: Settings) -> Segmenter:
        """The same model with these settings."""
        out = copy.copy(self)
        out.settings = settings
        return out

    @property
    def engine(self) -> Engine:
        """The networks as they run."""
        return Engine(self.networks, self.task, self.settings, self.runtime, self.on_note)

    def predict(
        self,
        volume: Volume,
        *,
        labels: Iterable[str] | None = None,
        rules: Iterable[PostprocessRule] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> Volume:
        """Segment a scan.

        Args:
            volume: [Z, Y, X], or [C, Z, Y, X] with the channels of the card in their order.
            labels: names of those to keep; all by default.
            rules: of post-processing; those of the card by default, none where it is empty.

        Returns:
            Label values [Z, Y, X] on the grid of the input; for a regression what it predicts, float32, with a
            channel axis where there are several.

        Raises:
            BadInput: another number of channels than the model was trained with, or NaN in the scan.
        """
        request = Request(
            Path("map.nii.gz"),
            labels=None if labels is None else tuple(labels),
            rules=None if rules is None else tuple(rules),
        )
        outputs = Outputs(self, request, request.output)
        stream = self.stream(volume)
        return Volume(
            outputs.in_memory(lambda p: self._made(stream, p, on_tiles), volume.geometry),
            volume.geometry,
        )

    def probabilities(self, volume: Volume, *, on_tiles: OnTiles | None = None) -> Volume:
        """The probability of each label (for `classes` with the background first), float32 [C, Z, Y, X]."""
        product = self.product(probabilities=True)
        return Volume(self._made(self.stream(volume), product, on_tiles), volume.geometry)

    def segment(
        self,
        image_czyx: NDArray[np.float32],
        trail: Trail,
        *,
        labels: Iterable[str] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> NDArray[Any]:
        """Label values [Z, Y, X] on the source grid from a preprocessed scan; validation uses this.

        A regression gives its float32 values [C, Z, Y, X], or [Z, Y, X] where one channel is predicted or asked for.
        """
        return self._made(ready(image_czyx, trail), self.product(labels=labels), on_tiles)

    def product(
        self, *, probabilities: bool = False, labels: Iterable[str] | None = None
    ) -> Product:
        """What a prediction writes: labels, or values of a regression; or the probability of each label."""
        kept = None if labels is None else select(self.task, labels)
        if self.task.kind == "regression":
            return Values(self.task, self.scale, kept=kept, flat=not probabilities)
        if probabilities:
            return Probabilities(self.task, temperature=self.card.temperature, kept=kept)
        return LabelMap(self.task, kept)

    def stream(self, volume: Volume) -> Stream:
        """The scan as the network sees it.

        Raises:
            BadInput: another number of channels than the model was trained with, or NaN in the scan.
        """
        return self.stream_of(InMemory(volume.czyx, volume.geometry))

    def stream_of(
        self, scan: Scan, folder: Path | None = None, first: Sequence[Step] = ()
    ) -> Stream:
        """The same for a scan on disk.

        Args:
            folder: where temporary files go.
            first: steps before those of the card, such as a region.
        """
        self.check_channels(scan)
        pipeline = Pipeline((*first, *self.pipeline.steps)) if first else self.pipeline
        return open_stream(pipeline, scan, folder=folder)

    def check_channels(self, scan: Scan) -> None:
        """Refuse a scan of another number of channels than the model was trained with."""
        if scan.channels != self.card.in_channels:
            raise BadInput(
                f"The model takes {self.card.in_channels} channel(s) ({', '.join(self.card.channels)}), "
                f"the scan has {scan.channels}.",
                hint="Give one file a channel, separated by commas: ctseg predict a.nii.gz,b.nii.gz",
            )

    def _made(self, stream: Stream, product: Product, on_tiles: OnTiles | None) -> NDArray[Any]:
        back = Back(stream.trail)
        front = () if product.channels is None else (product.channels,)
        out = np.zeros((*front, *back.source), product.dtype)
        sink = ToArray(out, back.box, product.fill)
        self.engine.run(stream, [(product, sink)], back=back, on_tiles=on_tiles)
        return out

    def predict_file(
        self,
        src: Path | str,
        dst: Path | str,
        *,
        labels: Iterable[str] | None = None,
        probabilities: bool = False,
        confidence: bool = False,
        masks: bool = False,
        instances: bool = False,
        rules: Iterable[PostprocessRule] | None = None,
        dtype: FloatType = "float32",
        on_tiles: OnTiles | None = None,
    ) -> dict[str, Any]:
        """Segment a file into another one, and into more beside it; they appear under their names when all are whole.

        Scan and results go through memory in slabs; none is held as a whole.

        Args:
            dst: the label map, or the values of a regression. For `mask.nii.gz` the others are
                `mask_probabilities.h5`, `mask_confidence.nii.gz`, `mask_masks/LABEL.nii.gz`, `mask_instances.nii.gz`.
            labels: names of those to keep; all by default.
            probabilities, confidence, masks, instances: what is written beside it.
            rules: of post-processing; those of the card by default, none where it is empty.
            dtype: of probabilities, confidence, and the values of a regression.

        Returns:
            The files, volumes in ml, and what post-processing changed, as in `predictions.json`.
        """
        request = Request(
            Path(dst), probabilities, None if labels is None else tuple(labels), dtype=dtype, masks=masks,
            confidence=confidence, instances=instances, rules=None if rules is None else tuple(rules),
        )  # fmt: skip
        outputs = Outputs(self, request, request.output)
        geometry = predict_scan(self, [ImageRef(Path(src))], outputs.wanted, on_tiles=on_tiles)
        return outputs.record(geometry)

    def writer_options(self, dst: Path) -> dict[str, str]:
        """What the writer of a file is told about the model, where its format has a place for it."""
        told = {"algorithm": self.card.name or self.card.architecture}
        known = writer_format(dst).writer_options
        return {name: value for name, value in told.items() if name in known}

    def written_labels(self, labels: Iterable[str] | None = None) -> tuple[Label, ...]:
        """The labels that a prediction may hold, for the formats that store their names; a regression has none."""
        if self.task.kind == "regression":
            if labels is not None:
                select(self.task, labels)  # an unknown name is refused all the same
            return ()
        return self.task.foreground if labels is None else select(self.task, labels)


def build(card: Card, options: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """The network that a card describes, with fresh weights.

    Args:
        options: of the network, on top of the card's; those that matter only where training starts.
    """
    try:
        spec = plugins.architecture(card.architecture)
    except UnknownName as error:
        error.hint = (
            f"The model needs the plugin package {card.provider.package} {card.provider.version}. "
            f"Install it: pip install {card.provider.package}\n  {error.hint}"
        )
        raise
    config = plugins.make_config(spec, {**card.options, **(options or {})})
    return spec.build(config, in_channels=card.in_channels, out_channels=card.out_channels)


def fitting_tile(card: Card, tile_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """The smallest tile that the card's network accepts and that is no smaller than asked.

    Raises:
        BadInput: a size that is no size.
    """
    tiling.check(tile_zyx, 0.0)
    return constraints_of(card).fit(tile_zyx)


def constraints_of(card: Card) -> Constraints:
    """What the card's network demands of tiles."""
    spec = plugins.architecture(card.architecture)
    return spec.constraints_for(plugins.make_config(spec, card.options))


def settings_of(card: Card) -> Settings:
    """The tiling that the card proposes."""
    predict = card.predict
    if predict.tile_zyx is None:
        raise CtsegError("The card names no tile size.")
    return Settings(
        predict.tile_zyx, predict.overlap, predict.blend, constraints=constraints_of(card)
    )
