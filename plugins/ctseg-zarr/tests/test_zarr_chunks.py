"""Chunks that are missing are counted, cut ones refused, links out of the store not followed; zarr makes the stores."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

import ctseg
from ctseg.errors import BadInput, CtsegError, FileProblem
from ctseg.volume.io import open_volume, read

DATA = np.random.default_rng(0).integers(1, 300, (20, 24, 28)).astype(np.uint16)
CODECS = {"none": None, "zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec()}


def make(path: Path, version: int = 3, codec: str = "zstd", shards: str = "") -> list[Path]:
    """A store, and its files of voxels.

    Args:
        shards: "" for none, or where their list stands and whether it has a checksum: end, start, bare.
    """
    if shards:
        inner = [BytesCodec(), *([CODECS[codec]] if CODECS[codec] else [])]
        listed = [BytesCodec(), *([Crc32cCodec()] if shards != "bare" else [])]
        place = "start" if shards == "start" else "end"
        sharding = ShardingCodec(
            chunk_shape=(5, 8, 7), codecs=inner, index_codecs=listed, index_location=place
        )
        array = zarr.create(
            store=path, shape=DATA.shape, chunks=(10, 24, 28), dtype=DATA.dtype, zarr_format=3, codecs=[sharding]
        )  # fmt: skip
    else:
        compressor = CODECS[codec]
        if version == 2 and compressor is not None:
            import numcodecs

            compressor = {"zstd": numcodecs.Zstd, "gzip": numcodecs.GZip, "blosc": numcodecs.Blosc}[
                codec
            ]()
        array = zarr.create_array(
            path, shape=DATA.shape, chunks=(5, 24, 14), dtype=DATA.dtype, zarr_format=version,
            compressors=compressor, fill_value=0,
        )  # fmt: skip
    array[...] = DATA
    np.testing.assert_array_equal(read(path).array, DATA)
    marks = ("zarr.json", ".zarray", ".zattrs")
    return sorted(f for f in path.rglob("*") if f.is_file() and f.name not in marks)


LAYOUTS = [
    *((version, codec, "") for version in (2, 3) for codec in CODECS),
    *((3, codec, shards) for codec in CODECS for shards in ("end", "start", "bare")),
]


@pytest.mark.parametrize(("version", "codec", "shards"), LAYOUTS)
def test_cut_chunks_and_shards(tmp_path, version, codec, shards):
    file = make(tmp_path / "a.zarr", version, codec, shards)[1]
    content = file.read_bytes()
    for share in (0, 0.3, 0.6, 0.9, 0.98):
        file.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(FileProblem, match=r"truncated|cannot be read"):
            read(tmp_path / "a.zarr")


@pytest.mark.parametrize(("version", "shards"), [(2, ""), (3, ""), (3, "end")])
def test_missing_chunks_are_counted(tmp_path, version, shards):
    files = make(tmp_path / "a.zarr", version, "zstd", shards)
    with open_volume(tmp_path / "a.zarr", voxel="1") as source:
        assert "notes" not in source.metadata
    files[0].unlink()
    with open_volume(tmp_path / "a.zarr", voxel="1") as source:
        (note,) = source.metadata["notes"]
        what = "1 of 2 shards" if shards else "1 of 8 chunks"
        assert note.startswith(f"{what} are not there and count as 0, the fill value")
        expected = zarr.open_array(tmp_path / "a.zarr", mode="r")[...]  # which is legal
        assert not np.array_equal(expected, DATA)
        np.testing.assert_array_equal(source.read()[0], expected)


def test_links_out_of_the_store(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    files = make(home / "a.zarr")
    secret = tmp_path / "secret"
    shutil.move(files[0], secret)
    files[0].symlink_to(secret)
    with pytest.raises(FileProblem, match=r"outside its folder(.|\n)*outside=yes"):
        read(home / "a.zarr")
    np.testing.assert_array_equal(read(home / "a.zarr", outside="yes").array, DATA)
    shutil.move(secret, home / "beside")  # beside the store it may lie
    files[0].unlink()
    files[0].symlink_to(home / "beside")
    np.testing.assert_array_equal(read(home / "a.zarr").array, DATA)
    (tmp_path / "link.zarr").symlink_to(home / "a.zarr")  # the user's own link is followed
    np.testing.assert_array_equal(read(tmp_path / "link.zarr").array, DATA)


def test_linked_groups(tmp_path):
    home = tmp_path / "home"
    ctseg.write(ctseg.Volume.from_array(DATA), tmp_path / "far.ome.zarr")
    zarr.create_group(home / "a.zarr")
    (home / "a.zarr" / "scan").symlink_to(tmp_path / "far.ome.zarr")
    with pytest.raises(FileProblem, match="outside its folder"):
        read(home / "a.zarr", dataset="scan")
    read(home / "a.zarr", dataset="scan", outside="yes")
    (home / "a.zarr" / "c").mkdir()
    files = make(home / "b.zarr")
    (files[0].parent / "loop").symlink_to(home / "b.zarr")
    with pytest.raises(FileProblem, match="leads in a circle"):
        read(home / "b.zarr")


def _edit(path: Path, **fields: object) -> None:
    about = json.loads((path / "zarr.json").read_text())
    about.update(fields)
    (path / "zarr.json").write_text(json.dumps(about))


def test_sizes_that_no_scan_has(tmp_path):
    make(tmp_path / "a.zarr")
    _edit(tmp_path / "a.zarr", shape=[100_000, 100_000, 100_000])
    with pytest.raises(FileProblem, match="more than any scan has"):
        read(tmp_path / "a.zarr")
    make(tmp_path / "b.zarr")
    grid = {"name": "regular", "configuration": {"chunk_shape": [4096, 4096, 4096]}}
    _edit(tmp_path / "b.zarr", chunk_grid=grid)
    with pytest.raises(FileProblem, match="has chunks of"):
        read(tmp_path / "b.zarr")


def test_what_is_not_known_of_the_grid(tmp_path):
    make(tmp_path / "a.zarr")
    with open_volume(tmp_path / "a.zarr") as source:
        assert "voxel size is unknown" in source.metadata["notes"][0]
    path = tmp_path / "b.ome.zarr"
    ctseg.write(ctseg.Volume.from_array(DATA), path)
    with open_volume(path) as source:
        assert "notes" not in source.metadata
    about = json.loads((path / "zarr.json").read_text())
    for axis in about["attributes"]["ome"]["multiscales"][0]["axes"]:
        del axis["unit"]
    (path / "zarr.json").write_text(json.dumps(about))
    with open_volume(path) as source:
        assert "Its axes name no unit" in source.metadata["notes"][0]
    with open_volume(path, unit="micrometer") as source:
        assert "notes" not in source.metadata


def test_a_missing_zarr_names_the_extra(tmp_path, monkeypatch):
    make(tmp_path / "a.zarr")
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "zarr":
            raise ModuleNotFoundError("No module named 'zarr'")
        return imported(name, *args, **kwargs)

    for name in [
        m for m in sys.modules if m.partition(".")[0] == "zarr" or m.startswith("ctseg_zarr.")
    ]:
        if name not in ("ctseg_zarr.hooks", "ctseg_zarr.paths"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"package zarr(.|\n)*ctseg\[zarr\]"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_a_missing_codec_is_named(tmp_path, version):
    make(tmp_path / "a.zarr", version)
    if version == 3:
        strange = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "squeeze", "configuration": {}},
        ]
        _edit(tmp_path / "a.zarr", codecs=strange)
    else:
        about = json.loads((tmp_path / "a.zarr" / ".zarray").read_text())
        about["compressor"] = {"id": "squeeze"}
        (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(about))
    with pytest.raises(CtsegError, match=r"codec that is not installed.*squeeze(.|\n)*pip install"):
        read(tmp_path / "a.zarr")
