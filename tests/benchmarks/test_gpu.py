"""The script for a borrowed card runs from end to end; on the CPU, with tiny networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_all_stages_find_something(tmp_path, mini_set):
    command = [
        sys.executable, "-m", "benchmarks.gpu", "run", "--device", "cpu", "--tiny", "--minutes", "600",
        "--data", str(mini_set), "-o", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())["stages"]
    assert {name: stage.get("failed") for name, stage in found.items()} == dict.fromkeys(
        ("networks", "predict", "profile", "train")
    )
    assert found["networks"]["tiny"]["ctseg, default"]["step"] > 0
    assert found["predict"]["runs"]["ctseg logits"]["seconds"] > 0
    assert len(found["profile"]["step"]["operations"]) == 20
    assert found["train"]["log"][-1]["step"] == 4
