"""NRRD and MetaImage headers as ITK understands them; fourth axes of one; bounds of sizes, streams and text."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import ctseg
from ctseg.errors import FileProblem
from ctseg.volume.formats import raw

ARRAY = np.arange(7 * 9 * 11, dtype="<i2").reshape(7, 9, 11)
OBLIQUE = "(0.48,0.64,0) (-0.72,0.54,0) (0,0,2.5)"


def nrrd(path: Path, *lines: str, body: bytes = ARRAY.tobytes(), dims: int = 3) -> Path:
    text = "\n".join(["NRRD0004", "type: short", f"dimension: {dims}", "endian: little", *lines])
    path.write_bytes(text.encode() + b"\n\n" + body)
    return path


def agrees(path: Path, array: np.ndarray = ARRAY) -> None:
    """Voxels and grid are those of SimpleITK."""
    volume, image = ctseg.read(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array, array)
    stored = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(np.squeeze(stored), np.squeeze(array))
    dims = image.GetDimension()
    np.testing.assert_allclose(volume.spacing_xyz, image.GetSpacing()[:3], rtol=1e-9)
    np.testing.assert_allclose(volume.origin_xyz, image.GetOrigin()[:3], atol=1e-9)
    matrix = np.reshape(image.GetDirection(), (dims, dims))[:3, :3]
    np.testing.assert_allclose(volume.geometry.matrix, matrix, atol=1e-9)


@pytest.mark.parametrize(
    "space",
    ["right-anterior-superior", "RAS", "left-anterior-superior", "LAS", "LPS", "scanner-xyz", "3D-right-handed"],
)  # fmt: skip
def test_spaces_of_nrrd(tmp_path: Path, space: str) -> None:
    agrees(
        nrrd(
            tmp_path / "a.nrrd", f"space: {space}", "sizes: 11 9 7", f"space directions: {OBLIQUE}",
            "space origin: (1,-2,3)", "kinds: domain domain domain", "encoding: raw",
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        ("spacings: 0.5 2 3",),
        ("spacings: 0.5 -2 3",),
        ("spacings: 0.5 2 3", "axis mins: 1 2 3"),
        ("spacings: 0.5 2 3", "axis mins: 1 2 3", "centers: node cell node"),
        ("space dimension: 3", f"space directions: {OBLIQUE}", "space origin: (1,2,3)"),
        (),
    ],
)
def test_grids_without_a_space(tmp_path: Path, lines: tuple[str, ...]) -> None:
    agrees(nrrd(tmp_path / "a.nrrd", "sizes: 11 9 7", *lines, "encoding: raw"))


@pytest.mark.parametrize("encoding", ["ascii", "text", "hex", "gzip"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "\n".join(" ".join(map(str, row)) for row in ARRAY.reshape(-1, 11)).encode()
    body = {"hex": ARRAY.tobytes().hex().encode(), "gzip": gzip.compress(ARRAY.tobytes())}.get(
        encoding, text
    )
    path = nrrd(tmp_path / "a.nrrd", "sizes: 11 9 7", f"encoding: {encoding}", body=body)
    agrees(path)
    nrrd(path, "sizes: 11 9 7", f"encoding: {encoding}", body=body[:-5])
    with pytest.raises(FileProblem):
        ctseg.read(path)


def test_text_of_metaimage(tmp_path: Path) -> None:
    lines = "NDims = 3\nDimSize = 11 9 7\nBinaryData = False\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    body = " ".join(map(str, ARRAY.ravel()))
    path = tmp_path / "a.mha"
    path.write_text(lines + body)  # SimpleITK writes no text, and does not read this
    np.testing.assert_array_equal(ctseg.read(path).array, ARRAY)
    for wrong in (body[:-10], body.replace(" 50 ", " x "), body.replace(" 50 ", " 70000 ")):
        path.write_text(lines + wrong)
        with pytest.raises(FileProblem):
            ctseg.read(path)


@pytest.mark.parametrize("place", range(4))
def test_an_axis_of_channels_stands_anywhere(tmp_path: Path, place: int) -> None:
    """ITK brings it to the front."""
    channels = np.stack([ARRAY, ARRAY + 5, -ARRAY])
    stored = np.moveaxis(channels, 0, 3 - place)
    sizes, kinds, directions = ["11", "9", "7"], ["domain"] * 3, OBLIQUE.split()
    for words, word in ((sizes, "3"), (kinds, "list"), (directions, "none")):
        words.insert(place, word)
    path = nrrd(
        tmp_path / "a.nrrd", "space: LPS", f"sizes: {' '.join(sizes)}", f"kinds: {' '.join(kinds)}",
        f"space directions: {' '.join(directions)}", "encoding: raw", dims=4, body=stored.tobytes(),
    )  # fmt: skip
    oracle = np.moveaxis(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), -1, 0)
    np.testing.assert_array_equal(oracle, channels)
    with ctseg.open(path) as source:
        np.testing.assert_array_equal(source.read(), channels)
        np.testing.assert_array_equal(source.read((2, 5)), channels[:, 2:5])
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (3, 4, 5)), channels[:, 1:3, 2:4, 3:5]
        )


# ---------------------------------------------------------------- a fourth axis of one


@pytest.mark.parametrize("kind", ["list", "time", "vector", "domain"])
@pytest.mark.parametrize("place", [0, 3])
def test_a_fourth_axis_of_one_of_nrrd(tmp_path: Path, place: int, kind: str) -> None:
    sizes, kinds, directions = ["11", "9", "7"], ["domain"] * 3, OBLIQUE.split()
    for words, word in ((sizes, "1"), (kinds, kind), (directions, "none")):
        words.insert(place, word)
    path = nrrd(
        tmp_path / "a.nrrd", "space: LPS", f"sizes: {' '.join(sizes)}", f"kinds: {' '.join(kinds)}",
        f"space directions: {' '.join(directions)}", "space origin: (1,2,3)", "encoding: raw", dims=4,
    )  # fmt: skip
    volume = ctseg.read(path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.spacing_xyz, (0.8, 0.9, 2.5))
    assert volume.origin_xyz == (1, 2, 3)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz"])
def test_one_time_point(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(ARRAY)
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(sitk.JoinSeries([image], 5.0, 2.0), str(tmp_path / f"a{suffix}"))
    volume = ctseg.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.spacing_xyz, (0.8, 0.9, 2.5), rtol=1e-6)
    np.testing.assert_allclose(volume.origin_xyz, (1, 2, 3), rtol=1e-6)


def test_further_axes_of_one_of_nifti(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY.T[..., None, None], np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(ctseg.read(tmp_path / "a.nii").array, ARRAY)


# ---------------------------------------------------------------- gzip


@pytest.mark.parametrize("behind", [b"garbage", bytes(1000), b"\x1f", b"\n"])
def test_bytes_behind_a_gzip_stream_are_ignored(tmp_path: Path, behind: bytes) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY.T, np.eye(4)), tmp_path / "a.nii.gz")
    with (tmp_path / "a.nii.gz").open("ab") as file:
        file.write(behind)
    np.testing.assert_array_equal(ctseg.read(tmp_path / "a.nii.gz").array, ARRAY)
    oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    np.testing.assert_array_equal(oracle, ARRAY)


def test_members_of_gzip_are_one_stream(tmp_path: Path) -> None:
    """As bgzip and pigz write them."""
    nibabel.save(nibabel.Nifti1Image(ARRAY.T, np.eye(4)), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    parts = [content[i : i + 100] for i in range(0, len(content), 100)]
    whole = b"".join(map(gzip.compress, parts))
    (tmp_path / "b.nii.gz").write_bytes(whole)
    np.testing.assert_array_equal(ctseg.read(tmp_path / "b.nii.gz").array, ARRAY)
    (tmp_path / "b.nii.gz").write_bytes(b"".join(map(gzip.compress, parts[:-1])))
    with pytest.raises(FileProblem, match="truncated"):
        ctseg.read(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_gigabytes_behind_the_voxels_are_not_unpacked(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    pack = zlib.compressobj(9, wbits=15 if suffix == ".mha" else 31)
    head = b""
    if suffix == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(ARRAY.T, np.eye(4)), tmp_path / "b.nii")
        body = pack.compress((tmp_path / "b.nii").read_bytes())
    elif suffix == ".nrrd":
        head = nrrd(path, "sizes: 11 9 7", "encoding: gzip", body=b"").read_bytes()
        body = pack.compress(ARRAY.tobytes())
    else:
        head = b"NDims = 3\nDimSize = 11 9 7\nCompressedData = True\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        body = pack.compress(ARRAY.tobytes())
    for _ in range(300):
        body += pack.compress(bytes(1 << 20))
    path.write_bytes(head + body + pack.flush())
    monkeypatch.setattr(raw, "BEHIND", 1 << 21)
    unpacked = []
    readinto = raw._Inflated.readinto

    def counted(self: raw._Inflated, buffer: Any) -> int:
        unpacked.append(readinto(self, buffer))
        return unpacked[-1]

    monkeypatch.setattr(raw._Inflated, "readinto", counted)
    tracemalloc.start()
    np.testing.assert_array_equal(ctseg.read(path).array, ARRAY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(unpacked) < 1 << 25
    assert peak < 1 << 26


# ---------------------------------------------------------------- what no file holds


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize(
    "sizes",
    ["1000000 1000000 1000", "4294967296 9 7", "-11 9 7", "0 9 7", "1e3 9 7", "9" * 5000 + " 9 7", "11 9", "x y z"],
)  # fmt: skip
@pytest.mark.parametrize("packed", ["raw", "gzip", "text"])
def test_sizes_that_cannot_be(tmp_path: Path, suffix: str, sizes: str, packed: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        nrrd(path, f"sizes: {sizes}", f"encoding: {packed}")
    else:
        path.write_bytes(
            f"NDims = 3\nDimSize = {sizes}\nCompressedData = {packed == 'gzip'}\nBinaryData = {packed != 'text'}\n"
            "ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + ARRAY.tobytes()
        )  # fmt: skip
    with pytest.raises(FileProblem) as found:
        ctseg.open(path)
    assert len(found.value.message) < 400


@pytest.mark.parametrize("number", ["4294967296", "0", "-3", "11", "9" * 400, "3.0", ""])
def test_numbers_of_axes_that_cannot_be(tmp_path: Path, number: str) -> None:
    path = tmp_path / "a.mha"
    path.write_text(
        f"NDims = {number}\nDimSize = 3 3 3\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n{'x' * 27}"
    )
    with pytest.raises(FileProblem):
        ctseg.open(path)
    with pytest.raises(FileProblem):
        ctseg.open(nrrd(tmp_path / "a.nrrd", "sizes: 11 9 7", "encoding: raw", dims=number))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        "type: " + "x" * 60000, "x" * 60000, "space: " + "y" * 60000, "kinds: " + "domain " * 9000, "#" * (1 << 21),
        "content: " + "z" * (1 << 21), "space directions: " + "(" * 60000, "space origin: (1,2", "type: short", ":",
    ],
)  # fmt: skip
def test_lines_that_no_header_has(tmp_path: Path, line: str) -> None:
    """Some of them have ended the process in ITK's reader."""
    path = nrrd(tmp_path / "a.nrrd", "sizes: 11 9 7", "encoding: raw", line)
    with pytest.raises(FileProblem) as found:
        ctseg.open(path)
    assert len(found.value.message) < 400 and "\n" not in found.value.message


def test_a_header_without_an_end(tmp_path: Path) -> None:
    for name, first, line in (
        ("a.nrrd", b"NRRD0004\n", b"#" * 4000),
        ("a.mha", b"", b"k = v" * 100),
    ):
        (tmp_path / name).write_bytes(first + (line + b"\n") * 5000)
        with pytest.raises(FileProblem):
            ctseg.open(tmp_path / name)


def test_a_byte_order_that_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 11 9 7\nencoding: raw\n\n" + ARRAY.tobytes()
    )
    with pytest.raises(FileProblem, match="byte order") as found:
        ctseg.open(path)
    assert "endian: little" in str(found.value.hint)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_scan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(FileProblem, match="not a regular file"):
        ctseg.open(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_slices_that_the_header_does_not_speak_of_are_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    ctseg.write(ctseg.Volume.from_array(ARRAY.astype(np.int16)), path)
    with path.open("ab") as file:
        file.write(ARRAY[:2].tobytes())
    assert "2 slices more than the 7" in ctseg.read(path).metadata["notes"][-1]


def test_voxel_sizes_that_are_missing_are_told(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", "sizes: 11 9 7", "encoding: raw")
    assert "1 mm is assumed" in ctseg.read(path).metadata["notes"][0]
    lines = b"NDims = 3\nDimSize = 11 9 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(lines + ARRAY.tobytes())
    assert "1 mm are assumed" in ctseg.read(tmp_path / "a.mha").metadata["notes"][0]


def test_spacings_against_directions_are_told(tmp_path: Path) -> None:
    lines = ("space: LPS", "sizes: 11 9 7", f"space directions: {OBLIQUE}", "encoding: raw")
    volume = ctseg.read(nrrd(tmp_path / "a.nrrd", *lines, "spacings: 0.8 0.9 5"))
    assert "disagree; the directions count" in volume.metadata["notes"][0]
    np.testing.assert_allclose(volume.spacing_xyz, (0.8, 0.9, 2.5))
    volume = ctseg.read(nrrd(tmp_path / "a.nrrd", *lines, "spacings: 0.8 0.9 2.5"))
    assert volume.metadata["notes"] == []
