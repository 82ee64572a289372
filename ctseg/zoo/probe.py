"""The probe of a published model: a small input and its logits, which show whether this machine computes the same."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from ctseg.card import Card
from ctseg.engine.inference.forward import logits_of
from ctseg.engine.model.build import build_for, constraints_of
from ctseg.engine.model.runtime import Runtime, choose
from ctseg.engine.model.weights import load_strictly, read_weights
from ctseg.errors import CorruptWeights, first_line
from ctseg.files import whole_file
from ctseg.specs import Zyx

PROBE = "probe.safetensors"
LARGEST_PROBE = 2**20
"""Bytes; 10,000 to 30,000 are usual."""
LARGEST_TILE = 2**21
"""Voxels."""
BLOCK = 8
"""Edge of the block of noise that is repeated to the size of the tile."""
SIZES = (16, 32, 64)
"""Edges of the tile to try: some networks reject a deepest level of one voxel."""
VALUES = 4096
"""Logits that are kept, of all members together."""
TOLERANCE = {"fp32": 0.01, "bf16": 0.1, "fp16": 0.1}
"""Largest deviation, relative to the largest expected logit; the published models' is 0.5 % in bf16."""


@dataclass(frozen=True)
class Expected:
    """What one network gives.

    Attributes:
        block: uint8 noise [C, 8, 8, 8].
        tile_zyx: size to which the block is repeated.
        logits: every `step`-th one, in fp32.
    """

    block: torch.Tensor
    tile_zyx: Zyx
    step: int
    logits: torch.Tensor

    def deviation(self, network: torch.nn.Module, runtime: Runtime) -> float:
        """Largest difference of the network's logits, relative to the largest expected one; infinite if it fails.

        Args:
            network: in eval mode on the runtime's device.
        """
        try:
            found = _logits(network, self.block, self.tile_zyx, runtime).flatten()[:: self.step]
        except (RuntimeError, ValueError):  # the size does not suit the network that is built here
            return float("inf")
        return deviation(found, self.logits)

    def problems(self, network: torch.nn.Module, runtime: Runtime, file: str) -> list[str]:
        """A sentence if the network deviates too far; else nothing."""
        found, allowed = self.deviation(network, runtime), TOLERANCE[runtime.precision]
        if found <= allowed:
            return []
        text = (
            f"{file} computes other values than when it was published: they deviate by {found:.2g} of the largest "
            f"({runtime.device}, {runtime.precision}; {allowed:g} is allowed)"
        )
        return [text]


def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value; infinite if shapes differ or a value is NaN."""
    if found.shape != expected.shape:
        return float("inf")
    worst = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    return worst if worst == worst else float("inf")


def write_probe(folder: Path, card: Card) -> None:
    """Run each network of an entry once, and write the probe beside its weights.

    A network that cannot be built here, or gives no finite logits for the noise, gets none.
    """
    most = max(VALUES // max(len(card.networks), 1), 64)
    tensors: dict[str, torch.Tensor] = {}
    for member, own in card.networks:
        with contextlib.suppress(
            Exception
        ):  # publishing needs no network, and its plugin may raise anything
            made = _expected_of(folder / member.file, own, most)
            tensors |= {f"{member.file}.{key}": value for key, value in made.items()}
    if tensors:
        with whole_file(folder / PROBE) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors))


def _expected_of(file: Path, card: Card, most: int) -> dict[str, torch.Tensor]:
    """Noise, tile and at most so many logits of one network; nothing if they are not finite."""
    runtime = choose("cpu", "fp32")
    network, block = load_network(file, card, runtime), noise(card.network_channels)
    for size in SIZES:
        tile = _tile(card, size)
        try:
            logits = _logits(network, block, tile, runtime)
        except (RuntimeError, ValueError):
            continue
        step = -(-logits.numel() // most) | 1  # an odd step meets every column
        kept = logits.flatten()[::step].clone()
        if not kept.isfinite().all():
            break
        return {"block": block, "layout": torch.tensor((*tile, step)), "logits": kept}
    return {}


def read_probe(folder: Path) -> dict[str, Expected]:
    """The probe of an entry, by weight file; empty if it has none.

    Raises:
        CorruptWeights: it is damaged.
    """
    path = folder / PROBE
    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_PROBE:
            raise ValueError("it is no file, or far too large")
        tensors = safetensors.torch.load_file(path)
        files = [name.removesuffix(".logits") for name in tensors if name.endswith(".logits")]
        return {file: _expected(tensors, file) for file in files}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CorruptWeights(f"The probe {path} is damaged: {first_line(error)}.") from error


def _expected(tensors: Mapping[str, torch.Tensor], file: str) -> Expected:
    block, layout, logits = (tensors[f"{file}.{key}"] for key in ("block", "layout", "logits"))
    if block.dtype != torch.uint8 or block.ndim != 4 or block.shape[1:] != (BLOCK,) * 3:
        raise ValueError("its noise has another shape")
    if layout.dtype != torch.int64 or layout.shape != (4,) or not int(layout.min()) > 0:
        raise ValueError("its tile has no size")
    z, y, x, step = (int(number) for number in layout)
    if z * y * x > LARGEST_TILE:
        raise ValueError("its tile is too large")
    if logits.dtype != torch.float32 or logits.ndim != 1 or not logits.isfinite().all():
        raise ValueError("it holds no logits")
    if not len(logits):
        raise ValueError("it holds no logits")
    return Expected(block, (z, y, x), step, logits)


def load_network(file: Path, card: Card, runtime: Runtime) -> torch.nn.Module:
    """The network of a weight file, in eval mode on the device.

    Args:
        card: that of the network.

    Raises:
        CtsegError: as `ctseg.engine.model.weights.read_weights` and `ctseg.engine.model.build.build_for`.
    """
    tensors, _ = read_weights(file)
    network = build_for(card, tensors)
    load_strictly(network, tensors, file)
    return runtime.place(network.eval())


def _tile(card: Card, size: int) -> Zyx:
    constraints = constraints_of(card)
    return constraints.fit((max(size, 2 * constraints.context_slices + 1), size, size))


def noise(channels: int) -> torch.Tensor:
    """A block of noise, uint8 [C, 8, 8, 8], the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    shape = (channels, BLOCK, BLOCK, BLOCK)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def probe_input(block: torch.Tensor, tile_zyx: Zyx) -> torch.Tensor:
    """The block repeated to the size of a tile, float32 [1, C, Z, Y, X] from -2 to 2, exact everywhere."""
    times = [-(-size // BLOCK) for size in tile_zyx]
    z, y, x = tile_zyx
    return block.repeat(1, *times)[None, :, :z, :y, :x].float() / 64 - 2


def _logits(
    network: torch.nn.Module, block: torch.Tensor, tile: Zyx, runtime: Runtime
) -> torch.Tensor:
    values = probe_input(block, tile)
    with torch.inference_mode(), runtime.autocast():
        inputs = runtime.tensor(values)
        return logits_of(network(inputs), inputs).cpu()
