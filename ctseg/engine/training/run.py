"""A run from a configuration: read, plan, prepare, train."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ctseg import plugins
from ctseg.card import (
    Card,
    CoarseStage,
    Provider,
    TrainingData,
    TrainingScans,
    needs_version_2,
)
from ctseg.config import RunConfig, dump_config, load_config, parse_duration, with_length
from ctseg.config.checking import parse_json
from ctseg.config.run import DEFAULT_FOLDS
from ctseg.data.augment.extra import extra_transforms
from ctseg.data.joined import dataset_of
from ctseg.data.pipeline import Pipeline
from ctseg.data.sampling import check_rule, rule_of
from ctseg.data.steps import foreign_steps
from ctseg.data.steps.base import Box
from ctseg.data.store import Prepared, Store
from ctseg.engine.model.runtime import choose
from ctseg.engine.postprocess.rules import check_rules
from ctseg.engine.prediction.multiprocess.team import Team, open_team
from ctseg.engine.training import first_stage, loop, optim
from ctseg.engine.training.adopt import adopt
from ctseg.engine.training.initial import initial_of, inspect, with_initial
from ctseg.engine.training.job import RUN_FILE, Reporter, RunResult, Silent, TrainingJob
from ctseg.engine.training.loop import has_ended
from ctseg.engine.training.planned import (
    PLAN,
    RunData,
    check_cases,
    deadline_of,
    inspect_data,
    open_data,
    plan_run,
    planned_spacing,
    runtime_of_run,
)
from ctseg.engine.training.prepare import with_labels
from ctseg.engine.training.processes import Processes, joined, restarted, session
from ctseg.engine.training.run_folder import check_free, lock, take_back
from ctseg.engine.training.run_report import show_progress
from ctseg.engine.training.trackers import check_trackers
from ctseg.errors import BadInput
from ctseg.files import disk_errors, write_text
from ctseg.planning.first_stage import first_stage_run
from ctseg.planning.preprocessing import RESHAPING
from ctseg.planning.task import task_of
from ctseg.specs import DataSet, Task, training_only
from ctseg.version import __version__


def train(
    config: RunConfig,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    extend: Mapping[str, Any] | None = None,
) -> RunResult:
    """Train a model.

    Args:
        config: what is left out is planned; `data.path` must be set.
        output: the run folder; `runs/<data set>-<architecture>-fold<n>` by default.
        resume: go on with the run in `output`; its own `config.toml` counts.
        overwrite: delete what is in `output` first.
        reporter: told how far it has come.
        extend: with `resume`, the new length of the run: `{"steps": 900}`, `{"epochs": 40}` or `{"time": "1h"}`.
            Steps and epochs count from the start of the run, time from now.

    Raises:
        BadInput: data, names or settings that cannot be trained with; nothing is written then.
        KeyboardInterrupt: after Ctrl-C; the run can be resumed.
    """
    with contextlib.ExitStack() as stack:
        start = Start(resume, overwrite, extend)
        return _train(config, output, start, reporter or Silent(), stack)


class Start(NamedTuple):
    """How a run starts: see `train`; a first stage has the data of its run."""

    resume: bool
    overwrite: bool
    extend: Mapping[str, Any] | None
    data: RunData | None = None


def _train(
    config: RunConfig,
    output: Path | str | None,
    start: Start,
    reporter: Reporter,
    stack: contextlib.ExitStack,
) -> RunResult:
    """As `train`; the lock of the run folder is released with the stack."""
    begun, resume, overwrite = time.monotonic(), start.resume, start.overwrite
    if start.extend is not None and not resume:
        raise BadInput("Only a run that is resumed can be extended.", hint="Add --resume.")
    team = stack.enter_context(open_team())
    follows = team is not None and not team.leads
    if team is not None and follows:  # the run is the one that the first process has planned
        output, resume, reporter = Path(team.wait("run")), True, Silent()
    if resume:
        if output is None:
            raise BadInput("Which run is to be resumed?", hint="ctseg train --resume -o runs/NAME")
        folder = Path(output)
        if not (folder / RUN_FILE).is_file():
            raise BadInput(f"{folder} is no run folder: it has no config.toml.")
        if not follows:
            lock(folder, stack)
        config = load_config(folder / RUN_FILE)
        if start.extend is not None:
            config = with_length(config, start.extend)
    if not config.data.path:
        raise BadInput("No data set is named.", hint="ctseg train FOLDER, or path in [data]")
    if not resume:
        config = adopt(config, dataset_of(config.data, config.preprocess.grid), reporter)
    check_names(config, fresh=not resume)
    runtime = choose(config.train.device, config.train.precision)
    config = _alone(config, team)
    data = start.data or open_data(config, reporter)
    dataset, training, validation = data[:3]
    folder = Path(output) if output is not None else default_folder(dataset, config)
    if not resume and (folder / RUN_FILE).is_file() and restarted(_session_of(folder)):
        resume = True
        lock(folder, stack)
        config = load_config(folder / RUN_FILE)
    if not resume:
        check_free(folder, overwrite)
    reporter.say(
        f"{dataset.name}: {len(training)} cases train, {len(validation)} validate "
        f"({dataset.reader}); {runtime.device}"
    )
    if resume:
        check_cases(folder, training, validation)
        assert config.task is not None
        task = config.task.task()
        runtime = runtime_of_run(folder, config, runtime)
    else:
        task = task_of(config.task, dataset)
        rule_of(config.train, task)  # unknown labels are refused before anything is written
        check_rules(task, config.predict.postprocess)
        data = data._replace(found=data.found or inspect_data(data, task, reporter))
        config, document, runtime = plan_run(
            config, data, task, runtime, reporter, deadline_of(config, begun)
        )
        if (own := session()) is not None:
            document["session"] = own
        initial = inspect(card_of(config, dataset, task, 0), config)
        if initial is not None:
            document["initial"] = initial.model_dump(mode="json")
        Processes(team).share(config.train.batch_size or 1)  # refused before anything is written
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock(folder, stack)
        check_free(folder, overwrite)  # another process may have been faster
        _write_plan(folder, config, document, reporter)
    stage, regions = None, dict[str, Box | None]()
    try:
        if config.first_stage.use == "on":
            stage, regions, earlier = _behind_first_stage(config, folder, data, reporter)
            if earlier and start.extend is None:
                begun = time.monotonic() - earlier
        reporter.say(f"Runtime: {runtime.describe()}")
        prepared = _prepare(config, task, data, reporter, regions)
        kept = with_labels(prepared[: len(training)], "train", reporter)
        judged = with_labels(prepared[len(training) :], "validate", reporter)
        check_rule(rule_of(config.train, task), kept, task)
    except BadInput:
        # so that the same command, once it is mended, finds its place free
        if not resume and not (folder / first_stage.FOLDER).exists():
            take_back(folder)
        raise
    card = card_of(config, dataset, task, len(kept))
    scans = training_scans_of(folder / PLAN)
    if scans is not None:
        card = card.model_copy(update={"training_scans": scans, "card_version": 2})
    card = with_initial(card, initial_of(folder / PLAN))
    if stage is not None:
        card = card.model_copy(update={"stages": (stage,), "card_version": 2})
    resample = next((s for s in card.preprocess.steps if s["kind"] == "resample"), None)
    spacing = kept[0].applied.target.spacing_zyx
    reshaped = any(s["kind"] in RESHAPING for s in card.preprocess.steps)
    if resample is not None and all(resample["spacing_xyz"]) and not reshaped:
        x, y, z = resample["spacing_xyz"]
        spacing = (z, y, x)
    if team is not None:
        _meet(team, folder)
    processes = stack.enter_context(joined(team, runtime.device))
    job = TrainingJob(
        config=config, card=card, folder=folder, train=kept,
        val=[case for case in validation if case.id in {ready.id for ready in judged}],
        val_prepared=judged, runtime=runtime, spacing_zyx=spacing, deadline=deadline_of(config, begun),
        reporter=reporter,
        on_epoch=(lambda run: show_progress(run, reporter)) if processes.leads else None,
        extend=start.extend is not None, processes=processes,
    )  # fmt: skip
    return loop.train(job, resume=resume)


def _alone(config: RunConfig, team: Team | None) -> RunConfig:
    """The configuration; several processes train without a first stage."""
    if team is None or config.first_stage.use == "off":
        return config
    if config.first_stage.use == "on":
        raise BadInput(
            f"A run with a first stage trains in one process, and {team.size} were started.",
            hint="Start one, or leave the first stage out: --set first_stage.use=off",
        )
    off = config.first_stage.model_copy(update={"use": "off"})
    return config.model_copy(update={"first_stage": off})


def _behind_first_stage(
    config: RunConfig, folder: Path, data: RunData, reporter: Reporter
) -> tuple[CoarseStage, dict[str, Box | None], float]:
    """Train the first stage of a run, or go on with it, and look where its labels are.

    Returns:
        the stage, the regions of the cases, and the seconds of the time budget that went in earlier sessions: its whole
        share, if it had begun there.
    """
    place = folder / first_stage.FOLDER
    assert config.task is not None
    own = first_stage_run(config)
    ended = has_ended(place)
    again = not ended and (place / RUN_FILE).is_file()
    if not ended:
        reporter.say(f"First stage, at low resolution: {place}")
        with contextlib.ExitStack() as stack:
            _train(own, place, Start(again, not again, None, data), reporter, stack)
    began_earlier = (ended or again) and own.train.time is not None
    stage = first_stage.take_over(folder, config)
    prepared = _prepare(own, config.task.task(), data, reporter)
    regions = first_stage.find_regions(
        folder, config, stage, prepared, len(data.training), reporter
    )
    reporter.say(f"Second stage: {folder}; {first_stage.summary(regions, prepared)}.")
    return stage, regions, parse_duration(own.train.time or "0") if began_earlier else 0.0


def _meet(team: Team, folder: Path) -> None:
    """Tell the others which run it is, and wait until all have their data ready."""
    if team.leads:
        team.put("run", str(folder.resolve()))
    team.put(f"ready/{team.rank}", True)
    for rank in range(team.size):
        team.wait(f"ready/{rank}")


def check_names(config: RunConfig, *, fresh: bool = True) -> None:
    """Refuse unknown names, and options that nothing has, before anything is read.

    Args:
        fresh: whether training starts; a resumed run needs no file of pretrained weights any more.
    """
    optim.check_names(config.train)
    check_trackers(config.train.trackers)
    Pipeline.of(config.preprocess)
    extra_transforms(config.augment)
    spec = plugins.architecture(config.model.architecture)
    dropped = frozenset() if fresh else training_only(spec.config)
    options = {k: v for k, v in config.model.options.items() if k not in dropped}
    spec.constraints_for(plugins.make_config(spec, options))
    if config.loss.name:
        plugins.make_config(plugins.loss(config.loss.name), config.loss.options)


def default_folder(dataset: DataSet, config: RunConfig) -> Path:
    name = "".join(c if c.isalnum() else "_" for c in dataset.name.lower()).strip("_")
    return Path("runs") / f"{name}-{config.model.architecture}-fold{config.data.fold}"


def _session_of(folder: Path) -> Any:
    """The call of torchrun that began a run; None for others."""
    with contextlib.suppress(OSError, ValueError):
        document = parse_json((folder / PLAN).read_text(encoding="utf-8"))
        return document.get("session") if isinstance(document, dict) else None
    return None


def _write_plan(
    folder: Path, config: RunConfig, document: dict[str, Any], reporter: Reporter
) -> None:
    """Empty the run folder, whose lock stays, and write configuration and plan into it.

    The configuration comes last: a folder without one is no run, and one that is emptied keeps it until then.
    """
    with disk_errors(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != RUN_FILE:
                path.unlink()
    write_text(folder / PLAN, json.dumps(document, indent=2))
    write_text(folder / RUN_FILE, dump_config(config))
    train = config.train
    reporter.say(
        f"Plan: {planned_spacing(config, document)}, patch {'x'.join(map(str, train.patch_zyx or ()))}, "
        f"batch {train.batch_size}, "
        f"{config.model.architecture} {config.model.options.get('features', '')}, {config.loss.name} "
        f"(reasons in {folder / PLAN})"
    )


def _prepare(
    config: RunConfig,
    task: Task,
    data: RunData,
    reporter: Reporter,
    regions: Mapping[str, Box | None] | None = None,
) -> list[Prepared]:
    cases = [*data.training, *data.validation]
    store = Store(
        Pipeline.of(config.preprocess),
        task,
        mode=config.data.prepare,
        regions=regions,
        channels=data.dataset.channels,
    )
    done = 0

    def on_case(name: str) -> None:
        nonlocal done
        done += 1
        reporter.update(done, len(cases), f"preparing {name}")

    return store.prepare(cases, on_case)


def training_scans_of(plan: Path) -> TrainingScans | None:
    """What the training scans were like, as the fingerprint in `plan.json` says; None where it does not."""
    try:
        found = parse_json(plan.read_text(encoding="utf-8"))["fingerprint"]
        spacings = [[float(v) for v in spacing] for spacing in found["spacings_zyx"]]
        return TrainingScans.model_validate(
            {
                "spacing_min_zyx": [min(axis) for axis in zip(*spacings, strict=True)],
                "spacing_max_zyx": [max(axis) for axis in zip(*spacings, strict=True)],
                "intensity_low": [low for low, _ in found["intensities"]],
                "intensity_high": [high for _, high in found["intensities"]],
                "modalities": found["modalities"],
            }
        )
    except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or edited
        return None


def card_of(config: RunConfig, dataset: DataSet, task: Task, count: int) -> Card:
    """The card of the model to be; members and figures come with the weights."""
    assert config.task is not None
    entry = plugins.registry().get("architecture", config.model.architecture)
    provider, dropped = entry.plugin, training_only(entry.spec.config)
    steps = {
        kind: Provider(package=plugin.package, version=plugin.version)
        for kind, plugin in foreign_steps(config.preprocess).items()
    }
    named = bool(config.data.train or config.data.val)
    usual = named or dataset.splits or config.data.folds == DEFAULT_FOLDS
    folds = None if usual or len(dataset.cases) == 1 else config.data.folds
    return Card(
        card_version=2 if steps or folds or needs_version_2(config.predict) else 1,
        architecture=config.model.architecture,
        options={k: v for k, v in config.model.options.items() if k not in dropped},
        provider=Provider(package=provider.package, version=provider.version),
        in_channels=len(dataset.channels),
        out_channels=task.out_channels,
        channels=dataset.channels,
        task=config.task,
        preprocess=config.preprocess,
        predict=config.predict,
        loss=config.loss,
        licence=dataset.licence,
        training_data=TrainingData(
            name=dataset.name,
            licence=dataset.licence,
            reference=dataset.reference or dataset.description,
            cases=count,
            fold=None if named or len(dataset.cases) == 1 else config.data.fold,
            folds=folds,
        ),
        step_providers=steps,
        seed=config.seed,
        ctseg_version=__version__,
    )
