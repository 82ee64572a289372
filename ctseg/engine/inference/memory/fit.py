"""Chooses batch size, where logits are accumulated and, as a last resort, a smaller tile, so that prediction fits.

Everything is decided before a scan starts, since running out of main memory ends the process.
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
"""The fraction of free memory that stays unused, and its minimum in bytes."""
SMALLEST = 4
"""A tile keeps at least one part in this many along each axis, since normalisation layers depend on its size."""
BATCH_VOXELS, LARGEST_BATCH = 2**23, 16
"""The largest batch on CUDA, in voxels and in tiles."""


def parse_size(text: str) -> int:
    """Bytes from `8G`, `512M`, `1.5Gi`, `8GB`: G is 10^9 and Gi is 2^30.

    Raises:
        BadInput: the text is not a number above 0 with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)b?\s*", text.lower())
    if match is None or float(match[1]) == 0:
        raise BadInput(
            f"'{text}' is no amount of memory.", hint="Give a number and a unit: 8G, 512M, 1.5Gi"
        )
    return int(float(match[1]) * UNITS[match[2]])


@dataclass(frozen=True)
class Fitted:
    """Settings that fit in memory, notes about the changes, and the estimated memory."""

    settings: TilingSettings
    notes: tuple[str, ...]
    estimate: Estimate


@dataclass(frozen=True)
class FitRequest:
    """The memory limit, and the results that a prediction produces.

    Attributes:
        limit: bytes, e.g. `parse_size("8G")`; the free memory by default.
        decoders: decoders of the results; labels by default.
        buffered: those of them whose results are buffered until the end of the scan, for post-processing.
        buffered_bytes: further bytes that are held until the end of the scan.
        keep_batch: keep the requested batch size as far as it fits.
    """

    limit: int | None = None
    decoders: Sequence[Decoder] = ()
    buffered: Sequence[Decoder] = ()
    buffered_bytes: int = 0
    keep_batch: bool = False


def limits(runtime: Runtime, limit: int | None = None) -> tuple[int, int]:
    """Bytes that prediction may use on its device, and in main memory besides the process.

    Processes that torchrun started on one machine share its free main memory.

    Args:
        limit: bytes on the device; the free memory by default.
    """
    free = machine.free_memory() // processes_here()
    host = free - min(max(int(RESERVE * free), LEAST_RESERVE), free)
    if runtime.device.type == "cuda":
        if limit is not None:
            return limit, host
        room, _ = torch.cuda.mem_get_info(runtime.device)
        room += torch.cuda.memory_reserved(runtime.device)
        return room - min(max(int(RESERVE * room), LEAST_RESERVE), room), host
    return (host + machine.own_memory() if limit is None else limit), host


def fit(
    job: MemoryRequest,
    settings: TilingSettings,
    *,
    limit: int | None = None,
    keep_batch: bool = False,
) -> Fitted:
    """Choose the batch and, as a last resort, a smaller tile, so that a prediction fits.

    Args:
        limit: bytes on the device; the free memory by default.
        keep_batch: use the batch size of the settings as the largest one, instead of choosing it.

    Raises:
        MemoryTooSmall: even the smallest tile does not fit; the message says how much memory it needs.
    """
    room, host = limits(job.runtime, limit)

    def attempt(tiling: TilingSettings) -> tuple[Estimate | None, bool]:
        try:
            needed = estimate(job, tiling)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None, False
        return needed, needed.total <= room and needed.host <= host

    largest = settings.batch_size if keep_batch else _batch(job, settings)
    batch = largest
    while batch > 1:
        candidate = dataclasses.replace(settings, batch_size=batch)
        needed, fits = attempt(candidate)
        if needed is not None and fits:
            return Fitted(candidate, _changes(settings, candidate, largest), needed)
        batch //= 2
    cuda = job.runtime.device.type == "cuda"
    tile: Zyx | None = settings.tile_zyx
    while tile is not None:
        for on_host in (False, True) if cuda else (False,):
            candidate = dataclasses.replace(
                settings, batch_size=1, tile_zyx=tile, sums_on_host=on_host
            )
            needed, fits = attempt(candidate)
            if needed is not None and fits:
                return Fitted(candidate, _changes(settings, candidate, largest), needed)
        tile = _smaller(candidate, settings.tile_zyx, needed)
    size = " x ".join(map(str, candidate.tile_zyx))
    host_short = needed is not None and needed.total <= room
    raise MemoryTooSmall(
        f"The memory is too small for this scan: {size_text(host if host_short else room)} may be used, and with the "
        f"smallest tile, {size} voxels, it needs "
        + ("more than the device has." if needed is None
           else f"{size_text(needed.host)} of main memory." if host_short else f"{size_text(needed.total)}."),
        hint="Use a machine with more memory, fewer models in the ensemble, or a smaller --tile."
        if limit is None or needed is None or host_short
        else f"Allow more: --memory {math.ceil(needed.total / 1e8) / 10:.1f}G",
    )  # fmt: skip


def halved(settings: TilingSettings, original_zyx: Zyx) -> Zyx | None:
    """A tile of about half the voxels, reduced evenly along the axes; None if the network takes no smaller one.

    Args:
        original_zyx: the tile before any reduction; each axis keeps at least a quarter of it.
    """
    least = _least(settings, original_zyx)
    stride = settings.constraints.stride_zyx
    z, y, x = (
        max(min(math.floor(n * 0.5 ** (1 / 3) / s) * s, n - s), low) if n > low else n
        for n, s, low in zip(settings.tile_zyx, stride, least, strict=True)
    )
    return None if (z, y, x) == settings.tile_zyx else (z, y, x)


def _batch(job: MemoryRequest, settings: TilingSettings) -> int:
    """The largest useful batch: one tile on a CPU, and enough to keep a CUDA device busy."""
    if job.runtime.device.type != "cuda":
        return 1
    _, z, y, x = job.shape_czyx
    grid = TileGrid((z, y, x), settings)
    most = min(max(BATCH_VOXELS // math.prod(grid.tile_zyx), 2), LARGEST_BATCH)
    return min(most, len(grid.columns) * len(settings.views))


def _least(settings: TilingSettings, original_zyx: Zyx) -> Zyx:
    """The smallest tile that the network accepts and that keeps a quarter of the original along each axis."""
    constraints = settings.constraints
    if constraints.fixed_tile_zyx is not None:
        return settings.tile_zyx
    z, y, x = (math.ceil(n / SMALLEST) for n in original_zyx)
    if constraints.dims == 2:  # a slice-wise network predicts the same with any number of slices
        z = 1
    z = max(z, 2 * constraints.context_slices + 1)
    accepted = constraints.fit((z, y, x))
    z, y, x = (min(a, b) for a, b in zip(accepted, settings.tile_zyx, strict=True))
    return z, y, x


def _smaller(settings: TilingSettings, original_zyx: Zyx, needed: Estimate | None) -> Zyx | None:
    """The tile, one step smaller along one axis: along z if the sums dominate, else along the least reduced axis.

    Args:
        original_zyx: the tile before any reduction.
        needed: the memory that the tile needs now; None if a single tile does not fit.
    """
    tile, constraints = settings.tile_zyx, settings.constraints
    steps = [
        max(s, n // 8 // s * s) for n, s in zip(original_zyx, constraints.stride_zyx, strict=True)
    ]
    least = _least(settings, original_zyx)
    free = [axis for axis in range(3) if tile[axis] > least[axis]]
    if not free:
        return None
    sums = needed is not None and needed.sums + needed.rows > needed.activations
    slicewise = constraints.dims == 2
    axis = max(free, key=lambda a: (a == 0 and (sums or slicewise), tile[a] / original_zyx[a]))
    z, y, x = (max(n - steps[a], least[a]) if a == axis else n for a, n in enumerate(tile))
    return z, y, x


def _changes(before: TilingSettings, after: TilingSettings, batch: int) -> tuple[str, ...]:
    """Notes about the settings that were changed to save memory."""
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
