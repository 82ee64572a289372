"""The plugin of the how-to page: written to disk as it stands there, installed by hand, and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "plugin.md"
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the path that holds the page's package and the dist-info that pip would have made."""
    folder = tmp_path_factory.mktemp("site")
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 5
    for name, text in blocks:
        file = folder / name.removeprefix("ctseg-tiny/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"ctseg_tiny-{project['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    points = [f"{k} = {v}" for k, v in project["entry-points"]["ctseg"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[ctseg]", *points]) + "\n", encoding="utf-8")
    return folder


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=installed
    )


def test_its_network_and_loss_are_there_by_name(installed: Path) -> None:
    shown = run(installed, "-m", "ctseg", "plugins", "list", "--json")
    assert shown.returncode == 0, shown.stderr
    mine = next(p for p in json.loads(shown.stdout) if p["package"] == "ctseg-tiny")
    assert mine["version"] == "0.1.0"
    assert not mine["error"]
    shown = run(installed, "-m", "ctseg", "architectures", "show", "tiny_net", "--json")
    assert shown.returncode == 0, shown.stderr
    assert "features between the convolutions" in shown.stdout
    shown = run(installed, "-m", "ctseg", "losses", "list", "--json")
    assert "tiny_focal" in {entry["name"] for entry in json.loads(shown.stdout)}


def test_its_metric_step_augmentation_and_command_are_there(installed: Path) -> None:
    rows = json.loads(run(installed, "-m", "ctseg", "plugins", "list", "--json").stdout)
    found = next(row["provides"] for row in rows if row["name"] == "extras")
    assert found == {
        "metric": ["tiny_error"], "step": ["tiny_root"], "augmentation": ["tiny_drop"], "command": ["hello"],
    }  # fmt: skip
    assert run(installed, "-m", "ctseg", "hello", "world").stdout == "Hello world\n"
    code = """
import numpy as np, torch, ctseg
from ctseg import plugins
from ctseg.data.steps import parse_step
step = parse_step({"kind": "tiny_root"})
print(step.image(np.full((1, 1, 1, 1), -4.0), None, {}).item())
spec = plugins.registry().get("augmentation", "tiny_drop").spec
drop = spec.build(plugins.make_config(spec, {"share": 1.0}))
print(drop(torch.ones(1, 2, 2, 2), None, rng=np.random.default_rng(0), spacing_zyx=(1, 1, 1))[0].sum().item())
one, two = np.zeros((5, 5, 5), np.uint8), np.zeros((5, 5, 5), np.uint8)
one[:3], two[:2] = 1, 1
one, two = (ctseg.Volume.from_array(a, spacing_xyz=(2, 2, 1)) for a in (one, two))
print(ctseg.evaluate(one, two, metrics="tiny").by_label("tiny_error"))
"""
    done = run(installed, "-c", code)
    assert done.stdout.split("\n")[:3] == ["-2.0", "0.0", "{'1': 0.1}"], done.stderr


@pytest.mark.slow
def test_its_own_tests_pass(installed: Path) -> None:
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
