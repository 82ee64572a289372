"""Units of tables, and the tolerance that a voxel size asks for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.metrics.case import MetricSettings, default_tolerance
from ctseg.metrics.units import length_text, length_unit, unit_for, volume_unit
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume


@pytest.mark.parametrize(
    ("values", "volume", "length"),
    [
        ([1500.0, 0.8, None], "ml", "mm"),
        ([0.016, 0.048], "ml", "um"),
        ([0.002, 0.004, 3.0], "mm3", "um"),
        ([1e-9, 2e-9, 0.0], "um3", "um"),
        ([-0.5, 0.3], "ml", "mm"),
        ([0.0, None], "ml", "mm"),
    ],
)
def test_the_unit_suits_the_middle_value(values: list[float], volume: str, length: str) -> None:
    assert volume_unit(values).name == volume
    assert length_unit(values).name == length


def test_what_a_value_is_in_its_unit() -> None:
    """1 ml is 1000 mm3, and 10^12 um3."""
    assert volume_unit([0.002]).of(0.002) == pytest.approx(2.0)
    assert volume_unit([2e-9]).of(2e-9) == pytest.approx(2000.0)
    assert length_unit([0.005]).of(0.005) == pytest.approx(5.0) and length_unit([]).of(None) is None
    assert unit_for("HD95 mm", [0.005])[0] == "HD95 um" and unit_for("Dice", [0.005])[0] == "Dice"
    assert (length_text(1.0), length_text(0.01)) == ("1 mm", "10 um")


def test_the_tolerance_follows_small_voxels() -> None:
    assert default_tolerance((3.0, 0.7, 0.7)) == 1.0 and default_tolerance((0.1, 0.1, 0.1)) == 1.0
    assert default_tolerance((0.005, 0.005, 0.004)) == 0.01
    assert MetricSettings(tolerance_mm=0.5).tolerance_of("a", (0.005,) * 3) == 0.5
    assert MetricSettings(tolerance_mm={"a": 0.5}).tolerance_of("b", (0.005,) * 3) == 0.01


@pytest.fixture
def micro(tmp_path: Path) -> tuple[Path, Path]:
    """Two cubes of 20 voxels of 5 um, one of them three voxels longer along x."""
    grid = Geometry((40, 40, 40), (0.005,) * 3, unit="um")
    made = np.zeros((40, 40, 40), np.uint8)
    made[10:30, 10:30, 10:30] = 1
    truth = made.copy()
    truth[10:30, 10:30, 30:33] = 1
    for name, array in (("made", made), ("truth", truth)):
        ctseg.write(Volume(array, grid), tmp_path / f"{name}.nrrd")
    return tmp_path / "made.nrrd", tmp_path / "truth.nrrd"


def test_tables_of_micro_ct_show_digits_and_files_keep_their_units(
    tmp_path: Path, micro: tuple[Path, Path]
) -> None:
    words = ["evaluate", *map(str, micro)]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "a.csv")])
    assert result.exit_code == 0, result.output
    head, row = (line.split("  ") for line in result.stdout.splitlines()[:2])
    cells = dict(zip([h.strip() for h in head if h], [c.strip() for c in row if c], strict=False))
    assert float(cells["HD95 um"]) == 15.0
    assert float(cells["predicted um3"]) == pytest.approx((20 * 5) ** 3)
    assert "Surface Dice within 10 um, two voxels (--tolerance MM sets another)." in result.stdout
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    (case,) = found["cases"]
    assert case["labels"]["1"]["hd95"] == pytest.approx(0.015)
    assert case["labels"]["1"]["predicted_ml"] == pytest.approx(1e-6)
    assert found["settings"]["tolerance_mm"] == 0.01
    assert 0 < found["means"]["surface_dice"] < 1
    assert "0.015" in (tmp_path / "a.csv").read_text()
    given = CliRunner().invoke(app, [*words, "--tolerance", "1"]).stdout
    assert "Surface Dice within 1 mm." in given
