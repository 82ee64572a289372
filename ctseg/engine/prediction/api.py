"""`ctseg.Segmenter`: a model ready to use, for volumes in memory and for files."""

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


def _scan_of(volume: Volume) -> InMemory:
    modality = modality_of(volume.metadata)
    return InMemory(volume.czyx, volume.geometry, modalities=(modality,) if modality else ())


class Segmenter:
    """Predicts scans with one model, an ensemble or a cascade; `ctseg.load` gives one.

    Args:
        card: what the model is.
        networks: one a member, with their weights, in eval mode on the runtime's device.
        runtime: device, precision and memory layout.
    """

    def __init__(self, card: Card, networks: Sequence[torch.nn.Module], runtime: Runtime) -> None:
        self.model: Model = NetworkModel(card, networks, runtime)

    @classmethod
    def of(cls, model: Model) -> Segmenter:
        """The public face of a model that the engine has loaded."""
        out = cls.__new__(cls)
        out.model = model
        return out

    @classmethod
    def from_files(
        cls, files: Sequence[Path], *, device: str = "auto", precision: str = "auto"
    ) -> Segmenter:
        """A model from its weight files, checksums checked.

        Raises:
            CorruptWeights: a file that is not what its card says.
            UnknownName: the architecture is not installed; the message names the plugin that provides it.
        """
        return cls.of(NetworkModel.from_files(files, device=device, precision=precision))

    @property
    def card(self) -> Card:
        """What the model is."""
        return self.model.card

    @property
    def task(self) -> Task:
        """What the model predicts."""
        return self.model.task

    @property
    def runtime(self) -> Runtime:
        """Device, precision and memory layout."""
        return self.model.runtime

    @property
    def networks(self) -> tuple[torch.nn.Module, ...]:
        """The networks, one a member of an ensemble."""
        return self.model.networks

    @property
    def on_note(self) -> Callable[[str], None] | None:
        """Told of what was changed on the way, such as a smaller batch."""
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
            BadInput: a tile that the network does not accept, or no axis that may be mirrored.
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
        outputs = Outputs(self.model, request, request.output)
        stream = self.model.open(_scan_of(volume))
        return Volume(
            outputs.in_memory(
                lambda product: predict_array(self.model, stream, product, on_tiles),
                volume.geometry,
            ),
            volume.geometry,
        )

    def probabilities(self, volume: Volume, *, on_tiles: OnTiles | None = None) -> Volume:
        """The probability of each label (for `classes` with the background first), float32 [C, Z, Y, X]."""
        stream = self.model.open(_scan_of(volume))
        product = decoder_of(self.model, probabilities=True)
        return Volume(predict_array(self.model, stream, product, on_tiles), volume.geometry)

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
        outputs = Outputs(self.model, request, request.output)
        geometry = predict_scan(
            self.model, [ImageRef(Path(src))], outputs.wanted, on_tiles=on_tiles
        )
        return outputs.record(geometry)
