"""What the formats read and written through SimpleITK share."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.volume.formats.source import reading
from ctseg.volume.geometry import Geometry

DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64",
)  # fmt: skip
_COMPONENTS = {
    getattr(sitk, f"sitk{prefix}{name}"): np.dtype(name.lower())
    for name in ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64",
                 "Float32", "Float64")
    for prefix in ("", "Vector")
}  # fmt: skip


_ONE_THREAD = threading.RLock()
if hasattr(os, "register_at_fork"):  # a process forked meanwhile must not find it taken for ever
    os.register_at_fork(
        before=_ONE_THREAD.acquire,
        after_in_parent=_ONE_THREAD.release,
        after_in_child=_ONE_THREAD.release,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """SimpleITK for one thread, without warnings.

    Two threads that read headers at once have, rarely, ended the process with a double free (SimpleITK 2.5). And the
    warnings, which go to stderr from C++, are switched for all threads; what matters of them is raised as an error
    here.
    """
    with _ONE_THREAD:
        before = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(before)


def name_of(path: Path) -> str:
    """The path as SimpleITK takes it; a name that is no UTF-8 would end the process there.

    Raises:
        FileProblem: it is no UTF-8.
    """
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise FileProblem(
            f"The name of {path} is no UTF-8, so that SimpleITK cannot open it.",
            hint="Rename the file, or the folder that it lies in.",
        ) from error
    return name


def read_header(path: Path, image_io: str = "") -> sitk.ImageFileReader:
    """A reader that has read the header of a file.

    Raises:
        RuntimeError: what SimpleITK says; for use within `reading`.
    """
    with quiet():
        reader = sitk.ImageFileReader()
        if image_io:
            reader.SetImageIO(image_io)
        reader.SetFileName(name_of(path))
        reader.ReadImageInformation()
    return reader


def component_dtype(reader: sitk.ImageFileReader, path: Path) -> np.dtype[Any]:
    """The NumPy type of the voxels.

    Raises:
        FileProblem: complex or label-object voxels.
    """
    pixel = reader.GetPixelID()
    if pixel not in _COMPONENTS:
        raise FileProblem(
            f"{path} holds {sitk.GetPixelIDValueAsString(pixel)} voxels, which are no scan.",
            hint="Store real numbers instead.",
        )
    return _COMPONENTS[pixel]


def geometry_3d(reader: sitk.ImageFileReader, path: Path) -> Geometry:
    """The grid of a file's first three axes.

    Raises:
        FileProblem: not three axes, or axes that are sheared.
    """
    dims = reader.GetDimension()
    size = reader.GetSize()
    if dims < 3:
        raise FileProblem(
            f"{path} has {dims} axes; a volume has three.", hint="Stack the slices into one file."
        )
    matrix = np.asarray(reader.GetDirection(), np.float64).reshape(dims, dims)[:3, :3]
    return make_geometry(path, size[2::-1], reader.GetSpacing()[:3], reader.GetOrigin()[:3], matrix)


def make_geometry(
    path: Path,
    shape_zyx: Sequence[int],
    spacing_xyz: Sequence[float],
    origin_xyz: Sequence[float],
    matrix: NDArray[np.float64],
    unit: str = "mm",
) -> Geometry:
    """A geometry whose problems name the file; directions that are nearly orthonormal are made so.

    Raises:
        FileProblem: what keeps the header's numbers from being a grid.
    """
    z, y, x = shape_zyx
    sx, sy, sz = spacing_xyz
    ox, oy, oz = origin_xyz
    try:
        return Geometry((z, y, x), (sx, sy, sz), (ox, oy, oz), rows(orthonormal(matrix)), unit=unit)
    except BadInput as error:
        raise FileProblem(f"{path}: {error.message}", hint=error.hint) from error


def orthonormal(matrix: NDArray[np.float64], tolerance: float = 1e-3) -> NDArray[np.float64]:
    """The nearest orthonormal matrix where that is within a tolerance, else the matrix itself.

    The polar factor U V^T of the singular value decomposition is the nearest in the Frobenius norm
    (Higham 1986, doi 10.1137/0907079). Headers store single-precision numbers, often of six digits.
    """
    if not np.isfinite(matrix).all():
        return matrix
    u, _, vt = np.linalg.svd(matrix)
    nearest: NDArray[np.float64] = u @ vt
    return nearest if np.abs(nearest - matrix).max() <= tolerance else matrix


def rows(matrix: NDArray[np.float64]) -> tuple[Any, Any, Any]:
    """A 3x3 array as the tuple of tuples that `Geometry` holds."""
    one, two, three = (tuple(float(v) for v in row) for row in matrix)
    return one, two, three


def read_whole(path: Path, image_io: str, *, vector: bool) -> NDArray[Any]:
    """A three-dimensional file as [C, Z, Y, X]."""
    with quiet():
        array: NDArray[Any] = sitk.GetArrayFromImage(
            sitk.ReadImage(name_of(path), imageIO=image_io)
        )
    return np.moveaxis(array, -1, 0) if vector else array[None]


def metadata(reader: sitk.ImageFileReader) -> dict[str, str]:
    """The header's key-value pairs."""
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def to_image(array: Any, geometry: Geometry, *, vector: bool = False) -> sitk.Image:
    """An array [Z, Y, X] or, with `vector`, [Z, Y, X, C] as a SimpleITK image on its grid."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(geometry.spacing_xyz)
    image.SetOrigin(geometry.origin_xyz)
    image.SetDirection(geometry.matrix.ravel().tolist())
    return image


def open_3d(path: Path, image_io: str) -> tuple[sitk.ImageFileReader, Geometry, np.dtype[Any], int]:
    """Header, grid, voxel type and channels (0 for a scalar image) of a three-dimensional file."""
    with reading(path):
        reader = read_header(path, image_io)
        if reader.GetDimension() > 3:
            raise FileProblem(
                f"{path} has {reader.GetDimension()} axes of {reader.GetSize()} voxels (x, y, z, ...); "
                "a volume has three.",
                hint="Store one file a time step, or the channels as a vector image.",
            )
        dtype = component_dtype(reader, path)
        vector = "vector" in sitk.GetPixelIDValueAsString(reader.GetPixelID())
        channels = reader.GetNumberOfComponents() if vector else 0
        return reader, geometry_3d(reader, path), dtype, channels


def slicer_segments(labels: Sequence[Label], geometry: Geometry) -> dict[str, str]:
    """3D Slicer's `Segment` fields: name, colour and value of each label, so that it opens as a segmentation."""
    from ctseg.task import PALETTE

    z, y, x = geometry.shape_zyx
    fields: dict[str, str] = {}
    foreground = [label for label in labels if label.value != 0]
    for index, label in enumerate(foreground):
        colour = label.colour or PALETTE[index % len(PALETTE)]
        prefix = f"Segment{index}_"
        fields |= {
            f"{prefix}ID": label.name,
            f"{prefix}Name": label.name,
            f"{prefix}Color": " ".join(f"{c / 255:.6g}" for c in colour),
            f"{prefix}LabelValue": str(label.value),
            f"{prefix}Layer": "0",
            f"{prefix}Extent": f"0 {x - 1} 0 {y - 1} 0 {z - 1}",
        }
    return fields
