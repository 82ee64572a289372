"""Small valid TIFF, HDF5 and Zarr files and folders of slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import tifffile

import ctseg
from ctseg.volume.formats import probe
from tests.hostile.helper import fork_helper
from tests.hostile.mutate import binary, document
from tests.hostile.target import Seed, look

VOXELS = np.random.default_rng(0).integers(0, 900, (6, 20, 24)).astype(np.uint16)


def tiff(folder: Path) -> list[Seed]:
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "zlib": {"compression": "zlib", "tile": (16, 16)},
        "lzw": {"compression": "lzw", "rowsperstrip": 7},
        "imagej": {"imagej": True, "metadata": {"spacing": 3.0, "unit": "um", "axes": "ZYX"}},
        "big": {"bigtiff": True, "compression": "packbits", "byteorder": ">"},
    }
    seeds = [_tiff(folder / f"{name}.tif", **options) for name, options in kinds.items()]
    pages = folder / "pages.tif"
    with tifffile.TiffWriter(pages) as writer:
        for plane in VOXELS:
            writer.write(plane, metadata=None)
    return [*seeds, Seed("pages", pages, [pages], binary(), look)]


def ome_tiff(folder: Path) -> list[Seed]:
    sizes = {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0, "PhysicalSizeZ": 3.0}
    return [
        _tiff(folder / "plain.ome.tif", ome=True, metadata=sizes),
        _tiff(folder / "zstd.ome.tif", ome=True, compression="zstd", metadata={"axes": "ZYX"}),
    ]


def _tiff(path: Path, **options: Any) -> Seed:
    tifffile.imwrite(path, VOXELS, **options)
    return Seed(path.name, path, [path], binary(), look)


def hdf5(folder: Path) -> list[Seed]:
    probe.run_helper = fork_helper
    seeds = []
    for version in ("earliest", "latest"):
        for name, options in {
            "flat": {},
            "gzip": {"chunks": (2, 8, 8), "compression": "gzip"},
            "sums": {"chunks": (2, 8, 8), "shuffle": True, "fletcher32": True},
        }.items():
            path = folder / f"{name}_{version}.h5"
            with h5py.File(path, "w", libver=version) as file:
                file.create_dataset("raw", data=VOXELS, **options)
                file["raw"].attrs["spacing_xyz"] = (1.0, 2.0, 3.0)
                file.create_dataset("group/label", data=(VOXELS > 500).astype("u1"), **options)
            seeds.append(Seed(path.stem, path, [path], binary(), look))
    links = folder / "links.h5"
    layout = h5py.VirtualLayout(VOXELS.shape, VOXELS.dtype)
    layout[:] = h5py.VirtualSource("flat_earliest.h5", "raw", VOXELS.shape)
    with h5py.File(links, "w") as file:
        file["raw"] = h5py.ExternalLink("gzip_earliest.h5", "/raw")
        file["soft"] = h5py.SoftLink("/raw")
        file.create_virtual_dataset("virtual", layout)
    return [*seeds, Seed("links", links, [links], binary(), look)]


def slices(folder: Path) -> list[Seed]:
    seeds = []
    for kind in ("tif", "png"):
        path = folder / kind
        path.mkdir()
        for index, plane in enumerate(VOXELS):
            file = path / f"s{index}.{kind}"
            if kind == "png":
                file.write_bytes(imagecodecs.png_encode(plane))
            else:
                tifffile.imwrite(file, plane, compression="zlib")
        seeds.append(Seed(kind, path, sorted(path.iterdir()), binary(), look, vanish=True))
    return seeds


def zarr(folder: Path) -> list[Seed]:
    import zarr

    paths = []
    kinds: dict[str, dict[str, Any]] = {
        "two": {"zarr_format": 2, "chunks": (3, 20, 24)},
        "three": {"zarr_format": 3, "chunks": (3, 20, 24)},
        "shards": {"zarr_format": 3, "chunks": (3, 10, 12), "shards": (3, 20, 24)},
    }
    for name, options in kinds.items():
        paths.append(folder / f"{name}.zarr")
        array = zarr.create_array(paths[-1], shape=VOXELS.shape, dtype=VOXELS.dtype, **options)
        array[...] = VOXELS
    paths.append(folder / "image.ome.zarr")
    ctseg.write(ctseg.Volume.from_array(VOXELS), paths[-1])
    seeds = []
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file())
        about = [file for file in files if file.name.startswith((".z", "zarr.json"))]
        chunks = [file for file in files if file not in about]
        seeds += [
            Seed(f"{path.name} metadata", path, about, document(), look, vanish=True),
            Seed(f"{path.name} chunks", path, chunks, binary(), look, vanish=True),
        ]
    return seeds
