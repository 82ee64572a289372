"""What comes before a training: the data set inspected, the run planned, and the runtime measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ctseg import plugins
from ctseg.config import RunConfig
from ctseg.config.checking import parse_json
from ctseg.data.inspection.hounsfield import unnamed_ct
from ctseg.data.joined import dataset_of
from ctseg.data.large_scans import is_large
from ctseg.data.load import load_image, load_label
from ctseg.data.readers.grids import interpolated_channels, tolerated_offsets
from ctseg.data.readers.layout import some
from ctseg.data.splits import depths, split
from ctseg.engine.model.create import create_model
from ctseg.engine.model.measure_runtime import (
    Measurement,
    as_choice,
    choose_measured,
    probe_of,
    recorded,
)
from ctseg.engine.model.runtime import Runtime
from ctseg.engine.training.job import Reporter
from ctseg.engine.training.malloc import kept_buffers
from ctseg.engine.training.run_report import environment_of
from ctseg.planning.fingerprint import Fingerprint, fingerprint
from ctseg.planning.plan import make_plan
from ctseg.specs import Case, DataSet, Task, training_only

PLAN = "plan.json"
"""The fingerprint of the data, and each choice with its reason."""


class RunData(NamedTuple):
    """The data set of a run, and its cases for training and validation."""

    dataset: DataSet
    training: tuple[Case, ...]
    validation: tuple[Case, ...]


def open_data(config: RunConfig, reporter: Reporter) -> RunData:
    """Open the data set of a run and split it."""
    dataset = dataset_of(config.data, config.preprocess.grid)
    training, validation = split(dataset, config.data, depths(dataset))
    if beside := tolerated_offsets([*training, *validation]):
        reporter.say(f"Warning: {beside}")
    if own_grids := interpolated_channels([*training, *validation]):
        reporter.say(f"Note: {own_grids}")
    return RunData(dataset, training, validation)


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
    config: RunConfig, data: RunData, task: Task, runtime: Runtime, reporter: Reporter
) -> Planned:
    """Inspect the data and choose what the configuration leaves open."""
    found = _inspect(data, task, reporter)
    config, plan = make_plan(
        config, task, data.dataset.channels, found, runtime.device.type,
        one_volume=len(data.dataset.cases) == 1,
    )  # fmt: skip
    path = str(Path(config.data.path).resolve())
    update = {"path": path, "also": tuple(str(Path(more).resolve()) for more in config.data.also)}
    config = config.model_copy(update={"data": config.data.model_copy(update=update)})
    measured = measure(config, len(data.dataset.channels), task, runtime)
    runtime = plan.note("runtime", (measured.runtime, _why(measured)), shown=as_choice(measured))
    document = {
        "fingerprint": found.to_dict(),
        "choices": plan.choices,
        "runtime": runtime.describe(),
        "environment": environment_of(),
    }
    return Planned(config, document, runtime)


def measure(config: RunConfig, channels: int, task: Task, default: Runtime) -> Measurement:
    """The fastest runtime for the network and patch of a complete configuration."""
    name, patch = config.model.architecture, config.train.patch_zyx
    assert patch is not None
    spec = plugins.architecture(name)
    unread = training_only(spec.config)  # pretrained weights change no time
    options = {key: value for key, value in config.model.options.items() if key not in unread}
    network = create_model(name, in_channels=channels, out_channels=task.out_channels, **options)
    demands = spec.constraints_for(plugins.make_config(spec, options))
    probe = probe_of(default.device, channels, patch, demands)
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


def _inspect(data: RunData, task: Task, reporter: Reporter) -> Fingerprint:
    """The fingerprint of the training cases; labels of the validation cases are checked."""
    done, total = 0, len(data.training) + len(data.validation)

    def on_case(name: str) -> None:
        nonlocal done
        done += 1
        reporter.update(done, total, f"looking at {name}")

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
