"""Estimates the memory of a prediction, part by part; `docs/explanation/memory.md` explains the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

COPIES = 4
"""Arrays of the size of a slab that preprocessing holds at the same time."""


def size_text(size: int) -> str:
    """Bytes as text: 1.34 GB, 210 MB."""
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{math.ceil(size / 1e6)} MB"


@dataclass(frozen=True)
class Estimate:
    """The peak memory of a prediction in bytes, part by part.

    Attributes:
        process: memory that the process already uses, such as the interpreter with its libraries.
        weights: weights of all networks.
        sums: sums of blended logits, as deep as one tile.
        rows: a part of the scan as deep as one tile.
        carried: logits kept from slab to slab.
        activations: activations of the networks for a batch of tiles.
        reading: slabs of the scan during preprocessing.
        results: pieces of results.
        waiting: results buffered until the end of the scan, and the sum that the models of an ensemble share.
        device: device of the prediction.
        sums_on_host: whether the sums are in main memory although the device is a GPU.
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
        """Peak memory on the device. Activations, reading and results are never held at the same time."""
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
        """Main memory besides the process itself, if the device is a GPU; else 0."""
        if self.device == "cpu":
            return 0
        sums = self.sums + self.carried + self.results if self.sums_on_host else 0
        return sums + self.reading + self.rows + self.waiting

    def __str__(self) -> str:
        parts = {
            "sums of logits": self.sums + self.carried, "tiles": self.activations, "scan": self.rows,
            "weights": self.weights, "process": self.process,
        }  # fmt: skip
        details = ", ".join(f"{size_text(size)} {name}" for name, size in parts.items() if size)
        return f"about {size_text(self.total)} of memory on {self.device} ({details})"


@dataclass(frozen=True)
class MemoryRequest:
    """The inputs of an estimate besides the tiling settings.

    Attributes:
        networks: on the runtime's device.
        runtime: device, precision and memory layout.
        shape_czyx: shape of the preprocessed scan.
        classes: output channels.
        plane: voxels in a slice of the results.
        slices: slices of the results.
        part: bytes of a slab in preprocessing.
        decoders: decoders of the results.
        waiting: bytes that are held in memory until the end of the scan.
    """

    networks: Sequence[torch.nn.Module]
    runtime: Runtime
    shape_czyx: tuple[int, int, int, int]
    classes: int
    plane: int
    slices: int
    part: int
    decoders: Sequence[Decoder]
    waiting: int = 0

    @property
    def weights(self) -> int:
        """Bytes of all parameters and buffers."""
        tensors = {t for net in self.networks for t in (*net.parameters(), *net.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors)


def estimate(job: MemoryRequest, settings: TilingSettings) -> Estimate:
    """Estimate the memory of a prediction, which is independent of the scan's length.

    Raises:
        torch.OutOfMemoryError: CUDA has too little memory for one tile.
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
    # logits of the previous members, and of the other views
    logits = (members - 1) + (2 if len(settings.views) > 1 else 0)
    activations = batch * (one + 4 * tile * (classes * logits + channels))
    working = [decoder.working for decoder in job.decoders] or [0]
    carried = 3 * 4 * classes * cut * members
    piece = max(min(max(PIECE_BYTES, w * job.plane), w * job.plane * job.slices) for w in working)
    combined = 3 * max(COMBINED_BYTES, 4 * classes * cut) if members > 1 else 0
    cpu = job.runtime.device.type != "cuda"
    return Estimate(
        process=max(_used_bytes(job.runtime) - job.weights, 0),
        weights=job.weights,
        sums=4 * members * classes * grid.tile_zyx[0] * cut,
        rows=4 * channels * grid.tile_zyx[0] * cut,
        carried=carried,
        activations=activations,
        reading=COPIES * job.part,
        results=2 * piece + combined,
        waiting=job.waiting,
        device="cpu" if cpu else str(job.runtime.device),
        sums_on_host=settings.sums_on_host and not cpu,
    )


def _used_bytes(runtime: Runtime) -> int:
    """Bytes that this process already uses on the device."""
    if runtime.device.type == "cuda":
        return torch.cuda.memory_allocated(runtime.device)
    return machine.own_memory()


def waiting_bytes(source: Geometry, decoders: Sequence[Decoder]) -> int:
    """Bytes in memory of these results when buffered for a whole scan; large results are buffered in a file."""
    voxels = math.prod(source.shape_zyx)
    sizes = [voxels * (d.channels or 1) * np.dtype(d.dtype).itemsize for d in decoders]
    return sum(min(size, IN_MEMORY) for size in sizes)
