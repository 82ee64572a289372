"""`--statistics` and `--preview`: what is gathered while the label map is written is what the written files hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

import ctseg
from ctseg.card import Card, Provider, TrainingData
from ctseg.cli.app import app
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.engine.evaluation.label_statistics import statistics_of_files
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction import preview
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.prediction.folder import Execution, predict_folder
from ctseg.engine.prediction.inputs import find_items
from ctseg.engine.prediction.request import Request
from ctseg.errors import BadInput
from ctseg.report.display import read_display
from ctseg.specs import ImageRef
from ctseg.volume.io import open_volume

CLASSES = (
    {"name": "background", "values": [0], "value": 0},
    {"name": "bright", "values": [1], "value": 1, "colour": [200, 10, 30]},
    {"name": "dark", "values": [2], "value": 4},
    {"name": "absent", "values": [3], "value": 9},
)
REGIONS = (
    {"name": "whole", "values": [1, 2], "value": 1},
    {"name": "core", "values": [2], "value": 2},
)
STACKED = (
    {"name": "first", "values": [1], "value": 1},
    {"name": "second", "values": [2], "value": 2},
)
TURNED = ({"kind": "orient"}, {"kind": "resample", "spacing_xyz": [1.9, 1.9, 1.9]})
GRID = {
    "spacing_xyz": (1.0, 1.5, 2.0),
    "origin_xyz": (3.0, -4.0, 5.0),
    "direction": np.diag([1.0, -1, -1]),
}


class Levels(torch.nn.Module):
    """Logits of each voxel by itself, a * value + b for each output."""

    def __init__(self, *lines: tuple[float, float]) -> None:
        super().__init__()
        self.lines = lines

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([a * x[:, :1] + b for a, b in self.lines], 1)


NETWORKS = {
    "classes": Levels((0.0, 0.0), (0.2, -4.0), (-0.2, -4.0), (0.0, -9.0)),
    "channels": Levels((1.0, -20.0), (1.0, -45.0)),
    "regression": Levels((1.0, 0.0)),
}


def model(
    kind: str = "classes", labels=CLASSES, steps=(), channels: int = 1, stacked: bool = False
) -> Segmenter:
    task = {"kind": kind, "labels": list(labels), "stacked": stacked}
    names = ("CT", "other")[:channels]
    card = Card(
        name="levels.v1", architecture="unet3d", provider=Provider(package="ctseg"), in_channels=channels,
        out_channels=len(labels), channels=names, task=TaskConfig.model_validate(task),
        preprocess=PreprocessConfig(steps=tuple(steps)), predict=PredictConfig(tile_zyx=(8, 8, 8)),
        training_data=TrainingData(name="x"),
    )  # fmt: skip
    return Segmenter(card, [NETWORKS[kind]], choose("cpu", "fp32"))


def bricks(dtype: str = "int16") -> np.ndarray:
    array = np.random.default_rng(0).normal(0, 3, (14, 18, 12))
    array[2:7, 3:9, 2:8] = 50 + array[2:7, 3:9, 2:8]
    array[3:5, 4:6, 3:6] = 30
    array[10:12, 12:15, 8:12] = 60
    array[8:13, 1:5, 1:5] = -50
    return array.round().astype(dtype)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    ctseg.write(ctseg.Volume.from_array(bricks(), **GRID), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def labels_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["labels"]


@pytest.mark.parametrize("steps", [(), TURNED])
@pytest.mark.parametrize("rules", [(), (PostprocessRule(label="bright", keep_largest=1),)])
def test_statistics_are_those_of_the_written_map(scan: Path, tmp_path: Path, steps, rules) -> None:
    """With post-processing, and with a scan that the network sees the other way round, which has to wait."""
    out = tmp_path / "out.nii.gz"
    told = model(steps=steps).predict_file(scan, out, statistics=True, rules=rules)
    assert told["beside"] == {
        "statistics": str(tmp_path / "out_statistics.json"),
        "statistics_table": str(tmp_path / "out_statistics.csv"),
    }
    found = labels_of(tmp_path / "out_statistics.json")
    assert [one["name"] for one in found] == ["bright", "dark", "absent"]
    mask, image = ctseg.read(out), ctseg.read(scan)
    for one in found[:2]:
        inside = mask.array == one["value"]
        assert one["voxels"] == inside.sum() > 0
        assert one["volume_ml"] == pytest.approx(told["volumes_ml"][one["name"]])
        values, own = one["values"][0], image.array[inside].astype(float)
        assert values["mean"] == pytest.approx(own.mean())
        assert values["median"] == np.median(own)
        centre = np.argwhere(inside).mean(0)[::-1]
        np.testing.assert_allclose(one["centroid_xyz_mm"], mask.geometry.position(centre))
    assert found[0]["parts"] == (1 if rules else 2) and found[0]["at_edge"] == (not rules)
    assert found[2]["voxels"] == 0
    again = statistics_of_files([ImageRef(scan)], ImageRef(out))
    assert [one.plain() for one in again.labels] == found


def test_a_region_holds_the_voxels_of_those_within_it(scan: Path, tmp_path: Path) -> None:
    segmenter = model("channels", REGIONS)
    told = segmenter.predict_file(scan, tmp_path / "out.h5", statistics=True)
    outer, inner = labels_of(tmp_path / "out_statistics.json")
    mask = ctseg.read(tmp_path / "out.h5").array
    assert inner["voxels"] == (mask == 2).sum() > 0
    assert outer["voxels"] == (mask > 0).sum()
    assert outer["volume_ml"] == pytest.approx(told["volumes_ml"]["whole"])
    assert outer["parts"] == 2  # the core does not part the region around it


@pytest.mark.parametrize("rules", [(), (PostprocessRule(label="first", keep_largest=1),)])
@pytest.mark.parametrize("masks", [False, True])
def test_independent_labels_are_measured_where_others_cover_them(
    scan: Path, tmp_path: Path, rules, masks: bool
) -> None:
    segmenter = model("channels", STACKED, stacked=True)
    segmenter.predict_file(scan, tmp_path / "out.h5", statistics=True, masks=masks, rules=rules)
    first, second = labels_of(tmp_path / "out_statistics.json")
    array, mask = ctseg.read(scan).array, ctseg.read(tmp_path / "out.h5").array
    assert second["voxels"] == (mask == 2).sum() == (array > 45).sum()
    parts, count = ndimage.label(array > 20, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    assert count == 2 and first["parts"] == (1 if rules else 2)
    assert first["voxels"] == (sizes.max() if rules else sizes.sum()) > (mask == 1).sum()
    if masks:
        own = ctseg.read(tmp_path / "out_masks" / "first.h5").array
        assert first["voxels"] == own.sum()


def test_values_of_each_channel(tmp_path: Path) -> None:
    for number, array in enumerate((bricks(), 2 * bricks("float32") + 0.5)):
        ctseg.write(ctseg.Volume.from_array(array, **GRID), tmp_path / f"a_{number:04d}.nii.gz")
    segmenter = model(channels=2)
    items = find_items([str(tmp_path)], channels=2)
    request = Request(tmp_path / "out", statistics=True, preview=True, suffix=".nrrd")
    predict_folder(segmenter.model, items, request, execution=Execution(overlapped=True))
    first, second = labels_of(tmp_path / "out" / "statistics" / "a.json")[0]["values"]
    assert second["mean"] == pytest.approx(2 * first["mean"] + 0.5)
    assert second["p95"] == pytest.approx(2 * first["p95"] + 0.5)
    rows = list(
        csv.DictReader((tmp_path / "out" / "statistics" / "a.csv").read_text().splitlines())
    )
    assert [row["label"] for row in rows] == ["bright", "dark", "absent"]
    assert float(rows[0]["mean_1"]) == second["mean"] and rows[2]["mean_1"] == ""
    assert (tmp_path / "out" / "preview" / "a.png").is_file()
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"][0][
        "beside"
    ] == {
        "statistics": str(tmp_path / "out" / "statistics" / "a.json"),
        "statistics_table": str(tmp_path / "out" / "statistics" / "a.csv"),
        "preview": str(tmp_path / "out" / "preview" / "a.png"),
    }


def test_a_scan_without_voxel_size_has_no_volumes(tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "scan.tif", bricks())
    told = model().predict_file(
        tmp_path / "scan.tif", tmp_path / "out.tif", statistics=True, instances=True
    )
    assert told["volumes_ml"] == dict.fromkeys(("bright", "dark", "absent"))
    sizes = dict.fromkeys(("ml", "largest_ml", "median_ml"))
    assert told["instances"]["bright"].items() >= sizes.items()
    assert told["instances"]["bright"]["count"] > 0
    with (tmp_path / "out_instances.csv").open() as file:
        objects = list(csv.DictReader(file))
    assert objects and all(row["ml"] == "" and int(row["voxels"]) > 0 for row in objects)
    bright = labels_of(tmp_path / "out_statistics.json")[0]
    assert bright["volume_ml"] is None is bright["centroid_xyz_mm"] is bright["largest_part_ml"]
    assert bright["voxels"] > 0 and bright["centroid_zyx"]
    with open_volume(tmp_path / "out.tif") as made:
        assert made.metadata["spacing_unknown"]


def test_the_preview_is_what_render_draws(scan: Path, tmp_path: Path) -> None:
    model(steps=TURNED).predict_file(scan, tmp_path / "out.nii.gz", preview=True)
    found = tmp_path / "out_preview.png"
    called = CliRunner().invoke(
        app, ["render", str(scan), str(tmp_path / "out.nii.gz"), "-o", str(tmp_path / "other.png")]
    )
    assert called.exit_code == 0, called.output
    assert found.read_bytes() == (tmp_path / "other.png").read_bytes()


def test_a_large_scan_is_reduced_as_it_passes_by(scan: Path, tmp_path: Path, monkeypatch) -> None:
    """The reduced scan is that of `ctseg render`, whatever the slabs; the map holds the voxels in the middle."""
    drawn: dict[str, np.ndarray] = {}

    def keep(volume, layers, task, png, **_):
        drawn.update(image=volume.array, map=layers["out.nii.gz"])
        assert [label.name for label in task.labels] == ["background", "bright", "dark"]
        png.write_bytes(b"x")

    monkeypatch.setattr("ctseg.report.overlay.draw_overlay", keep)
    monkeypatch.setattr(preview, "_SLAB_BYTES", 2000)
    monkeypatch.setattr(preview.PreviewPicture.__init__, "__defaults__", (14 * 18 * 12 // 8,))
    model().predict_file(scan, tmp_path / "out.nii.gz", preview=True)
    shown = read_display(scan, [tmp_path / "out.nii.gz"], most=14 * 18 * 12 // 8)
    np.testing.assert_array_equal(drawn["image"], shown.volume.array)
    assert shown.volume.array.size <= 14 * 18 * 12 // 8
    assert drawn["map"].shape == shown.volume.array.shape
    share = (drawn["map"] == 1).mean(), (ctseg.read(tmp_path / "out.nii.gz").array == 1).mean()
    assert share[0] == pytest.approx(share[1], rel=0.4)


def test_the_map_in_several_formats_at_once(scan: Path, tmp_path: Path) -> None:
    segmenter = model()
    request = Request(
        tmp_path / "out", suffix=".nii.gz", also=(".seg.nrrd", ".h5"), statistics=True
    )
    items = find_items([str(scan)], channels=1)
    predict_folder(segmenter.model, items, request)
    first = ctseg.read(tmp_path / "out" / "scan.nii.gz")
    for path in ("seg.nrrd/scan.seg.nrrd", "h5/scan.h5"):
        other = ctseg.read(tmp_path / "out" / path)
        np.testing.assert_array_equal(other.array, first.array)
        assert other.geometry.agrees(first.geometry)
    assert (tmp_path / "out" / "statistics" / "scan.json").is_file()
    again = Request(**{**request.__dict__, "skip_existing": True})
    assert predict_folder(segmenter.model, items, again).skipped == ["scan"]
    (tmp_path / "out" / "h5" / "scan.h5").unlink()
    assert predict_folder(segmenter.model, items, again).skipped == []


def test_a_regression_has_neither(scan: Path, tmp_path: Path) -> None:
    segmenter = model("regression", [{"name": "density", "values": [], "value": 1}])
    for what in ("statistics", "preview"):
        with pytest.raises(BadInput, match=f"has no {what}"):
            segmenter.predict_file(scan, tmp_path / "out.nii.gz", **{what: True})
    with pytest.raises(BadInput, match="one format"):
        predict_folder(
            segmenter.model,
            find_items([str(scan)], channels=1),
            Request(tmp_path / "out", also=(".h5",)),
        )
