"""Scans for the tests of formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctseg.volume.volume import Volume
from tests.global_state import kept_locale

MakeSeries = Callable[..., Path]


@pytest.fixture(scope="session")
def oblique() -> Volume:
    """A small CT with a direction that is both turned and mirrored, and a different spacing along each axis."""
    rng = np.random.default_rng(3)
    array = rng.integers(-1000, 2000, (6, 7, 8)).astype(np.int16)
    matrix = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    matrix[:, 0] *= -1
    return Volume.from_array(
        array,
        spacing_xyz=(0.7, 1.3, 3.1),
        origin_xyz=(-120.5, 33.25, 700.125),
        direction=tuple(tuple(row) for row in matrix),
    )


@pytest.fixture
def make_series() -> MakeSeries:
    """Writes a DICOM series through SimpleITK, file names in random order."""
    return _write_series


def _write_series(
    folder: Path,
    array: Any,
    *,
    matrix: Any = None,
    spacing_xyz: tuple[float, float, float] = (0.8, 1.2, 2.5),
    origin: tuple[float, float, float] = (-10.0, 20.0, 30.0),
    offsets: list[Any] | None = None,
    uid: str = "1.2.826.0.1.3680043.2.1125.1",
    rescale: tuple[float, float] | None = None,
    modality: str = "CT",
    prefix: str = "",
    tags: dict[str, str] | None = None,
) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    extra = tags or {}
    matrix = np.eye(3) if matrix is None else matrix
    names = np.random.default_rng(0).permutation(len(array))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, plane in enumerate(array):
        step = matrix[:, 2] * spacing_xyz[2] * index if offsets is None else offsets[index]
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing(spacing_xyz)
        tags = {
            "0008|0060": modality,
            "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{index + 1}",
            "0020|0032": "\\".join(f"{v:.8f}" for v in np.asarray(origin) + step),
            "0020|0037": "\\".join(f"{v:.8f}" for v in matrix[:, :2].T.ravel()),
            "0020|0013": str(index + 1),
            "0018|0050": "7.5",
        }
        if rescale is not None:
            tags |= {"0028|1053": str(rescale[0]), "0028|1052": str(rescale[1])}
        for tag, value in (tags | extra).items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{prefix}{names[index]:03d}.dcm"))
        with kept_locale():
            writer.Execute(image)
    return folder
