"""What a search starts from: the planned configuration, whose trials never see the validation cases of its fold."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

from ctseg.config import RunConfig
from ctseg.data.splits import fold_cases
from ctseg.engine.model.runtime import choose
from ctseg.engine.training.job import Reporter
from ctseg.engine.training.planned import deadline_of, open_data, plan_run
from ctseg.engine.training.run import check_names
from ctseg.errors import BadInput
from ctseg.planning.task import task_of

INNER_FOLDS = 5
"""One of so many parts of the training cases judges the trials."""


def planned(config: RunConfig, reporter: Reporter) -> RunConfig:
    """The complete configuration of the trials.

    The training cases of its fold are split once more, by patient: one part trains, the other judges. A data set of
    one volume is judged on the slices that validate.

    Args:
        config: as for `ctseg.train`; what is left out is planned.

    Raises:
        BadInput: too few cases, or a task without a score that trials can be compared by.
    """
    check_names(config)
    data = open_data(config, reporter)
    task = task_of(config.task, data.dataset)
    if len(data.dataset.cases) > 1:
        inner = dataclasses.replace(data.dataset, cases=data.training, splits=())
        if len({case.group or case.id for case in inner.cases}) < 2:
            raise BadInput(
                "The cases that train are too few to keep some of them for comparing trials.",
                hint="Two patients or specimens at least must train.",
            )
        train, val = fold_cases(inner, 0, INNER_FOLDS)
        changed = config.data.model_copy(update={"train": train, "val": val})
        config = config.model_copy(update={"data": changed})
        data = open_data(config, reporter)
    runtime = choose(config.train.device, config.train.precision)
    deadline = deadline_of(config, time.monotonic())  # a trial's time decides its size
    return plan_run(config, data, task, runtime, reporter, deadline).config


def as_run_file(
    trial: RunConfig, base: RunConfig, split: Mapping[str, tuple[str, ...]]
) -> RunConfig:
    """The configuration of a trial for a run on the whole fold.

    Args:
        base: what the trials start from.
        split: `train` and `val` of the data as the user gave them; empty for the split of the fold.
    """
    data = trial.data.model_copy(update=dict(split))
    train = trial.train.model_copy(update={"device": base.train.device})  # not that of one worker
    return trial.model_copy(update={"data": data, "train": train})


def trial_folder(study: Path, number: int) -> Path:
    return study / "trials" / f"{number:04}"
