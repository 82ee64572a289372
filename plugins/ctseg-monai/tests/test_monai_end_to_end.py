"""A MONAI network, trained with MONAI's loss, published and predicted with by name: nothing in ctseg knows of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ctseg
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume

pytestmark = pytest.mark.slow
NAME = "monai_segresnet.test_v1"


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "ctseg", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Five scans of a bright ball in the layout of the Medical Segmentation Decathlon."""
    folder = tmp_path_factory.mktemp("monai") / "Task99_Ball"
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.arange(16),) * 3, indexing="ij")
    geometry = Geometry((16, 16, 16), (1.0, 1.0, 1.5), (-10.0, 5.0, 30.0))
    training = []
    for number in range(5):
        centre = rng.uniform(5, 10, 3)
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 16
        scan = (rng.normal(0, 20, ball.shape) + 200 * ball).astype(np.int16)
        names = [f"images/ball_{number}.nii.gz", f"labels/ball_{number}.nii.gz"]
        for name, array in zip(names, (scan, ball.astype(np.uint8)), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            ctseg.write(Volume(array, geometry), folder / name)
        training.append({"image": names[0], "label": names[1]})
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "name": "Ball",
                "licence": "CC0-1.0",
                "modality": {"0": "CT"},
                "labels": {"0": "background", "1": "ball"},
                "training": training,
                "test": [],
            }
        )
    )
    return folder


def test_trained_published_and_predicted_by_name(data):
    work, zoo = data.parent, str(data.parent / "zoo")
    run(
        work, "train", str(data), "-o", "runs/ball", "-a", "monai_segresnet",
        "--loss", "monai_tversky", "--steps", "60", "--patch", "16,16,16", "--batch-size", "2",
        "--lr", "0.01", "--seed", "1", "--device", "cpu",
        "--set", "model.options.init_filters=8", "--set", "loss.options.beta=0.6",
        "--set", "model.options.blocks_down=[1,1]", "--set", "model.options.blocks_up=[1]",
    )  # fmt: skip
    run(work, "zoo", "publish", "runs/ball", "--tag", "test_v1", "--zoo", zoo)

    card = json.loads(run(work, "zoo", "show", NAME, "--zoo", zoo, "--json"))
    assert card["provider"]["package"] == "ctseg-monai"
    scan = data / "images" / "ball_0.nii.gz"
    out = work / "ball_0_mask.nii.gz"
    run(work, "predict", str(scan), "-m", NAME, "-o", str(out), "--device", "cpu", "--zoo", zoo)
    mask, truth = ctseg.read(out), ctseg.read(data / "labels" / "ball_0.nii.gz")
    assert mask.geometry.agrees(truth.geometry)
    assert set(np.unique(mask.array)) <= {0, 1}
    report = ctseg.evaluate(mask, truth)
    assert report.mean_dice > 0.6
