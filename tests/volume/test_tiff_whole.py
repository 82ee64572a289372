"""TIFFs that are not whole, or declare what cannot be, are told; tifffile and SimpleITK make the whole ones."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from ctseg.errors import FileProblem
from ctseg.volume.formats.tiff.structure import check_structure
from ctseg.volume.io import open_volume, read

STACK = np.random.default_rng(0).integers(0, 60000, (12, 16, 18)).astype(np.uint16)


def _itk(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(STACK), str(path))


def _tifffile(**options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, STACK, **options)


WRITERS = {
    "itk.tif": _itk,
    "plain.tif": _tifffile(),
    "stack.ome.tif": _tifffile(ome=True, metadata={"axes": "ZYX"}),
    "lzw.tif": _tifffile(compression="lzw"),
    "tiled.tif": _tifffile(compression="zlib", tile=(16, 16)),
    "strips.tif": _tifffile(compression="packbits", rowsperstrip=5, byteorder=">"),
    "big.tif": _tifffile(bigtiff=True, compression="zstd"),
    "big.ome.tif": _tifffile(bigtiff=True, ome=True, byteorder=">", metadata={"axes": "ZYX"}),
    "imagej.tif": _tifffile(imagej=True, metadata={"axes": "ZYX"}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_stack_cut_anywhere_is_no_shorter_stack(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name).array, tifffile.imread(tmp_path / name))
    content = (tmp_path / name).read_bytes()
    for share in (0.02, 0.3, 0.5, 0.75, 0.9, 0.97, 0.995):
        (tmp_path / f"cut_{name}").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(FileProblem, match=r"truncated|damaged"):
            read(tmp_path / f"cut_{name}")


def _pages(content: bytes) -> list[int]:
    """Where the links to the next page lie, in a little-endian TIFF."""
    at, links = 4, []
    while (place := struct.unpack_from("<I", content, at)[0]) != 0:
        links.append(at)
        at = place + 2 + 12 * struct.unpack_from("<H", content, place)[0]
    return [*links, at]


def _with_link(path: Path, page: int, value: int) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, _pages(content)[page], value)
    path.write_bytes(content)
    return path


def test_a_chain_of_pages_that_leads_back(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, compression="zlib")
    assert check_structure(tmp_path / "a.tif") == 12
    first = struct.unpack_from("<I", (tmp_path / "a.tif").read_bytes(), 4)[0]
    with pytest.raises(FileProblem, match="page 12 is followed by an earlier one"):
        read(_with_link(tmp_path / "a.tif", 12, first))


def test_a_loop_of_pages_in_an_ome_tiff_ends(tmp_path: Path) -> None:
    """tifffile never returns from such a file."""
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, ome=True, metadata={"axes": "ZYX"})
    second = struct.unpack_from("<I", (tmp_path / "a.ome.tif").read_bytes(), 4)[0] + 20
    with pytest.raises(FileProblem):
        read(_with_link(tmp_path / "a.ome.tif", 1, second))


@pytest.mark.parametrize("kind", ["ome", "imagej", "shaped"])
def test_a_chain_that_ends_before_the_announced_pages(tmp_path: Path, kind: str) -> None:
    options = {"ome": {"ome": True, "metadata": {"axes": "ZYX"}}, "imagej": {"imagej": True}}
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, **options.get(kind, {}),
        **({} if kind == "imagej" else {"compression": "zlib"}),
    )  # fmt: skip
    if kind == "imagej":  # one page, and a description that tells of more
        content = (tmp_path / "a.tif").read_bytes()
        (tmp_path / "a.tif").write_bytes(content.replace(b"images=12", b"images=19"))
    else:
        _with_link(tmp_path / "a.tif", 7, 0)
    with pytest.raises(FileProblem, match="truncated"):
        read(tmp_path / "a.tif")


def _declare(path: Path, **sizes: int) -> Path:
    """Change `ImageWidth` and the like of the first page."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for name, value in sizes.items():
            tif.pages.first.tags[name].overwrite(value)
    return path


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits"])
def test_a_page_larger_than_its_bytes_can_stand_for(tmp_path: Path, compression: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0].astype(np.uint32), compression=compression)
    path = _declare(tmp_path / "a.tif", ImageWidth=40_000_000, ImageLength=25_000_000)
    with pytest.raises(FileProblem):
        open_volume(path)
    path = _declare(tmp_path / "a.tif", RowsPerStrip=25_000_000)
    with pytest.raises(FileProblem, match=r"too small for|parts"):
        open_volume(path)


def test_ome_xml_that_announces_too_much(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, ome=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        text = tif.ome_metadata
    for old, new, match in (
        ('PlaneCount="12"', 'PlaneCount="1000000000000"', "12 of the 1000000000000 pages"),
        ('SizeZ="12"', 'SizeZ="13"', "truncated"),
        ('SizeX="18"', 'SizeX="-18"', "damaged OME-XML"),
        ('DimensionOrder="XYCZT"', 'DimensionOrder="ZYCXT"', "damaged OME-XML"),
        ("</Pixels>", "<Pixels>", "damaged OME-XML"),
        (
            "<OME ",
            '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><OME ',
            "document type",
        ),
    ):
        assert old in text
        path = tmp_path / "b.ome.tif"
        tifffile.imwrite(path, STACK, description=text.replace(old, new, 1).encode(), metadata=None)
        with pytest.raises(FileProblem, match=match):
            read(path)


def _parted(folder: Path) -> list[Path]:
    """A scan in two OME-TIFFs, each of which names both."""
    files = [folder / "one.ome.tif", folder / "two.ome.tif"]
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in (1, 2)]
    blocks = "".join(
        f'<TiffData FirstZ="{6 * i}" IFD="0" PlaneCount="6"><UUID FileName="{file.name}">{uuid}</UUID></TiffData>'
        for i, (file, uuid) in enumerate(zip(files, uuids, strict=True))
    )
    for i, (file, uuid) in enumerate(zip(files, uuids, strict=True)):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="18" SizeY="16" SizeZ="12" SizeC="1" '
            f'SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(file) as writer:
            for number, plane in enumerate(STACK[6 * i : 6 * i + 6]):
                first = {"description": text} if number == 0 else {}
                writer.write(plane, metadata=None, contiguous=False, **first)
    return files


def test_a_scan_in_several_ome_tiffs(tmp_path: Path) -> None:
    one, two = _parted(tmp_path)
    np.testing.assert_array_equal(tifffile.imread(one), STACK)
    np.testing.assert_array_equal(read(one).array, STACK)
    with open_volume(one) as source:
        np.testing.assert_array_equal(
            source.read_box((4, 1, 2), (8, 3, 9))[0], STACK[4:8, 1:3, 2:9]
        )
    content = two.read_bytes()
    two.unlink()
    with pytest.raises(FileProblem, match=r"two\.ome\.tif, which is missing"):
        read(one)
    two.write_bytes(content[:-100])
    with pytest.raises(FileProblem, match="truncated"):
        read(one)


def test_ome_files_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one, two = _parted(tmp_path / "a")
    (tmp_path / "b").mkdir()
    two.rename(tmp_path / "b" / two.name)
    two.symlink_to(tmp_path / "b" / two.name)  # a link is as good as a name
    with pytest.raises(FileProblem, match=r"outside its folder(.|\n)*outside=yes"):
        read(one)
    np.testing.assert_array_equal(read(one, outside="yes").array, STACK)


def test_a_part_whose_metadata_lie_beside_it(tmp_path: Path) -> None:
    one, two = _parted(tmp_path)
    with tifffile.TiffFile(one) as tif:
        (tmp_path / "all.companion.ome").write_text(tif.ome_metadata, encoding="utf-8")
    for file, planes in ((one, STACK[:6]), (two, STACK[6:])):
        uuid = re.findall("urn:uuid:[0-9-]+", (tmp_path / "all.companion.ome").read_text())
        text = (
            f'<OME UUID="{uuid[-1]}"><BinaryOnly MetadataFile="all.companion.ome" UUID="x"/></OME>'
        )
        with tifffile.TiffWriter(file) as writer:
            for number, plane in enumerate(planes):
                first = {"description": text} if number == 0 else {}
                writer.write(plane, metadata=None, contiguous=False, **first)
    np.testing.assert_array_equal(read(two).array, STACK)
    (tmp_path / "all.companion.ome").unlink()
    with pytest.raises(FileProblem, match=r"all\.companion\.ome, which is missing"):
        read(one)


def test_a_strip_that_unpacks_to_more_than_it_should_is_bounded(tmp_path: Path) -> None:
    """A strip of 64 MiB of zeros where the page has 576 bytes."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, np.zeros((4096, 4096), np.uint32), compression="zlib", rowsperstrip=4096
    )
    (tmp_path / "a.tif").write_bytes(buffer.getvalue())
    _declare(tmp_path / "a.tif", ImageWidth=12, ImageLength=12, RowsPerStrip=12)
    with open_volume(tmp_path / "a.tif") as source:
        assert source.geometry.shape_zyx == (1, 12, 12)
        with pytest.raises(FileProblem, match="damaged"):
            source.read()
