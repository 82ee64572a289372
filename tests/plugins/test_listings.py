"""`ctseg architectures`, `ctseg losses` and `ctseg plugins` on what ships in the box."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app

runner = CliRunner()


def result(*arguments: str, code: int = 0):
    done = runner.invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done


def test_architectures_are_listed_by_pattern():
    names = [row["name"] for row in json.loads(result("architectures", "list", "--json").stdout)]
    assert names == sorted(names)
    assert {"unet3d", "residual_unet3d"} <= set(names)
    done = result("architectures", "list", "res*")
    assert "residual_unet3d" in done.stdout
    assert "\nunet3d" not in done.stdout
    done = result("architectures", "list", "zzz*")
    assert done.stdout == ""
    assert "No architecture matches 'zzz*'" in done.stderr


def test_an_architecture_shows_options_size_and_demands():
    done = json.loads(result("architectures", "show", "unet3d", "--json").stdout)
    assert done["parameters"] == 5_602_562
    assert done["constraints"]["stride_zyx"] == [8, 8, 8]
    assert done["package"] == "ctseg"
    options = {option["name"]: option for option in done["options"]}
    assert options["features"]["default"] == [32, 64, 128, 256]
    assert options["norm"]["type"] == "instance | batch | group | none"
    assert all(option["help"] for option in done["options"])
    text = result("architectures", "show", "unet3d").stdout
    assert "5,602,562 parameters" in text
    assert "multiples of (8, 8, 8)" in text


def test_losses_say_which_tasks_they_serve():
    rows = {row["name"]: row for row in json.loads(result("losses", "list", "--json").stdout)}
    assert rows["dice"]["tasks"] == ["channels", "classes"]
    assert rows["bce"]["tasks"] == ["channels"]
    assert "channels, classes" in result("losses", "list", "dice").stdout
    done = json.loads(result("losses", "show", "dice_ce", "--json").stdout)
    assert {"smooth", "batch", "ce_weight"} <= {option["name"] for option in done["options"]}
    assert "loss.options.NAME=VALUE" in result("losses", "show", "dice_ce").stdout


def test_plugins_say_what_they_provide():
    rows = json.loads(result("plugins", "list", "--json").stdout)
    assert rows[0]["package"] == "ctseg"
    assert "unet3d" in rows[0]["provides"]["architecture"]
    assert rows[0]["error"] is None
    assert "losses" in result("plugins", "list").stdout


@pytest.mark.parametrize(
    ("group", "asked", "near"),
    [("architectures", "unet", "unet3d"), ("losses", "dicece", "dice_ce")],
)
def test_unknown_names_get_the_nearest(group, asked, near):
    done = result(group, "show", asked, code=2)
    assert f"Did you mean '{near}'?" in done.stderr
