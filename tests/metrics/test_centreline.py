"""Centrelines: the topology of what was thinned, and clDice by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from ctseg.errors import BadInput
from ctseg.metrics.centreline import centreline_dice
from ctseg.metrics.skeleton import skeleton

EVERY = np.ones((3, 3, 3), int)


def _bar(shape: tuple[int, int, int] = (9, 9, 40)) -> np.ndarray:
    bar = np.zeros(shape, bool)
    bar[2:7, 2:7, 3:37] = True
    return bar


def test_a_bar_becomes_the_line_in_its_middle() -> None:
    line = np.argwhere(skeleton(_bar()))
    assert (line[:, :2] == 4).all(axis=1).mean() > 0.85
    assert 28 <= len(line) <= 36
    assert len(np.unique(line[:, 2])) >= 28


def test_a_ring_stays_a_ring_and_a_shell_stays_closed() -> None:
    z, y, x = np.ogrid[-10:11, -10:11, -10:11]
    ring = (np.sqrt(y**2 + x**2) - 7) ** 2 + z**2 <= 6
    line = skeleton(ring)
    neighbours = [
        int((line[tuple(slice(n - 1, n + 2) for n in at)]).sum()) - 1 for at in np.argwhere(line)
    ]
    assert set(neighbours) == {2} and label(line, EVERY)[1] == 1
    radius = np.sqrt(z**2 + y**2 + x**2)
    shell = (radius < 9) & (radius > 4)
    assert label(~skeleton(shell))[1] == label(~shell)[1] == 2


def test_parts_and_single_voxels_stay() -> None:
    mask = np.zeros((5, 5, 12), bool)
    mask[2, 2, 2] = mask[1:4, 1:4, 6:9] = True
    line = skeleton(mask)
    assert line[2, 2, 2] and label(line, EVERY)[1] == 2
    assert not skeleton(mask & False).any()


def test_centreline_dice_forgives_width_but_not_gaps() -> None:
    bar = _bar((11, 11, 40))
    assert centreline_dice(bar, bar) == 1
    assert centreline_dice(binary_dilation(bar, EVERY), bar) == pytest.approx(1, abs=0.06)
    torn = bar.copy()
    torn[..., 14:24] = False
    assert centreline_dice(torn, bar) == pytest.approx(2 * 0.7 / 1.7, abs=0.06)
    assert centreline_dice(np.roll(bar, 6, 0) & False, bar) is None
    apart = np.zeros_like(bar)
    apart[10, 10, :] = True
    assert centreline_dice(apart, bar) == 0
    with pytest.raises(BadInput, match="shapes"):
        centreline_dice(bar, bar[1:])
