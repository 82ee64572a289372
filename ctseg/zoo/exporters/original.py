"""The networks of a published model, against which exported ones are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ctseg.card import Card
from ctseg.engine.inference.forward import logits_of
from ctseg.engine.model.build import check_provider
from ctseg.engine.model.runtime import choose
from ctseg.errors import CtsegError, RunFailed, first_line
from ctseg.zoo.probe import deviation, load_network, noise, probe_input, read_probe
from ctseg.zoo.resolve import Resolved

CLOSE = 1e-4
"""Largest deviation of an exported network, relative to the largest logit; both compute in float32."""
VIEWS = 2
"""Tiles of the check: the probe's noise, and the same turned about."""


@dataclass(frozen=True)
class Exported:
    """One exported network.

    Attributes:
        file: below the folder of the export.
        member: the weight file that it was made from.
        batch: how many tiles it takes at once; None for any number.
        deviation: of its logits from the original's, relative to the largest one.
        checked_with: what computed them.
    """

    file: str
    member: str
    batch: int | None
    deviation: float
    checked_with: str


@dataclass(frozen=True)
class Original:
    """One network with its weights, on the CPU in float32.

    Attributes:
        member: its weight file.
        card: its card: that of its part, where labels are parted among models.
        network: in eval mode.
        inputs: float32 [2, C, Z, Y, X] of the size of the card's tile.
        logits: what the network gives for them.
    """

    member: str
    card: Card
    network: torch.nn.Module
    inputs: torch.Tensor
    logits: torch.Tensor

    def check(
        self, run: Callable[[torch.Tensor], torch.Tensor], batches: tuple[int, ...], what: str
    ) -> float:
        """Run an exported network on the inputs, and return its deviation.

        Raises:
            RunFailed: it fails, or deviates by more than `CLOSE`.
        """
        worst = 0.0
        for count in batches:
            try:
                found = run(self.inputs[:count])
            except Exception as error:  # whatever another library raises
                raise RunFailed(
                    f"{what} of {self.member} does not run: {type(error).__name__}: {first_line(error)}."
                ) from error
            worst = max(worst, deviation(found, self.logits[:count]))
        if not worst <= CLOSE:
            raise RunFailed(
                f"{what} of {self.member} gives other logits than the original: they deviate by {worst:.2g} of the "
                f"largest ({CLOSE:g} is allowed).",
                hint="Nothing was written. Please report it, with `ctseg zoo show NAME --json`.",
            )
        return worst


def originals(model: Resolved) -> Iterator[Original]:
    """The networks of a model, one after the other.

    Raises:
        RunFailed: a network computes other values here than when it was published, or fails on its own tile.
        CtsegError: its files are damaged, or its plugin is missing.
    """
    probe = read_probe(model.files[0].parent)
    runtime = choose("cpu", "fp32")
    for file in model.files:
        card = model.card.of_file(file.name)
        check_provider(card)
        network = load_network(file, card, runtime)
        expected = probe.get(file.name)
        if expected is not None:
            for problem in expected.problems(network, runtime, file.name):
                raise RunFailed(f"{problem}.", hint=f"See: ctseg zoo verify {model.name}")
        block = noise(card.network_channels) if expected is None else expected.block
        tile = card.predict.tile_zyx
        if tile is None:
            raise CtsegError("The card names no tile size.")
        one = probe_input(block, tile)
        inputs = torch.cat([one, one.flip(2, 3, 4)])
        yield Original(file.name, card, network, inputs, _logits(network, inputs, file.name))


def _logits(network: torch.nn.Module, inputs: torch.Tensor, file: str) -> torch.Tensor:
    """Tile by tile, as memory allows."""
    try:
        with torch.no_grad():
            parts = [logits_of(network(one[None]), one[None]) for one in inputs]
    except (RuntimeError, ValueError) as error:
        size = " x ".join(map(str, inputs.shape[2:]))
        raise RunFailed(
            f"The network of {file} fails on a tile of {size} voxels: {first_line(error)}."
        ) from error
    return torch.cat(parts)
