"""Write the table of plans in docs/explanation/plans.md: data sets on machines, planned as `ctseg plan` does.

python docs/plans.py --data ../shared/data

Nothing is measured: the machines have the speeds in `MACHINES`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

from ctseg.config import DataConfig, RunConfig
from ctseg.engine.training.job import Silent
from ctseg.engine.training.planned import STEPS_SHARE, open_data, usual_speed
from ctseg.planning.fingerprint import Fingerprint, fingerprint
from ctseg.planning.limits import Limits, load_of
from ctseg.planning.plan import make_plan
from ctseg.planning.task import task_of
from ctseg.specs import Task
from ctseg.task import classes_task

PAGE = Path(__file__).resolve().parent / "explanation" / "plans.md"
BEGIN = "<!-- plans: written by docs/plans.py -->\n"
END = "<!-- /plans -->"
GB, CORE = 10**9, 7e10
"""Operations a second of a core in training: what one of an AMD EPYC, held to AVX2, makes at least."""


class Machine(NamedTuple):
    """A machine and a time, as limits of a plan."""

    name: str
    seconds: float
    limits: Limits


MACHINES = (
    Machine("2 cores, 5 min", 300, Limits("cpu", 8 * GB, speed=2 * CORE)),
    Machine("16 cores, 1 h", 3600, Limits("cpu", 32 * GB, speed=16 * CORE)),
    Machine("11 GB, 2 h", 7200, Limits("cuda", 11 * GB, speed=usual_speed(11 * GB), half=True)),
    Machine("80 GB, 24 h", 86_400, Limits("cuda", 80 * GB, speed=usual_speed(80 * GB), half=True)),
)
SETS = {
    "hippocampus": "Dataset004_Hippocampus",
    "sts_ct": "sts_ct",
    "lidc_nodules": "lidc_nodules",
    "weave": "weave_microct/weave.h5",
}


class Data(NamedTuple):
    """What a plan follows from."""

    name: str
    task: Task
    channels: tuple[str, ...]
    found: Fingerprint
    one_volume: bool = False


def data_sets(folder: Path) -> list[Data]:
    """The data sets of the table, the last one made up."""
    sets = []
    for name, path in SETS.items():
        opened = open_data(RunConfig(data=DataConfig(path=str(folder / path))), Silent())
        task = task_of(None, opened.dataset)
        found = fingerprint(opened.training, task)
        one = len(opened.dataset.cases) == 1
        sets.append(Data(name, task, opened.dataset.channels, found, one))
    statistics = {
        "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0, "std": 30.0,
    }  # fmt: skip
    made_up = Fingerprint(
        ((400, 512, 512),) * 50, ((1.0, 0.8, 0.8),) * 50, (statistics,), {"organ": 300.0}, 50
    )
    return [*sets, Data("CT 512 x 512 x 400", classes_task({"organ": 1}), ("CT",), made_up)]


def row(data: Data, machine: Machine) -> str:
    """A line of the table."""
    timed = dataclasses.replace(machine.limits, seconds=STEPS_SHARE * machine.seconds)
    config, _ = make_plan(
        RunConfig(), data.task, data.channels, data.found, timed, one_volume=data.one_volume
    )
    load = load_of(config, in_channels=len(data.channels), out_channels=data.task.out_channels)
    assert load is not None
    spacing = next(
        (step["spacing_xyz"] for step in config.preprocess.steps if step["kind"] == "resample"),
        data.found.median_spacing_zyx[::-1],
    )
    features = config.model.options["features"]
    seconds = load.seconds(timed) or 0.0
    cells = (
        data.name,
        machine.name,
        " x ".join(f"{s:.3g}" for s in spacing),
        " x ".join(map(str, config.train.patch_zyx or ())),
        config.train.batch_size,
        f"{features[0]} to {features[-1]}, {len(features)} levels",
        f"{int(STEPS_SHARE * machine.seconds / seconds):,}",
        f"{load.memory(timed) / GB:.2g}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def table(folder: Path) -> str:
    heads = ("data", "machine", "spacing, mm", "patch", "batch", "network", "steps", "memory, GB")
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    lines += [row(data, machine) for data in data_sets(folder) for machine in MACHINES]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    written = f"{before}{BEGIN}\n{table(parser.parse_args().data)}\n\n{END}{after}"
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
