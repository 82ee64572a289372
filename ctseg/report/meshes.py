"""Surfaces of labels as files of meshes: STL, PLY and GLB, in millimetres in LPS, the scan's coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ctseg.errors import BadInput
from ctseg.files import whole_file
from ctseg.report.extras import optional
from ctseg.report.surface import Surface
from ctseg.specs import Task
from ctseg.task import colour_of

MESHES = (".stl", ".ply", ".glb")
EXTRA = "mesh"
_STL_HEADER = b"ctseg: millimetres, SPACE=LPS"


def write_mesh(surfaces: Mapping[str, Surface], task: Task, path: Path) -> None:
    """Write surfaces into one file; its suffix chooses the format.

    STL holds triangles only; PLY has a colour at each point; GLB has one named, coloured mesh for each label.

    Args:
        surfaces: by name of the label.
        task: gives the colours.

    Raises:
        BadInput: there is no surface, or trimesh is not installed.
        FileProblem: the file cannot be written.
    """
    trimesh = optional("trimesh", EXTRA)
    if not surfaces:
        raise BadInput(
            "No label has a voxel, so there is no surface to write.",
            hint="Check the label map, or the names after --labels.",
        )
    colours = {one.name: colour_of(task, i) for i, one in enumerate(task.foreground)}
    parts = {}
    for name, one in surfaces.items():
        mesh = trimesh.Trimesh(one.points_xyz, one.triangles, process=False)
        mesh.visual.vertex_colors = [*colours[name], 255]
        parts[name] = mesh
    suffix = path.suffix.lower()
    if suffix == ".glb":
        scene = trimesh.Scene()
        for name, mesh in parts.items():
            scene.add_geometry(mesh, node_name=name, geom_name=name)
        raw = scene.export(file_type="glb")
    else:
        raw = trimesh.util.concatenate(list(parts.values())).export(file_type=suffix[1:])
    if suffix == ".stl":
        raw = _STL_HEADER.ljust(80) + raw[80:]
    with whole_file(path) as temporary:
        temporary.write_bytes(raw)
