"""Preparation on its own: what training would prepare, made beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ctseg.config import RunConfig
from ctseg.data.joined import dataset_of
from ctseg.data.load import check_channels
from ctseg.data.pipeline import Pipeline
from ctseg.data.prepared_case import Prepared
from ctseg.data.readers.layout import some
from ctseg.data.store import Store
from ctseg.engine.model.runtime import choose
from ctseg.engine.training.adopt import adopt
from ctseg.engine.training.job import Reporter, Silent
from ctseg.engine.training.planned import deadline_of, open_data, plan_run, planned_spacing
from ctseg.errors import BadInput
from ctseg.planning.fingerprint import fingerprint
from ctseg.planning.task import task_of


def with_labels(cases: Sequence[Prepared], doing: str, reporter: Reporter) -> tuple[Prepared, ...]:
    """The cases of which some voxel counts; the others, which nobody labelled, are named.

    Args:
        doing: what the cases are for: `train` or `validate`.

    Raises:
        BadInput: all voxels of all cases are ignored.
    """
    kept = tuple(case for case in cases if len(case.places))
    if not kept:
        raise BadInput(
            f"No voxel of the cases that {doing} is labelled: all are ignored.",
            hint="Is the ignore value right? See: ctseg data inspect DATA",
        )
    if len(kept) < len(cases):
        without = [case.id for case in cases if not len(case.places)]
        reporter.say(
            f"Note: every voxel of {some(without)} is ignored; {len(kept)} cases are left to {doing}."
        )
    return kept


def prepare(
    config: RunConfig, *, workers: int | None = None, reporter: Reporter | None = None
) -> tuple[Store, list[Prepared]]:
    """Prepare the training and validation cases of a run; `train` with the same plan finds them ready.

    With a time budget the plan follows the speed of the machine, which is measured anew each time: near a limit it may
    differ. A run file that `ctseg plan` has written fixes it.

    Args:
        config: what is left out is planned; `data.path` must be set.
        workers: cases prepared at a time.
        reporter: told how far it has come.

    Returns:
        the store, and its cases.

    Raises:
        BadInput: data that cannot be trained with.
    """
    begun = time.monotonic()
    reporter = reporter or Silent()
    if not config.data.path:
        raise BadInput("No data set is named.", hint="ctseg data prepare FOLDER")
    if config.model.init and not config.preprocess.steps:
        config = adopt(config, dataset_of(config.data, config.preprocess.grid), reporter)
    data = open_data(config, reporter)
    dataset, training, validation = data[:3]
    task = task_of(config.task, dataset)
    done, total = 0, 2 * len(training) + len(validation)

    def on_case(name: str, what: str = "looking at") -> None:
        nonlocal done
        done += 1
        reporter.update(done, total, f"{what} {name}")

    if not config.preprocess.steps:
        runtime = choose(config.train.device, config.train.precision)
        check_channels([*training, *validation], dataset.channels)
        found = fingerprint(training, task, on_case)
        data, deadline = data._replace(found=found), deadline_of(config, begun)
        config, document, _ = plan_run(config, data, task, runtime, reporter, deadline)
        reporter.say(f"Planned: {planned_spacing(config, document)}")
    if config.first_stage.use == "on":
        reporter.say(
            "Note: these are whole scans; a run with a first stage prepares the regions that it finds."
        )
    pipeline = Pipeline.of(config.preprocess)
    store = Store(pipeline, task, mode=config.data.prepare, channels=dataset.channels)
    done = len(training)
    made = store.prepare(
        [*training, *validation], lambda name: on_case(name, "prepared"), workers=workers
    )
    return store, made
