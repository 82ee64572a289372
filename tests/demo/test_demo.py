"""`ctseg demo` on tiny phantoms: the whole path, its files, and what a second call does."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ctseg.cli.app import app
from ctseg.data import phantom


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Phantoms of few, large voxels, and a cache of this test's own."""
    make = functools.partial(
        phantom.make_phantom, shape_zyx=(16, 24, 24), spacing_xyz=(9.0, 9.0, 10.0)
    )
    written = functools.partial(phantom.write_phantom_dataset, make=make)
    monkeypatch.setattr(phantom, "write_phantom_dataset", written)
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))


def demo(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["demo", *map(str, arguments), "--time", "1s", "--device", "cpu"]
    )


def commands(result: Result) -> list[str]:
    lines = [line.strip() for line in result.stderr.splitlines()]
    return [line.removeprefix("$ ctseg ") for line in lines if line.startswith("$ ctseg ")]


@pytest.mark.slow
def test_the_whole_path_and_once_more(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    first = demo("-o", out, "--cases", 5)
    assert first.exit_code == 0, first.output
    data, run, zoo = out / "data", out / "run", out / "zoo"
    assert commands(first) == [
        f"data inspect {data}",
        f"train {data} -o {run} --fold 0 --time 1s --device cpu",
        f"zoo publish {run} --tag demo --zoo {zoo}",
        f"predict {data / 'imagesTs'} -m unet3d.demo --zoo {zoo} -o {out / 'predictions'}",
        f"evaluate {out / 'predictions'} {data / 'labelsTs'}",
        f"predict SCAN -m unet3d.demo --zoo {zoo} -o mask.nii.gz",
    ]
    table = [line.split() for line in first.stdout.splitlines()]
    assert [row[0] for row in table[2:8]] == ["lungs", "bone", "liver", "spleen", "lesion", "mean"]
    assert "HU" in first.stdout
    for name in ("unseen.png", "phantom_006.png"):
        with Image.open(out / "pictures" / name) as picture:
            assert picture.format == "PNG"
    assert (run / "curves.png").is_file()
    assert len(list((out / "predictions").glob("*.nii.gz"))) == 5
    assert json.loads((zoo / "unet3d.demo" / "card.json").read_text())["licence"] == "CC0-1.0"

    weights = (run / "best.safetensors").read_bytes()
    again = demo("-o", out, "--cases", 5)
    assert again.exit_code == 0, again.output
    assert "already" in again.stderr
    assert (run / "best.safetensors").read_bytes() == weights
    assert again.stdout == first.stdout

    typed = CliRunner().invoke(app, ["evaluate", str(out / "predictions"), str(data / "labelsTs")])
    assert typed.exit_code == 0, typed.output
    mean = next(line.split()[1] for line in typed.stdout.splitlines() if line.startswith("mean"))
    assert float(mean) == pytest.approx(float(table[7][1]), abs=6e-4)

    changed = demo("-o", out, "--cases", 6)
    assert changed.exit_code == 2
    assert "cases 5" in changed.stderr


@pytest.mark.slow
def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    own = phantom.write_phantom_dataset(tmp_path / "own", cases=6, unseen=0, seed=3)
    content = json.loads((own / "dataset.json").read_text())
    del content["licence"]
    content["modality"] = {"0": "MR"}
    (own / "dataset.json").write_text(json.dumps(content))
    out = tmp_path / "demo"
    result = demo("-o", out, "--data", own)
    assert result.exit_code == 0, result.output
    assert f"evaluate {out / 'predictions'} {own} --fold 0" in commands(result)
    assert "threshold" not in result.stdout
    assert "2 scans never trained on" in result.stdout
    assert not (out / "data").exists()
    card = json.loads((out / "zoo" / "unet3d.demo" / "card.json").read_text())
    assert card["licence"] == "not for distribution"


def test_refusals_come_before_anything_is_written(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    result = demo("-o", taken)
    assert result.exit_code == 2
    assert "something else" in result.stderr
    assert [p.name for p in taken.iterdir()] == ["thesis.txt"]

    bad = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "new"), "--time", "soon"])
    assert bad.exit_code == 2
    assert "20m" in bad.stderr
    assert not (tmp_path / "new").exists()

    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for content in ("{", "3"):
        (spoilt / "demo.json").write_text(content)
        result = demo("-o", spoilt)
        assert result.exit_code == 2
        assert "is damaged" in result.stderr

    missing = demo("-o", tmp_path / "new", "--data", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "nowhere" in missing.stderr
