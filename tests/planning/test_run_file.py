"""The run file of a plan: complete, readable, and a run file like any other."""

from __future__ import annotations

import tomllib

from ctseg.config import RunConfig, parse_config
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.limits import Limits
from ctseg.planning.plan import make_plan
from ctseg.planning.run_file import commented
from ctseg.task import classes_task

STATISTICS = {
    "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0, "std": 30.0,
}  # fmt: skip
FOUND = Fingerprint(((40, 50, 45),) * 10, ((1.0, 1.0, 1.0),) * 10, (STATISTICS,), {}, 10)


def test_every_choice_has_its_reason_beside_it_and_comments_change_nothing():
    config, plan = make_plan(RunConfig(), classes_task({"organ": 1}), ("CT",), FOUND, Limits("cpu"))
    text = commented(config, plan.choices)
    assert parse_config(tomllib.loads(text)) == config
    comments = " ".join(
        line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")
    )
    for choice in plan.choices.values():
        assert " ".join(choice["reason"].split()) in comments
    lines = text.splitlines()
    for key, above in (
        ("patch_zyx = [", "near a cube"),
        ("lr = ", "muon"),
        ('name = "dice_ce"', "usual"),
    ):
        at = next(i for i, line in enumerate(lines) if line.startswith(key))
        before = []
        while lines[at - 1].startswith("#"):
            at -= 1
            before.append(lines[at])
        assert any(above in line for line in before), key
    assert lines[0].startswith("# Run file")
    assert lines[1].startswith("# size: usual on cpu")


def test_a_choice_of_unknown_place_stands_at_the_top():
    text = commented(RunConfig(), {"moon_phase": {"value": 1, "reason": "it is full\nand bright"}})
    assert text.splitlines()[1] == "# moon phase: it is full and bright"
    assert parse_config(tomllib.loads(text)) == RunConfig()
