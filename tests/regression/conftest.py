"""Noisy phantoms and their clean twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ctseg


def clean_scan(seed: int, shape: tuple[int, int, int] = (16, 24, 24)) -> np.ndarray:
    """Three bright balls in air, HU, int16."""
    rng = np.random.default_rng(seed)
    zyx = np.indices(shape)
    scan = np.full(shape, -1000.0)
    for value in (-80.0, 60.0, 400.0):
        centre = [rng.uniform(0.25 * n, 0.75 * n) for n in shape]
        radius = rng.uniform(4, 7)
        distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(zyx, centre, strict=True)))
        scan[distance < radius] = value
    return scan.astype(np.int16)


@pytest.fixture(scope="session")
def noisy_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs, `noisy/NAME.nii.gz` and `clean/NAME.nii.gz`, anisotropic and oblique."""
    folder = tmp_path_factory.mktemp("denoise")
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, -1.0]])
    for index in range(6):
        clean = clean_scan(index)
        noise = np.random.default_rng(100 + index).normal(0, 150, clean.shape)
        for kind, array in (("noisy", clean + noise), ("clean", clean)):
            path = folder / kind / f"ball_{index}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            volume = ctseg.Volume.from_array(
                array.astype(np.int16), spacing_xyz=(0.8, 0.8, 2.0), direction=turn
            )
            ctseg.write(volume, path)
    return folder
