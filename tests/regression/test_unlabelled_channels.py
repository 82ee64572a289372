"""A channel of the labels that the run file does not name is skipped, from training to the figures."""

from __future__ import annotations

import h5py
import numpy as np

import ctseg
from ctseg.config import parse_config
from ctseg.specs import Label, Task
from ctseg.task import labelled_channels, masks


def test_a_channel_that_nobody_labelled_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cells"
    folder.mkdir()
    for index in range(3):
        scan = np.random.default_rng(index).normal(0, 1, (8, 16, 16)).astype(np.float32)
        label = np.stack([scan > 0.5, np.zeros_like(scan) > 1, scan < -0.5]).astype(np.uint8)
        with h5py.File(folder / f"cell_{index}.h5", "w") as file:
            file["raw"], file["label"] = scan, label
    labels = [
        {"name": "membrane", "values": [1], "value": 1},
        {"name": "nucleus", "values": [3], "value": 2},
    ]
    config = parse_config(
        {
            "data": {"path": str(folder), "folds": 3},
            "task": {"kind": "channels", "stacked": True, "labels": labels},
            "model": {"options": {"features": [8, 8], "convs_per_level": 1}},
            "augment": {"preset": "none"},
            "train": {
                "steps": 30, "steps_per_epoch": 30, "patch_zyx": [8, 16, 16], "batch_size": 2, "lr": 0.02,
                "device": "cpu", "precision": "fp32",
            },
        }
    )  # fmt: skip
    run = ctseg.train(config, output=tmp_path / "run")
    assert set(run.dice) == {"membrane", "nucleus"}
    assert min(run.dice.values()) > 0.5
    case = run.report.cases[0].case
    made = ctseg.load(str(run.folder), device="cpu").predict(ctseg.read(folder / f"{case}.h5"))
    with h5py.File(folder / f"{case}.h5") as file:
        truth = file["label"][:]
    assert (made.array == 2)[truth[2] > 0].mean() > 0.5  # the third channel is the second label


def test_ignored_voxels_are_in_no_mask_and_channels_that_are_not_there_are_not_taken():
    labels = (Label("wall", (2,), 1), Label("lumen", (3,), 2))
    task = Task("channels", labels, ignore=255, stacked=True)
    stored = np.array([[9, 9, 9], [1, 0, 255], [0, 1, 1]], np.uint8)[:, None, None]
    found = {name: mask.ravel().tolist() for name, mask in masks(task, stored).items()}
    assert found == {"wall": [True, False, False], "lumen": [False, True, True]}
    counted_from_0 = Task("channels", (Label("wall", (0,), 1),), stacked=True)
    assert labelled_channels(counted_from_0, stored) is stored
