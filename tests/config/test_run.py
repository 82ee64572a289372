"""The run file: what takes the place of what, and what comes back from TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctseg.cli.train import configure
from ctseg.config import (
    LENGTHS,
    RunConfig,
    dump_config,
    load_config,
    override,
    parse_config,
    parse_duration,
)
from ctseg.config.checking import parse_json
from ctseg.errors import BadInput, ConfigError, FileProblem


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    file = tmp_path / "run.toml"
    file.write_text(
        '[data]\npath = "scans.h5"\noptions = {raw = "/volume"}\n[train]\ntime = "20m"\n'
        "[preprocess]\nsteps = [{kind = 'orient'}]\n"
    )
    return file


@pytest.mark.parametrize("before", [{"steps": 7}, {"epochs": 7}, {"time": "7m"}])
@pytest.mark.parametrize("name", LENGTHS)
def test_another_length_takes_the_place_of_the_one_that_was_there(
    before: dict[str, Any], name: str
) -> None:
    value = "3s" if name == "time" else "3"
    config = override(parse_config({"train": before}), [f"train.{name}={value}"])
    lengths = {key: getattr(config.train, key) for key in LENGTHS}
    assert {key for key, value in lengths.items() if value is not None} == {name}
    assert str(lengths[name]) == value


@pytest.mark.parametrize("key", ["predict.overlap", "train.val_overlap"])
def test_an_overlap_is_a_share_or_one_for_each_axis(key: str, tmp_path: Path) -> None:
    section, _, name = key.partition(".")
    for text, value in (("0.25", 0.25), ("0", 0.0), ("[0.25, 0.1, 0]", (0.25, 0.1, 0.0))):
        config = override(RunConfig(), [f"{key}={text}"])
        assert getattr(getattr(config, section), name) == value
        (tmp_path / "run.toml").write_text(dump_config(config))
        assert load_config(tmp_path / "run.toml") == config
    for text in ("1", "-0.1", "nan", "[0.5, 0.5]", "[0.5, 0.5, 1]", "half", "true"):
        with pytest.raises(ConfigError, match=rf"'{key}' in --set cannot be .*three of them"):
            override(RunConfig(), [f"{key}={text}"])


def test_unsetting_a_length_leaves_the_others() -> None:
    config = override(parse_config({"train": {"steps": 7, "time": "7m"}}), ["train.time=null"])
    assert (config.train.steps, config.train.time) == (7, None)


def test_an_option_takes_the_place_of_the_length_in_the_file(run_file: Path) -> None:
    train = configure(run_file, {"train.epochs": 5}, []).train
    assert (train.steps, train.epochs, train.time) == (None, 5, None)
    train = configure(run_file, {}, ["train.steps=5"]).train
    assert (train.steps, train.epochs, train.time) == (5, None, None)
    with pytest.raises(BadInput, match="--steps and --time both"):
        configure(run_file, {"train.time": "5m", "train.steps": 5}, [])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (" 1.5 ", 1.5),
        ("90s", 90),
        ("20m", 1200),
        ("1h30m", 5400),
        ("1h30s", 3630),
        ("0.5h", 1800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "1h30", "5m30", "1h5m7", "30m1h", "1d", "-5m", "1,5h", "m"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """1h30 may mean minutes or seconds."""
    with pytest.raises(ValueError, match=r"no duration; write .*1h30m"):
        parse_duration(text)
    with pytest.raises(ConfigError, match="no duration"):
        parse_config({"train": {"time": text}})


def test_options_of_the_reader_join_those_in_the_file(run_file: Path) -> None:
    config = configure(run_file, {"data.options": {"label": "/mask"}}, [])
    assert config.data.options == {"raw": "/volume", "label": "/mask"}
    config = configure(run_file, {"data.options": {"raw": "/other"}}, [])
    assert config.data.options == {"raw": "/other"}


def test_a_spacing_that_the_steps_would_ignore_is_refused(run_file: Path) -> None:
    with pytest.raises(BadInput, match="has no effect"):
        configure(run_file, {"preprocess.spacing_xyz": (1.0, 1.0, 1.0)}, [])
    spacing = ["preprocess.spacing_xyz=[1, 1, 1]"]
    with pytest.raises(BadInput, match="has no effect"):
        configure(run_file, {}, spacing)
    config = configure(run_file, {}, [*spacing, "preprocess.steps=[]"])
    assert config.preprocess.spacing_xyz == (1, 1, 1)


@pytest.mark.parametrize("limit", ["null", "inf", "3.5"])
def test_no_limit_of_the_gradients_comes_back_from_the_file(limit: str, tmp_path: Path) -> None:
    config = override(RunConfig(), [f"train.clip_grad={limit}"])
    assert config.train.clip_grad == (3.5 if limit == "3.5" else None)
    file = tmp_path / "config.toml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbf[data]\r\npath = 'scans'\r\n")
    assert load_config(file).data.path == "scans"


@pytest.mark.parametrize(
    "text", [b"a = " + b"[" * 100_000, b"\xff\xfe[\x00", b"seed = " + b"9" * 5000]
)
def test_what_is_no_toml_is_told(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(text)
    with pytest.raises(FileProblem, match="not valid TOML"):
        load_config(file)


def test_a_long_value_is_not_repeated_as_a_whole() -> None:
    with pytest.raises(ConfigError) as found:
        parse_config({"seed": "x" * 100_000})
    assert len(found.value.message) < 1000
    assert "'seed'" in found.value.message


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"x": 1e400}', "[" * 101 + "]" * 101, "[" * 10**5]
)
def test_json_that_anybody_may_have_made(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|too deeply"):
        parse_json(text)
    assert parse_json('{"x": [1e300, {"y": null}]}') == {"x": [1e300, {"y": None}]}
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json("1e400", finite=False) == float("inf")
