"""Guesses that ignore the image: the average label map, stretched to a scan."""

from __future__ import annotations

import numpy as np

from benchmarks.ellipsoid import GRID, average_map, dice, stretched


def test_the_average_map_has_the_label_that_most_maps_have() -> None:
    halves = np.zeros((8, 6, 4), np.uint8)
    halves[4:] = 2
    other = np.zeros((16, 3, 5), np.uint8)
    mean = average_map([halves, halves, other], [0, 2])
    assert mean.shape == GRID
    assert (mean[: GRID[0] // 2] == 0).all() and (mean[GRID[0] // 2 :] == 2).all()
    assert np.array_equal(stretched(mean, halves.shape), halves)
    assert dice(stretched(mean, halves.shape) == 2, halves == 2) == 1


def test_a_guess_that_misses_has_no_dice() -> None:
    guess, truth = np.array([True, False]), np.array([False, True])
    assert dice(guess, truth) == 0 and dice(guess, np.array([True, True])) == 2 / 3
