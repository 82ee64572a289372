"""A channel of the labels that the run file does not name is skipped, from training to the figures."""

from __future__ import annotations

import h5py
import numpy as np

import ctseg
from ctseg.config import parse_config


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
