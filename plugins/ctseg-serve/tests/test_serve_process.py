"""`ctseg serve` as a process: many clients at a time, signals, a kill, and what it refuses at the start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.torch
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.errors import RunFailed
from ctseg.zoo.probe import PROBE
from ctseg_serve.app import Service
from ctseg_serve.model import open_model

ZOO = Path(__file__).resolve().parents[3] / "zoo"

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
FIXED = ("--device", "cpu", "--precision", "fp32")
Process = subprocess.Popen[str]


@contextmanager
def process(*words: object) -> Iterator[tuple[Process, str]]:
    """A server on a free port, and its address."""
    command = [sys.executable, "-m", "ctseg", "serve", *map(str, words), "--port", "0", *FIXED]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        url = running.stdout.readline().strip()
        try:
            assert url, running.stderr.read()
            for _ in range(600):
                try:
                    if httpx.get(f"{url}/health/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield running, url
        finally:
            running.kill()


def folders(place: Path) -> list[Path]:
    return sorted(place.glob(".ctseg-serve-*"))


@pytest.mark.slow
def test_two_hundred_requests_twenty_at_a_time(tmp_path: Path, weights: Path, make: Any) -> None:
    """None is lost, and each mask is that of its own scan by the command line, bit for bit."""
    scans = tmp_path / "scans"
    for seed in range(10):
        make.scan(scans / f"{seed}.nii.gz", make.array(seed, (9, 12 + seed, 14)))
    words = ["predict", scans, "-m", weights, "-o", tmp_path / "masks", *FIXED]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    expected = [ctseg.read(tmp_path / "masks" / f"{seed}.nii.gz") for seed in range(10)]
    bodies = [(scans / f"{seed}.nii.gz").read_bytes() for seed in range(10)]
    place = tmp_path / "scratch"
    with process(weights, "--queue", "30", "--scratch", place) as (running, url):
        with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(20) as pool:

            def ask(number: int) -> None:
                found = client.post("/predict", content=bodies[number % 10])
                assert found.status_code == 200, found.text
                path = tmp_path / f"{number}.nii.gz"
                path.write_bytes(found.content)
                mask, wanted = ctseg.read(path), expected[number % 10]
                np.testing.assert_array_equal(mask.array, wanted.array)
                assert mask.geometry == wanted.geometry

            list(pool.map(ask, range(200)))
            metrics = client.get("/metrics").text
        assert 'ctseg_requests_total{status="200"} 200\n' in metrics
        assert metrics.count("ctseg_requests_total{") == 1
        assert list(folders(place)[0].iterdir()) == []
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert running.stderr is not None
        log = running.stderr.read()
        assert log.count("  200  ") == 200
        assert log.endswith("Stopping.\nStopped.\n")
    assert folders(place) == []


@pytest.mark.slow
def test_a_full_queue_loses_nobody_who_comes_back(tmp_path: Path, weights: Path, make: Any) -> None:
    body = make.scan(tmp_path / "scan.nii.gz", make.array(0, (20, 30, 30))).read_bytes()
    refused: list[int] = []
    with process(weights, "--queue", "2") as (_, url), ThreadPoolExecutor(12) as pool:

        def ask(_: int) -> None:
            while (
                found := httpx.post(f"{url}/predict", content=body, timeout=60)
            ).status_code == 503:
                refused.append(1)
                time.sleep(float(found.headers["retry-after"]) / 10)
            assert found.status_code == 200, found.text

        list(pool.map(ask, range(16)))
    assert refused


@pytest.mark.slow
def test_a_killed_server_leaves_its_files_to_the_next_one(
    tmp_path: Path, weights: Path, make: Any
) -> None:
    body = make.scan(tmp_path / "scan.nii.gz", make.array(0, (100, 200, 200))).read_bytes()
    place = tmp_path / "scratch"
    with process(weights, "--scratch", place) as (running, url), ThreadPoolExecutor(1) as pool:
        lost = pool.submit(httpx.post, f"{url}/predict", content=body, timeout=60)
        while "ctseg_running 1" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)
        running.kill()
        assert isinstance(lost.exception(30), httpx.TransportError)
    (left,) = folders(place)
    assert any(left.rglob("scan.nii.gz"))
    old = time.time() - 60
    os.utime(left, (old, old))
    with process(weights, "--scratch", place) as (running, _):
        assert left not in folders(place)
        # not SIGINT, which jobs that shells start in the background ignore
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    assert folders(place) == []


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, ["serve", *map(str, words)])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_what_is_refused_at_the_start(tmp_path: Path, weights: Path) -> None:
    assert "anybody who reaches 0.0.0.0" in refused(weights, "--host", "0.0.0.0")
    assert "cannot be read" in refused(weights, "--key-file", tmp_path / "no")
    assert "is no amount of memory" in refused(weights, "--max-size", "much")
    assert "Unknown" in refused("no.such_model", "--port", "0", "--scratch", tmp_path)
    assert folders(tmp_path) == []


def test_a_nameless_model_is_shown_without_its_folder(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Service] = []

    def run(service: Service, *_: Any) -> None:
        served.append(service)
        service.queue.close()

    monkeypatch.setattr("ctseg_serve.server.run", run)
    (tmp_path / "secret").mkdir()
    file = make.weights(tmp_path / "secret" / "模型.safetensors", name="")
    result = CliRunner().invoke(app, ["serve", str(file), "--port", "0", *FIXED])
    assert result.exit_code == 0, result.output
    assert [service.name for service in served] == ["模型.safetensors"]


def test_a_model_that_computes_something_else_is_not_served(tmp_path: Path) -> None:
    name = "unet3d.hippocampus_v1"
    entry = shutil.copytree(ZOO / name, tmp_path / name)
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "zoo": None, "on_say": print}
    assert open_model(str(entry), **options).card.name == name
    probe = safetensors.torch.load_file(entry / PROBE)
    changed = {key: v * 2 if key.endswith(".logits") else v for key, v in probe.items()}
    safetensors.torch.save_file(changed, entry / PROBE)
    with pytest.raises(RunFailed, match="computes other values than when it was published"):
        open_model(str(entry), **options)
