"""A deterministic CT phantom, and a small data set of it in the layout of the Medical Segmentation Decathlon.

It is made for the demonstration and for tests: bone and lungs are told by their Hounsfield values, liver and spleen
by shape and place alone, and the lesion is as dense as many other things.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ctseg.data.phantom_anatomy import LABELS, Canvas, draw
from ctseg.data.threshold_baseline import Threshold, threshold_baseline
from ctseg.errors import BadInput
from ctseg.files import whole_folder
from ctseg.volume.geometry import Geometry, as_matrix
from ctseg.volume.io import write
from ctseg.volume.volume import Volume

PHANTOM_LABELS = LABELS
SHAPE_ZYX = (40, 72, 88)
SPACING_XYZ = (2.6, 2.6, 4.0)
NOISE_HU = 12.0
_BLUR_VOXELS = (0.45, 0.6, 0.6)
_FOLDS = 5


def make_phantom(
    seed: int,
    *,
    shape_zyx: tuple[int, int, int] = SHAPE_ZYX,
    spacing_xyz: tuple[float, float, float] = SPACING_XYZ,
    noise_hu: float = NOISE_HU,
    vary: bool = True,
) -> tuple[Volume, Volume]:
    """One patient and its labels.

    Args:
        seed: the same seed gives the same voxels.
        shape_zyx: voxels; with `vary` a few more or less.
        spacing_xyz: mm; with `vary` up to 6 % more or less.
        noise_hu: standard deviation of the noise in Hounsfield units, in the middle of the body half as much again.
        vary: whether shape, spacing, origin, direction and pose differ from seed to seed.

    Returns:
        The scan, int16 Hounsfield units, and the label map, uint8 with the values of `PHANTOM_LABELS`, on one
        oblique, anisotropic grid.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 20])))
    geometry = _grid(rng, shape_zyx, spacing_xyz, vary=vary)
    x, y, z = _patient_coordinates(geometry, rng, vary=vary)
    canvas = Canvas.empty(x, y, z)
    draw(canvas, rng)
    hu = _scanned(canvas, rng, noise_hu)
    return Volume(hu, geometry), Volume(canvas.label, geometry)


def _grid(
    rng: Generator,
    shape_zyx: tuple[int, int, int],
    spacing_xyz: tuple[float, float, float],
    *,
    vary: bool,
) -> Geometry:
    """An oblique grid whose middle lies at a scanner-like position."""
    share = float(vary)
    z, y, x = (max(8, int(n + share * rng.integers(-2, 3))) for n in shape_zyx)
    sx, sy, sz = (round(float(s * (1 + share * rng.uniform(-0.06, 0.06))), 4) for s in spacing_xyz)
    sy = sx if spacing_xyz[0] == spacing_xyz[1] else sy
    turn = Rotation.from_euler(
        "xyz", [7.0, -4.0, 5.0] + share * rng.uniform(-5, 5, 3), degrees=True
    )
    direction = turn.as_matrix()
    middle = np.array([12.0, -150.0, 840.0]) + share * rng.uniform(-60, 60, 3)
    half = (np.array([x, y, z]) - 1) / 2 * np.array([sx, sy, sz])
    ox, oy, oz = (float(v) for v in np.round(middle - direction @ half, 3))
    return Geometry((z, y, x), (sx, sy, sz), (ox, oy, oz), as_matrix(direction))


def _patient_coordinates(
    geometry: Geometry, rng: Generator, *, vary: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The position of each voxel in the patient, who lies a little askew and is a little larger or smaller."""
    share = float(vary)
    z, y, x = geometry.shape_zyx
    index = np.stack(np.meshgrid(np.arange(x), np.arange(y), np.arange(z), indexing="ij"), -1)
    world = geometry.position(index.transpose(2, 1, 0, 3))
    middle = geometry.position(((x - 1) / 2, (y - 1) / 2, (z - 1) / 2))
    shift = share * rng.uniform(-1, 1, 3) * np.array([6.0, 5.0, 8.0])
    pose = Rotation.from_euler("xyz", share * rng.uniform(-5, 5, 3), degrees=True).as_matrix()
    scale = 1 + share * rng.uniform(-0.06, 0.06, 3)
    patient = ((world - middle - shift) @ pose) / scale
    px, py, pz = (patient[..., i].astype(np.float32) for i in range(3))
    return px, py, pz - np.float32(4.0)


def _scanned(canvas: Canvas, rng: Generator, noise_hu: float) -> NDArray[np.int16]:
    """What a scanner makes of it: texture, blur over voxel borders, and correlated noise, stronger in the middle."""
    shape = canvas.hu.shape
    texture = _unit(ndimage.gaussian_filter(rng.standard_normal(shape), (1.0, 2.0, 2.0)))
    soft = (canvas.hu > -150) & (canvas.hu < 150)
    hu = canvas.hu + np.where(soft, 4.0 * texture, 12.0 * texture * (canvas.hu > -950))
    hu = ndimage.gaussian_filter(hu, _BLUR_VOXELS)
    noise = _unit(ndimage.gaussian_filter(rng.standard_normal(shape), (0.3, 0.7, 0.7)))
    deep = np.exp(-((canvas.x / 60) ** 2) - (canvas.y / 50) ** 2)
    hu = hu + noise_hu * noise * (1 + 0.5 * deep)
    return np.asarray(np.clip(np.rint(hu), -1024, 3071), np.int16)


def _unit(field: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(field / field.std(), np.float64)


def write_phantom_dataset(
    folder: str | Path,
    *,
    cases: int = 20,
    unseen: int = 5,
    seed: int = 0,
    make: Callable[[int], tuple[Volume, Volume]] = make_phantom,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write phantoms as a Decathlon folder: `imagesTr`, `labelsTr`, and `imagesTs`, `labelsTs` never trained on.

    The folder appears only when it is complete; the same seed gives the same bytes.

    Args:
        folder: where to; it must not exist, or be empty.
        cases: phantoms for training and validation.
        unseen: phantoms for the test.
        seed: of the first phantom.
        make: makes one phantom from a seed.
        progress: called with the number of phantoms done and of all.

    Raises:
        BadInput: too few cases for five folds.
        FileProblem: the folder holds something, or cannot be written.
    """
    folder = Path(folder)
    if cases < _FOLDS:
        raise BadInput(f"A phantom data set needs at least {_FOLDS} cases, not {cases}.")
    with whole_folder(folder) as temporary:
        _fill(temporary, cases, unseen, seed, make, progress)
    return folder


def _fill(
    folder: Path,
    cases: int,
    unseen: int,
    seed: int,
    make: Callable[[int], tuple[Volume, Volume]],
    progress: Callable[[int, int], None] | None,
) -> None:
    names = [f"phantom_{i:03d}" for i in range(1, cases + unseen + 1)]
    for number, name in enumerate(names):
        image, label = make(seed * 1000 + number)
        part = "Tr" if number < cases else "Ts"
        write(image, folder / f"images{part}" / f"{name}.nii.gz")
        write(label, folder / f"labels{part}" / f"{name}.nii.gz")
        if progress is not None:
            progress(number + 1, len(names))
    training, test = names[:cases], names[cases:]
    content = {
        "name": "Phantom",
        "description": "CT phantom of a child's trunk, made by ctseg; no person was scanned",
        "reference": "ctseg.data.phantom",
        "licence": "CC0-1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in PHANTOM_LABELS.items()},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in training
        ],
        "test": [f"./imagesTs/{n}.nii.gz" for n in test],
    }
    folds = [
        {
            "train": [n for i, n in enumerate(training) if i % _FOLDS != fold],
            "val": [n for i, n in enumerate(training) if i % _FOLDS == fold],
        }
        for fold in range(_FOLDS)
    ]
    for name, data in (("dataset.json", content), ("splits.json", folds)):
        (folder / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


__all__ = [
    "PHANTOM_LABELS",
    "Threshold",
    "make_phantom",
    "threshold_baseline",
    "write_phantom_dataset",
]
