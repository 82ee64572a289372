"""What prediction holds in memory, part by part. `docs/explanation/memory.md` has the formulas in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctseg import machine
from ctseg.engine.inference.decoders import Decoder
from ctseg.engine.inference.memory.activations import activation_bytes
from ctseg.engine.inference.predictor import PIECE_BYTES
from ctseg.engine.inference.sliding_window import COMBINED_BYTES
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.engine.model.runtime import Runtime
from ctseg.volume.geometry import Geometry
from ctseg.volume.scratch import IN_MEMORY

if TYPE_CHECKING:
    pass

COPIES = 4
"""Arrays of the size of a part that preprocessing holds at one time."""


def size_text(size: int) -> str:
    """Bytes for people: 1.34 GB, 210 MB."""
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{math.ceil(size / 1e6)} MB"


@dataclass(frozen=True)
class Estimate:
    """The most that prediction holds at one time, in bytes, part by part.

    Attributes:
        process: the interpreter with its libraries and whatever else is there already.
        weights: of all networks.
        sums: the blended logits of one tile's depth.
        rows: the scan as deep as one tile.
        carried: logits kept from slab to slab.
        activations: of tiles in the networks.
        reading: parts of the scan on their way through preprocessing.
        results: pieces of results.
        waiting: results that wait for the end of the scan, and sums that several models share.
        device: where it is held.
        sums_on_host: whether the sums are in main memory, although the device is another.
    """

    process: int
    weights: int
    sums: int
    rows: int
    carried: int
    activations: int
    reading: int
    results: int
    waiting: int = 0
    device: str = "cpu"
    sums_on_host: bool = False

    @property
    def total(self) -> int:
        """On the device. Tiles, reading and results take turns there."""
        fixed = self.process + self.weights + self.rows
        if self.device == "cpu":
            return fixed + self.sums + self.carried + self.waiting + max(
                self.activations, self.reading, self.results
            )  # fmt: skip
        if self.sums_on_host:
            return fixed + self.activations
        return fixed + self.sums + self.carried + max(self.activations, self.results)

    @property
    def host(self) -> int:
        """In main memory beside the process itself, where the device is another."""
        if self.device == "cpu":
            return 0
        sums = self.sums + self.carried + self.results if self.sums_on_host else 0
        return sums + self.reading + self.rows + self.waiting

    def __str__(self) -> str:
        parts = {
            "sums of logits": self.sums + self.carried, "tiles": self.activations, "scan": self.rows,
            "weights": self.weights, "process": self.process,
        }  # fmt: skip
        told = ", ".join(f"{size_text(size)} {name}" for name, size in parts.items() if size)
        return f"about {size_text(self.total)} of memory on {self.device} ({told})"


@dataclass(frozen=True)
class MemoryRequest:
    """What the memory of a prediction depends on besides its settings.

    Attributes:
        networks: on the runtime's device.
        shape_czyx: of the scan as the networks see it.
        classes: output channels.
        plane: voxels of a slice of the results.
        slices: of them.
        part: bytes of an array in preprocessing.
        products: what is made.
        waiting: bytes that are held in memory to the end of the scan.
    """

    networks: Sequence[torch.nn.Module]
    runtime: Runtime
    shape_czyx: tuple[int, int, int, int]
    classes: int
    plane: int
    slices: int
    part: int
    products: Sequence[Decoder]
    waiting: int = 0

    @property
    def weights(self) -> int:
        """Bytes of parameters and buffers."""
        tensors = {t for net in self.networks for t in (*net.parameters(), *net.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors)


def estimate(job: MemoryRequest, settings: TilingSettings) -> Estimate:
    """The memory that a prediction takes. The length of the scan is no part of it.

    Raises:
        torch.OutOfMemoryError: CUDA has no room for one tile.
    """
    channels, depth, y, x = job.shape_czyx
    grid = TileGrid((depth, y, x), settings)
    tile, classes, members = math.prod(grid.tile_zyx), job.classes, len(job.networks)
    cut = math.prod(grid.shape_zyx[1:])
    batch = min(settings.batch_size, len(grid.columns) * len(settings.views))
    one = max(
        activation_bytes(
            network, grid.tile_zyx, in_channels=channels, runtime=job.runtime,
            constraints=settings.constraints,
        )
        for network in job.networks
    )  # fmt: skip
    # the logits of the members before, and those of the other views
    kept = (members - 1) + (2 if len(settings.views) > 1 else 0)
    activations = batch * (one + 4 * tile * (classes * kept + channels))
    working = [p.working for p in job.products] or [0]
    carried = 3 * 4 * classes * cut * members
    pieces = max(min(max(PIECE_BYTES, w * job.plane), w * job.plane * job.slices) for w in working)
    combined = 3 * max(COMBINED_BYTES, 4 * classes * cut) if members > 1 else 0
    cpu = job.runtime.device.type != "cuda"
    return Estimate(
        process=max(_held(job.runtime) - job.weights, 0),
        weights=job.weights,
        sums=4 * members * classes * grid.tile_zyx[0] * cut,
        rows=4 * channels * grid.tile_zyx[0] * cut,
        carried=carried,
        activations=activations,
        reading=COPIES * job.part,
        results=2 * pieces + combined,
        waiting=job.waiting,
        device="cpu" if cpu else str(job.runtime.device),
        sums_on_host=settings.sums_on_host and not cpu,
    )


def _held(runtime: Runtime) -> int:
    """Bytes that this process holds on the device already."""
    if runtime.device.type == "cuda":
        return torch.cuda.memory_allocated(runtime.device)
    return machine.own_memory()


def waiting_bytes(source: Geometry, products: Sequence[Decoder]) -> int:
    """Bytes of these results of a whole scan that lie in memory; large ones lie in a file."""
    voxels = math.prod(source.shape_zyx)
    sizes = [voxels * (p.channels or 1) * np.dtype(p.dtype).itemsize for p in products]
    return sum(min(size, IN_MEMORY) for size in sizes)
