"""Batches: patches drawn, cut and augmented, now or ahead of time in threads.

A batch depends on the seed and its step alone, so it is the same with any number of workers, from any place where the
prepared scans lie, and after a resume. What is needed of a scan is known before it is read: parameters are drawn
first, and then the box that the patch's transform reaches is cut, and no more.

Workers are threads: cutting and copying leave Python's lock alone, nothing has to be sent between processes, and an
exception arrives as it was raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch

from ctseg.config.augment import AugmentConfig
from ctseg.data import sampling
from ctseg.data.augment import change_sample, move_sample
from ctseg.data.augment.parameters import AugmentParameters, draw_parameters
from ctseg.data.augment.patch_transform import PatchTransform, patch_transform, take
from ctseg.data.augment.sides import Sides, lateral_axis
from ctseg.data.prepared_case import Prepared
from ctseg.data.rng import AUGMENT, SAMPLE, generator
from ctseg.errors import BadInput, CtsegError, RunFailed
from ctseg.machine import free_memory

Zyx = tuple[int, int, int]
DEVICE_SHARE = 0.3
"""At most this share of an accelerator's free memory is filled with prepared scans; the network needs the rest."""
RAM_SHARE = 0.6
NO_SIDES = Sides()


class Batch(NamedTuple):
    """image [B, C, *patch], target [B, T, *patch], and weight [B, *patch] where there are weight maps."""

    image: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None


@dataclass(frozen=True)
class Recipe:
    """What batches are made by.

    Attributes:
        augment: resolved.
        rule: how patches are drawn, or the share of them centred on a label.
        spacing_zyx: of the network's grid, mm.
        sides: labels that change places when left and right do.
        units: what one HU is in the image (`ctseg.data.augment.units`).
        first_index: of this process's first sample in the global batch.
    """

    patch_zyx: Zyx
    batch_size: int
    seed: int
    augment: AugmentConfig
    rule: sampling.Rule | float = 0.5
    spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sides: Sides = NO_SIDES
    units: tuple[float, ...] = (1.0,)
    first_index: int = 0


class Piece(NamedTuple):
    """One sample before its transforms: what was drawn, and the box that they reach, on a device or not yet."""

    case: int
    drawn: AugmentParameters
    way: PatchTransform
    image: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None


class Resident(NamedTuple):
    """A case whose arrays lie on the device."""

    image: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None


class Loader:
    """Makes the batches of a training.

    Args:
        cases: to draw from.
        device: where batches are wanted. Transforms run there too (on MPS, which lacks their operations, before).
        workers: threads that work ahead; None for as many as help, 0 for none.
        cache: `device`, `ram`, `disk`, or `auto`: the device where it is an accelerator that has the room, else the
            disk, of which the operating system keeps in memory what it can.

    Raises:
        BadInput: the prepared scans do not fit where they are wanted.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        recipe: Recipe,
        device: torch.device | str = "cpu",
        *,
        workers: int | None = None,
        cache: str = "auto",
    ) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.place = torch.device("cpu") if self.device.type == "mps" else self.device
        self.cases = list(cases)
        self.weighted = any(case.weight is not None for case in self.cases)
        self.lateral = [lateral_axis(case.applied.target.direction) for case in self.cases]
        self.cache = choose_cache(self.cases, self.place, cache)
        self.resident: list[Resident] = []
        if self.cache == "ram":
            self.cases = [in_memory(case) for case in self.cases]
        elif self.cache == "device":
            self.resident = [on_device(case, self.place) for case in self.cases]
        if workers is None:
            workers = 0 if self.resident or self.place.type == "cpu" else 2
        self.workers = 0 if self.resident else workers
        self.ahead = self.workers + 1
        self.last: int | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[Any]] = {}

    def batch(self, step: int) -> Batch:
        """The batch of a step, on the device; with workers, those of the next steps are begun.

        Raises:
            CtsegError: a case cannot be read; the message names it and the cause.
        """
        if not self.workers:
            return self._finish(self._begin(step))
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="ctseg-loader")
        wanted = range(step, step + 1 + self.ahead)
        for old in [s for s in self._coming if s not in wanted]:
            self._coming.pop(old).cancel()
        for coming in wanted:
            beyond = self.last is not None and coming >= self.last and coming > step
            if coming not in self._coming and not beyond:
                self._coming[coming] = self._threads.submit(self._begin, coming)
        return self._finish(self._coming.pop(step).result())

    def undrawn(self, step: int) -> list[tuple[int, ...]] | None:
        """For each sample of a step the outputs that nobody drew in its case; None if every label is drawn in all."""
        if not any(case.undrawn for case in self.cases):
            return None
        first = self.recipe.first_index
        numbers = range(first, first + self.recipe.batch_size)
        return [self.cases[self._place(step, number).case].undrawn for number in numbers]

    def close(self) -> None:
        """End the workers, and close the files of scans that are read from them."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads = None
        self._coming.clear()
        for case in self.cases:
            case.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, step: int) -> Batch | list[Piece]:
        """What workers do: on a CPU everything, for an accelerator the boxes in memory that it can fetch."""
        pieces = [self._piece(step, index) for index in range(self.recipe.batch_size)]
        if self.place.type == "cpu":
            return self._transform(pieces)
        if self.place.type == "cuda" and not self.resident:
            return [_pinned(piece) for piece in pieces]
        return pieces

    def _finish(self, begun: Batch | list[Piece]) -> Batch:
        if not isinstance(begun, Batch):
            begun = self._transform(begun)
        if self.place != self.device:
            image, target, weight = begun
            to = self.device
            begun = Batch(image.to(to), target.to(to), None if weight is None else weight.to(to))
        return begun

    def case_ids(self, step: int, count: int) -> list[str]:
        """The cases that the first so many samples of a step come from, those of other processes included."""
        places = (self._place(step, number) for number in range(count))
        return list(dict.fromkeys(self.cases[place.case].id for place in places))

    def _place(self, step: int, number: int) -> sampling.PatchPosition:
        """Where a sample of the whole batch is drawn."""
        rng = generator(self.recipe.seed, step, number, SAMPLE)
        return sampling.draw(self.cases, self.recipe.patch_zyx, self.recipe.rule, rng)

    def _piece(self, step: int, index: int) -> Piece:
        recipe, number = self.recipe, self.recipe.first_index + index
        place = self._place(step, number)
        rng = generator(recipe.seed, step, number, AUGMENT)
        drawn = draw_parameters(recipe.augment, rng, spacing_zyx=recipe.spacing_zyx)
        path = patch_transform(
            drawn, recipe.patch_zyx, recipe.spacing_zyx, in_plane=bool(recipe.augment.in_plane)
        )
        z, y, x = (a + b for a, b in zip(place.start_zyx, path.start, strict=True))
        if self.resident:
            return Piece(
                place.case, drawn, path, *_cut(self.resident[place.case], (z, y, x), path.size)
            )
        case = self.cases[place.case]
        try:
            parts = sampling.patch(case, (z, y, x), path.size)
        except CtsegError:
            raise
        except Exception as error:
            raise RunFailed(
                f"Case {case.id} cannot be read: {type(error).__name__}: {error}."
            ) from error
        image, target, weight = parts
        return Piece(
            place.case, drawn, path, _tensor(image), _tensor(target),
            None if weight is None else _tensor(weight),
        )  # fmt: skip

    def _transform(self, pieces: Sequence[Piece]) -> Batch:
        """The batch that the pieces become, on the device."""
        patch, count, like = self.recipe.patch_zyx, len(pieces), pieces[0]
        on = self.place
        images = torch.empty((count, len(like.image), *patch), device=on)
        targets = torch.empty((count, len(like.target), *patch), dtype=like.target.dtype, device=on)
        weights = torch.ones((count, 1, *patch), device=on) if self.weighted else None
        for i, piece in enumerate(pieces):
            image = piece.image.to(on, non_blocking=True)
            target = piece.target.to(on, non_blocking=True)
            maps = None
            if weights is not None and piece.weight is not None:
                maps = piece.weight.to(on, non_blocking=True), weights[i]
            move_sample(piece.way, (image, images[i]), (target, targets[i]), maps)
            change_sample(
                images[i], targets[i], piece.drawn,
                sides=self.recipe.sides, lateral=self.lateral[piece.case], units=self.recipe.units,
            )  # fmt: skip
        return Batch(images, targets, None if weights is None else weights[:, 0])


def augment(
    image: torch.Tensor,
    target: torch.Tensor,
    recipe: Recipe,
    step: int,
    *,
    maps: int = 0,
    lateral: int = 2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a batch that is cut already, with parameters as a `Loader` draws them.

    Args:
        image: float [B, C, Z, Y, X], the patch with its margin.
        target: [B, T, Z, Y, X] likewise: integers, -1 where ignored, or floats, NaN where ignored.
        maps: how many of the last channels of `image` are maps (weights) that move but keep their values.
        lateral: the axis 0..2 between left and right.

    Returns:
        image [B, C, *patch] and target [B, T, *patch], the centre of what was given.
    """
    patch, config = recipe.patch_zyx, recipe.augment.resolved(recipe.patch_zyx)
    count, channels = image.shape[:2]
    images = image.new_empty((count, channels, *patch))
    targets = target.new_empty((count, target.shape[1], *patch))
    offset = [(w - p) // 2 for w, p in zip(image.shape[2:], patch, strict=True)]
    outside = float("nan") if target.is_floating_point() else -1
    for i in range(count):
        rng = generator(recipe.seed, step, recipe.first_index + i, AUGMENT)
        drawn = draw_parameters(config, rng, spacing_zyx=recipe.spacing_zyx)
        path = patch_transform(drawn, patch, recipe.spacing_zyx, in_plane=bool(config.in_plane))
        start = [o + s for o, s in zip(offset, path.start, strict=True)]
        box, scans = take(image[i], start, path.size, None), channels - maps
        move_sample(
            path, (box[:scans], images[i, :scans]),
            (take(target[i], start, path.size, outside), targets[i]),
            (box[scans:], images[i, scans:]) if maps else None,
        )  # fmt: skip
        change_sample(
            images[i, :scans], targets[i], drawn,
            sides=recipe.sides, lateral=lateral, units=recipe.units,
        )  # fmt: skip
    return images, targets


# ---------------------------------------------------------------- where the prepared scans lie


def choose_cache(cases: Sequence[Prepared], device: torch.device, wanted: str) -> str:
    """`device`, `ram` or `disk`.

    Raises:
        BadInput: the prepared scans do not fit where they are wanted.
    """
    lazy = any(case.lazy for case in cases)
    if wanted == "disk" or (wanted == "auto" and (lazy or device.type == "cpu")):
        return "disk"
    if device.type == "cpu":
        wanted = "ram"
    need = sum(bytes_of(case) for case in cases)
    if wanted == "ram":
        room, what = int(RAM_SHARE * free_memory()), "memory"
    else:
        room, what = int(DEVICE_SHARE * _free_on(device)), f"the memory of {device}"
    if need <= room and not lazy:
        return "ram" if wanted == "ram" else "device"
    if wanted == "auto":
        return "disk"
    if lazy:
        raise BadInput(
            "Scans that are read from their files as they are needed cannot be kept in memory.",
            hint="Leave out train.cache.",
        )
    raise BadInput(
        f"The prepared scans take {need / 2**30:.1f} GiB; {room / 2**30:.1f} GiB of {what} are there for them.",
        hint="--set train.cache=disk reads them as they are needed.",
    )


def bytes_of(case: Prepared) -> int:
    """What a case takes in memory."""
    arrays = [case.image, case.target, *([] if case.weight is None else [case.weight])]
    return sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)


def in_memory(case: Prepared) -> Prepared:
    """The case with its arrays read."""
    weight = None if case.weight is None else np.array(case.weight)
    return replace(case, image=np.array(case.image), target=np.array(case.target), weight=weight)


def on_device(case: Prepared, device: torch.device) -> Resident:
    """The case's arrays on the device."""
    weight = None if case.weight is None else _tensor(np.array(case.weight)).to(device)
    image, target = _tensor(np.array(case.image)), _tensor(np.array(case.target))
    return Resident(image.to(device), target.to(device), weight)


def _cut(
    case: Resident, start: Zyx, size: Zyx
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    outside = float("nan") if case.target.is_floating_point() else -1
    weight = None if case.weight is None else take(case.weight, start, size, None)
    return take(case.image, start, size, None), take(case.target, start, size, outside), weight


def _tensor(array: Any) -> torch.Tensor:
    if array.dtype.kind == "f" and array.dtype != np.float32:
        array = array.astype(np.float32)
    return torch.from_numpy(array)


def _pinned(piece: Piece) -> Piece:
    weight = None if piece.weight is None else piece.weight.pin_memory()
    return piece._replace(
        image=piece.image.pin_memory(), target=piece.target.pin_memory(), weight=weight
    )


def _free_on(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return 0
