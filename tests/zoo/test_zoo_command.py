"""`ctseg zoo` as it is typed, and `ctseg doctor`, which looks at zoos too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ctseg.cli import checks
from ctseg.cli.app import app
from ctseg.cli.checks import Finding


def _run(*args: object) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


@pytest.fixture
def published(make_run, own_zoo: Path) -> Path:
    run = make_run()
    result = _run("zoo", "publish", run, "--tag", "balls_v1", "--summary", "Finds balls.")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "unet3d.balls_v1\n"
    return own_zoo / "unet3d.balls_v1"


def test_list_and_show(published: Path) -> None:
    (row,) = json.loads(
        _run("zoo", "list", "unet3d.*", "--json").stdout, parse_constant=pytest.fail
    )
    card = json.loads(_run("zoo", "show", "unet3d", "--json").stdout)
    assert row["name"] == card["name"] == "unet3d.balls_v1"
    assert row["mean_dice"] == card["metrics"]["mean_dice"]
    assert json.loads((published / "card.json").read_text()) == card
    table = _run("zoo", "list").stdout
    assert "ball, shell" in table
    text = _run("zoo", "show", published).stdout
    for words in ("Finds balls.", "CC BY 4.0", "ctseg evaluate predictions Balls --fold 0"):
        assert words in text


def test_the_command_on_the_card_prints_the_figures_on_the_card(
    published: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = json.loads((published / "card.json").read_text())
    monkeypatch.chdir(dataset.parent)
    predict, evaluate = card["metrics"]["command"].splitlines()
    out = str(tmp_path / "predictions")
    first = predict.replace("predictions", out).split()[1:]
    assert _run(*first, "--device", "cpu", "--precision", "fp32").exit_code == 0
    second = evaluate.replace("predictions", out).split()[1:]
    result = _run(*second, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["mean_dice"] == card["metrics"]["mean_dice"]
    for label, dice in card["metrics"]["dice"].items():
        assert found["labels"][label]["dice"] == dice


def test_damaged_weights_are_refused_before_predicting(
    published: Path, dataset: Path, tmp_path: Path
) -> None:
    weights = published / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    scan = dataset / "imagesTr" / "ball_0.nii.gz"
    result = _run("predict", scan, "-m", "unet3d.balls_v1", "-o", tmp_path / "mask.nii.gz")
    assert result.exit_code == 2
    assert "checksum" in result.stderr
    assert not (tmp_path / "mask.nii.gz").exists()


def test_an_empty_zoo_says_how_to_fill_it() -> None:
    result = _run("zoo", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "ctseg zoo publish" in result.stderr
    assert json.loads(_run("zoo", "list", "--json").stdout) == []


def test_one_damaged_card_does_not_hide_the_others(published: Path, make_run) -> None:
    _run("zoo", "publish", make_run("b"), "--tag", "other", "--no-measure")
    (published / "card.json").write_text("{")
    rows = json.loads(_run("zoo", "list", "--json").stdout)
    assert [bool(row["problem"]) for row in rows] == [True, False]


def test_verify_names_what_is_wrong_and_exits_1(published: Path) -> None:
    assert _run("zoo", "verify").exit_code == 0
    (published / "README.md").write_text("changed")
    result = _run("zoo", "verify", "unet3d.balls_v1")
    assert result.exit_code == 1
    assert "README.md has another checksum" in result.stdout
    (check,) = json.loads(_run("zoo", "verify", "--json").stdout)
    assert check["problems"]


def test_remove_asks_first(published: Path) -> None:
    result = _run("zoo", "remove", "unet3d.balls_v1")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert published.exists()
    assert _run("zoo", "remove", "unet3d.balls_v1", "--yes").exit_code == 0
    assert not published.exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["show", "unet3d.balls_v2"], "Did you mean 'unet3d.balls_v1'"),
        (["publish", "nowhere", "--tag", "v1"], "does not exist"),
        (["publish", "{run}", "--tag", "balls_v1"], "--overwrite"),
        (["publish", "{run}", "--tag", "Bad-Tag"], "no usable tag"),
        (["publish", "{run}", "--tag", "v1", "--zoo", "{file}"], "cannot be written"),
        (["remove", "unet3d.balls_v3"], "balls_v1"),
        (["publish", "{run}", "--tag", "v1", "--margin", "5"], "--coarse NAME"),
        (["publish", "{run}", "--tag", "v1", "--coarse-labels", "ball"], "--coarse NAME"),
        (["list", "--zoo", "{typo}"], "does not exist"),
        (["show", "unet3d.balls_v1", "--zoo", "{typo}"], "does not exist"),
        (["verify", "--zoo", "{typo}"], "does not exist"),
        (["remove", "unet3d.balls_v1", "--yes", "--zoo", "{typo}"], "does not exist"),
        (
            ["publish", "{run}", "--tag", "balls_v1", "--overwrite", "--coarse", "unet3d.balls_v1"],
            "circle",
        ),
        (["remove", "unet3d"], "full name"),
        (["verify", "unet3d.other"], "Unknown model"),
    ],
)
def test_bad_input_is_told_and_exits_2(
    published: Path, tmp_path: Path, args: list[str], words: str
) -> None:
    (tmp_path / "file").touch()
    places = {name: tmp_path / name for name in ("run", "file", "typo")}
    filled = [a.format(**places) for a in args]
    result = _run("zoo", *filled)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(f.name for f in published.parent.iterdir()) == ["index.json", "unet3d.balls_v1"]


def test_doctor_finds_this_installation_sound() -> None:
    result = _run("doctor", "--json")
    assert result.exit_code == 0, result.stderr
    findings = json.loads(result.stdout)
    found = {(f["area"], f["check"]): f for f in findings}
    assert found["software", "torch"]["state"] == "ok"
    assert found["prediction", "round trip"]["found"].endswith("geometry kept")
    assert {"software", "device", "machine", "plugins", "zoo", "prediction"} == {
        a for a, _ in found
    }


def test_doctor_exits_1_when_something_essential_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken():
        yield Finding("software", "one", "ok", "1.0")
        raise OSError("no such library")

    monkeypatch.setattr(checks, "_AREAS", (("software", broken),))
    result = _run("doctor")
    assert result.exit_code == 1
    assert "no such library" in result.stdout
    assert "Error: software, check: OSError" in result.stderr
