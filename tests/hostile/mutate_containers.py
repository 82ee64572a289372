"""Small real files of the container formats, and random damage to them.

Run by hand for many: `python tests/hostile/mutate_containers.py KIND COUNT [SEED]` prints what was not told as a
`CtsegError`, took over 5 s or 1 GiB, or ended the process, each with the number that makes it again.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import tifffile

SECONDS = 5
MEMORY = 1 << 30
VOXELS = np.random.default_rng(0).integers(0, 900, (6, 20, 24)).astype(np.uint16)
_EXTREMES = (
    0,
    1,
    2,
    3,
    7,
    8,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
_MOST_VOXELS = 30_000_000


def tiff(folder: Path) -> list[Path]:
    made = []
    for name, options in {
        "plain": {},
        "pages": {"contiguous": False, "metadata": None},
        "zlib": {"compression": "zlib", "tile": (16, 16)},
        "lzw": {"compression": "lzw", "rowsperstrip": 7},
        "imagej": {"imagej": True, "metadata": {"spacing": 3.0, "unit": "um", "axes": "ZYX"}},
        "big": {"bigtiff": True, "compression": "packbits", "byteorder": ">"},
        "ome": {
            "ome": True,
            "metadata": {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0},
        },
        "omez": {"ome": True, "compression": "zstd", "metadata": {"axes": "ZYX"}},
    }.items():
        made.append(folder / f"{name}.tif")
        if options.pop("contiguous", True):
            tifffile.imwrite(made[-1], VOXELS, **options)
        else:
            with tifffile.TiffWriter(made[-1]) as writer:
                for plane in VOXELS:
                    writer.write(plane, **options)
    return made


def hdf5(folder: Path) -> list[Path]:
    made = []
    for version in ("earliest", "latest"):
        for name, options in {
            "flat": {},
            "gzip": {"chunks": (2, 8, 8), "compression": "gzip"},
            "sums": {"chunks": (2, 8, 8), "shuffle": True, "fletcher32": True},
        }.items():
            made.append(folder / f"{name}_{version}.h5")
            with h5py.File(made[-1], "w", libver=version) as file:
                file.create_dataset("raw", data=VOXELS, **options)
                file["raw"].attrs["spacing_xyz"] = (1.0, 2.0, 3.0)
                file.create_dataset("group/label", data=(VOXELS > 500).astype("u1"), **options)
    made.append(folder / "links.h5")
    layout = h5py.VirtualLayout(VOXELS.shape, VOXELS.dtype)
    layout[:] = h5py.VirtualSource("flat_earliest.h5", "raw", VOXELS.shape)
    with h5py.File(made[-1], "w") as file:
        file["raw"] = h5py.ExternalLink("gzip_earliest.h5", "/raw")
        file["soft"] = h5py.SoftLink("/raw")
        file.create_virtual_dataset("virtual", layout)
    return made


def slices(folder: Path) -> list[Path]:
    made = [folder / "tif", folder / "png"]
    for path in made:
        path.mkdir()
        for number, plane in enumerate(VOXELS):
            file = path / f"s{number}.{path.name}"
            if path.name == "png":
                file.write_bytes(imagecodecs.png_encode(plane))
            else:
                tifffile.imwrite(file, plane, compression="zlib")
    return made


def store(folder: Path) -> list[Path]:
    import zarr

    made = []
    for name, options in {
        "two": {"zarr_format": 2, "chunks": (3, 20, 24)},
        "three": {"zarr_format": 3, "chunks": (3, 20, 24)},
        "shards": {"zarr_format": 3, "chunks": (3, 10, 12), "shards": (3, 20, 24)},
    }.items():
        made.append(folder / f"{name}.zarr")
        array = zarr.create_array(made[-1], shape=VOXELS.shape, dtype=VOXELS.dtype, **options)
        array[...] = VOXELS
    import ctseg

    made.append(folder / "image.ome.zarr")
    ctseg.write(ctseg.Volume.from_array(VOXELS), made[-1])
    return made


KINDS: dict[str, Callable[[Path], list[Path]]] = {
    "tiff": tiff,
    "hdf5": hdf5,
    "slices": slices,
    "zarr": store,
}


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """A few random changes: bits, numbers of 1 to 8 bytes, digits in text, blocks that move, an early end."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            return bytes(data)
        front = len(data) if rng.random() < 0.3 else min(len(data), 600)
        at = int(rng.integers(0, front))
        kind = int(rng.integers(0, 8))
        width = int(rng.choice([1, 2, 4, 8]))
        order = "little" if rng.random() < 0.8 else "big"
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind in (1, 2):
            value = int(rng.choice(np.array(_EXTREMES, dtype=object))) % 256**width
            data[at : at + width] = value.to_bytes(width, order)
        elif kind == 3:
            value = int(rng.integers(0, len(data) + 64)) % 256**width
            data[at : at + width] = value.to_bytes(width, order)
        elif kind in (4, 5):
            digits = list(re.finditer(rb"\d+", bytes(data[: 1 << 16])))
            if digits:
                spot = digits[int(rng.integers(0, len(digits)))]
                new = rng.choice(
                    [b"0", b"-1", b"999999999", b"1e30", b"2", b"99999999999999999999"]
                )
                data[spot.start() : spot.end()] = bytes(new)
        elif kind == 6:
            other = int(rng.integers(0, len(data)))
            length = int(rng.integers(1, 64))
            data[at : at + length] = data[other : other + length]
        else:
            del data[int(rng.integers(0, len(data))) :]
    return bytes(data)


def execute(path: Path) -> str:
    """Open a file and read of it; what a `CtsegError` says, or nothing where it can be read."""
    import ctseg
    from ctseg.errors import CtsegError
    from ctseg.volume.io import open_volume

    try:
        with open_volume(path) as source:
            z, y, x = source.geometry.shape_zyx
            if z * y * x * source.channels <= _MOST_VOXELS:
                source.read()
            elif y * x * source.channels <= _MOST_VOXELS:
                source.read((z - 1, z))
            source.read_box((0, 0, 0), (1, 1, 1))
    except CtsegError as error:
        return str(error)
    del ctseg
    return ""


def spoil(seed: Path, target: Path, number: int, base: int) -> Path:
    """A damaged copy of a file, or of a folder with one damaged file."""
    rng = np.random.default_rng([base, number])
    if target.is_dir():
        shutil.rmtree(target)
    if seed.is_dir():
        shutil.copytree(seed, target)
        files = sorted(file for file in target.rglob("*") if file.is_file())
        file = files[int(rng.integers(0, len(files)))]
        if rng.random() < 0.1:
            file.unlink()
        else:
            file.write_bytes(damage(file.read_bytes(), rng))
    else:
        target.write_bytes(damage(seed.read_bytes(), rng))
    return target


def _work(seeds: list[Path], first: int, count: int, base: int, log: int) -> None:
    """Execute mutations from `first` on; what goes wrong is written to a pipe."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(first, count):
        os.write(log, f"{number}\n".encode())
        seed = seeds[number % len(seeds)]
        path = spoil(seed, seed.with_name(f"x_{seed.name}"), number, base)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        signal.alarm(3 * SECONDS)
        said = ""
        try:
            execute(path)
        except BaseException as error:  # everything but a CtsegError is what is looked for
            said = f"{type(error).__name__}: {error}"[:300]
        signal.alarm(0)
        took = time.monotonic() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if took > SECONDS:
            said += f" took {took:.1f} s"
        if grown > MEMORY:
            said += f" took {grown / 2**30:.1f} GiB"
        if said:
            os.write(
                log,
                (json.dumps({"number": number, "seed": seed.name, "said": said}) + "\n").encode(),
            )


def campaign(kind: str, count: int, base: int = 0) -> list[dict[str, object]]:
    """Execute mutations in child processes, so that one that ends its process is one failure of many."""
    failures: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        seeds = KINDS[kind](Path(folder))
        failures += [
            {"number": -1, "seed": seed.name, "said": said}
            for seed in seeds
            if (said := execute(seed))
        ]
        first = 0
        while first < count:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                _work(seeds, first, count, base, writing)
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as lines:
                for line in lines:
                    if line.startswith("{"):
                        failures.append(json.loads(line))
                    else:
                        first = int(line)
            _, status = os.waitpid(child, 0)
            if status:
                seed = seeds[first % len(seeds)].name
                said = f"ended the process with status {status}"
                failures.append({"number": first, "seed": seed, "said": said})
            first += 1
            if not status:
                break
    return failures


if __name__ == "__main__":
    found = campaign(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    for failure in found:
        print(json.dumps(failure))
    print(f"{sys.argv[1]}: {sys.argv[2]} executions, {len(found)} failures")
    sys.exit(bool(found))
