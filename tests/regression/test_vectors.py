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
    config["data"] |= {"val_slices": "8:"}
    with pytest.raises(BadInput, match=complaint):
        ctseg.train(parse_config(config), output=tmp_path / "run")
