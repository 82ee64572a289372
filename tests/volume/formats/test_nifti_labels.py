"""Label names in NIfTI: a header extension that nibabel hands out and other programs' tables, read and written."""

from __future__ import annotations

import gzip
from pathlib import Path
from xml.etree import ElementTree as ET

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.engine.evaluation.evaluate import CaseMaps, evaluate_case
from ctseg.report.display import read_display
from ctseg.specs import Label
from ctseg.volume.convert import Conversion, convert
from ctseg.volume.io import open_volume
from ctseg.volume.labels import labels_in
from ctseg.volume.volume import Volume

LABELS = (
    Label("liver", (1,), 1, (230, 75, 53)),
    Label('<tumour> & "cyst" ]]> Ä', (2,), 2, (0, 255, 7)),
    Label("far", (3,), 40000),
)
ARRAY = np.random.default_rng(0).choice(np.array([0, 1, 2, 40000], np.uint16), (5, 7, 6))


def table(path: Path) -> dict[int, str]:
    """Names by value, as TotalSegmentator's `load_multilabel_nifti` takes them from what nibabel finds."""
    content = nibabel.load(path).header.extensions[0].get_content()
    found = ET.fromstring(content).find("VolumeInformation/LabelTable")
    assert found is not None
    return {int(item.attrib["Key"]): item.text or "" for item in found}


def by_others(path: Path, names: dict[int, str], array: np.ndarray = ARRAY, code: int = 0) -> Path:
    """A file with the table that TotalSegmentator 2 writes, made with nibabel."""
    rows = "".join(
        f'<Label Key="{key}" Red="1.0" Green="0.5019607843137255" Blue="0.0" Alpha="1"><![CDATA[{name}]]></Label>\n'
        for key, name in names.items()
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>   '
        f'<VolumeInformation Index="0">   <LabelTable>\n{rows}\n  </LabelTable>  <StudyMetaDataLinkSet>  '
        "</StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>   </VolumeInformation>"
        "</CaretExtension>\n              "
    )
    kind = nibabel.Nifti2Image if path.name.startswith("two") else nibabel.Nifti1Image
    image = kind(array.T, np.diag([-1.0, -1, 2, 1]))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment"))
    image.header.extensions.insert(0, nibabel.nifti1.Nifti1Extension(code, xml.encode()))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_names_are_written_where_others_look_and_voxels_stay(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    ctseg.write(Volume.from_array(ARRAY, spacing_xyz=(1, 2, 3)), path, labels=LABELS)
    assert table(path) == {1: "liver", 2: LABELS[1].name, 40000: "far"}
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj).T, ARRAY)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), ARRAY)
    back = ctseg.read(path)
    np.testing.assert_array_equal(back.array, ARRAY)
    found = labels_in(back.metadata)
    assert [(one.name, one.value) for one in found] == [(one.name, one.value) for one in LABELS]
    assert [one.colour for one in found][:2] == [(230, 75, 53), (0, 255, 7)]
    raw = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert nibabel.load(path).dataobj.offset % 16 == 0
    assert len(raw) == nibabel.load(path).dataobj.offset + ARRAY.nbytes


def test_scans_probabilities_and_maps_without_names_have_no_extension(tmp_path: Path) -> None:
    image = Volume.from_array(ARRAY.astype(np.float32))
    ctseg.write(image, tmp_path / "a.nii", labels=LABELS)
    ctseg.write(Volume.from_array(np.stack([ARRAY] * 3)), tmp_path / "b.nii", labels=LABELS)
    ctseg.write(Volume.from_array(ARRAY), tmp_path / "c.nii", labels=[Label("void", (0,), 0)])
    for name in ("a", "b", "c"):
        assert not nibabel.load(tmp_path / f"{name}.nii").header.extensions
        assert nibabel.load(tmp_path / f"{name}.nii").dataobj.offset == 352


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "two.nii.gz", "a.hdr"])
@pytest.mark.parametrize("code", [0, 30])
def test_tables_of_others_are_read(tmp_path: Path, name: str, code: int) -> None:
    if name == "a.hdr":
        image = nibabel.Nifti1Pair(ARRAY.T, np.eye(4))
        named = by_others(tmp_path / "b.nii", {1: "spleen", 7: "rib <left>"}, code=code)
        image.header.extensions.extend(nibabel.load(named).header.extensions)
        nibabel.save(image, tmp_path / "a.img")
    else:
        by_others(tmp_path / name, {1: "spleen", 7: "rib <left>"}, code=code)
    with open_volume(tmp_path / name) as source:
        np.testing.assert_array_equal(source.read()[0], ARRAY)
        assert labels_in(source.metadata) == (
            Label("spleen", (1,), 1, (255, 128, 0)),
            Label("rib <left>", (7,), 7, (255, 128, 0)),
        )


def test_equal_names_stay_apart_and_a_damaged_table_is_a_note(tmp_path: Path) -> None:
    path = by_others(tmp_path / "a.nii", {1: "rib", 2: "rib", 3: ""})
    names = {one.value: one.name for one in labels_in(ctseg.read(path).metadata)}
    assert names == {1: "rib", 2: "rib (2)", 3: "label_3"}
    whole = path.read_bytes()
    for old, new in ((b"</LabelTable>", b"</LabelTabel>"), (b"<?xml version", b"<!DOCTYPE a [")):
        path.write_bytes(whole.replace(old, new))
        found = ctseg.read(path)
        assert labels_in(found.metadata) == ()
        assert "table of label names is damaged" in " ".join(found.metadata["notes"])
        np.testing.assert_array_equal(found.array, ARRAY)


def test_names_reach_inspection_conversion_evaluation_and_legends(tmp_path: Path) -> None:
    blocks = np.zeros((6, 8, 9), np.uint8)
    blocks[1:4, 2:6, 2:7], blocks[4:, 5:, :3] = 1, 2
    path = by_others(tmp_path / "a.nii.gz", {1: "spleen", 2: "kidney"}, blocks)
    told = CliRunner().invoke(app, ["data", "inspect", str(path)])
    assert told.exit_code == 0 and "spleen" in told.output and "kidney" in told.output
    convert(Conversion(path, tmp_path / "b.seg.nrrd"))
    assert [one.name for one in labels_in(ctseg.read(tmp_path / "b.seg.nrrd").metadata)] == [
        "spleen", "kidney",
    ]  # fmt: skip
    assert convert(Conversion(tmp_path / "b.seg.nrrd", tmp_path / "c.nii.gz")).lost == ()
    assert table(tmp_path / "c.nii.gz") == {1: "spleen", 2: "kidney"}
    shown = read_display(path, [path])
    assert [one.name for one in shown.layers[0].labels] == ["spleen", "kidney"]

    named, plain = ctseg.read(path), Volume.from_array(np.where(blocks == 2, 0, blocks))
    plain = Volume(plain.array, named.geometry)
    scores = evaluate_case(None, CaseMaps(plain, named, case_id="a")).labels
    assert {one.label: one.dice for one in scores} == {"spleen": 1, "kidney": 0}
    other = Volume(blocks, named.geometry, {"labels": {"kidney": 1, "liver": 2}})
    scores = evaluate_case(None, CaseMaps(other, named, case_id="a")).labels
    assert [one.label for one in scores] == ["1", "2"]
