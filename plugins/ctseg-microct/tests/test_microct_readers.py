"""Voxels without a header and AmiraMesh files, against SimpleITK and files laid out by hand."""

import zlib

import numpy as np
import pytest
import SimpleITK as sitk

import ctseg
from ctseg.errors import BadInput, FileProblem
from ctseg.volume.io import open_volume
from ctseg.volume.spool import by_region

ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 50
VGI = """{{volume1}}
[representation]
size = 6 5 4
datatype = signed integer
bitsperelement = 16
[file1]
SkipHeader = {skip}
FileFormat = raw
Size = 6 5 4
Name = {name}
Datatype = signed integer
BitsPerElement = 16
{{volumeprimitive12}}
[geometry]
resolution = 0.01 0.01 0.02
unit = mm
"""
AMIRA = """# AmiraMesh {kind} 2.1
# CreationDate: Sat Feb 26 00:08:50 2005

define Lattice 6 5 4

Parameters {{
    {unit}
    Materials {{
        Exterior {{
            Id 0,
            Color 0.7 0.8 0.8
        }}
        Inside {{
            Color "0.64 0 0.8",
            Id 1
        }}
    }}
    Content "6x5x4 {type}, uniform coordinates",
    BoundingBox 1 11 2 6 -3 0,
    CoordType "uniform"
}}

Lattice {{ {type} {field} }} @1{encoding}

# Data section follows
@1
"""


def amira(path, data, type="short", kind="BINARY-LITTLE-ENDIAN", encoding="", **more):  # noqa: A002
    text = AMIRA.format(
        **{"kind": kind, "type": type, "encoding": encoding, "field": "Labels", "unit": "", **more}
    )
    path.write_bytes(text.encode() + data + b"\n")
    return path


def runs(values):
    """HxByteRLE: the first plane as literals, the rest as repeats."""
    out = bytearray()
    for start in range(0, 30, 10):
        out += bytes([128 + 10]) + bytes(values[start : start + 10])
    for value in values[30:]:
        out += bytes([1, value])
    return bytes(out)


def test_options_describe_what_simpleitk_wrote(tmp_path):
    image = sitk.GetImageFromArray(ARRAY)
    sitk.WriteImage(image, tmp_path / "scan.mhd")
    raw = tmp_path / "scan.raw"
    with pytest.raises(FileProblem) as error:
        ctseg.read(raw)
    assert str(tmp_path / "scan.mhd") in str(error.value.hint)
    volume = ctseg.read(raw, shape="6,5,4", dtype="int16", spacing="5um")
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.geometry.spacing_xyz == pytest.approx((0.005, 0.005, 0.005))
    with open_volume(raw, shape="z=4,y=5,x=6", dtype="int16") as source:
        assert np.array_equal(source.read_box((1, 2, 3), (3, 4, 6))[0], ARRAY[1:3, 2:4, 3:6])
        assert source.metadata["spacing_unknown"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shape": "6,5", "dtype": "int16"}, "three numbers"),
        ({"shape": "6,5,0", "dtype": "int16"}, "without voxels"),
        ({"shape": "6,5,4", "dtype": "int12"}, "no type 'int12'"),
        ({"shape": "6,5,4", "dtype": "int16", "order": "middle"}, "byte order"),
        ({"shape": "6,5,4", "dtype": "int16", "skip": "x"}, "number of bytes"),
    ],
)
def test_impossible_options_are_named(tmp_path, options, text):
    (tmp_path / "a.raw").write_bytes(ARRAY.tobytes())
    with pytest.raises(BadInput, match=text):
        ctseg.read(tmp_path / "a.raw", **options)


def test_bytes_before_the_voxels_and_their_order(tmp_path):
    file = tmp_path / "a.vol"
    file.write_bytes(b"\0" * 7 + ARRAY.astype(">i2").tobytes())
    with pytest.raises(FileProblem) as error:
        ctseg.read(file, shape="6,5,4", dtype="int16", order="big")
    assert "skip=7" in str(error.value.hint)
    found = ctseg.read(file, shape="6,5,4", dtype="int16", order="big", skip="7")
    assert np.array_equal(found.array, ARRAY)
    with pytest.raises(FileProblem, match="has 247 bytes"):
        ctseg.read(file, shape="6,5,5", dtype="int16")


def test_a_name_describes_its_voxels(tmp_path):
    file = tmp_path / "skull_6x5x4_int16.raw"
    file.write_bytes(ARRAY.tobytes())
    volume = ctseg.read(file)
    assert np.array_equal(volume.array, ARRAY)
    with open_volume(file) as source:
        assert "described by its name" in source.metadata["notes"]
    file.write_bytes(ARRAY.tobytes()[:-2])
    with pytest.raises(FileProblem, match="has 238 bytes"):
        ctseg.read(file)


def test_vgstudio_describes_its_file(tmp_path):
    (tmp_path / "part.vol").write_bytes(b"head" + ARRAY.tobytes())
    (tmp_path / "part.vgi").write_text(VGI.format(skip=4, name="part.vol"))
    volume = ctseg.read(tmp_path / "part.vol")
    assert np.array_equal(volume.array, ARRAY)
    assert volume.geometry.spacing_xyz == pytest.approx((0.01, 0.01, 0.02))
    (tmp_path / "part.vgi").write_text(VGI.format(skip=4, name="other.vol"))
    with pytest.raises(FileProblem, match="not part"):
        ctseg.read(tmp_path / "part.vol")


def test_pyhst_describes_its_file(tmp_path):
    floats = ARRAY.astype(">f4")
    (tmp_path / "tomo.vol").write_bytes(floats.tobytes())
    (tmp_path / "tomo.vol.info").write_text(
        "! PyHST_SLAVE VOLUME INFO FILE\nNUM_X =  6\nNUM_Y =  5\nNUM_Z =  4\n"
        "voxelSize =  5.2000\nBYTEORDER = HIGHBYTEFIRST\n"
    )
    volume = ctseg.read(tmp_path / "tomo.vol")
    assert np.array_equal(volume.array, ARRAY)
    assert volume.geometry.spacing_xyz == pytest.approx((0.0052,) * 3)
    assert volume.geometry.unit == "um"


def test_an_amira_mesh_has_its_box_unit_and_materials(tmp_path):
    labels = (ARRAY % 2).astype(np.uint8)
    file = amira(tmp_path / "a.am", labels.tobytes(), "byte", unit='Units { Coordinates "µm" }')
    with open_volume(file) as source:
        assert np.array_equal(source.read()[0], labels)
        assert np.array_equal(source.read_box((1, 1, 1), (3, 4, 5))[0], labels[1:3, 1:4, 1:5])
        assert source.metadata["labels"] == {"Exterior": 0, "Inside": 1}
        # from the first voxel's centre to the last one's: 10 / 5, 4 / 4 and 3 / 3 um
        assert source.geometry.spacing_xyz == pytest.approx((0.002, 0.001, 0.001))
        assert source.geometry.origin_xyz == pytest.approx((0.001, 0.002, -0.003))


def test_an_amira_mesh_without_a_unit_keeps_the_shape_of_its_voxels(tmp_path):
    with open_volume(amira(tmp_path / "a.am", ARRAY.tobytes())) as source:
        assert source.metadata["spacing_unknown"]
        assert source.geometry.spacing_xyz == pytest.approx((2, 1, 1))
        (note,) = source.metadata["notes"]
        assert "2 x 1 x 1 without a unit" in note and "2 x 1 x 1 mm is taken" in note


def test_a_spacing_that_is_given_is_known_of_the_unpacked_copy_too(tmp_path):
    packed = zlib.compress(ARRAY.tobytes())
    file = amira(tmp_path / "a.am", packed, encoding=f"(HxZip,{len(packed)})")
    with open_volume(file, spacing="5um") as source, by_region(source, tmp_path) as copy:
        for one in (source, copy):
            assert one.geometry.spacing_xyz == pytest.approx((0.005, 0.005, 0.005))
            assert not {"spacing_unknown", "notes"} & set(one.metadata)
            assert one.metadata["labels"] == {"Exterior": 0, "Inside": 1}


def test_amira_meshes_in_every_encoding(tmp_path):
    labels = (ARRAY % 3).astype(np.uint8)
    text = " ".join(map(str, ARRAY.ravel())).encode()
    packed = zlib.compress(ARRAY.tobytes())
    coded = runs(labels.ravel().tolist())
    for data, expected, options in (
        (ARRAY.astype(">i2").tobytes(), ARRAY, {"kind": "BINARY"}),
        (text, ARRAY, {"kind": "ASCII"}),
        (packed, ARRAY, {"encoding": f"(HxZip,{len(packed)})"}),
        (coded, labels, {"type": "byte", "encoding": f"(HxByteRLE,{len(coded)})"}),
    ):
        file = amira(tmp_path / "a.am", data, **options)
        with open_volume(file, unit="mm") as source:
            assert np.array_equal(source.read()[0], expected), options
            assert np.array_equal(source.read((1, 3))[0], expected[1:3]), options
    vectors = np.stack([ARRAY, -ARRAY, ARRAY * 2], -1).astype("<f4")
    file = amira(tmp_path / "v.am", vectors.tobytes(), "float[3]", field="Data")
    found = ctseg.read(file)
    assert np.array_equal(found.array, np.moveaxis(vectors, -1, 0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data[:-40], "truncated|bytes of voxels"),
        (lambda data: data.replace(b"Lattice 6 5 4", b"Lattice 6 5"), "size of the lattice"),
        (lambda data: data.replace(b"Lattice 6 5 4", b"Lattice 60000 50000 40000"), "voxels"),
        (lambda data: data.replace(b'"uniform"', b'"curvilinear"'), "not uniform"),
        (lambda data: data.replace(b"BoundingBox 1 11", b"BoundingBox 11 1"), "bounding box"),
        (lambda data: data.replace(b"{ short", b"{ complex"), "not numbers"),
        (lambda data: data.replace(b"@1\n\n#", b"@1(HxRLE2,9)\n\n#"), "encoding"),
    ],
)
def test_damaged_amira_meshes_are_refused(tmp_path, change, text):
    file = amira(tmp_path / "a.am", ARRAY.tobytes())
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(FileProblem, match=text):
        ctseg.read(file, unit="mm")


def test_run_lengths_that_end_early_are_refused(tmp_path):
    coded = runs((ARRAY % 3).astype(np.uint8).ravel().tolist())
    for size in (len(coded) - 20, len(coded)):
        file = amira(tmp_path / "a.am", coded[:-20], "byte", encoding=f"(HxByteRLE,{size})")
        with pytest.raises(FileProblem, match=r"missing|bytes of voxels"):
            ctseg.read(file)
