"""HDF5 volumes that lie elsewhere: behind links, in external storage, in virtual datasets; h5py tells what is right."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats.hdf5 import open as hdf5
from ctseg.volume.io import open_volume, read

ARRAY = np.random.default_rng(0).integers(1, 1000, (8, 30, 32)).astype(np.int16)
BOX = (slice(1, 5), slice(2, 20), slice(3, 30))


def check(path: Path, **options: str) -> dict[str, object]:
    """Whole and in boxes the voxels are those of `ARRAY`."""
    with open_volume(path, **options) as source:
        np.testing.assert_array_equal(source.read()[0], ARRAY)
        box = source.read_box((1, 2, 3), (5, 20, 30))
        np.testing.assert_array_equal(box[0], ARRAY[BOX])
        return dict(source.metadata)


def target(path: Path, **options: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/d", data=ARRAY, **options)
        file["deep/d"].attrs["spacing_xyz"] = (0.7, 0.8, 2.5)
    return path


def linker(path: Path, name: str, inner: str = "/deep/d", *, at: str = "raw") -> Path:
    with h5py.File(path, "w") as file:
        file[at] = h5py.ExternalLink(name, inner)
        file["notes"] = np.zeros(200_000, np.float32)
    return path


@pytest.mark.parametrize("at", ["raw", "group/scan"])
def test_behind_an_external_link(tmp_path: Path, at: str) -> None:
    target(tmp_path / "target.h5")
    path = linker(tmp_path / "a.h5", "target.h5", at=at)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file[at], ARRAY)
    check(path)
    check(path, dataset=f"/{at}")
    assert read(path).spacing_xyz == (0.7, 0.8, 2.5)
    assert hdf5.parts(path) == {at: {"dataset": f"/{at}"}}


def test_chains_of_links_and_soft_links(tmp_path: Path) -> None:
    target(tmp_path / "target.h5", chunks=(4, 8, 8))
    linker(tmp_path / "b.h5", "target.h5", "/deep", at="far")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["near"] = h5py.ExternalLink("b.h5", "/far")
        file["group/soft"] = h5py.SoftLink("../near/d")  # HDF5 has no '..'
        file["soft"] = h5py.SoftLink("/near/d")
        file["raw"] = h5py.SoftLink("soft")
        file["gone"] = h5py.SoftLink("/nowhere")
    check(tmp_path / "a.h5")
    check(tmp_path / "a.h5", dataset="/near/d")
    assert hdf5.parts(tmp_path / "a.h5") == {
        "raw": {"dataset": "/raw"}
    }  # one volume of three names
    with pytest.raises(FileProblem, match="no dataset /gone"):
        open_volume(tmp_path / "a.h5", dataset="/gone")


def test_links_in_a_circle(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink("/raw")
        file["self"] = h5py.ExternalLink("a.h5", "/")
        file["self_too"] = h5py.ExternalLink("a.h5", "/self_too")
    for options in ({}, {"dataset": "/raw"}, {"dataset": "/self/self/raw"}):
        with pytest.raises(FileProblem, match="too many links"):
            open_volume(tmp_path / "a.h5", **options)


def test_links_outside_the_folder(tmp_path: Path) -> None:
    target(tmp_path / "elsewhere" / "target.h5")
    (tmp_path / "home").mkdir()
    names = ["../elsewhere/target.h5", str(tmp_path / "elsewhere" / "target.h5"), "link.h5"]
    (tmp_path / "home" / "link.h5").symlink_to(tmp_path / "elsewhere" / "target.h5")
    for name in names:
        path = linker(tmp_path / "home" / "a.h5", name)
        for options in ({}, {"dataset": "/raw"}):
            with pytest.raises(FileProblem, match=r"outside its folder(.|\n)*outside=yes"):
                open_volume(path, **options)
        with pytest.raises(FileProblem, match="outside its folder"):
            open_dataset(path)
        check(path, outside="yes")
        assert len(open_dataset(path, outside="yes").unlabelled) == 1
    with pytest.raises(BadInput, match="'yes' or 'no'"):
        open_volume(path, outside="maybe")


def test_links_to_files_that_are_missing_or_damaged(tmp_path: Path) -> None:
    path = linker(tmp_path / "a.h5", "target.h5")
    with pytest.raises(FileProblem, match=r"target\.h5, which is missing"):
        read(path)
    target(tmp_path / "target.h5")
    with h5py.File(tmp_path / "target.h5", "a") as file:
        del file["deep/d"]
    with pytest.raises(FileProblem, match="has no /deep/d"):
        read(path)
    content = (tmp_path / "target.h5").read_bytes()
    (tmp_path / "target.h5").write_bytes(content[:-500])
    with pytest.raises(FileProblem, match=r"target\.h5.*truncated"):
        read(path)


def external(path: Path, name: str, size: int = ARRAY.nbytes) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", ARRAY.shape, ARRAY.dtype, external=[(name, 16, size)])
    return path


def test_external_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path / "a.h5", "voxels.bin")
    with pytest.raises(FileProblem, match=r"voxels\.bin, which is missing"):
        read(path)
    (tmp_path / "voxels.bin").write_bytes(bytes(16) + ARRAY.tobytes())
    check(path)
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")  # where the library would look
    (tmp_path / "away" / "voxels.bin").write_bytes(bytes(16 + ARRAY.nbytes))
    check(path)
    (tmp_path / "voxels.bin").write_bytes(bytes(16) + ARRAY.tobytes()[:-10])
    with pytest.raises(FileProblem, match=f"truncated: it has {ARRAY.nbytes - 10} of"):
        read(path)


def test_external_storage_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16) + ARRAY.tobytes())
    for name in (str(tmp_path / "secret.bin"), "../secret.bin"):
        path = external(tmp_path / "home" / "a.h5", name)
        with pytest.raises(FileProblem, match="outside its folder"):
            read(path)
        check(path, outside="yes")


def virtual(path: Path, names: list[str], inner: str = "deep/d", depth: int = 4) -> Path:
    layout = h5py.VirtualLayout(ARRAY.shape, ARRAY.dtype)
    for number, name in enumerate(names):
        rows = slice(depth * number, depth * (number + 1))
        layout[rows] = h5py.VirtualSource(name, inner, ARRAY.shape)[rows]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("raw", layout, fillvalue=0)
    return path


def test_virtual_datasets(tmp_path: Path) -> None:
    path = virtual(tmp_path / "a.h5", ["one.h5", "two.h5"])
    target(tmp_path / "one.h5")
    with pytest.raises(FileProblem, match=r"two\.h5, which is missing"):
        read(path)
    target(tmp_path / "two.h5", chunks=(2, 8, 8), compression="gzip")
    check(path)
    with h5py.File(tmp_path / "two.h5", "a") as file:
        del file["deep/d"]
        file["deep/d"] = ARRAY[:6]
    with pytest.raises(FileProblem, match=r"two\.h5:deep/d, which has \(6, 30, 32\) of"):
        read(path)
    with h5py.File(tmp_path / "two.h5", "a") as file:
        del file["deep"]
    with pytest.raises(FileProblem, match=r"two\.h5:deep/d, which is missing"):
        read(path)


def test_virtual_datasets_of_others_and_with_holes(tmp_path: Path) -> None:
    target(tmp_path / "one.h5")
    virtual(tmp_path / "b.h5", ["one.h5", "one.h5"])
    check(virtual(tmp_path / "a.h5", ["b.h5", "b.h5"], "raw"))
    with open_volume(virtual(tmp_path / "c.h5", ["one.h5"])) as source:
        assert any(
            "3840 voxels of /raw have no source" in note for note in source.metadata["notes"]
        )
        assert not source.read((4, 8)).any()
    (tmp_path / "one.h5").unlink()
    with pytest.raises(FileProblem, match=r"one\.h5, which is missing"):
        read(tmp_path / "a.h5")


def test_virtual_sources_outside_the_folder(tmp_path: Path) -> None:
    target(tmp_path / "one.h5")
    (tmp_path / "home").mkdir()
    for name in ("../one.h5", str(tmp_path / "one.h5")):
        path = virtual(tmp_path / "home" / "a.h5", [name, name])
        with pytest.raises(FileProblem, match="outside its folder"):
            read(path)
        check(path, outside="yes")


def test_chunks_that_were_never_written_are_counted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset(
            "raw", ARRAY.shape, ARRAY.dtype, chunks=(2, 30, 32), fillvalue=7
        )
        stored[:2] = ARRAY[:2]
        stored.attrs["spacing_xyz"] = (1, 1, 1)
        file.create_dataset("empty", ARRAY.shape, ARRAY.dtype)
    with open_volume(tmp_path / "a.h5") as source:
        assert source.metadata["notes"] == [
            "3 of 4 chunks of /raw were never written and count as 7."
        ]
    with open_volume(tmp_path / "a.h5", dataset="empty") as source:
        assert "All of it of /empty" in source.metadata["notes"][0]


def test_a_chunk_that_unpacks_to_far_more_than_it_should(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset(
            "raw", (16, 64, 64), "u1", chunks=(16, 64, 64), compression="gzip"
        )
        stored.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1 << 28), 9))
    with pytest.raises(FileProblem, match="a chunk of 65536 bytes that is stored in"):
        read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:  # noise, which compression makes longer
        noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64)).astype("u1")
        file.create_dataset(
            "raw", data=noise, chunks=(1, 4, 4), compression="gzip", fletcher32=True
        )
    np.testing.assert_array_equal(read(tmp_path / "b.h5").array, noise)


def test_units_of_the_attributes(tmp_path: Path) -> None:
    for unit, shown, notes in (
        ("um", "um", 0),
        ("micron", "um", 0),
        ("mm", "mm", 0),
        ("nm", "um", 1),
        ("HU", "mm", 1),
    ):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["raw"] = ARRAY
            file["raw"].attrs.update({"spacing_xyz": (0.005, 0.005, 0.01), "unit": unit})
        with open_volume(tmp_path / "a.h5") as source:
            assert source.geometry.spacing_xyz == (0.005, 0.005, 0.01)
            assert source.geometry.unit == shown
            assert len(source.metadata.get("notes", ())) == notes
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
    with open_volume(tmp_path / "a.h5") as source:
        assert "voxel size is unknown" in source.metadata["notes"][0]


def test_sizes_that_no_scan_has(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", (100_000,) * 3, "u1", chunks=(64, 64, 64))
        file.create_dataset("chunk", (2, 2, 2), "u1", chunks=(1024,) * 3, maxshape=(None,) * 3)
        file["chunk"].attrs["large"] = np.zeros(1)
    with pytest.raises(FileProblem, match="more than any scan has"):
        read(tmp_path / "a.h5")


@pytest.mark.skipif(os.name == "nt", reason="a crash has another status there")
def test_an_odd_tree_is_tried_by_a_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver block that no writer leaves makes HDF5 2.0 take seconds and gigabytes."""
    path = target(tmp_path / "a.h5", chunks=(2, 8, 8))
    tried: list[Path] = []
    monkeypatch.setattr(
        "ctseg.volume.formats.hdf5.links.try_open", lambda path, _: tried.append(path)
    )
    read(path)
    assert not tried  # no sound file costs a helper
    content = bytearray(path.read_bytes())
    tree = content.index(b"TREE", content.index(b"TREE", content.index(b"TREE") + 1) + 1)
    content[tree + 5] = 9  # a level that does not lead to the leaves
    path.write_bytes(content)
    with pytest.raises(FileProblem):
        read(path)
    assert tried == [path]


def test_a_chunk_shorter_than_its_checksum_is_refused(tmp_path: Path) -> None:
    """HDF5 (1.14) reads gigabytes behind it and ends the process."""
    file = tmp_path / "x.h5"
    with h5py.File(file, "w", libver="earliest") as content:
        array = np.ones((4, 8, 8), np.uint16)
        content.create_dataset("raw", data=array, chunks=(2, 8, 8), fletcher32=True)
        size = content["raw"].id.get_chunk_info(0).size
        assert size == 260  # 256 bytes and four of the checksum
    data = bytearray(file.read_bytes())
    at = data.find(size.to_bytes(4, "little") + bytes(4), data.find(b"TREE\x01"))
    data[at : at + 4] = (2).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(FileProblem, match="a chunk of 256 bytes that is stored in 2"):
        read(file)


def test_a_name_that_is_no_text_does_not_hide_the_others(tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    with h5py.File(file, "w") as content:
        content.create_dataset("raw", data=np.ones((4, 5, 6), np.uint8))
        h5py.h5g.create(content.id, b"\xff\xfe")
    assert read(file).array.shape == (4, 5, 6)
