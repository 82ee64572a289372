"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.global_state import unchanged_state

__all__ = ["unchanged_state"]

os.environ.setdefault("MPLBACKEND", "Agg")
if (
    "PYTEST_XDIST_WORKER_COUNT" in os.environ
):  # set before torch starts, and for the processes that tests start
    _cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    _share = (_cores or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _share)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CTSEG_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder} (set CTSEG_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def mini_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon folder of eight small scans: two bright boxes in noise, oblique, anisotropic."""
    import json

    import numpy as np

    import ctseg

    folder = tmp_path_factory.mktemp("mini") / "Mini"
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, -1.0]])
    training = []
    for index in range(8):
        rng = np.random.default_rng(index)
        label = np.zeros((12, 20, 22), np.uint8)
        z, y, x = rng.integers(1, 4, 3)
        label[z : z + 7, y : y + 7, x : x + 8] = 1
        label[z + 1 : z + 6, y + 9 : y + 15, x + 9 : x + 16] = 2
        hu = np.array([-80, 120, 40])[label] + rng.normal(0, 15, label.shape)
        geometry = {
            "spacing_xyz": (1.0, 1.1, 2.0),
            "origin_xyz": (-30.0, 12.5, 100.0),
            "direction": turn,
        }
        for kind, array in (("imagesTr", hu.astype(np.int16)), ("labelsTr", label)):
            path = folder / kind / f"mini_{index}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            ctseg.write(ctseg.Volume.from_array(array, **geometry), path)
        name = f"mini_{index}.nii.gz"
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    document = {
        "name": "Mini",
        "licence": "CC0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "box", "2": "brick"},
        "numTraining": 8,
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def mini_options() -> list[str]:
    """Settings under which the mini data set trains in seconds."""
    return [
        "--set", "model.options.features=[4, 8]", "--patch", "8,16,16", "--batch-size", "2",
        "--set", "train.steps_per_epoch=4", "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data of tests stay out of the user's cache, published models out of the user's zoo."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CTSEG_CACHE"] = str(folder)
    os.environ["CTSEG_ZOO"] = str(folder / "zoo")


@pytest.fixture(scope="session")
def mini_run(
    mini_set: Path, mini_options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of a few steps on the mini data set."""
    from typer.testing import CliRunner

    from ctseg.cli.app import app

    folder = tmp_path_factory.mktemp("runs") / "mini"
    command = ["train", str(mini_set), "-o", str(folder), "--steps", "12", *mini_options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def take_back() -> Callable[..., Any]:
    """An array on the network's grid, resampled to the scan's grid: linearly, integers by the largest share.

    `fill` [C] is put where the network saw nothing.
    """
    import numpy as np

    from ctseg.data.pipeline import spans_of, tracks_of
    from ctseg.data.steps.interpolate import labels_at, values_at

    def run(applied: Any, array_czyx: Any, fill: Any) -> Any:
        tracks = tracks_of(applied)
        box = spans_of(tracks)
        out = np.empty((len(array_czyx), *applied.source.shape_zyx), array_czyx.dtype)
        out[:] = np.asarray(fill).astype(array_czyx.dtype)[:, None, None, None]
        if all(b > a for a, b in box):
            turned = array_czyx.transpose(0, *(1 + track.axis for track in tracks))
            places = [t.at[a:b] for t, (a, b) in zip(tracks, box, strict=True)]
            for axis, at in enumerate(places):
                if at[0] > at[-1]:  # ascending positions are simpler for all that follows
                    turned = np.flip(turned, 1 + axis)
                    places[axis] = turned.shape[1 + axis] - 1 - at
            take = values_at if array_czyx.dtype.kind == "f" else labels_at
            out[(slice(None), *(slice(a, b) for a, b in box))] = take(turned, places, (1, 1, 1))
        return out

    return run


@pytest.fixture(scope="session")
def undo(take_back: Callable[..., Any]) -> Callable[..., Any]:
    """The way back through a single step."""
    from ctseg.data.pipeline import AppliedPipeline, AppliedStep

    def run(step: Any, array_czyx: Any, geometry: Any, record: Any, fill: Any) -> Any:
        applied_step = AppliedStep(step, geometry, record)
        return take_back(
            AppliedPipeline((applied_step,), geometry, step.grid(geometry, record)),
            array_czyx,
            fill,
        )

    return run
