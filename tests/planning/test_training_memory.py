"""The memory that a plan foretells against what the system reports of a real run on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctseg.data.phantom import write_phantom_dataset
from ctseg.engine.model.runtime import cpu_bf16

RUN = """
import json, sys
from pathlib import Path
from ctseg.config import load_config, parse_config
from ctseg.engine.training.run import train
from ctseg.planning.limits import Limits, load_of

data, folder, settings = sys.argv[1:]
train(parse_config({"data": {"path": data, "fold": 0}} | json.loads(settings)), output=folder)
config = load_config(Path(folder) / "config.toml")
choice = json.loads((Path(folder) / "plan.json").read_text())["choices"]["runtime"]["value"]
half = choice["precision"] != "fp32"
foretold = load_of(config, in_channels=1, out_channels=6).memory(Limits("cpu", half=half))
lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps([foretold, int(lines["VmHWM"].split()[0]) * 1024]))
"""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    write_phantom_dataset(folder, cases=5, unseen=1, seed=0)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(
    ("patch", "features", "batch", "precision"),
    [
        ((32, 56, 56), (24, 48, 96, 192), 2, "auto"),
        ((32, 56, 56), (24, 48, 96, 192), 2, "fp32"),
        ((40, 80, 96), (32, 64, 128, 256, 256), 2, "auto"),
        ((32, 48, 48), (16, 32, 64, 128), 8, "fp32"),
    ],
)
def test_the_estimate_is_within_a_quarter(
    phantoms: Path, tmp_path: Path, patch: tuple[int, ...], features: tuple[int, ...], batch: int,
    precision: str,
) -> None:  # fmt: skip
    settings = {
        "train": {"steps": 3, "patch_zyx": patch, "batch_size": batch, "precision": precision},
        "model": {"options": {"features": features}},
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(phantoms), str(tmp_path / "run"), json.dumps(settings)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    foretold, found = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 * found < foretold < 1.25 * found, (foretold, found, cpu_bf16())
