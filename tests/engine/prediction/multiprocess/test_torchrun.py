"""`torchrun -m ctseg predict`: what several processes write is what one writes, bit for bit."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import HashStore
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import PreprocessConfig
from ctseg.data.stream import OnDisk
from ctseg.engine.inference.decoders import Confidence, LabelMap
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.sinks import ToArray
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.model.weights import save_weights
from ctseg.engine.prediction.folder import Execution, predict_folder
from ctseg.engine.prediction.inputs import find_items
from ctseg.engine.prediction.multiprocess.slab_sharing import SharedScan, ranges
from ctseg.engine.prediction.multiprocess.team import Team
from ctseg.engine.prediction.request import Request
from ctseg.specs import ImageRef

_spec = importlib.util.spec_from_file_location(
    "small_model", Path(__file__).parents[2] / "small_model.py"
)
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

STEPS = (
    {"kind": "orient", "to": "LPS"},
    {"kind": "crop", "above": 30.0},
    {"kind": "resample", "spacing_xyz": [1.2, 1.1, 1.5]},
    {"kind": "rescale", "low": -200, "high": 200},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    card = small.card_of(preprocess=PreprocessConfig(steps=STEPS))
    save_weights(path, small.network_of().state_dict(), card)
    return path


@pytest.fixture(autouse=True)
def one_thread():
    """As torchrun sets it: sums depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scan(path: Path, seed: int, depth: int, direction: np.ndarray | None = None) -> None:
    volume = small.scan(
        seed, (depth, 22, 20), direction=np.eye(3) if direction is None else direction
    )
    array = np.array(volume.array)
    array[:, :, :3] = -500  # what a crop leaves out
    ctseg.write(ctseg.Volume(array, volume.geometry), path)


def alone(*arguments: object) -> int:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)]).exit_code


def several(count: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", str(count), "-m", "ctseg", "predict", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def same(one: Path, two: Path) -> None:
    """All files are there and hold the same voxels on the same grid."""
    names = sorted(str(p.relative_to(one)) for p in one.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(two)) for p in two.rglob("*") if p.is_file())
    for name in names:
        if name.endswith(".json"):
            continue
        first, second = ctseg.read(one / name), ctseg.read(two / name)
        assert first.geometry == second.geometry
        assert first.array.dtype == second.array.dtype
        np.testing.assert_array_equal(first.array, second.array)


class Narrow(torch.nn.Module):
    """A device that has no room for tiles of 8, nor for two at a time."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        if x.shape[-1] > 6 or len(x) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(x)


def test_where_one_runs_out_of_memory_all_begin_anew_with_smaller_tiles(tmp_path):
    ctseg.write(small.scan(shape=(30, 14, 11)), tmp_path / "in" / "scan.nii.gz")
    items = find_items([str(tmp_path / "in")], channels=1)
    store, came = HashStore(), {}
    models = [small.small_model().model, small.small_model().model]
    models[1].networks = tuple(Narrow(network) for network in models[1].networks)

    def work(rank: int) -> None:
        team = Team(store, rank, 2)
        came[rank] = predict_folder(
            models[rank], items, Request(tmp_path / "more"), execution=Execution(team=team)
        )
        team._left.set()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (told,) = came[0].done
    assert not came[0].failed and not came[1].done
    assert any("anew with tiles of 6 x 6 x 6 instead of 8 x 8 x 8" in n for n in told["notes"])
    plain = small.small_model().model.with_settings(tile_zyx=(6, 6, 6))
    predict_folder(plain, items, Request(tmp_path / "one"))
    same(tmp_path / "one", tmp_path / "more")


def test_models_with_tilings_of_their_own_are_shared_too(tmp_path, monkeypatch):
    """Each process runs each model on its own slices alone."""
    monkeypatch.setattr("ctseg.engine.inference.ensemble.PIECE_BYTES", 4 * 3 * 14 * 11 * 5)
    path = tmp_path / "in" / "scan.nii.gz"
    ctseg.write(small.scan(shape=(40, 14, 11), direction=np.diag([1.0, 1.0, -1.0])), path)
    scan = OnDisk([ImageRef(path)])
    other = small.small_model(preprocess=PreprocessConfig(steps=STEPS)).model.with_settings(
        tile_zyx=(6, 8, 8), overlap=0.25
    )
    segmenter = Ensemble([small.small_model().model, other])
    kinds = [LabelMap(segmenter.task), Confidence(segmenter.task)]

    def prepared():
        stream = segmenter.open(scan, tmp_path)
        back = SourceGridMapper(stream.applied)
        arrays = [np.zeros(back.source, kind.dtype) for kind in kinds]
        sinks = [ToArray(a, back.box, kind.fill) for a, kind in zip(arrays, kinds, strict=True)]
        return stream, back, arrays, list(zip(kinds, sinks, strict=True))

    stream, back, whole, pairs = prepared()
    segmenter.predictor.run(stream, pairs, mapper=back)
    tiles = []
    stores, shared = HashStore(), [prepared() for _ in range(3)]

    def work(rank: int) -> None:
        team = Team(stores, rank, 3)
        stream, back, _, pairs = shared[rank]
        with SharedScan(team, "scan") as share:
            share.run(segmenter.predictor, stream, pairs, mapper=back, folder=tmp_path / "in")
        tiles.append(segmenter.predictor.tiles(stream, back, own[rank]))
        team._left.set()

    own = ranges(segmenter.predictor, stream, back, 3)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one, all_of_it in zip(shared[0][2], whole, strict=True):
        np.testing.assert_array_equal(one, all_of_it)
    assert max(tiles) < 0.6 * segmenter.predictor.tiles(stream, back, (0, 40))
    assert len(set(np.unique(whole[0]))) > 1


@pytest.mark.slow
def test_one_scan_is_shared_by_slabs(model, tmp_path):
    """Cropped, resampled, slices flipped; rows of tiles overlap by three quarters; fewer rows than processes need."""
    scan(tmp_path / "scan.nii.gz", 1, 14, np.diag([1.0, 1.0, -1.0]))
    options = [
        tmp_path / "scan.nii.gz", "-m", model, "--precision", "fp32", "--overlap", 0.75,
        "--device", "cpu", "--probabilities", "--confidence", "--uncertainty", "--set", "keep_largest=bright",
    ]  # fmt: skip
    (tmp_path / "one").mkdir()
    (tmp_path / "more").mkdir()
    assert alone(*options, "-o", tmp_path / "one" / "mask.nii.gz") == 0
    ended = several(3, *options, "-o", tmp_path / "more" / "mask.nii.gz", "--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("shared by 3 processes") == 1  # one process speaks for all
    same(tmp_path / "one", tmp_path / "more")
    assert len(list((tmp_path / "more").iterdir())) == 4
    (told,) = json.loads(ended.stdout)["cases"]
    assert told["case"] == "scan" and told["volumes_ml"]["dark"] > 0


@pytest.mark.slow
def test_a_folder_is_shared_by_scan_and_its_largest_one_by_slabs(model, tmp_path):
    """One scan is damaged and one is there already; the others are as one process writes them."""
    given = tmp_path / "scans"
    given.mkdir()
    oblique = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    for seed, depth in enumerate([5, 6, 7, 60]):
        scan(given / f"case{seed}.nii.gz", seed, depth, oblique)
    whole = (given / "case2.nii.gz").read_bytes()
    (given / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    for place in ("one", "more"):
        (tmp_path / place).mkdir()
        ctseg.write(small.scan(), tmp_path / place / "case0.nii.gz")  # of no record
    options = [given, "-m", model, "--skip-existing", "--device", "cpu", "--precision", "bf16"]
    assert alone(*options, "-o", tmp_path / "one") == 1
    ended = several(2, *options, "-o", tmp_path / "more")
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("shared by 2 processes") == 1
    same(tmp_path / "one", tmp_path / "more")
    assert ended.stderr.count("1 of 5 scans failed.") == 1
    assert "case0: predicted anew" in ended.stderr
    one, more = (
        json.loads((tmp_path / place / "predictions.json").read_text()) for place in ("one", "more")
    )
    assert set(more["failed"]) == set(one["failed"]) == {"broken"}
    found = [
        {case["case"]: (case["volumes_ml"], case["tiles"]) for case in record["cases"]}
        for record in (one, more)
    ]
    assert found[0] == found[1] and set(found[0]) == {"case0", "case1", "case2", "case3"}
