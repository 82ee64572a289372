"""Draw `assets/augment.png`: one slice of the phantom after each transform of `[augment]`, at the far end of its range.

python docs/augment_pictures.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

from ctseg.config import AugmentConfig
from ctseg.config.augment import PROBABILITIES
from ctseg.data.augment import centre
from ctseg.data.loading import Recipe, augment
from ctseg.data.phantom import make_phantom

SHEET = Path(__file__).resolve().parent / "assets" / "augment.png"
SHAPE = (36, 108, 140)
PATCH = (20, 92, 116)
SPACING_XYZ = (2.0, 2.0, 4.0)
SLICE = 8
WINDOW, MEAN, DEVIATION = (-200.0, 300.0), 40.0, 90.0
TRIES = 12
TITLES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "rotation": {"rotation": 1, "rotation_degrees": (30, 0, 0)},
    "scale": {"scale": 1, "scale_range": (1.4, 1.4)},
    "mirror_axes": {"mirror_axes": ("x",)},
    "turns": {"turns": 1},
    "elastic": {"elastic": 1, "elastic_mm": 14},
    "noise": {"noise": 1, "noise_variance": (0.1, 0.1)},
    "blur": {"blur": 1, "blur_sigma": (1, 1)},
    "low_resolution": {"low_resolution": 1, "low_resolution_range": (0.5, 0.5)},
    "brightness": {"brightness": 1, "brightness_range": (1.25, 1.25)},
    "contrast": {"contrast": 1, "contrast_range": (0.75, 0.75)},
    "gamma": {"gamma": 1, "gamma_range": (1.5, 1.5)},
    "gamma_inverted": {"gamma_inverted": 1, "gamma_range": (1.5, 1.5)},
    "shift": {"shift": 1, "shift_range": (60, 60)},
    "cut_out": {"cut_out": 1, "cut_out_size": (0.3, 0.3)},
    "all of nnunet": {"preset": "nnunet"},
}
"""What is switched on for each picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=SHEET)
    output = parser.parse_args().output
    figure, axes = plt.subplots(4, 4, figsize=(10.4, 9.0))
    for axis, title in zip(axes.flat, TITLES, strict=True):
        image, label = pictures(title)
        axis.imshow(image, cmap="gray", vmin=-2.6, vmax=2.6, interpolation="nearest")
        shown = np.ma.masked_less_equal(label, 0)
        axis.imshow(shown, cmap="tab10", vmin=0, vmax=9, alpha=0.3, interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(output, dpi=80)
    plt.close(figure)


def pictures(title: str) -> tuple[np.ndarray, np.ndarray]:
    """A slice of the normalised scan and of its labels, [Y, X] each, after the transforms of a title."""
    scan, labels = make_phantom(3, shape_zyx=SHAPE, spacing_xyz=SPACING_XYZ, vary=False)
    hu = torch.from_numpy(scan.array.astype(np.float32))[None, None]
    image = (hu.clamp(*WINDOW) - MEAN) / DEVIATION
    target = torch.from_numpy(labels.array.astype(np.int16))[None, None]
    off: dict[str, Any] = dict.fromkeys(PROBABILITIES, 0.0) | {
        "mirror_axes": (),
        "preset": "nnunet",
    }
    change = TITLES[title]
    if change.get("preset"):
        off = {"rotation": 1.0, "noise": 1.0, "gamma": 1.0}
    config = AugmentConfig(**{**off, **change}).resolved(PATCH)
    x, y, z = SPACING_XYZ
    recipe = Recipe(PATCH, 1, 8, config, spacing_zyx=(z, y, x), units=(1 / DEVIATION,))

    def slices(step: int) -> tuple[np.ndarray, np.ndarray]:
        moved, marks = augment(image, target, recipe, step)
        return moved[0, 0, SLICE].numpy(), marks[0, 0, SLICE].numpy()

    before = centre(image, PATCH)[0, 0, SLICE].numpy()
    # angles, sides and boxes are drawn: the picture is the draw that changes most
    return max(map(slices, range(TRIES)), key=lambda pair: float(np.abs(pair[0] - before).mean()))


if __name__ == "__main__":
    main()
