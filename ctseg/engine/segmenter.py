"""A model ready to use: networks, card and runtime in one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg import plugins
from ctseg.card import Card
from ctseg.data.pipeline import Pipeline, Trail, back, background_fill, labels_back
from ctseg.data.steps.target import target_scale
from ctseg.engine import tiling
from ctseg.engine.runtime import Runtime, choose
from ctseg.engine.tiles import predict_logits
from ctseg.engine.weights import load_strictly, read_weights
from ctseg.errors import BadInput, CtsegError, UnknownName
from ctseg.specs import Constraints, Label, Task
from ctseg.task import activate, decode, label_dtype, select, values_of
from ctseg.volume.io import open_volume, write, writer_format
from ctseg.volume.volume import Volume

OnTiles = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How a scan is tiled.

    Attributes:
        tile_zyx: voxels, as the network accepts them.
        overlap: share of a tile that neighbours share.
        blend: weights where tiles overlap.
        mirror_axes: spatial axes 0..2 whose mirrored views are averaged.
        batch_size: tiles that go through the network together.
        constraints: of the network.
    """

    tile_zyx: tuple[int, int, int]
    overlap: float = 0.5
    blend: tiling.Blend = "gaussian"
    mirror_axes: tuple[int, ...] = ()
    batch_size: int = 1
    constraints: Constraints = Constraints()  # noqa: RUF009 - frozen


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
    ) -> Segmenter:
        """The same model with another tiling.

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
        if tta:
            if not self.card.predict.mirror_axes:
                raise BadInput(
                    "This model was trained without mirroring; averaging mirrored views would harm it.",
                    hint="Leave out --tta, or train with augment.mirror_axes.",
                )
            axes = tuple("zyx".index(a) for a in self.card.predict.mirror_axes)
            settings = dataclasses.replace(settings, mirror_axes=axes)
        tiling.check(settings.tile_zyx, settings.overlap, settings.constraints.context_slices)
        out = Segmenter(self.card, self.networks, self.runtime)
        out.settings = settings
        return out

    def logits(
        self, image_czyx: NDArray[np.float32], on_tiles: OnTiles | None = None
    ) -> torch.Tensor:
        """fp32 logits [C, Z, Y, X] of a preprocessed scan; for an ensemble those of the mean probability."""
        outs = []
        for number, network in enumerate(self.networks):

            def report(done: int, total: int, before: int = number) -> None:
                if on_tiles:
                    on_tiles(before * total + done, len(self.networks) * total)

            settings = {
                f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings)
            }
            outs.append(
                predict_logits(
                    network, image_czyx, runtime=self.runtime, on_tiles=report, **settings
                )
            )
        if len(outs) == 1:
            return outs[0]
        if self.task.kind == "regression":
            return torch.stack(outs).mean(0)
        mean = torch.stack([activate(self.task, out[None])[0] for out in outs]).mean(0)
        mean = mean.clamp(1e-7, 1 - 1e-7)
        return mean.logit() if self.task.kind == "channels" else mean.log()

    def predict(
        self,
        volume: Volume,
        *,
        labels: Iterable[str] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> Volume:
        """Segment a scan.

        Args:
            volume: [Z, Y, X], or [C, Z, Y, X] with the channels of the card in their order.
            labels: names of those to keep; all by default.

        Returns:
            Label values [Z, Y, X] on the grid of the input; for a regression what it predicts, float32, with a
            channel axis where there are several.

        Raises:
            BadInput: another number of channels than the model was trained with, or NaN in the scan.
        """
        image, trail = self.prepare(volume)
        return Volume(self.segment(image, trail, labels=labels, on_tiles=on_tiles), volume.geometry)

    def probabilities(self, volume: Volume, *, on_tiles: OnTiles | None = None) -> Volume:
        """The probability of each label (for `classes` with the background first), float32 [C, Z, Y, X]."""
        image, trail = self.prepare(volume)
        if self.task.kind == "regression":
            found = self.segment(image, trail, on_tiles=on_tiles)
            return Volume(found if found.ndim == 4 else found[None], volume.geometry)
        logits = self.logits(image, on_tiles) / self.card.temperature
        shares = activate(self.task, logits[None])[0].numpy()
        fill = background_fill(self.task, probabilities=True)
        return Volume(np.ascontiguousarray(back(trail, shares, fill)), volume.geometry)

    def prepare(self, volume: Volume) -> tuple[NDArray[np.float32], Trail]:
        """The scan as the network sees it, and the way back."""
        image = volume.czyx
        if image.shape[0] != self.card.in_channels:
            raise BadInput(
                f"The model takes {self.card.in_channels} channel(s) ({', '.join(self.card.channels)}), "
                f"the scan has {image.shape[0]}.",
                hint="Give one file a channel, separated by commas: ctseg predict a.nii.gz,b.nii.gz",
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise BadInput(
                "The scan holds NaN or infinite values.",
                hint="Replace them in the file, by the value of air for example.",
            )
        return self.pipeline.image(image, volume.geometry)

    def segment(
        self,
        image_czyx: NDArray[np.float32],
        trail: Trail,
        *,
        labels: Iterable[str] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> NDArray[Any]:
        """Label values [Z, Y, X] on the source grid from a preprocessed scan; validation uses this too.

        A regression gives its float32 values [C, Z, Y, X], or [Z, Y, X] where one channel is predicted or asked for.
        """
        kept = None if labels is None else select(self.task, labels)
        if self.task.kind == "regression":
            return self._regress(image_czyx, trail, kept, on_tiles)

        def to_labels(logits: torch.Tensor) -> torch.Tensor:
            values = decode(self.task, logits)
            if kept is not None:
                chosen = torch.tensor([label.value for label in kept], dtype=values.dtype)
                values = torch.where(torch.isin(values, chosen.to(values.device)), values, 0)
            return values

        logits = self.logits(image_czyx, on_tiles)
        return labels_back(trail, logits, self.task, to_labels, label_dtype(self.task))

    def _regress(
        self,
        image_czyx: NDArray[np.float32],
        trail: Trail,
        kept: Sequence[Label] | None,
        on_tiles: OnTiles | None,
    ) -> NDArray[np.float32]:
        """What a regression predicts, on the source grid; its mean where a crop left nothing to predict from."""
        found = values_of(self.logits(image_czyx, on_tiles), self.scale)
        outside = found.new_zeros((found.shape[0], 1, 1, 1))
        fill = values_of(outside, self.scale).flatten().numpy()
        if kept is not None:
            chosen = [self.task.labels.index(label) for label in kept]
            found, fill = found[chosen], fill[chosen]
        out: NDArray[np.float32] = np.ascontiguousarray(back(trail, found.numpy(), fill))
        return out[0] if len(out) == 1 else out

    def predict_file(
        self,
        src: Path | str,
        dst: Path | str,
        *,
        probabilities: bool = False,
        labels: Iterable[str] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> Volume:
        """Read a scan, segment it and write the result, which appears under its name only when it is whole."""
        source = open_volume(src)
        try:
            volume = Volume(source.read(), source.geometry, source.metadata)
            if probabilities:
                out = self.probabilities(volume, on_tiles=on_tiles)
                named: tuple[Label, ...] = ()
            else:
                out = self.predict(volume, labels=labels, on_tiles=on_tiles)
                named = self.written_labels(labels)
            options = self.writer_options(Path(dst))
            write(out, dst, labels=named, reference=source, options=options)
        finally:
            source.close()
        return out

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
    """The smallest tile that the card's network accepts and that is no smaller than asked."""
    demands = constraints_of(card)
    return tiling.fit_tile(
        tile_zyx, demands.stride_zyx, demands.min_tile_zyx, demands.fixed_tile_zyx
    )


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
