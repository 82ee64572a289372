"""`ctseg.Segmenter`: predicts volumes in memory and files with a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ctseg.card import Card
from ctseg.config import PostprocessRule
from ctseg.data.stream import InMemory, modality_of
from ctseg.engine.inference.decoders import FloatType
from ctseg.engine.inference.model import Model, NetworkModel, decoder_of, predict_array
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.tiling import Overlap
from ctseg.engine.model.runtime import Runtime
from ctseg.engine.prediction.outputs import Outputs
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.scan_job import predict_scan
from ctseg.specs import ImageRef, Task
from ctseg.volume.volume import Volume


def scan_of(volume: Volume) -> InMemory:
    """A scan in memory, as models open it."""
    modality = modality_of(volume.metadata)
    return InMemory(volume.czyx, volume.geometry, modalities=(modality,) if modality else ())


def predict_volume(
    model: Model,
    volume: Volume,
    request: Request | None = None,
    on_tiles: OnTiles | None = None,
    *,
    apart: bool = False,
) -> Volume:
    """Predict a scan in memory, post-processed; see `Segmenter.predict`.

    Args:
        request: labels and rules; by default all labels, and the rules of the card.
        apart: give labels with a channel each (`stacked`), which may overlap, one mask each: uint8 [K, Z, Y, X].

    Raises:
        BadInput: as `Segmenter.predict`.
    """
    request = request or Request(Path("map.nii.gz"))
    outputs = Outputs(model, request, request.output)
    stream = model.open(scan_of(volume))
    array = outputs.in_memory(
        lambda decoder: predict_array(model, stream, decoder, on_tiles),
        volume.geometry,
        apart=apart,
    )
    return Volume(array, volume.geometry)


class Segmenter:
    """Predicts scans with one model, an ensemble or a cascade; `ctseg.load` returns one.

    Args:
        card: description of the model.
        networks: one for each member, with weights loaded, in eval mode on the runtime's device.
        runtime: device, precision and memory layout.
    """

    def __init__(self, card: Card, networks: Sequence[torch.nn.Module], runtime: Runtime) -> None:
        self.model: Model = NetworkModel(card, networks, runtime)

    @classmethod
    def of(cls, model: Model) -> Segmenter:
        """Wrap a model of the engine."""
        out = cls.__new__(cls)
        out.model = model
        return out

    @classmethod
    def from_files(
        cls, files: Sequence[Path], *, device: str = "auto", precision: str = "auto"
    ) -> Segmenter:
        """Load a model from its weight files and verify their checksums.

        Raises:
            CorruptWeights: a file does not match its card.
            UnknownName: the architecture is not installed; the message names the plugin that provides it.
        """
        return cls.of(NetworkModel.from_files(files, device=device, precision=precision))

    @property
    def card(self) -> Card:
        """Description of the model."""
        return self.model.card

    @property
    def task(self) -> Task:
        """The labels or values that the model predicts."""
        return self.model.task

    @property
    def runtime(self) -> Runtime:
        """Device, precision and memory layout."""
        return self.model.runtime

    @property
    def networks(self) -> tuple[torch.nn.Module, ...]:
        """The networks, one for each member of an ensemble."""
        return self.model.networks

    @property
    def on_note(self) -> Callable[[str], None] | None:
        """Called with notes about changes, such as a smaller batch."""
        return self.model.on_note

    @on_note.setter
    def on_note(self, call: Callable[[str], None] | None) -> None:
        self.model.on_note = call

    def with_settings(
        self,
        *,
        tile_zyx: tuple[int, int, int] | None = None,
        overlap: Overlap | None = None,
        tta: bool = False,
        batch_size: int | None = None,
        skip_air: float | None = None,
    ) -> Segmenter:
        """The same model with another tiling; see `ctseg.engine.inference.tiling_settings.TilingSettings`.

        Raises:
            BadInput: the network does not accept the tile, or the model was trained without mirroring.
        """
        return Segmenter.of(
            self.model.with_settings(
                tile_zyx=tile_zyx,
                overlap=overlap,
                tta=tta,
                batch_size=batch_size,
                skip_air=skip_air,
            )
        )

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
            labels: names of the labels to keep; all by default.
            rules: post-processing rules; by default those of the card, none if empty.
            on_tiles: called with (tiles done, tiles in total).

        Returns:
            Label values [Z, Y, X] on the grid of the input; for a regression its float32 values, with a channel axis
            if there are several.

        Raises:
            BadInput: the scan has another number of channels than the training scans, or contains NaN.
        """
        request = Request(
            Path("map.nii.gz"),
            labels=None if labels is None else tuple(labels),
            rules=None if rules is None else tuple(rules),
        )
        return predict_volume(self.model, volume, request, on_tiles)

    def probabilities(self, volume: Volume, *, on_tiles: OnTiles | None = None) -> Volume:
        """The probability of each label (for `classes` the background comes first), float32 [C, Z, Y, X]."""
        stream = self.model.open(scan_of(volume))
        decoder = decoder_of(self.model, probabilities=True)
        return Volume(predict_array(self.model, stream, decoder, on_tiles), volume.geometry)

    def predict_file(
        self,
        src: Path | str,
        dst: Path | str,
        *,
        labels: Iterable[str] | None = None,
        probabilities: bool = False,
        confidence: bool = False,
        uncertainty: bool = False,
        masks: bool = False,
        instances: bool = False,
        statistics: bool = False,
        preview: bool = False,
        rules: Iterable[PostprocessRule] | None = None,
        dtype: FloatType = "float32",
        on_tiles: OnTiles | None = None,
    ) -> dict[str, Any]:
        """Segment a file into one or more result files, which appear under their names when all are complete.

        Scan and results are processed in slabs; neither is held in memory as a whole.

        Args:
            src: the scan.
            dst: the label map, or the values of a regression. For `mask.nii.gz` the other results are
                `mask_probabilities.h5`, `mask_confidence.nii.gz`, `mask_uncertainty.nii.gz`, `mask_masks/LABEL.nii.gz`,
                `mask_instances.nii.gz`, `mask_statistics.json`, `mask_preview.png`.
            labels: names of the labels to keep; all by default.
            probabilities, confidence, uncertainty, masks, instances, statistics, preview: further results to write.
            rules: post-processing rules; by default those of the card, none if empty.
            dtype: voxel type of probabilities, confidence, uncertainty, and the values of a regression.
            on_tiles: called with (tiles done, tiles in total).

        Returns:
            The files, volumes in ml, and changes by post-processing, as in `predictions.json`.
        """
        request = Request(
            Path(dst), probabilities, None if labels is None else tuple(labels), dtype=dtype, masks=masks,
            confidence=confidence, uncertainty=uncertainty, instances=instances, statistics=statistics, preview=preview,
            rules=None if rules is None else tuple(rules),
        )  # fmt: skip
        outputs = Outputs(self.model, request, request.output)
        predict_scan(self.model, [ImageRef(Path(src))], outputs.results, on_tiles=on_tiles)
        return outputs.record()
