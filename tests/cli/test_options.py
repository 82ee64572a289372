"""Options mean one thing everywhere, fit a screen, and take axes in any order; old spellings are understood."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import ctseg
from ctseg.cli import demo, evaluate, predict
from ctseg.cli.app import app
from ctseg.cli.options import axes, settings
from ctseg.errors import BadInput

SCREEN = 49
"""Lines of a help page, blank ones and examples included."""


def commands(
    group: Any = None, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    group = group or get_command(app)
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


ALL = dict(commands())


def options() -> Iterator[tuple[str, str, Any]]:
    for words, command in ALL.items():
        for option in command.params:
            if option.param_type_name == "option":
                yield " ".join(words), max(option.opts, key=len), option


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_a_help_page_fits_a_screen(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) <= SCREEN, len(lines)
    assert max(map(len, lines)) <= 80
    assert not re.search(r"<(bool|str|int|float|list|path)", result.stdout), "a bare type"
    for name in (evaluate.OLD_SPELLINGS, predict.OLD_SPELLINGS).__getitem__(words == ("predict",)):
        if words in (("predict",), ("evaluate",)):
            assert f" {name} " not in result.stdout


def test_help_of_options_is_a_phrase() -> None:
    for command, name, option in options():
        text = option.help
        assert text, f"{command} {name}"
        assert text[0].isupper() and text.endswith((".", ":")), f"{command} {name}: {text}"
        assert text.split()[0] not in {"Of", "To", "At", "For", "Also", "Only"}, f"{command} {name}"


def test_an_option_means_one_thing_everywhere() -> None:
    seen: dict[str, dict[tuple[bool, str | None], list[str]]] = {}
    for command, name, option in options():
        kind = (bool(option.is_flag), None if option.is_flag else option.metavar)
        seen.setdefault(name, {}).setdefault(kind, []).append(command)
    differing = {name: kinds for name, kinds in seen.items() if len(kinds) > 1}
    # a folder here and a file or folder there; keys of a run file here, of one network there
    assert set(differing) <= {"--output", "--set"}, differing
    old = {
        name for table in (evaluate, predict, demo) for name in getattr(table, "OLD_SPELLINGS", {})
    }
    assert "--confidence" in old and "--instances" in old
    where = {
        name: {c for c, n, _ in options() if n == name} for name in ("--confidence", "--instances")
    }
    assert where == {"--confidence": {"predict"}, "--instances": {"predict"}}


def test_options_with_a_value_for_each_axis_say_their_order() -> None:
    orders = {"--patch": "Z,Y,X", "--tile": "Z,Y,X", "--overlap": "Z,Y,X", "--spacing": "X,Y,Z"}
    found = {(name, option.metavar) for _, name, option in options() if name in orders}
    assert found == set(orders.items())


# ---------------------------------------------------------------- axes


@pytest.mark.parametrize("names", list(itertools.permutations("zyx")), ids="".join)
def test_axes_come_in_any_order(names: tuple[str, ...]) -> None:
    values = {"z": 64, "y": 80, "x": 96}
    text = ",".join(f"{name}={values[name]}" for name in names)
    assert axes.numbers(text, int) == (64, 80, 96)
    assert axes.numbers(text.upper().replace(",", " , "), int, "xyz") == (96, 80, 64)


def test_axes_without_names_come_in_the_order_of_the_option() -> None:
    assert axes.numbers("64,80,96", int) == axes.numbers("64x80x96", int) == (64, 80, 96)
    assert axes.numbers("0.7,0.8,2.5", float, "xyz") == (0.7, 0.8, 2.5)
    assert axes.fractions("0.25") == 0.25
    assert axes.fractions("x=0.1,y=0.2,z=0.3") == (0.3, 0.2, 0.1)


@pytest.mark.parametrize(
    "text",
    ["", "1,2", "1,2,3,4", "z=1,y=2", "z=1,z=2,x=3", "z=1,y=2,t=3", "z=1,2,3", "a,b,c", "1.5,2,3"],
)
def test_axes_that_are_no_axes(text: str) -> None:
    with pytest.raises(BadInput, match="three") as caught:
        axes.numbers(text, int)
    assert "64,96,96" in str(caught.value.hint)


def test_spacing_and_patch_of_a_run_in_any_order(
    mini_set: Path, tmp_path: Path, mini_options: list[str]
) -> None:
    options = [word for word in mini_options if word not in ("--patch", "8,16,16")]
    named = ("--patch", "x=16,z=8,y=24", "--spacing", "z=2.4,x=1,y=1.2")
    result = run("train", mini_set, "-o", tmp_path / "run", "--steps", 1, *options, *named)
    assert result.exit_code == 0, result.output
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["train"]["patch_zyx"] == [8, 24, 16]
    resample = next(s for s in config["preprocess"]["steps"] if s["kind"] == "resample")
    assert resample["spacing_xyz"] == [1.0, 1.2, 2.4]


@pytest.mark.parametrize("text", ["0.7,0.8,2.5", "z=2.5,x=0.7,y=0.8", "z=2500um,y=800,x=700"])
def test_the_spacing_of_a_converted_scan(text: str, tmp_path: Path) -> None:
    ctseg.write(ctseg.Volume.from_array(np.zeros((2, 3, 4), np.uint8)), tmp_path / "a.nii.gz")
    words = ("data", "convert", tmp_path / "a.nii.gz", tmp_path / "b.nrrd", "--spacing", text)
    assert run(*words).exit_code == 0
    assert ctseg.read(tmp_path / "b.nrrd").spacing_xyz == pytest.approx((0.7, 0.8, 2.5))


# ---------------------------------------------------------------- settings and old spellings


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Predictions of four cases, with references, and a mask."""
    random = np.random.default_rng(0)
    for case in range(4):
        reference = (random.random((6, 8, 8)) > 0.4).astype(np.uint8)
        predicted = np.where(random.random((6, 8, 8)) > 0.2, reference, 1 - reference)
        for folder, array in (("made", predicted), ("true", reference)):
            ctseg.write(
                ctseg.Volume.from_array(array.astype(np.uint8)),
                tmp_path / folder / f"c{case}.nii.gz",
            )
    return [tmp_path / "made", tmp_path / "true"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("--seed", "3", "--resamples", "200"), ("--set", "seed=3", "--set", "resamples=200")),
        (("--confidence=90",), ("--set", "confidence_level=90")),
        (("--bootstrap", "percentile"), ("--set", "bootstrap=percentile")),
        (
            ("--instances", "--metrics", "instances", "--iou", "0.3,0.6"),
            ("--instance-ids", "--metrics", "instances", "--set", "iou=0.3,0.6"),
        ),
    ],
)
def test_old_spellings_of_evaluate_do_the_same_and_warn(
    pair: list[Path], old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    before, after = run("evaluate", *pair, *old, "--json"), run("evaluate", *pair, *new, "--json")
    assert before.exit_code == after.exit_code == 0, before.output + after.output
    assert before.stdout == after.stdout != run("evaluate", *pair, "--json").stdout
    names = {word.partition("=")[0] for word in old} & set(evaluate.OLD_SPELLINGS)
    assert len(re.findall("Warning: --", before.stderr)) == len(names)
    assert all(f"{name} is an old spelling" in before.stderr for name in names)
    assert "Warning" not in after.stderr


def test_old_spellings_of_predict_do_the_same_and_warn(
    mini_set: Path, mini_run: Path, tmp_path: Path
) -> None:
    scan, head = mini_set / "imagesTr" / "mini_0.nii.gz", ("predict",)
    made = {}
    for name, words in {
        "old": ("--format", "nrrd", "--dtype", "float16", "--min-size", "brick=3vox"),
        "new": ("--set", "format=nrrd", "--set", "dtype=float16", "--set", "min_size=brick=3vox"),
    }.items():
        out = tmp_path / name
        result = run(*head, scan, "-m", mini_run, "-o", f"{out}/", *words, "--probabilities")
        assert result.exit_code == 0, result.output
        assert result.stderr.count("old spelling") == (3 if name == "old" else 0)
        record = json.loads((out / "predictions.json").read_text())
        made[name] = (record["settings"], sorted(p.name for p in out.rglob("*.*")))
    assert made["old"] == made["new"]
    assert made["new"][0]["dtype"] == "float16"
    (rule,) = made["new"][0]["postprocess"]
    assert (rule["label"], rule["min_size_voxels"]) == ("brick", 3)
    assert "mini_0.nrrd" in made["new"][1]


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["--seed", "3"], ["--set", 'seed="3"']),
        (["--seed=3"], ["--set", 'seed="3"']),
        (["--dataset", 'a"b'], ["--set", 'dataset="a\\"b"']),
        (["--instances"], ["--instance-ids"]),
        (["--labels", "--seed"], ["--labels", "--seed"]),  # a value, whatever it looks like
        (["--", "--seed", "3"], ["--", "--seed", "3"]),
        (["--mask", "--seed"], ["--set", 'mask="--seed"']),
        (["--seed"], ["--set"]),  # Typer says that its value is missing
    ],
)
def test_what_old_spellings_become(
    given: list[str], understood: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from ctseg.cli.options.spellings import _translated

    command = ALL[("evaluate",)]
    assert list(_translated(command, given, evaluate.OLD_SPELLINGS, quiet=True)) == understood
    assert capsys.readouterr().err == ""


def test_every_old_spelling_leads_somewhere() -> None:
    for name, module in (("predict", predict), ("evaluate", evaluate)):
        known = {opt for option in ALL[(name,)].params for opt in option.opts}
        keys = set(settings.model_of(name).model_fields)
        for old, new in module.OLD_SPELLINGS.items():
            assert old not in known
            option, _, setting = new.partition(" ")
            assert option in known
            assert option == "-o" or not setting or setting.partition("=")[0] in keys


def test_settings_come_from_a_file_and_the_command_line_wins(
    pair: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('seed = 3\nbootstrap = "percentile"\niou = [0.3, 0.6]\n')
    words = ("evaluate", *pair, "--json", "--config", file)
    found = json.loads(run(*words).stdout)["intervals"]
    assert (found["seed"], found["method"]) == (3, "percentile")
    found = json.loads(run(*words, "--set", "seed=4").stdout)["intervals"]
    assert (found["seed"], found["method"]) == (4, "percentile")


@pytest.mark.parametrize("command", list(settings.MODELS))
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "datset=/x"), "Did you mean 'dataset'?"),
        (("--set", "dataset"), "is not KEY=VALUE"),
        (("--set", "dataset.name=x"), "'dataset"),
        (("--config", "none.toml"), "cannot be read"),
        (("--config", "broken.toml"), "not valid TOML"),
        (("--config", "wrong.toml"), "Unknown key 'datset' in wrong.toml"),
    ],
)
def test_wrong_settings_are_refused(
    command: str, words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("[a")
    Path("wrong.toml").write_text("datset = 1")
    more = ("-m", "x", "-o", "y") if command == "predict" else ()
    result = run(command, "scan.nii.gz", *more, *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", list(settings.MODELS))
def test_the_keys_are_listed(command: str) -> None:
    more = ("-m", "x", "-o", "y") if command == "predict" else ()
    result = run(command, "nowhere", *more, "--set", "list")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    fields = settings.model_of(command).model_fields
    assert set(fields) <= set(lines)
    assert all(field.description in lines[name] for name, field in fields.items())


def test_a_region_whose_axes_are_named(mini_set: Path, mini_run: Path, tmp_path: Path) -> None:
    scan, maps = mini_set / "imagesTr" / "mini_0.nii.gz", []
    for name, region in (("a", "2:10,4:20,3:19"), ("b", "x=3:19,z=2:10,y=4:20")):
        out = tmp_path / f"{name}.nii.gz"
        result = run("predict", scan, "-m", mini_run, "-o", out, "--set", f"region={region}")
        assert result.exit_code == 0, result.output
        maps.append(ctseg.read(out).array)
    assert np.array_equal(*maps)


def test_an_overlap_for_each_axis_reaches_the_record(
    mini_set: Path, mini_run: Path, tmp_path: Path
) -> None:
    scan = mini_set / "imagesTr" / "mini_0.nii.gz"
    for text, value in (("0.25", 0.25), ("0.5,0.25,0", [0.5, 0.25, 0.0])):
        out = tmp_path / f"out{len(text)}"
        result = run("predict", scan, "-m", mini_run, "-o", f"{out}/", "--overlap", text)
        assert result.exit_code == 0, result.output
        assert json.loads((out / "predictions.json").read_text())["settings"]["overlap"] == value
    refused = run("predict", scan, "-m", mini_run, "-o", tmp_path / "x/", "--overlap", "0.5,0.5,1")
    assert refused.exit_code == 2 and "overlap" in refused.stderr
