"""Prediction made to fit the machine: batch, place of the sums, and, only where it must be, a smaller tile.

Everything is decided before a scan starts: on a CPU, running out of memory ends the process.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ctseg import machine
from ctseg.engine.inference.decoders import Decoder
from ctseg.engine.inference.forward import out_of_memory
from ctseg.engine.inference.memory.estimate import (
    Estimate,
    MemoryRequest,
    estimate,
    size_text,
)
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.engine.model.runtime import Runtime, processes_here
from ctseg.errors import BadInput, MemoryTooSmall
from ctseg.specs import Zyx

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
         "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
RESERVE, LEAST_RESERVE = 0.1, 2**28
"""The share of free memory that is left alone, and how much at least."""
SMALLEST = 4
"""A tile is never made smaller than this part of itself along an axis: normalisation layers see the tile."""
BATCH_VOXELS, LARGEST_BATCH = 2**23, 16
"""On CUDA, tiles are put together up to so many voxels and so many tiles."""


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


@dataclass(frozen=True)
class Fitted:
    """Settings that fit, what was changed and why, and the memory they take."""

    settings: TilingSettings
    notes: tuple[str, ...]
    estimate: Estimate


@dataclass(frozen=True)
class FitRequest:
    """What a tiling has to fit, besides the scan.

    Attributes:
        limit: bytes, e.g. `parse_size("8G")`; what is free by default.
        products: what is made; labels where it is empty.
        finished: those of them that wait for the end of the scan, as post-processing needs it.
        held: bytes that are held to the end of the scan besides.
        keep_batch: leave the batch as it is, as far as it fits: somebody asked for it.
    """

    limit: int | None = None
    products: Sequence[Decoder] = ()
    finished: Sequence[Decoder] = ()
    held: int = 0
    keep_batch: bool = False


def limits(runtime: Runtime, asked: int | None = None) -> tuple[int, int]:
    """Bytes that prediction may hold on its device, and in main memory beside the process.

    Processes that torchrun started on one machine share what is free of its main memory.

    Args:
        asked: instead of what is free on the device.
    """
    free = machine.free_memory() // processes_here()
    host = free - min(max(int(RESERVE * free), LEAST_RESERVE), free)
    if runtime.device.type == "cuda":
        if asked is not None:
            return asked, host
        room, _ = torch.cuda.mem_get_info(runtime.device)
        room += torch.cuda.memory_reserved(runtime.device)
        return room - min(max(int(RESERVE * room), LEAST_RESERVE), room), host
    return (host + machine.own_memory() if asked is None else asked), host


def fit(
    job: MemoryRequest,
    settings: TilingSettings,
    *,
    limit: int | None = None,
    keep_batch: bool = False,
) -> Fitted:
    """Choose batch and, only where it must be, a smaller tile, so that a prediction fits.

    Args:
        limit: bytes on the device; what is free there by default.
        keep_batch: take the batch of the settings for the largest one rather than choosing it.

    Raises:
        MemoryTooSmall: not even the smallest tile fits; the message says how much memory it needs.
    """
    room, host = limits(job.runtime, limit)

    def tried(wanted: TilingSettings) -> tuple[Estimate | None, bool]:
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
    raise MemoryTooSmall(
        f"The memory is too small for this scan: {size_text(host if short else room)} may be used, and with the "
        f"smallest tile, {size} voxels, it needs "
        + ("more than the device has." if found is None
           else f"{size_text(found.host)} of main memory." if short else f"{size_text(found.total)}."),
        hint="Use a machine with more, fewer models in the ensemble, or a smaller --tile."
        if limit is None or found is None or short
        else f"Allow more: --memory {math.ceil(found.total / 1e8) / 10:.1f}G",
    )  # fmt: skip


def halved(settings: TilingSettings, asked_zyx: Zyx) -> Zyx | None:
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


def _batch(job: MemoryRequest, settings: TilingSettings) -> int:
    """Tiles at a time: one on a CPU, where more gain nothing, and what keeps a CUDA device busy."""
    if job.runtime.device.type != "cuda":
        return 1
    _, z, y, x = job.shape_czyx
    grid = TileGrid((z, y, x), settings)
    most = min(max(BATCH_VOXELS // math.prod(grid.tile_zyx), 2), LARGEST_BATCH)
    return min(most, len(grid.columns) * len(settings.views))


def _least(settings: TilingSettings, asked_zyx: Zyx) -> Zyx:
    """The smallest tile."""
    demands = settings.constraints
    if demands.fixed_tile_zyx is not None:
        return settings.tile_zyx
    z, y, x = (math.ceil(n / SMALLEST) for n in asked_zyx)
    if demands.dims == 2:  # slices are independent of how many of them there are
        z = 1
    z = max(z, 2 * demands.context_slices + 1)
    found = demands.fit((z, y, x))
    z, y, x = (min(a, b) for a, b in zip(found, settings.tile_zyx, strict=True))
    return z, y, x


def _smaller(settings: TilingSettings, asked_zyx: Zyx, found: Estimate | None) -> Zyx | None:
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


def _changes(before: TilingSettings, after: TilingSettings, batch: int) -> tuple[str, ...]:
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
