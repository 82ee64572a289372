"""The tutorial for authors: its commands run in an empty folder, as they stand on the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from ctseg.card import Card

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial" / "third-party-model.md"
BLOCK = re.compile(r"^```\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = {"pip": "pip", "ctseg": "ctseg", "copier": "copier"}


def environment_in(folder: Path) -> dict[str, str]:
    """An environment of its own that borrows the packages of this one, so that nothing is downloaded."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True)
    borrowed = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    borrowed.sort(key=lambda p: p != sysconfig.get_path("purelib"))
    line = f"import site; list(map(site.addsitedir, {borrowed!r}))\n"
    (Path(site.stdout.strip()) / "borrowed.pth").write_text(line)
    for name, module in COMMANDS.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {module} "$@"\n')
        script.chmod(0o755)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say that the build runs in this environment
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CTSEG_CACHE": str(folder / "cache"),
        "COLUMNS": "200",
    }


@pytest.mark.slow
def test_the_commands_of_the_page_publish_a_model(tmp_path: Path) -> None:
    pytest.importorskip("copier")
    environment = environment_in(tmp_path / "environment")
    environment.pop("CTSEG_ZOO", None)
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "ctseg" / "plugins").mkdir(parents=True)
    shutil.copytree(ROOT / "plugins" / "template", folder / "ctseg" / "plugins" / "template")
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 8
    script = "set -eu\n" + "".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    package = folder / "ctseg-acme"
    provides = "1 architecture, 1 loss, 1 metric, 1 step, 1 reader, 1 command"
    assert provides in done.stdout
    assert "6 passed" in done.stdout or "5 passed" in done.stdout
    card = Card.model_validate_json(
        (package / "ctseg_acme" / "zoo" / "acme_net.first" / "card.json").read_text()
    )
    assert (card.provider.package, card.provider.version) == ("ctseg-acme", "0.1.0")
    assert card.step_providers["acme_window"].package == "ctseg-acme"
    assert (card.loss.name, card.licence) == ("acme_dice", "CC0-1.0")
    assert card.training_data.name == "Balls"
    assert card.metrics.mean_dice is not None
    assert card.metrics.mean_dice > 0.8
    run = tomllib.loads((package / "runs" / "first" / "config.toml").read_text())
    assert run["augment"]["extra"]["rings"]["probability"] == 0.2
    table = done.stdout.split("out")[-1]
    assert "error ml" in done.stdout and "ball" in table
    record = json.loads((package / "out" / "predictions.json").read_text())
    assert "ctseg-acme 0.1.0" in record["providers"]
    names = subprocess.run(
        ["unzip", "-l", *map(str, (package / "dist").glob("*.whl"))], capture_output=True, text=True
    ).stdout
    assert "ctseg_acme/zoo/acme_net.first/card.json" in names


@pytest.mark.slow
def test_other_answers_give_a_package_too(tmp_path: Path) -> None:
    copier = pytest.importorskip("copier")
    answers = {"package": "my-nets-2", "name": "mine_too", "licence": "MIT", "author": 'J. "Q" Doe'}
    copier.run_copy(
        str(ROOT / "plugins" / "template"), tmp_path / "p", data=answers, defaults=True, quiet=True
    )
    project = tomllib.loads((tmp_path / "p" / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT"
    assert project["authors"] == [{"name": 'J. "Q" Doe'}]
    assert (tmp_path / "p" / "LICENSE").read_text().startswith("MIT License")
    for file in (tmp_path / "p").rglob("*.py"):
        compile(file.read_text(), str(file), "exec")
    assert "class MineTooNet" in (tmp_path / "p" / "my_nets_2" / "nets.py").read_text()
    with pytest.raises(ValueError, match="lower-case"):
        copier.run_copy(
            str(ROOT / "plugins" / "template"), tmp_path / "q", data={"package": "My Nets"},
            defaults=True, quiet=True,
        )  # fmt: skip
