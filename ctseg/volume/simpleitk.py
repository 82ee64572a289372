"""Volumes from SimpleITK images and back; both count physical space in LPS and millimetres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

AXES = 3


def from_sitk(image: sitk.Image) -> Volume:
    """The volume of a three-dimensional image, [Z, Y, X] or, of a vector image, [C, Z, Y, X]; voxels are copied.

    Raises:
        BadInput: an image of two or four axes.
    """
    import SimpleITK as sitk

    if image.GetDimension() != AXES:
        raise BadInput(
            f"The image has {image.GetDimension()} axes; a volume has three.",
            hint="Join slices with SimpleITK.JoinSeries, or extract one time point.",
        )
    array = sitk.GetArrayFromImage(image)
    is_vector = image.GetNumberOfComponentsPerPixel() > 1
    matrix = np.reshape(image.GetDirection(), (AXES, AXES)).tolist()
    x, y, z = image.GetSize()
    geometry = Geometry((z, y, x), image.GetSpacing(), image.GetOrigin(), matrix)
    return Volume(np.moveaxis(array, -1, 0) if is_vector else array, geometry)


def to_sitk(volume: Volume) -> sitk.Image:
    """A SimpleITK image on the volume's grid; channels become the components of a vector image."""
    import SimpleITK as sitk

    array, geometry = volume.array, volume.geometry
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # ITK has no half precision
    if array.dtype == bool:
        array = array.astype(np.uint8)
    is_vector = array.ndim > AXES
    image = sitk.GetImageFromArray(
        np.moveaxis(array, 0, -1) if is_vector else array, isVector=is_vector
    )
    image.SetSpacing(geometry.spacing_xyz)
    image.SetOrigin(geometry.origin_xyz)
    image.SetDirection(geometry.matrix.ravel().tolist())
    return image
