"""The command and the formats that this package registers with ctseg."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import ctseg
from ctseg.extension_specs import CommandSpec
from ctseg.specs import FormatSpec, VolumeSource, frozen


def _command() -> Callable[..., Any]:
    module = importlib.import_module("ctseg_microct.command")
    return cast("Callable[..., Any]", module.measure)


@ctseg.hookimpl
def ctseg_commands() -> Sequence[CommandSpec]:
    """`ctseg measure`."""
    return [CommandSpec("measure", _command, "Measure the microstructure of a label map.")]


RAW, AMIRA = (".raw", ".vol"), (".am",)


def _is_raw(path: Path) -> bool:
    return path.suffix.lower() in RAW and path.is_file()


def _is_amira(path: Path) -> bool:
    """Tell an AmiraMesh or Avizo file by its name and first bytes."""
    if path.suffix.lower() not in AMIRA or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16).lstrip(b"# ").startswith((b"AmiraMesh", b"Avizo"))


def _reader(name: str) -> Any:
    return importlib.import_module(f"ctseg_microct.readers.{name}")


def _open_raw(path: Path, **options: Any) -> VolumeSource:
    return cast("VolumeSource", _reader("raw").open_raw(path, **options))


def _open_amira(path: Path, **options: Any) -> VolumeSource:
    return cast("VolumeSource", _reader("amira").open_amira(path, **options))


@ctseg.hookimpl
def ctseg_formats() -> Sequence[FormatSpec]:
    """Voxels without a header, and AmiraMesh."""
    return [
        FormatSpec(
            name="raw",
            suffixes=RAW,
            recognise=_is_raw,
            open=_open_raw,
            summary="voxels without a header, described by .vgi, .info, their name or options; read by region",
            options=frozen(
                {
                    "shape": "voxels along the axes: x,y,z, or z=..,y=..,x=..",
                    "dtype": "type of a voxel: uint8, int8, uint16, int16, uint32, int32, float32, float64",
                    "spacing": "voxel size: one number or x,y,z, in mm or with a unit",
                    "skip": "bytes before the voxels",
                    "order": "byte order: little (default) or big",
                }
            ),
        ),
        FormatSpec(
            name="amira",
            suffixes=AMIRA,
            recognise=_is_amira,
            open=_open_amira,
            summary="uniform lattices of Amira and Avizo; materials are label names; uncompressed ones read by region",
            options=frozen({"unit": "unit of the coordinates: mm, um, nm ..."}),
        ),
    ]
