"""What prediction holds in memory, and how it is made to fit the machine.

Everything is decided before a scan starts: on a CPU, running out of memory ends the process.
`docs/explanation/memory.md` has the formulas in words.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ctseg import machine
from ctseg.data.pipeline import Passage, Trail
from ctseg.data.stream import PART_BYTES, Stream
from ctseg.engine import tiling
from ctseg.engine.activations import activation_bytes
from ctseg.engine.back import Back
from ctseg.engine.forward import TileTooLarge, out_of_memory, release
from ctseg.engine.products import Product
from ctseg.engine.runtime import Runtime
from ctseg.engine.settings import Grid, Settings
from ctseg.engine.slabs import COMBINED_BYTES
from ctseg.engine.streaming import PIECE_BYTES
from ctseg.errors import BadInput, RunFailed
from ctseg.specs import Zyx
from ctseg.volume.geometry import Geometry
from ctseg.volume.scratch import IN_MEMORY

if TYPE_CHECKING:
    from ctseg.engine.segmenter import Segmenter

T = TypeVar("T")
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
         "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
RESERVE, LEAST_RESERVE = 0.1, 2**28
"""The share of free memory that is left alone, and how much at least."""
SMALLEST = 4
"""A tile is never made smaller than this part of itself along an axis: normalisation layers see the tile."""
BATCH_VOXELS, LARGEST_BATCH = 2**23, 16
"""On CUDA, tiles are put together up to so many voxels and so many tiles."""
COPIES = 4
"""Arrays of the size of a part that preprocessing holds at one time."""


def parse_size(text: str) -> int:
    """Bytes from `8G`, `512M`, `1.5Gi`, `8GB`: G is 10^9 and Gi is 2^30.

    Raises:
        BadInput: no such size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)b?\s*", text.lower())
    if found is None or float(found[1]) == 0:
        raise BadInput(
            f"'{text}' is no amount of memory.", hint="A number and a unit: 8G, 512M, 1.5Gi"
        )
    return int(float(found[1]) * UNITS[found[2]])


def size_text(size: int) -> str:
    """Bytes for people: 1.34 GB, 210 MB."""
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{math.ceil(size / 1e6)} MB"


@dataclass(frozen=True)
class Estimate:
    """The most that prediction holds at one time, in bytes, part by part.

    Attributes:
        process: the interpreter with its libraries and whatever else is there already; 0 on another device.
        weights: of all networks.
        sums: the blended logits of one tile's depth.
        rows: the scan as deep as one tile.
        carried: logits kept from slab to slab.
        activations: of tiles in the networks.
        reading: parts of the scan on their way through preprocessing.
        results: pieces of results, and what waits for the end of the scan.
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
    device: str = "cpu"
    sums_on_host: bool = False

    @property
    def total(self) -> int:
        """On the device. Tiles, reading and results take turns there."""
        fixed = self.process + self.weights + self.rows
        if self.device == "cpu":
            return fixed + self.sums + self.carried + max(
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
        return sums + self.reading + self.rows

    def __str__(self) -> str:
        parts = {
            "sums of logits": self.sums + self.carried, "tiles": self.activations, "scan": self.rows,
            "weights": self.weights, "process": self.process,
        }  # fmt: skip
        told = ", ".join(f"{size_text(size)} {name}" for name, size in parts.items() if size)
        return f"about {size_text(self.total)} of memory on {self.device} ({told})"


@dataclass(frozen=True)
class Job:
    """What the memory of a prediction depends on besides its settings.

    Attributes:
        networks: on the runtime's device.
        shape_czyx: of the scan as the networks see it.
        classes: output channels.
        plane: voxels of a slice of the results.
        slices: of them.
        part: bytes of an array in preprocessing.
        products: what is made.
        waiting: bytes of results that wait in memory for the end of the scan.
    """

    networks: Sequence[torch.nn.Module]
    runtime: Runtime
    shape_czyx: tuple[int, int, int, int]
    classes: int
    plane: int
    slices: int
    part: int
    products: Sequence[Product]
    waiting: int = 0

    @property
    def weights(self) -> int:
        """Bytes of parameters and buffers."""
        tensors = {t for net in self.networks for t in (*net.parameters(), *net.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors)


def estimate(job: Job, settings: Settings) -> Estimate:
    """The memory that a prediction takes. The length of the scan is no part of it.

    Raises:
        torch.OutOfMemoryError: CUDA has no room for one tile.
    """
    channels, depth, y, x = job.shape_czyx
    grid = Grid((depth, y, x), settings)
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
        process=max(machine.own_memory() - job.weights, 0) if cpu else 0,
        weights=job.weights,
        sums=4 * members * classes * grid.tile_zyx[0] * cut,
        rows=4 * channels * grid.tile_zyx[0] * cut,
        carried=carried,
        activations=activations,
        reading=COPIES * job.part,
        results=2 * pieces + combined + job.waiting,
        device="cpu" if cpu else str(job.runtime.device),
        sums_on_host=settings.sums_on_host and not cpu,
    )


@dataclass(frozen=True)
class Fitted:
    """Settings that fit, what was changed and why, and the memory they take."""

    settings: Settings
    notes: tuple[str, ...]
    estimate: Estimate


def limits(runtime: Runtime, asked: int | None = None) -> tuple[int, int]:
    """Bytes that prediction may hold on its device, and in main memory beside the process.

    Args:
        asked: instead of what is free on the device.
    """
    free = machine.free_memory()
    host = free - min(max(int(RESERVE * free), LEAST_RESERVE), free)
    if runtime.device.type == "cuda":
        if asked is not None:
            return asked, host
        room, _ = torch.cuda.mem_get_info(runtime.device)
        room += torch.cuda.memory_reserved(runtime.device)
        return room - min(max(int(RESERVE * room), LEAST_RESERVE), room), host
    return (host + machine.own_memory() if asked is None else asked), host


def fit(
    job: Job,
    settings: Settings,
    *,
    limit: int | None = None,
    keep_batch: bool = False,
) -> Fitted:
    """Choose batch and, only where it must be, a smaller tile, so that a prediction fits.

    Args:
        limit: bytes on the device; what is free there by default.
        keep_batch: take the batch of the settings for the largest one rather than choosing it.

    Raises:
        BadInput: not even the smallest tile fits; the message says how much memory it needs.
    """
    room, host = limits(job.runtime, limit)

    def tried(wanted: Settings) -> tuple[Estimate | None, bool]:
        try:
            found = estimate(job, wanted)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None, False
        return found, found.total <= room and found.host <= host

    most = settings.batch_size if keep_batch else _batch(job, settings)
    batch = most
    while batch > 1:
        wanted = dataclasses.replace(settings, batch_size=batch)
        found, fits = tried(wanted)
        if found is not None and fits:
            return Fitted(wanted, _changes(settings, wanted, most), found)
        batch //= 2
    cuda = job.runtime.device.type == "cuda"
    tile: Zyx | None = settings.tile_zyx
    while tile is not None:
        for on_host in (False, True) if cuda else (False,):
            wanted = dataclasses.replace(
                settings, batch_size=1, tile_zyx=tile, sums_on_host=on_host
            )
            found, fits = tried(wanted)
            if found is not None and fits:
                return Fitted(wanted, _changes(settings, wanted, most), found)
        tile = _smaller(wanted, settings.tile_zyx, found)
    size = " x ".join(map(str, wanted.tile_zyx))
    short = found is not None and found.total <= room
    raise BadInput(
        f"The memory is too small for this scan: {size_text(host if short else room)} may be used, and with the "
        f"smallest tile, {size} voxels, it needs "
        + ("more than the device has." if found is None
           else f"{size_text(found.host)} of main memory." if short else f"{size_text(found.total)}."),
        hint="Use a machine with more, fewer models in the ensemble, or a smaller --tile."
        if limit is None or found is None or short
        else f"Allow more: --memory {math.ceil(found.total / 1e8) / 10:.1f}G",
    )  # fmt: skip


def fit_segmenter(
    segmenter: Segmenter,
    scan: Stream | Geometry,
    limit: int | None = None,
    products: Sequence[Product] = (),
    *,
    keep_batch: bool = False,
) -> tuple[Segmenter, tuple[str, ...], Estimate]:
    """The model with settings that fit the memory, what was changed and why, and the memory it takes.

    Args:
        scan: as the networks see it; or its geometry, which is taken for uncropped.
        limit: bytes, e.g. `parse_size("8G")`; what is free by default.
        products: what is made; labels by default.
        keep_batch: leave the batch as it is, as far as it fits: somebody asked for it.

    Raises:
        BadInput: not even the smallest tile fits.
    """
    job = job_of(segmenter, scan, products or (segmenter.product(),))
    fitted = fit(job, segmenter.settings, limit=limit, keep_batch=keep_batch)
    if fitted.settings != segmenter.settings:
        segmenter = _with(segmenter, fitted.settings)
    return segmenter, fitted.notes, fitted.estimate


def job_of(segmenter: Segmenter, scan: Stream | Geometry, products: Sequence[Product]) -> Job:
    """What the memory of this model on this scan depends on."""
    if isinstance(scan, Stream):
        trail, part = scan.trail, scan.part_bytes
    else:
        trail, part = _uncropped(segmenter, scan), PART_BYTES
    back = Back(trail)
    waiting = 0
    if back.axis != 0 or not back.ascending:
        voxels = math.prod(trail.source.shape_zyx)
        sizes = [voxels * (p.channels or 1) * np.dtype(p.dtype).itemsize for p in products]
        waiting = sum(min(size, IN_MEMORY) for size in sizes)
    return Job(
        segmenter.networks, segmenter.runtime,
        (segmenter.card.in_channels, *trail.target.shape_zyx),
        segmenter.task.out_channels, back.plane, back.slices, part, products, waiting,
    )  # fmt: skip


def restarting(segmenter: Segmenter, call: Callable[[Segmenter], T]) -> tuple[T, Segmenter]:
    """Call with the model; where a tile does not fit the device, say so and start anew with smaller ones.

    The tile never changes within a scan, since normalisation layers see it: the call begins from the start.

    Args:
        call: predicts one scan and leaves nothing behind if it fails.

    Returns:
        what the call gave, and the model with the settings that it had then, which belong into its record.

    Raises:
        RunFailed: not even the smallest tile fits.
    """
    asked = segmenter.settings
    while True:
        try:
            return call(segmenter), segmenter
        except (RunFailed, RuntimeError, MemoryError) as error:
            if not isinstance(error, TileTooLarge) and not out_of_memory(error):
                raise
            old = segmenter.settings
            tile = halved(old, asked.tile_zyx)
            if tile is None:
                if isinstance(error, TileTooLarge):
                    raise
                raise TileTooLarge(
                    f"The memory of {segmenter.runtime.device} is too small.",
                    hint="Use a smaller tile: --tile Z,Y,X",
                ) from error
        release(segmenter.runtime.device)
        before, after = (" x ".join(map(str, t)) for t in (old.tile_zyx, tile))
        segmenter = _with(segmenter, dataclasses.replace(old, tile_zyx=tile, batch_size=1))
        if segmenter.on_note:
            segmenter.on_note(
                f"Memory was short: the scan starts anew with tiles of {after} instead of {before} voxels (z, y, x)."
            )


def halved(settings: Settings, asked_zyx: Zyx) -> Zyx | None:
    """A tile of about half the voxels, each axis by the same share; None where the network takes no smaller one.

    Args:
        asked_zyx: the tile in the beginning, of which an axis keeps a quarter.
    """
    least = _least(settings, asked_zyx)
    stride = settings.constraints.stride_zyx
    z, y, x = (
        max(min(math.floor(n * 0.5 ** (1 / 3) / s) * s, n - s), low) if n > low else n
        for n, s, low in zip(settings.tile_zyx, stride, least, strict=True)
    )
    return None if (z, y, x) == settings.tile_zyx else (z, y, x)


def _batch(job: Job, settings: Settings) -> int:
    """Tiles at a time: one on a CPU, where more gain nothing, and what keeps a CUDA device busy."""
    if job.runtime.device.type != "cuda":
        return 1
    _, z, y, x = job.shape_czyx
    grid = Grid((z, y, x), settings)
    most = min(max(BATCH_VOXELS // math.prod(grid.tile_zyx), 2), LARGEST_BATCH)
    return min(most, len(grid.columns) * len(settings.views))


def _least(settings: Settings, asked_zyx: Zyx) -> Zyx:
    """The smallest tile."""
    demands = settings.constraints
    if demands.fixed_tile_zyx is not None:
        return settings.tile_zyx
    z, y, x = (math.ceil(n / SMALLEST) for n in asked_zyx)
    if demands.dims == 2:  # slices are independent of how many of them there are
        z = 1
    z = max(z, 2 * demands.context_slices + 1)
    found = tiling.fit_tile((z, y, x), demands.stride_zyx, demands.min_tile_zyx)
    z, y, x = (min(a, b) for a, b in zip(found, settings.tile_zyx, strict=True))
    return z, y, x


def _smaller(settings: Settings, asked_zyx: Zyx, found: Estimate | None) -> Zyx | None:
    """One step less along the axis that matters: z where the sums are what is large, else the longest.

    Args:
        asked_zyx: the tile in the beginning.
        found: what the tile takes now; None where it does not even fit alone.
    """
    tile, demands = settings.tile_zyx, settings.constraints
    steps = [max(s, n // 8 // s * s) for n, s in zip(asked_zyx, demands.stride_zyx, strict=True)]
    least = _least(settings, asked_zyx)
    free = [axis for axis in range(3) if tile[axis] > least[axis]]
    if not free:
        return None
    sums = found is not None and found.sums + found.rows > found.activations
    flat = demands.dims == 2
    axis = max(free, key=lambda a: (a == 0 and (sums or flat), tile[a] / asked_zyx[a]))
    z, y, x = (max(n - steps[a], least[a]) if a == axis else n for a, n in enumerate(tile))
    return z, y, x


def _changes(before: Settings, after: Settings, batch: int) -> tuple[str, ...]:
    """What was changed for want of memory."""
    notes = []
    if after.batch_size < batch:
        notes.append(f"Memory is short: {after.batch_size} tile(s) at a time instead of {batch}.")
    if after.sums_on_host and not before.sums_on_host:
        notes.append("Device memory is short: sums of logits are held in main memory.")
    if after.tile_zyx != before.tile_zyx:
        old, new = (" x ".join(map(str, s.tile_zyx)) for s in (before, after))
        notes.append(
            f"Memory is short: tiles of {new} instead of {old} voxels (z, y, x). Results differ a little, since the "
            "network sees less around a voxel."
        )
    return tuple(notes)


def _with(segmenter: Segmenter, settings: Settings) -> Segmenter:
    out = segmenter.tiled(settings)
    out.on_note = segmenter.on_note
    return out


def _uncropped(segmenter: Segmenter, source: Geometry) -> Trail:
    """The way of a scan whose voxels nobody has seen: no crop, which takes the most memory."""
    geometry, passages = source, []
    for step in segmenter.pipeline.steps:
        if not step.looks:
            passages.append(Passage(step, geometry, {}))
            geometry = step.grid(geometry, {})
    return Trail(tuple(passages), source, geometry)
