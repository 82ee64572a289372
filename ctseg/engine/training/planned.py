"""What comes before a training: the data set inspected, the run planned, and the runtime measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ctseg import machine, plugins
from ctseg.config import RunConfig, parse_duration
from ctseg.config.checking import parse_json
from ctseg.data.inspection.hounsfield import unnamed_ct
from ctseg.data.joined import dataset_of
from ctseg.data.large_scans import is_large
from ctseg.data.load import check_channels, load_image, load_label
from ctseg.data.readers.grids import interpolated_channels, tolerated_offsets
from ctseg.data.readers.layout import some
from ctseg.data.splits import depths, split
from ctseg.engine.inference.memory.fit import parse_size
from ctseg.engine.model.create import create_model
from ctseg.engine.model.malloc import kept_buffers
from ctseg.engine.model.measure_runtime import (
    Measurement,
    as_choice,
    choose_measured,
    probe_of,
    recorded,
    speed_of,
)
from ctseg.engine.model.runtime import Runtime, choose
from ctseg.engine.training.adopt import adopt
from ctseg.engine.training.job import Reporter
from ctseg.engine.training.run_report import environment_of
from ctseg.errors import BadInput
from ctseg.planning.choices import Plan
from ctseg.planning.fingerprint import Fingerprint, fingerprint
from ctseg.planning.limits import Limits
from ctseg.planning.plan import make_plan
from ctseg.planning.run_file import commented
from ctseg.planning.task import task_of
from ctseg.specs import Case, DataSet, Task, training_only

STEPS_SHARE = 0.8
"""Share of a time budget that is left for steps after preparation, measuring and validation."""
ROUNDS = 3
"""How often the speed is measured while the plan changes with it."""
FREE_SHARE = 0.9
"""Share of the free memory that a plan may take."""
PLAN = "plan.json"
"""The cases, the fingerprint of the data, and each choice with its reason."""


class RunData(NamedTuple):
    """The data set of a run, its cases, and the fingerprint of those that train once they were looked at."""

    dataset: DataSet
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    found: Fingerprint | None = None


def open_data(config: RunConfig, reporter: Reporter) -> RunData:
    """Open the data set of a run and split it.

    Raises:
        BadInput: nothing is left to train or validate on.
    """
    dataset = dataset_of(config.data, config.preprocess.grid)
    training, validation = split(dataset, config.data, depths(dataset))
    if beside := tolerated_offsets([*training, *validation]):
        reporter.say(f"Warning: {beside}")
    if own_grids := interpolated_channels([*training, *validation]):
        reporter.say(f"Note: {own_grids}")
    return RunData(dataset, training, validation)


def check_cases(folder: Path, training: Sequence[Case], validation: Sequence[Case]) -> None:
    """Refuse other cases than those with which a run began; runs that keep no record of them are trusted.

    Raises:
        BadInput: the data set has other cases or folds by now, so that a case would train and validate.
    """
    try:
        began = parse_json((folder / PLAN).read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or edited
        return
    if began != _ids(training, validation):
        raise BadInput(
            f"The cases or folds of the data set have changed since the run {folder} began.",
            hint="Restore the data set, or start a new run.",
        )


def _ids(training: Sequence[Case], validation: Sequence[Case]) -> dict[str, list[str]]:
    return {"train": [case.id for case in training], "val": [case.id for case in validation]}


class Planned(NamedTuple):
    """A planned run.

    Attributes:
        config: complete.
        document: the contents of `plan.json`.
        runtime: measured on the network of the run.
    """

    config: RunConfig
    document: dict[str, Any]
    runtime: Runtime


def plan_run(
    config: RunConfig,
    data: RunData,
    task: Task,
    runtime: Runtime,
    reporter: Reporter,
    deadline: float | None = None,
) -> Planned:
    """Inspect the data and choose what the configuration leaves open.

    Args:
        deadline: monotonic time at which the run must end; None without a time budget.
    """
    found = data.found or inspect_data(data, task, reporter)
    limits = limits_of(config, runtime)
    if _is_set(config):
        limits = replace(limits, memory=None)  # nothing is left to fit into it
    if deadline is not None:
        limits = replace(limits, seconds=STEPS_SHARE * max(deadline - time.monotonic(), 1.0))
    channels = data.dataset.channels

    def planned(limits: Limits) -> tuple[RunConfig, Plan]:
        one_volume = len(data.dataset.cases) == 1
        return make_plan(config, task, channels, found, limits, one_volume=one_volume)

    resolved, plan = planned(limits)
    for _ in range(ROUNDS if limits.seconds is not None and not _is_set(config) else 0):
        # a narrower network makes fewer operations a second: measured again where the plan changed
        if _is_here(runtime.device):
            speed = speed_of(runtime, *_network(resolved, len(channels), task, runtime))
        else:
            speed = usual_speed(limits.memory or 0)
        if not speed:
            break
        limits = replace(limits, speed=min(speed, limits.speed or speed))
        before = resolved
        resolved, plan = planned(limits)
        if (resolved.train, resolved.model) == (before.train, before.model):
            break
    config = resolved
    path = str(Path(config.data.path).resolve())
    update = {"path": path, "also": tuple(str(Path(more).resolve()) for more in config.data.also)}
    config = config.model_copy(update={"data": config.data.model_copy(update=update)})
    measured = Measurement(runtime)
    if _is_here(runtime.device):
        measured = measure(config, len(channels), task, runtime)
    runtime = plan.note("runtime", (measured.runtime, _why(measured)), shown=as_choice(measured))
    document = {
        "cases": _ids(data.training, data.validation),
        "fingerprint": found.to_dict(),
        "choices": plan.choices,
        "runtime": runtime.describe(),
        "environment": environment_of(),
    }
    return Planned(config, document, runtime)


def deadline_of(config: RunConfig, begun: float) -> float | None:
    """Monotonic time at which the time budget ends; None without one, as where the steps are given."""
    limited = config.train.time is not None and config.train.steps is None
    return begun + parse_duration(config.train.time or "0") if limited else None


def plan_file(config: RunConfig, reporter: Reporter) -> tuple[Planned, str]:
    """The plan of a training that is not started, and its run file with a comment for each choice.

    A device that is not in this machine is planned for, too: with `train.memory`, and at `usual_speed`. What a training
    takes over from the model that `model.init` names stands in the plan.
    """
    if not config.data.path:
        raise BadInput("No data set is named.", hint="ctseg plan FOLDER -o run.toml")
    config = adopt(config, dataset_of(config.data, config.preprocess.grid), reporter)
    data = open_data(config, reporter)
    task = task_of(config.task, data.dataset)
    deadline = deadline_of(config, time.monotonic())
    device = config.train.device.partition(":")[0]
    if device == "cuda" and not torch.cuda.is_available():
        if config.train.memory is None:
            raise BadInput(
                "There is no CUDA device here, so its memory is unknown.",
                hint="Say how much the card has: --memory 24G",
            )
        runtime = Runtime(torch.device("cuda"), "bf16", True, "usual")
    else:
        runtime = choose(config.train.device, config.train.precision)
    planned = plan_run(config, data, task, runtime, reporter, deadline)
    return planned, commented(planned.config, planned.document["choices"])


def usual_speed(memory: int) -> float:
    """Assumed operations a second of a card of this memory in half precision; no card has been measured.

    A run on the card itself measures its speed and is planned by that.
    """
    return float(1e12 * (memory / 1e9) ** 0.75)


def limits_of(config: RunConfig, runtime: Runtime) -> Limits:
    """The memory that a training may take: `train.memory`, or nine tenths of what is free."""
    device, half = runtime.device, runtime.precision != "fp32"
    if config.train.memory is not None:
        memory: int | None = parse_size(config.train.memory)
    elif device.type == "cuda" and torch.cuda.is_available():
        memory = int(FREE_SHARE * torch.cuda.mem_get_info(device)[0])
    else:
        known = machine.memory() if device.type == "cpu" else None
        memory = None if known is None else int(FREE_SHARE * known[1])
    return Limits(device.type, memory, half=half)


def _is_here(device: torch.device) -> bool:
    """Whether this machine has the device."""
    return device.type != "cuda" or torch.cuda.is_available()


def _is_set(config: RunConfig) -> bool:
    """Whether the configuration leaves nothing open that time could decide."""
    named = "features" in config.model.options
    return bool(named and config.train.patch_zyx and config.train.batch_size)


def _network(
    config: RunConfig, channels: int, task: Task, default: Runtime
) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """The network of a complete configuration, and the shape of the patch to measure it on."""
    name, patch = config.model.architecture, config.train.patch_zyx
    assert patch is not None
    spec = plugins.architecture(name)
    unread = training_only(spec.config)  # pretrained weights change no time
    options = {key: value for key, value in config.model.options.items() if key not in unread}
    network = create_model(name, in_channels=channels, out_channels=task.out_channels, **options)
    demands = spec.constraints_for(plugins.make_config(spec, options))
    return network, probe_of(default.device, channels, patch, demands)


def measure(config: RunConfig, channels: int, task: Task, default: Runtime) -> Measurement:
    """The fastest runtime for the network and patch of a complete configuration."""
    network, probe = _network(config, channels, task, default)
    with kept_buffers(default.device.type == "cpu"):
        return choose_measured(
            default, network, probe, training=True, precision=config.train.precision
        )


def runtime_of_run(folder: Path, config: RunConfig, default: Runtime) -> Runtime:
    """The runtime of a run that is resumed: as it began, so that it computes the same; the default elsewhere."""
    try:
        choice = parse_json((folder / PLAN).read_text(encoding="utf-8"))["choices"]["runtime"][
            "value"
        ]
    except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or edited
        return default
    return recorded(choice, default, config.train.precision) or default


def _why(measured: Measurement) -> str:
    if not measured.seconds:
        return "usual for the device; a network this small is not measured"
    times = ", ".join(f"{seconds:.3g} s with {name}" for name, seconds in measured.seconds.items())
    return f"a forward and a backward pass of one patch: {times}"


def inspect_data(data: RunData, task: Task, reporter: Reporter) -> Fingerprint:
    """The fingerprint of the training cases; labels of the validation cases are checked."""
    done, total = 0, len(data.training) + len(data.validation)

    def on_case(name: str) -> None:
        nonlocal done
        done += 1
        reporter.update(done, total, f"looking at {name}")

    check_channels([*data.training, *data.validation], data.dataset.channels)
    found = fingerprint(data.training, task, on_case)
    for note in data_notes(data.dataset, found):
        reporter.say(note)
    for case in data.validation:  # what is wrong with them is said before anything is written
        if not is_large(case):  # the label of a large one is checked when it is prepared
            load_label(case, task, load_image(case))
        on_case(case.id)
    return found


def data_notes(dataset: DataSet, found: Fingerprint) -> list[str]:
    """What the training cases show that the user should know."""
    notes = []
    if like_ct := unnamed_ct(dataset, found.ranges):
        notes.append(f"Note: {like_ct}")
    if lacking := [name for name, ml in found.volumes_ml.items() if not ml]:
        notes.append(
            f"Warning: no training case holds {some(map(repr, lacking))}, which cannot be learnt then."
        )
    return notes


def planned_spacing(config: RunConfig, document: dict[str, Any]) -> str:
    """The spacing that the network sees, x y z, in a few words."""
    steps = config.preprocess.steps
    found = next((s["spacing_xyz"] for s in steps if s.get("kind") == "resample"), None)
    if found is None:
        own = document["fingerprint"]["median_spacing_zyx"][::-1]
        return f"spacing {' x '.join(f'{s:.4g}' for s in own)} mm as stored"
    return f"spacing {' x '.join(f'{s:.4g}' if s else 'as stored' for s in found)} mm (x, y, z)"
