"""NiiVue in a notebook."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctseg.report.display import DISPLAY_VOXELS, block_means, factors_for, reduced
from ctseg.report.extras import optional
from ctseg.report.planes import window_of
from ctseg.report.viewer.data import narrow, nifti_file
from ctseg.report.viewer.page import EXTRA
from ctseg.volume.geometry import Geometry, check_same
from ctseg.volume.preview.planes import Window
from ctseg.volume.volume import Volume


def show(volume: Volume, *masks: Volume, window: Window | None = None) -> Any:
    """Show a scan and label maps with NiiVue in a notebook: scroll, zoom, 3D.

    Scans of more than 16.8 million voxels are reduced.

    Args:
        volume: the scan; of several channels the first is shown.
        masks: label maps on its grid.
        window: grey values shown as black and white; by default as in pictures.

    Returns:
        The widget, an `ipyniivue.NiiVue`.

    Raises:
        BadInput: ipyniivue, which the extra `view` brings, is not installed.
        GeometryMismatch: a label map lies on another grid.
    """
    niivue = optional("ipyniivue", EXTRA)
    grid = volume.geometry
    for mask in masks:
        check_same(grid, mask.geometry, names=("the scan", "the label map"))
    factors = factors_for(grid.shape_zyx, grid.spacing_zyx, DISPLAY_VOXELS)
    image = volume.czyx[0]
    low, high = window or window_of(image)
    if max(factors) > 1:
        image = block_means(image, factors)
    shown = reduced(grid, factors)
    layers = [{"name": "scan.nii", "data": _file(image, shown), "cal_min": low, "cal_max": high}]
    z, y, x = factors
    for number, mask in enumerate(masks, start=1):
        labels = mask.czyx[0][z // 2 :: z, y // 2 :: y, x // 2 :: x]
        part = np.zeros(shown.shape_zyx, labels.dtype)
        part[tuple(slice(n) for n in labels.shape)] = labels
        layers.append(
            {
                "name": f"mask{number}.nii", "data": _file(part, shown), "opacity": 0.5,
                "colormap": "random", "cal_min": 0, "cal_max": 255,
            }
        )  # fmt: skip
    widget = niivue.NiiVue()
    widget.load_volumes(layers)
    return widget


def _file(array: Any, geometry: Geometry) -> bytes:
    return nifti_file(narrow(array), geometry)
