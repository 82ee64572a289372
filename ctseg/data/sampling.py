"""Patches: where they are drawn, and how they are cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.borders import reflect
from ctseg.data.patch_centres import BACKGROUND, VALID
from ctseg.data.prepared_case import Prepared
from ctseg.data.sampling_rules import Rule, check_rule, rule_of
from ctseg.errors import CtsegError, RunFailed

__all__ = [
    "PatchPosition",
    "Rule",
    "check_rule",
    "cut",
    "draw",
    "patch",
    "reflect",
    "rule_of",
]

Zyx = tuple[int, int, int]
TRIES = 100
"""Draws until a patch holds enough foreground, or a case the label asked for; then the best one is taken."""


@dataclass(frozen=True)
class PatchPosition:
    """Where one patch is cut.

    Attributes:
        case: index in the list of cases.
        start_zyx: the first voxel, which may lie outside.
        group: what was drawn as its centre: a label's group, 0 for background; None for a patch anywhere.
        centre_zyx: the voxel drawn; a patch is moved into the scan where it would leave it, so that this voxel
            need not lie in its middle. None for a patch anywhere.
    """

    case: int
    start_zyx: Zyx
    group: int | None = None
    centre_zyx: Zyx | None = None


def draw(
    cases: Sequence[Prepared], patch_zyx: Zyx, rule: Rule | float, rng: np.random.Generator
) -> PatchPosition:
    """Draw one patch: what its centre is, then a case that has it, then a voxel of it.

    Labels are drawn as the rule says, however few voxels they have; a case that lacks the label drawn is passed
    over for another one. Ignored voxels are never centres. A patch stays inside the scan where the scan is large
    enough, else the scan is centred in it.

    Args:
        rule: or a share of foreground.
    """
    rule = Rule(rule) if isinstance(rule, int | float) else rule
    if rule.min_foreground <= 0:
        return _draw(cases, patch_zyx, rule, rng)
    best, most = None, -1.0
    for _ in range(TRIES):
        place = _draw(cases, patch_zyx, rule, rng)
        share = foreground_share(cases[place.case], place.start_zyx, patch_zyx)
        if share > rule.min_foreground or rng.random() < rule.slack:
            return place
        if share > most:
            best, most = place, share
    assert best is not None
    return best


def _draw(
    cases: Sequence[Prepared], patch_zyx: Zyx, rule: Rule, rng: np.random.Generator
) -> PatchPosition:
    wanted: int | None
    if rule.labels:
        shares = np.cumsum([share for _, share in rule.labels])
        number = int(np.searchsorted(shares, rng.random() * shares[-1], "right"))
        wanted = rule.labels[min(number, len(shares) - 1)][0]
    elif rule.positive is not None:
        wanted = None if rng.random() < rule.positive else BACKGROUND
    elif rng.random() < rule.foreground:
        wanted = None
    else:
        return _anywhere(cases, patch_zyx, rng)
    index = _case_with(cases, wanted, rng)
    if index is None:  # no case has it
        return _anywhere(cases, patch_zyx, rng)
    case = cases[index]
    group = wanted if wanted is not None else case.labels[rng.integers(len(case.labels))]
    return _around(index, case, group, patch_zyx, rng)


def _case_with(
    cases: Sequence[Prepared], group: int | None, rng: np.random.Generator
) -> int | None:
    """One of the cases that have a group (None: any label), each with equal probability."""

    def has(case: Prepared) -> bool:
        return bool(case.labels) if group is None else group in case.groups

    for _ in range(TRIES):
        index = int(rng.integers(len(cases)))
        if has(cases[index]):
            return index
    few = [index for index, case in enumerate(cases) if has(case)]
    return few[rng.integers(len(few))] if few else None


def _around(
    index: int, case: Prepared, group: int, patch_zyx: Zyx, rng: np.random.Generator
) -> PatchPosition:
    own = case.groups[group]
    z, y, x = (int(c) for c in own[rng.integers(len(own))])
    start = [c - p // 2 for c, p in zip((z, y, x), patch_zyx, strict=True)]
    return PatchPosition(index, _inside(start, case.image.shape[1:], patch_zyx), group, (z, y, x))


def _anywhere(cases: Sequence[Prepared], patch_zyx: Zyx, rng: np.random.Generator) -> PatchPosition:
    """A patch anywhere in a case; where some voxels are ignored, centred on one that is not."""
    index = int(rng.integers(len(cases)))
    case = cases[index]
    if VALID in case.groups:
        return _around(index, case, VALID, patch_zyx, rng)
    shape = case.image.shape[1:]
    start = [int(rng.integers(max(n - p, 0) + 1)) for n, p in zip(shape, patch_zyx, strict=True)]
    return PatchPosition(index, _inside(start, shape, patch_zyx))


def _inside(start: Sequence[int], shape: Sequence[int], patch_zyx: Zyx) -> Zyx:
    z, y, x = (
        min(max(s, 0), n - p) if n >= p else -((p - n) // 2)
        for s, n, p in zip(start, shape, patch_zyx, strict=True)
    )
    return z, y, x


def foreground_share(case: Prepared, start_zyx: Zyx, patch_zyx: Zyx) -> float:
    """Share of a patch's voxels that carry a label."""
    target = cut(case.target, start_zyx, patch_zyx, -1)
    return float((target > 0).any(0).mean())


def cut(array_czyx: Any, start_zyx: Zyx, patch_zyx: Zyx, outside: float | None) -> NDArray[Any]:
    """The patch [C, *patch], which may reach beyond the array; it belongs to the caller.

    Args:
        array_czyx: an array, or anything of which a box can be taken.
        outside: the value out there; None reflects the array at its border.
    """
    index = [np.arange(s, s + p) for s, p in zip(start_zyx, patch_zyx, strict=True)]
    shape = array_czyx.shape[1:]
    if all(i[0] >= 0 and i[-1] < n for i, n in zip(index, shape, strict=True)):
        return _box(array_czyx, [(int(i[0]), int(i[-1]) + 1) for i in index])
    if outside is None:
        inside = [reflect(i, n) for i, n in zip(index, shape, strict=True)]
        box = _box(array_czyx, [(int(i.min()), int(i.max()) + 1) for i in inside])
        for axis in (3, 2, 1):  # one after the other: many times faster than all at once
            box = box.take(inside[axis - 1] - inside[axis - 1].min(), axis)
        return box
    out = np.full((array_czyx.shape[0], *patch_zyx), outside, array_czyx.dtype)
    to: list[slice] = []
    source: list[tuple[int, int]] = []
    for i, n in zip(index, shape, strict=True):
        low, high = max(int(i[0]), 0), min(int(i[-1]) + 1, n)
        to.append(slice(low - int(i[0]), max(high, low) - int(i[0])))
        source.append((low, max(high, low)))
    if all(high > low for low, high in source):
        out[(slice(None), *to)] = _box(array_czyx, source)
    return out


def _box(array_czyx: Any, box: Sequence[tuple[int, int]]) -> NDArray[Any]:
    return np.array(array_czyx[(slice(None), *(slice(a, b) for a, b in box))], subok=False)


def patch(
    case: Prepared, start_zyx: Zyx, size_zyx: Zyx
) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32] | None]:
    """Image, target and, where the case has one, weight map of one patch.

    Raises:
        CtsegError: the files cannot be read any more; the message names the case.
    """
    outside = float("nan") if case.target.dtype.kind == "f" else -1
    try:
        image = cut(case.image, start_zyx, size_zyx, None)
        target = cut(case.target, start_zyx, size_zyx, outside)
        weight = None if case.weight is None else cut(case.weight, start_zyx, size_zyx, None)
    except CtsegError as error:
        error.message = f"Case {case.id}: {error.message}"
        raise
    except OSError as error:
        raise RunFailed(f"Case {case.id} cannot be read any more: {error}.") from error
    return image, target, weight
