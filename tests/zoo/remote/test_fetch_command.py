"""`ctseg zoo fetch`, `serve-index`, `list --from` and `predict --fetch` as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import ctseg
from ctseg.cli import checks, ui
from ctseg.cli.app import app
from ctseg.zoo.serve_index import Served, serve_index
from tests.engine.small_model import scan
from tests.zoo.remote.server import Server, make_entry

NAME = "unet3d.small_v1"


def _run(*args: object) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


def _sources(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "sources.toml").write_text(text)


def test_serve_index_prints_what_fetch_takes_as_pin(zoo: Path, own_zoo: Path) -> None:
    served = _run("zoo", "serve-index", zoo, "--alias", f"small={NAME}")
    assert served.exit_code == 0, served.stderr
    sums = dict(reversed(line.split("  ")) for line in served.stdout.splitlines())
    assert set(sums) == {"index.json", NAME}
    told = json.loads(_run("zoo", "serve-index", zoo, "--json").stdout)
    assert told["index"] == sums["index.json"] and told["models"] == {NAME: sums[NAME]}
    for pin in (sums["index.json"].upper(), sums[NAME]):
        fetched = _run("zoo", "fetch", "small", "--from", zoo, "--pin", pin)
        assert (fetched.exit_code, fetched.stdout) == (0, f"{NAME}\n"), fetched.stderr
    assert "checksums verified" in fetched.stderr and str(own_zoo) in fetched.stderr


def test_predict_says_how_to_fetch_and_does_it(
    server: Server, served: Served, tmp_path: Path
) -> None:
    place = tmp_path / "second"
    ctseg.write(scan(), place / "scan.nii.gz")
    command = (
        "predict",
        place / "scan.nii.gz",
        "-m",
        "small",
        "-o",
        place / "mask.nii.gz",
        "--device",
        "cpu",
    )
    result = _run(*command)
    assert result.exit_code == 2 and "ctseg zoo fetch small --from URL" in result.stderr
    assert "No source of models is named" in _run(*command, "--fetch").stderr
    assert server.seen == []  # nothing is asked for without being told
    _sources(tmp_path, f'[[source]]\nurl = "{server.url}"\npin = "{served.sha256}"\n')
    assert "ctseg predict does it with --fetch" in _run(*command).stderr
    result = _run(*command, "--fetch")
    assert result.exit_code == 0, result.stderr
    assert (
        ctseg.read(place / "mask.nii.gz").array.shape
        == ctseg.read(place / "scan.nii.gz").array.shape
    )
    seen = len(server.seen)
    assert _run(*command, "--fetch").exit_code == 0
    assert len(server.seen) == seen


def test_sources_of_the_user(server: Server, served: Served, zoo: Path, tmp_path: Path) -> None:
    _sources(
        tmp_path, f'offline = true\n[[source]]\nurl = "{server.url}/"\npin = "{served.sha256}"\n'
    )
    result = _run("zoo", "fetch", NAME)
    assert result.exit_code == 2 and "says offline" in result.stderr
    assert server.seen == []
    assert "not used (offline)" in next(checks.sources()).found
    assert _run("zoo", "fetch", NAME, "--from", zoo).exit_code == 0
    _sources(tmp_path, f'[[source]]\nurl = "{server.url}/"\npin = "{"0" * 64}"\n')
    result = _run("zoo", "list", "--from", "sources.toml")
    assert result.exit_code == 2 and "is pinned" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "not valid TOML"),
        ("[[source]]\n", "'source.0.url' is missing"),
        ('[[source]]\nurl = "https://h"\npin = "12"\n', "pin"),
        ('[[source]]\nurl = "https://me:secret@h/zoo"\n', "password"),
        ('[[source]]\nurl = "https:///zoo"\n', "no host"),
        ('[[source]]\nurl = "https://h/zoo?x=1"\n', "no '?'"),
        ('[[source]]\nurl = ""\n', "no address"),
    ],
)
def test_a_wrong_list_of_sources(tmp_path: Path, text: str, words: str) -> None:
    _sources(tmp_path, text)
    result = _run("zoo", "fetch", NAME)
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr
    (finding,) = checks.sources()
    assert finding.state == "warning" and words in finding.found
    assert "ctseg zoo fetch" in _run("zoo", "show", "unet3d.gone").stderr


def test_doctor_tells_of_sources(tmp_path: Path, zoo: Path) -> None:
    (finding,) = checks.sources()
    assert finding.state == "ok" and "--from URL" in finding.found
    places = [str(zoo), "https://h/zoo", "http://h/zoo", str(zoo / "gone")]
    _sources(tmp_path, "".join(f'[[source]]\nurl = "{place}"\n' for place in places))
    states = [finding.state for finding in checks.sources()]
    assert states == ["ok", "ok", "warning", "warning"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fetch", "x", "--from", "{zoo}"], "Unknown model 'x'"),
        (["fetch", NAME, "--from", "{gone}"], "index.json"),
        (["fetch", NAME, "--from", "{zoo}", "--pin", "1"], "no SHA-256"),
        (["fetch", NAME, "--from", "{zoo}", "--max-size", "9"], "no amount"),
        (["fetch", NAME, "--from", "{zoo}", "--max-size", "1k"], "--max-size SIZE"),
        (["serve-index", "{gone}"], "does not exist"),
        (["serve-index", "{zoo}", "--alias", "x"], "--alias liver="),
        (["serve-index", "{zoo}", "--alias", "x=unet3d.no"], "Unknown model"),
        (["serve-index", "{zoo}", "--reason", "x"], "--deprecate"),
        (["list", "--from", "{gone}"], "index.json"),
        (["list", "--from", "sources.toml"], "No source of models is named"),
        (["list", "--where", "name=x"], "COLUMN=VALUE"),
        (["list", "--where", "labels"], "COLUMN=VALUE"),
    ],
)
def test_bad_input_is_told_and_exits_2(
    zoo: Path, served: Served, own_zoo: Path, args: list[str], words: str
) -> None:
    filled = [a.format(zoo=zoo, gone=zoo / "gone") for a in args]
    result = _run("zoo", *filled)
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr
    assert not list(own_zoo.glob("unet3d.*"))


LIVER = [
    {"name": n, "values": [v], "value": v} for v, n in enumerate(("background", "liver", "lesion"))
]
STEPS = {"steps": [{"kind": "resample", "spacing_xyz": (0.75, 0.75, 2.5)}]}


@pytest.fixture
def many(zoo: Path) -> Path:
    def metrics(dice: float) -> dict[str, Any]:
        return {"mean_dice": dice, "cases": 3}

    task = {"kind": "classes", "labels": LIVER}
    make_entry(zoo, "unet3d.liver_v2", task=task, metrics=metrics(0.91), preprocess=STEPS)
    make_entry(
        zoo,
        "unet3d.liver_with_long_name_v3",
        task=task,
        metrics=metrics(0.95),
        licence="CC BY-NC-SA 4.0",
    )
    serve_index(
        zoo, aliases={"liver": "unet3d.liver_with_long_name_v3"},
        deprecate={"unet3d.liver_v2": "unet3d.liver_with_long_name_v3"},
    )  # fmt: skip
    return zoo


def _names(*args: object) -> list[str]:
    result = _run("zoo", "list", *args, "--json")
    assert result.exit_code == 0, result.stderr
    return [row["name"] for row in json.loads(result.stdout)]


def test_the_list_is_filtered_and_sorted(many: Path) -> None:
    small, old, new = NAME, "unet3d.liver_v2", "unet3d.liver_with_long_name_v3"
    for where in (["--from", many], ["--zoo", many]):
        assert _names(*where) == [old, new, small]
        assert _names(*where, "--where", "labels=Liver") == [old, new]
        assert _names(*where, "--where", "labels=liver,les*", "*v3") == [new]
        assert _names(*where, "--where", "labels=liver, dark") == []
        assert _names(*where, "--where", "task=regression") == []
        assert _names(*where, "--where", "spacing=0.75,0.75,2.5") == [old]
        both = ("--where", "licence=cc by*", "--where", "provider=ctseg")
        assert _names(*where, *both) == [new]
        assert _names(*where, "--sort", "dice") == [new, old, small]
        assert _names(*where, "--sort", "spacing") == [old, new, small]
        assert _names(*where, "--sort", "licence") == [new, old, small]
    empty = _run("zoo", "list", "--from", many, "--where", "labels=spleen")
    assert "No model matches '*' and labels=spleen." in empty.stderr


def test_here_and_there_the_same_is_said(many: Path) -> None:
    here, there = (
        json.loads(_run("zoo", "list", option, many, "--json").stdout)
        for option in ("--zoo", "--from")
    )
    assert [row.pop("fetched") for row in there] == [False] * 3
    assert all(len(row.pop("sha256")) == 64 for row in there)
    assert here == there
    assert (
        here[0]["spacing_xyz"] == [0.75, 0.75, 2.5]
        and "Use unet3d.liver_with" in here[0]["deprecated"]
    )
    assert here[1]["aliases"] == ["liver"]


def test_the_table_keeps_names_and_numbers_whole_on_80_columns(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    shown: list[str] = []
    console = Console(width=80, force_terminal=True)
    monkeypatch.setattr(console, "print", lambda text, **_: shown.append(text))
    monkeypatch.setattr(ui, "out", lambda: console)
    assert _run("zoo", "list", "--from", many).exit_code == 0
    table = [line for line in shown if not line.startswith(("Zoo:", "unet3d.liver_v2 is"))]
    assert max(map(len, table)) <= 80
    words = " ".join(table).split()
    for whole in (
        NAME,
        "unet3d.liver_with_long_name_v3",
        "0.75,0.75,2.5",
        "0.910",
        "0.950",
        "native",
    ):
        assert whole in words
    assert "Alias: liver = unet3d.liver_with_long_name_v3" in table


def test_ctrl_c_says_how_to_go_on(
    zoo: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ctseg.zoo.remote.fetch.download", interrupted)
    result = _run("zoo", "fetch", NAME, "--from", zoo)
    assert result.exit_code == 130 and "the same command continues" in result.stderr


def test_a_missing_coarse_model_is_fetched_too(zoo: Path, own_zoo: Path, tmp_path: Path) -> None:
    make_entry(zoo, "unet3d.fine_v1", stages=[{"model": NAME}])
    serve_index(zoo)
    shutil.copytree(zoo / "unet3d.fine_v1", own_zoo / "unet3d.fine_v1")
    _sources(tmp_path, f'[[source]]\nurl = "{zoo}"\n')
    place = tmp_path / "second"
    ctseg.write(scan(), place / "scan.nii.gz")
    command = ("predict", place / "scan.nii.gz", "-m", "unet3d.fine", "-o", place / "mask.nii.gz")
    result = _run(*command, "--fetch", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert (own_zoo / NAME / "card.json").is_file()
