"""Segmentations of 3D Slicer whose segments overlap are read as channels and evaluated by their names."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import ctseg
from ctseg.engine.evaluation.evaluate import evaluate
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.task import classes_task
from ctseg.volume.labels import channel_names
from ctseg.volume.spool import by_region

SHAPE = (10, 12, 14)
LIVER, TUMOUR, SPLEEN = (np.zeros(SHAPE, np.uint8) for _ in range(3))
LIVER[2:6, 3:8, 3:8] = 1
TUMOUR[4:8, 5:10, 3:8] = 1
SPLEEN[0:2, 0:2, 9:12] = 1


Segments = list[tuple[str, int, int]]


def segmentation(
    path: Path, layers: list[np.ndarray], segments: Segments, *, gz: bool = False
) -> Path:
    """A .seg.nrrd as 3D Slicer writes it: (name, layer, value) of each segment."""
    stack = np.stack(layers, -1)
    sizes = " ".join(map(str, (len(layers), *SHAPE[::-1])))
    fields = "".join(
        f"Segment{i}_ID:=s{i}\nSegment{i}_Name:={name}\nSegment{i}_Layer:={layer}\nSegment{i}_LabelValue:={value}\n"
        for i, (name, layer, value) in enumerate(segments)
    )
    header = (
        f"NRRD0004\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: none (1,0,0) (0,1,0) (0,0,2)\nkinds: list domain domain domain\n"
        f"encoding: {'gzip' if gz else 'raw'}\nspace origin: (0,0,0)\n{fields}\n"
    )
    body = gzip.compress(stack.tobytes()) if gz else stack.tobytes()
    path.write_bytes(header.encode() + body)
    return path


def plain(path: Path, array: np.ndarray, labels: tuple[Label, ...] = ()) -> Path:
    ctseg.write(ctseg.Volume.from_array(array, spacing_xyz=(1, 1, 2)), path, labels=labels)
    return path


def dice(one: np.ndarray, two: np.ndarray) -> float:
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(sitk.GetImageFromArray((a > 0).astype(np.uint8)) for a in (one, two)))
    return measure.GetDiceCoefficient(1)


@pytest.mark.parametrize("gz", [False, True])
def test_layers_are_read_as_segments(tmp_path: Path, gz: bool) -> None:
    """The spleen shares a layer with the liver, as value 2."""
    segments = [("liver", 0, 1), ("tumour", 1, 1), ("spleen", 0, 2)]
    path = segmentation(tmp_path / "a.seg.nrrd", [LIVER + 2 * SPLEEN, TUMOUR], segments, gz=gz)
    whole = np.stack([LIVER, TUMOUR, SPLEEN])
    with ctseg.open(path) as source:
        assert channel_names(source.metadata) == ("liver", "tumour", "spleen")
        assert "2 layers" in source.metadata["notes"][0]
        assert source.dtype == np.uint8
        np.testing.assert_array_equal(source.read(), whole)
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (5, 6, 7)), whole[:, 1:5, 2:6, 3:7]
        )
        part = by_region(source, tmp_path)
        np.testing.assert_array_equal(part.read((2, 5)), whole[:, 2:5])


def test_layers_against_a_map_of_values(tmp_path: Path) -> None:
    """Without names of its own, value 1 is the first segment."""
    made = segmentation(
        tmp_path / "a.seg.nrrd", [LIVER, TUMOUR], [("liver", 0, 1), ("tumour", 1, 1)]
    )
    drawn = np.where(LIVER > 0, 1, 2 * TUMOUR).astype(np.uint8)
    found = evaluate(made, plain(tmp_path / "ref.nii.gz", drawn)).dice
    assert found == pytest.approx({"liver": 1.0, "tumour": dice(TUMOUR, drawn == 2)})
    with pytest.raises(BadInput, match="value 3"):
        evaluate(made, plain(tmp_path / "more.nii.gz", drawn + 3 * SPLEEN))


def test_names_count_where_both_have_them(tmp_path: Path) -> None:
    made = segmentation(
        tmp_path / "a.seg.nrrd", [TUMOUR, LIVER], [("tumour", 0, 1), ("liver", 1, 1)]
    )
    other = segmentation(
        tmp_path / "b.seg.nrrd", [LIVER, TUMOUR + 0], [("liver", 0, 1), ("tumour", 1, 1)]
    )
    assert evaluate(made, other).dice == {"liver": 1.0, "tumour": 1.0}
    labels = (Label("liver", (7,), 7), Label("tumour", (3,), 3))
    drawn = np.where(LIVER > 0, 7, 3 * TUMOUR).astype(np.uint8)
    flat = plain(tmp_path / "c.seg.nrrd", drawn, labels)
    for one, two in ((made, flat), (flat, made)):
        assert evaluate(one, two).dice == pytest.approx(
            {"liver": 1.0, "tumour": dice(TUMOUR, drawn == 3)}
        )


def test_a_task_takes_the_channels_that_it_names(tmp_path: Path) -> None:
    made = segmentation(
        tmp_path / "a.seg.nrrd", [TUMOUR, LIVER], [("tumour", 0, 1), ("liver", 1, 1)]
    )
    drawn = plain(tmp_path / "ref.nii.gz", np.where(TUMOUR > 0, 2, LIVER).astype(np.uint8))
    found = evaluate(made, drawn, task=classes_task({"liver": 1, "tumour": 2})).dice
    assert found == pytest.approx({"liver": dice(LIVER, LIVER * (1 - TUMOUR)), "tumour": 1.0})


def test_a_segment_in_a_layer_that_is_not_there(tmp_path: Path) -> None:
    path = segmentation(
        tmp_path / "a.seg.nrrd", [LIVER, TUMOUR], [("liver", 0, 1), ("tumour", 2, 1)]
    )
    with pytest.raises(FileProblem, match="lies in layer 2"):
        ctseg.open(path)


def test_channels_without_names_are_refused_as_before(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "a.nrrd", [LIVER, TUMOUR], [])
    with pytest.raises(BadInput, match="one channel for each label"):
        evaluate(path, plain(tmp_path / "ref.nii.gz", LIVER))
