"""Names after Tab, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctseg import plugins
from ctseg.cli.options import completion

LIGHT = """
import sys
from ctseg.cli.app import main
try:
    main()
except SystemExit:
    pass
heavy = [m for m in ("torch", "numpy", "timm", "SimpleITK", "h5py") if m in sys.modules]
print(heavy, file=sys.stderr)
"""


def complete(line: str, cwd: Path | None = None) -> tuple[list[str], str]:
    """What bash is told for a line, and what was imported for it."""
    words = line.split(" ")
    environment = {
        **os.environ, "_CTSEG_COMPLETE": "complete_bash", "COMP_WORDS": line.rstrip(),
        "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], env=environment, cwd=cwd, capture_output=True, text=True
    )
    return done.stdout.split(), done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ctseg predict scan.nii.gz -m unet3d.hip", {"unet3d.hippocampus_v1"}),
        ("ctseg zoo show residual_unet3d.sts", {"residual_unet3d.sts_tumour_v0"}),
        ("ctseg train DATA -a residual_unet3", {"residual_unet3d"}),
        ("ctseg architectures show timm", {"timm_unet"}),
        ("ctseg train DATA --loss dice_c", {"dice_ce"}),
        ("ctseg losses show tversk", {"tversky"}),
        ("ctseg train DATA --reader deca", {"decathlon"}),
    ],
)
def test_names_complete_without_anything_heavy(line: str, expected: set[str]) -> None:
    found, heavy = complete(line)
    assert expected <= set(found)
    assert heavy == "[]"


def test_all_names_are_offered() -> None:
    assert [n for n, _ in completion.architectures("")] == plugins.names("architecture")
    assert [n for n, _ in completion.losses("")] == plugins.names("loss")
    assert [n for n, _ in completion.losses("dice")] == plugins.names("loss", "dice*")
    assert all(summary for _, summary in completion.losses(""))


def test_folders_and_weights_are_models_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runs/first", "runs/second", "runs/.hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "runs" / "best.safetensors").touch()
    (tmp_path / "runs" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert [name for name, _ in completion.models("ru")] == ["runs/"]
    found = [name for name, _ in completion.models("runs/")]
    assert found == ["runs/best.safetensors", "runs/first/", "runs/second/"]
    assert [name for name, _ in completion.models("nowhere/")] == []


def test_a_broken_zoo_or_plugin_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError

    monkeypatch.setattr("ctseg.zoo.folders.search_path", broken)
    monkeypatch.setattr("ctseg.plugins.registry", broken)
    assert completion.published("") == completion.losses("") == []
