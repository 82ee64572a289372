"""Any box of any format, in any process, without reading the rest."""

from __future__ import annotations

import gzip
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import ImageRef, Label, frozen
from ctseg.volume.io import open_ref, open_volume, write
from ctseg.volume.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".h5", ".tif")
SHAPE = (6, 7, 8)
boxes = st.tuples(
    *(st.tuples(st.integers(0, n - 1), st.integers(1, n)).map(sorted) for n in SHAPE)
).filter(lambda box: all(a < b for a, b in box))


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, Any, dict[str, str]]]:
    """Files of every format, plain, with channels, and compressed where they hold labels."""
    folder = tmp_path_factory.mktemp("boxes")
    rng = np.random.default_rng(0)
    out = {}
    for suffix in SUFFIXES:
        for kind, channels in (("plain", 1), ("channels", 3), ("labels", 1)):
            array = rng.integers(0, 3, (channels, *SHAPE)).astype(
                np.uint8 if kind == "labels" else np.int16
            )
            path = folder / f"{kind}{suffix}"
            volume = Volume.from_array(array if channels > 1 else array[0], spacing_xyz=(1, 2, 3))
            write(volume, path, labels=(Label("a", (1,), 1),) if kind == "labels" else ())
            options = {"channels": "last"} if ".nii" in suffix and channels > 1 else {}
            out[f"{kind}{suffix}"] = path, array, options
    with h5py.File(folder / "whole.h5", "w") as file:  # contiguous, as most people write it
        file["raw"] = out["channels.h5"][1]
    out["whole.h5"] = folder / "whole.h5", out["channels.h5"][1], {}
    return out


@given(box=boxes, data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_box(
    written: dict[str, tuple[Path, Any, dict[str, str]]], box: Any, data: st.DataObject
) -> None:
    path, array, options = written[data.draw(st.sampled_from(sorted(written)))]
    start, stop = zip(*box, strict=True)
    with open_volume(path, **options) as source:
        got = source.read_box(start, stop)
        assert got.flags.writeable and got.flags.c_contiguous and got.dtype == array.dtype
        np.testing.assert_array_equal(got, array[(slice(None), *(slice(a, b) for a, b in box))])


def test_boxes_that_leave_the_scan(written: dict[str, tuple[Path, Any, dict[str, str]]]) -> None:
    with open_volume(written["plain.nii"][0]) as source:
        for start, stop in (
            ((0, 0, 0), (7, 7, 8)),
            ((-1, 0, 0), (2, 2, 2)),
            ((3, 3, 3), (3, 4, 4)),
        ):
            with pytest.raises(BadInput, match="no part of them"):
                source.read_box(start, stop)
    part = open_ref(ImageRef(written["plain.nii"][0], slices=(2, 5)))
    with pytest.raises(BadInput, match="no part"):
        part.read_box((2, 0, 0), (4, 2, 2))
    part.close()


def _sum(source: Any, _: int) -> int:
    return int(source.read_box((1, 2, 3), (4, 5, 6)).astype(int).sum())


def _forked(source: Any, queue: Any) -> None:
    queue.put(_sum(source, 0))


@pytest.mark.parametrize(
    "name", ["plain.nii", "labels.nii.gz", "plain.h5", "labels.tif", "plain.mha", "whole.h5"]
)
def test_sources_travel_to_workers(
    written: dict[str, tuple[Path, Any, dict[str, str]]], name: str
) -> None:
    path, array, options = written[name]
    expected = int(array[:, 1:4, 2:5, 3:6].astype(int).sum())
    source = open_volume(path, **options)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.geometry, copy.dtype, copy.channels) == (
        source.geometry,
        source.dtype,
        source.channels,
    )
    assert _sum(copy, 0) == expected
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_forked, args=(source, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=30) for _ in workers] == [expected] * 2
    for worker in workers:
        worker.join()
    assert _sum(source, 0) == expected
    copy.close()
    source.close()


def test_parts_and_options_travel_too(
    written: dict[str, tuple[Path, Any, dict[str, str]]],
) -> None:
    path, array, _ = written["whole.h5"]
    ref = ImageRef(path, frozen({"dataset": "/raw"}), slices=(2, 5))
    again = pickle.loads(pickle.dumps(ref))
    assert again == ref
    part = pickle.loads(pickle.dumps(open_ref(ref)))
    np.testing.assert_array_equal(part.read_box((0, 1, 1), (3, 3, 3)), array[:, 2:5, 1:3, 1:3])
    part.close()


def test_a_file_that_shrinks_is_told(tmp_path: Path) -> None:
    write(Volume.from_array(np.zeros(SHAPE, np.int16)), tmp_path / "a.nii")
    with open_volume(tmp_path / "a.nii") as source:
        content = (tmp_path / "a.nii").read_bytes()
        (tmp_path / "a.nii").write_bytes(content[:-10])
        with pytest.raises(FileProblem, match="truncated"):
            source.read_box((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".mha", ".nrrd"])
def test_what_simpleitk_writes(tmp_path: Path, suffix: str, compress: bool) -> None:
    array = np.random.default_rng(0).integers(0, 9, (*SHAPE, 2)).astype(np.int16)
    image = sitk.GetImageFromArray(array, isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=compress)
    with open_volume(tmp_path / f"a{suffix}") as source:
        assert source.by_region != compress
        np.testing.assert_array_equal(source.read(), np.moveaxis(array, -1, 0))
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (3, 4, 8)), np.moveaxis(array, -1, 0)[:, 1:3, 2:4, 3:8]
        )


HEADER = """ObjectType = Image
NDims = 3
BinaryData = {binary}
BinaryDataByteOrderMSB = {big}
{more}ElementSpacing = 5 5 10
DimSize = 8 7 6
ElementType = MET_SHORT
ElementDataFile = {file}
"""


@pytest.mark.parametrize("skip", ["", "HeaderSize = 5\n", "HeaderSize = -1\n"])
@pytest.mark.parametrize("big", [False, True])
def test_raw_files_with_a_metaimage_header(tmp_path: Path, skip: str, big: bool) -> None:
    array = np.random.default_rng(0).integers(-9, 9, SHAPE).astype(np.int16)
    stored = array.astype(">i2" if big else "<i2").tobytes()
    (tmp_path / "a.raw").write_bytes((b"12345" if skip else b"") + stored)
    text = HEADER.format(binary=True, big=big, more=skip, file="a.raw")
    (tmp_path / "a.mhd").write_text(text)
    with open_volume(tmp_path / "a.mhd") as source:
        np.testing.assert_array_equal(source.read()[0], array)
        oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mhd")))
        np.testing.assert_array_equal(oracle, array)
        assert source.by_region


def test_slices_in_files_of_their_own(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-9, 9, SHAPE).astype(np.int16)
    for number, plane in enumerate(array):
        (tmp_path / f"p{number}.raw").write_bytes(plane.tobytes())
    more = ""
    (tmp_path / "a.mhd").write_text(
        HEADER.format(binary=True, big=False, more=more, file="p%d.raw 0 5 1")
    )
    with open_volume(tmp_path / "a.mhd") as source:
        assert source.by_region
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (3, 4, 8))[0], array[1:3, 2:4, 3:8]
        )


@pytest.mark.parametrize(
    ("encoding", "more"),
    [("gz", ""), ("bzip2", ""), ("raw", "byte skip: -1\n"), ("raw", "line skip: 2\n"), ("txt", "")],
)
def test_encodings_of_nrrd(tmp_path: Path, encoding: str, more: str) -> None:
    import bz2

    array = np.random.default_rng(0).integers(-9, 9, SHAPE).astype(np.int16)
    pack = {"gz": gzip.compress, "bzip2": bz2.compress, "raw": bytes, "txt": bytes}[encoding]
    body = pack(array.astype("<i2").tobytes())
    if encoding == "txt":
        body = " ".join(map(str, array.ravel().tolist())).encode()
    if "line" in more:
        body = b"two lines\nof words\n" + body
    if "byte" in more:
        body = b"some words" + body
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 8 7 6\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: {encoding}\n{more}\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + body)
    with open_volume(tmp_path / "a.nrrd") as source:
        assert source.by_region == (encoding == "raw")
        np.testing.assert_array_equal(source.read()[0], array)
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (3, 4, 8))[0], array[1:3, 2:4, 3:8]
        )


def test_a_page_of_a_compressed_stack_is_read_alone(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        place, size = tif.pages[4].dataoffsets[0], tif.pages[4].databytecounts[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[place : place + size] = bytes(size)  # one page is spoilt
    (tmp_path / "a.tif").write_bytes(content)
    with open_volume(tmp_path / "a.tif") as source:
        np.testing.assert_array_equal(source.read_box((0, 0, 0), (4, 7, 8))[0], array[:4])
        with pytest.raises(FileProblem):
            source.read_box((4, 0, 0), (5, 7, 8))


HUGE = """
import resource, sys
import numpy as np
from ctseg.volume.io import open_volume
path, boxes = sys.argv[1:]
open_volume(path).read_box((0, 0, 0), (8, 8, 8))  # imports are not what is measured
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_volume(path)
assert source.geometry.shape_zyx == (1280, 4096, 4096), source.geometry
rng = np.random.default_rng(0)
for _ in range(int(boxes)):
    start = [int(rng.integers(0, n - 128)) for n in source.geometry.shape_zyx]
    box = source.read_box(start, [a + 128 for a in start])
    assert box.shape == (1, 128, 128, 128) and not box.any()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024)
"""


@pytest.mark.parametrize("layout", ["chunked", "contiguous", "raw"])
def test_64_boxes_of_20_gb_take_little_memory(tmp_path: Path, layout: str) -> None:
    shape = (1280, 4096, 4096)  # 21.5 GB of uint8, none of it allocated
    path = tmp_path / ("a.nii" if layout == "raw" else "a.h5")
    if layout == "raw":
        write(Volume.from_array(np.zeros((1, 1, 1), np.uint8)), path)
        content = bytearray(path.read_bytes())
        content[42:48] = np.array(shape[::-1], "<i2").tobytes()
        path.write_bytes(content)
        with path.open("r+b") as file:
            file.truncate(352 + int(np.prod(shape, dtype=np.int64)))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "raw", shape, np.uint8, chunks=(64, 64, 64) if layout == "chunked" else None
            )
    boxes = "3" if layout == "raw" else "64"  # pages of a sparse file are slow to map
    command = [sys.executable, "-c", HUGE, str(path), boxes]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 300


@pytest.mark.slow
@pytest.mark.real_data
def test_every_file_of_the_real_data_opens(real_data: Path) -> None:
    from ctseg.volume.io import format_of

    opened, strange = 0, []
    for path in sorted(real_data.rglob("*")):
        if path.is_dir() or path.suffix in (".json", ".md"):
            continue
        spec = format_of(path)
        if spec is None or (path.parent.name == "mask" or path.name == "liver_seg.dcm"):
            strange.append(path.name)  # RTSTRUCT and SEG, which plugins/ctseg-dicom reads
            continue
        if path.parent.name in ("series", "image") and path != sorted(path.parent.iterdir())[0]:
            continue  # one file stands for its series
        options = {"dataset": "/label"} if path.suffix == ".h5" else {}
        with open_volume(path, format=spec.name, **options) as source:
            z, y, x = source.geometry.shape_zyx
            opened += 1
            if opened % 8 and path.name.startswith("hippocampus"):
                continue
            box = source.read_box((z // 2, y // 2, x // 2), (z // 2 + 1, y // 2 + 1, x // 2 + 1))
            assert box.shape == (source.channels, 1, 1, 1), path
    assert opened >= 500
    assert len(strange) <= 2
