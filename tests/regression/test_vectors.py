"""Several output channels: a field of directions in HDF5, through the Python API."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import ctseg
from ctseg.config import parse_config
from ctseg.errors import BadInput

PULL = np.array([1.0, -2.0, 0.5])[:, None, None, None]
SHAPE = (12, 20, 20)


def write_case(path: Path, seed: int, *, declared: bool = True, ignored: bool = False) -> None:
    """A scan of blobs and, at each voxel, a vector that its value makes; three channels, unlike in size."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (3, 5, 5))
    scan = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.float32)
    target = (PULL * scan + np.array([5.0, 0.0, -3.0])[:, None, None, None]).astype(np.float32)
    if ignored:
        target[:, :, :5] = np.nan
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", data=scan)
        stored = file.create_dataset("label", data=target)
        if declared:
            stored.attrs["task"] = "regression"
            stored.attrs["labels"] = '["z", "y", "x"]'


@pytest.fixture
def fields(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "fields"
    folder.mkdir()
    for index in range(4):
        write_case(folder / f"field_{index}.h5", index, ignored=index == 0)
    return folder


def settings(path: Path, **more) -> dict:
    return {
        "data": {"path": str(path), "folds": 4, "fold": 3},
        "model": {"options": {"features": [8, 16], "convs_per_level": 1}},
        "train": {
            "steps": 60, "steps_per_epoch": 30, "patch_zyx": [8, 16, 16], "batch_size": 2, "lr": 0.02,
            "device": "cpu", "precision": "fp32",
        },
    } | more  # fmt: skip


def test_a_field_of_vectors_is_learnt_and_written(fields, tmp_path):
    run = ctseg.train(parse_config(settings(fields, loss={"name": "mse"})), output=tmp_path / "run")
    config = parse_config_of(run.folder)
    assert [label.name for label in config.task.labels] == ["z", "y", "x"]
    assert config.augment.rotation == 0
    assert config.augment.mirror_axes == ()
    held_out = next(iter(run.report.cases)).case
    with h5py.File(fields / f"{held_out}.h5") as file:
        target = file["label"][:]
    variances = dict(zip("zyx", target.var((1, 2, 3)), strict=True))
    assert set(run.report.by_label("mse")) == set("zyx")
    for name, error in run.report.by_label("mse").items():
        assert error < 0.3 * variances[name], name

    segmenter = ctseg.load(str(run.folder), device="cpu", precision="fp32")
    out = tmp_path / "made.h5"
    segmenter.predict_file(fields / f"{held_out}.h5", out)
    made = ctseg.read(out)
    assert made.array.shape == (3, *SHAPE)
    assert made.array.dtype == np.float32
    report = ctseg.evaluate(
        out, fields / f"{held_out}.h5", task=segmenter.task, reference_options={"dataset": "/label"}
    )
    assert report.by_label("mse") == pytest.approx(run.report.by_label("mse"), rel=1e-3)
    one = segmenter.predict(ctseg.read(fields / f"{held_out}.h5"), labels=["y"])
    assert one.array.shape == SHAPE
    assert np.allclose(one.array, made.array[1], atol=1e-5)


def parse_config_of(folder: Path):
    from ctseg.config import load_config

    return load_config(folder / "config.toml")


def test_targets_that_nothing_declares_are_refused_with_the_way_out(fields, tmp_path):
    for path in fields.iterdir():
        write_case(path, 1, declared=False)
    with pytest.raises(BadInput, match="fractional") as refused:
        ctseg.train(parse_config(settings(fields)), output=tmp_path / "run")
    assert "task.kind=regression" in refused.value.hint
    config = settings(fields, task={"kind": "regression"})
    config["train"] |= {"steps": 2, "steps_per_epoch": 2}
    run = ctseg.train(parse_config(config), output=tmp_path / "run")
    assert run.scores["mse"] > 0


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda t: np.full_like(t, np.nan), "NaN only"),
        (lambda t: np.where(t > 0, np.inf, t), "infinite"),
        (lambda t: t[:2], "2 channels"),
    ],
)
def test_impossible_targets_are_refused(fields, tmp_path, spoil, complaint):
    task = {
        "kind": "regression",
        "labels": [{"name": n, "values": [], "value": i} for i, n in enumerate("abc", 1)],
    }
    with h5py.File(fields / "field_1.h5", "r+") as file:
        target = file["label"][:]
        del file["label"]
        file.create_dataset("label", data=spoil(target)).attrs["task"] = "regression"
        for other in fields.glob("*.h5"):
            if other.name != "field_1.h5":
                other.unlink()
    config = settings(fields, task=task)
    config["data"] |= {"val_slices": "8:", "fold": 0}
    with pytest.raises(BadInput, match=complaint):
        ctseg.train(parse_config(config), output=tmp_path / "run")


# ---------------------------------------------------------------- pieces


def test_the_best_validation_is_the_one_of_the_lowest_error():
    from ctseg.engine.training.validate import WORST, merit
    from ctseg.metrics.report import CaseResult, LabelResult, Report

    def report(**errors: float | None) -> Report:
        labels = tuple(LabelResult(name, {"mse": value}) for name, value in errors.items())
        return Report((CaseResult("case", labels),))

    assert merit(report(a=1.0)) > merit(report(a=2.0)) > merit(report(a=None)) == WORST
    # an error of 4 is one deviation of a, and a hundredth of one of b
    assert merit(report(a=4.0, b=4.0), ((0, 0), (2.0, 20.0))) == pytest.approx(-(1 + 0.01) / 2)
    dice = Report((CaseResult("case", (LabelResult("a", {"dice": 0.7}),)),))
    assert merit(dice) == 0.7
    assert merit(Report((CaseResult("case", (LabelResult("a", {"dice": None}),)),))) == -1


def test_what_a_step_pads_is_ignored_and_targets_move_linearly(fields, tmp_path):
    from ctseg.data.pipeline import Pipeline
    from ctseg.data.readers.hdf5 import cases
    from ctseg.data.steps import CropOrPad, Resample
    from ctseg.data.store import Store

    found = cases(fields)
    case = next(c for c in found.cases if c.id == "field_1")
    pad = Store(Pipeline([CropOrPad((16, 20, 20), (0.0,))]), found.task, tmp_path / "a", "store")
    target = np.asarray(pad.case(case).target)
    assert np.isnan(target[:, :2]).all()
    assert np.isfinite(target[:, 2:-2]).all()

    with h5py.File(fields / "field_1.h5") as file:
        stored = file["label"][:]
    finer = Store(
        Pipeline([Resample((1.0, 1.0, 0.5), order=3)]), found.task, tmp_path / "b", "store"
    )
    target = np.asarray(finer.case(case).target)
    assert target.shape == (3, 24, 20, 20)
    between = 0.75 * stored[:, 3] + 0.25 * stored[:, 4]
    assert np.allclose(target[:, 7], between, atol=1e-5)


def test_losses_see_scaled_targets_and_a_mask_where_they_are_nan():
    import torch

    from ctseg.engine.training.step import loss_target

    target = torch.tensor([[[3.0, float("nan")]], [[10.0, 10.0]]]).reshape(1, 2, 1, 1, 2)
    scaled, mask = loss_target(target, "regression", ((1.0, 10.0), (2.0, 5.0)))
    assert mask is not None
    assert mask.flatten().tolist() == [True, False]
    assert scaled[0, :, 0, 0, 0].tolist() == [1.0, 0.0]
    assert scaled.isfinite().all()
    assert loss_target(target[..., :1], "regression")[1] is None


def test_channels_of_a_label_that_nobody_named_are_skipped():
    from ctseg.data.load import as_label
    from ctseg.specs import Label, Task
    from ctseg.task import masks

    stored = np.stack([np.full((2, 2, 2), n, np.uint8) for n in (0, 1, 0)])
    task = Task(
        "channels", (Label("b", (2,), 1), Label("c", (3,), 2)), stacked=True
    )  # the first channel has no name
    kept = as_label(stored, task, where="label")
    assert kept.shape == (2, 2, 2, 2)
    assert kept[0].all()
    assert not kept[1].any()
    assert masks(task, stored)["b"].all()
    short = Task("channels", (Label("d", (4,), 1),), stacked=True)
    with pytest.raises(BadInput, match="3 channels"):
        as_label(stored, short, where="label")
