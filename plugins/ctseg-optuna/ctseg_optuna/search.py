"""The search: trials are asked for, trained, judged and told, until the time is over."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from ctseg.config import RunConfig, dump_config, load_config, override, parse_duration
from ctseg.engine.training.job import RUN_FILE, Reporter, RunResult
from ctseg.engine.training.run import train
from ctseg.engine.training.validate import merit
from ctseg.errors import BadInput, CtsegError
from ctseg.files import write_text
from ctseg_optuna.page import write_study
from ctseg_optuna.prepare import as_run_file, trial_folder
from ctseg_optuna.proposal import FAILURE, far_behind, one_changed, proposed
from ctseg_optuna.ranking import PLAN, SEED, Ranked, ranking, to_repeat
from ctseg_optuna.space import Space, as_settings, values_of
from ctseg_optuna.start import Search, set_up, started

BEST, PAGE, DATABASE = "best.toml", "study.html", "study.db"
NAME = "ctseg"
ALONE = 0.5
"""Share of that in which settings of the plan are changed one at a time."""
EXPLORED = 2 / 3
"""Share of the time, or of the trials, that tries settings; after it the best are trained again."""
MOST_FAILURES = 5
"""So many failures in a row end the search."""
HEARTBEAT_S = 60
"""A trial whose process has not been heard of for twice as long begins anew elsewhere."""
FAILURES = (CtsegError, RuntimeError, MemoryError)
"""What ends a trial, not the search."""


class _Progress:
    """Tells the study how good a trial is after each validation; with `prune`, ends one that is far behind."""

    def __init__(
        self, trial: Trial, folder: Path, reporter: Reporter, head: str, prune: bool
    ) -> None:
        self._trial, self._log, self._outer, self._head = (
            trial,
            folder / "log.jsonl",
            reporter,
            head,
        )
        self._prune = prune
        self._read = 0
        self._reported: set[int] = set()

    def say(self, text: str) -> None:
        if text.startswith(("Warning", "Note")):
            self._outer.say(text)

    def show(self, numbers: Mapping[str, str]) -> None:
        self._outer.show(numbers)

    def update(self, done: float, total: float, text: str) -> None:
        self._outer.update(done, total, f"{self._head}: {text}")
        try:
            size = self._log.stat().st_size
        except OSError:
            return
        if size == self._read:
            return
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines = file.read(size - self._read).split(b"\n")
        self._read = size - len(lines[-1])
        for line in filter(None, lines[:-1]):
            self._judge(json.loads(line), total)

    def _judge(self, line: dict[str, Any], total: float) -> None:
        value = line.get("mean_dice")
        if line.get("kind") != "epoch" or value is None:
            return
        share = min(100, round(100 * float(line["step"]) / max(total, 1)))
        if share in self._reported:
            return
        self._reported.add(share)
        self._trial.report(float(value), share)
        if not self._prune:
            return
        trials = self._trial.study.get_trials(deepcopy=False)
        others = [one for one in trials if one.number != self._trial.number]
        if far_behind(others, share, float(value)):
            raise optuna.TrialPruned(
                f"after {share} % of its steps, with a mean Dice of {value:.4f}"
            )


def search(config: RunConfig | None, how: Search, reporter: Reporter) -> optuna.Study:
    """Search, or go on with a search.

    The first trial is the plan itself, if it lies within the space. In the last third, the best settings and
    the plan are trained again with other seeds. Several processes may search in one folder at once.

    Args:
        config: as for `ctseg.train`; None continues the search in the folder.

    Raises:
        BadInput: a folder with something else in it, or a search of other data or with other settings.
        KeyboardInterrupt: after Ctrl-C; the trial under way is begun anew by the next process.
    """
    begun = time.monotonic()
    base, space = set_up(config, how, reporter)
    study = _study(how, base)
    if not study.get_trials(deepcopy=False):
        _queue_plan(study, values_of(base, space), space, reporter)
    done = failures = 0
    longest = parse_duration(base.train.time) if base.train.time else 0.0
    objective = _Objective(study, (base, space), how, reporter)
    while how.trials is None or done < how.trials:
        left = how.time - (time.monotonic() - begun)
        if done and left < longest:
            break
        explored = max(1 - left / how.time, done / how.trials if how.trials else 0)
        alone = explored < EXPLORED * ALONE
        _queue(study, (base, space), again=explored >= EXPLORED, alone=alone)
        study.optimize(objective, n_trials=1, catch=FAILURES)
        failures = failures + 1 if objective.failed else 0
        if failures == MOST_FAILURES:
            raise BadInput(
                f"{failures} trials failed one after another, the last one because: {objective.failed}",
                hint=f"Look at the trials in {how.folder / PAGE}, and narrow the search: --space FILE",
            )
        done += 1
        _write(study, base, how.folder)
    return study


def _queue_plan(
    study: optuna.Study, values: Mapping[str, Any], space: Space, reporter: Reporter
) -> None:
    outside = [key for key in space if key not in values]
    if outside:
        reporter.say(
            f"Warning: the plan lies outside the search space in {', '.join(outside)}, so no trial is the plan; "
            "the first one has what is left of it."
        )
    attributes = {} if outside else {PLAN: True}
    study.enqueue_trial(dict(values), user_attrs=attributes, skip_if_exists=True)


def _queue(study: optuna.Study, start: tuple[RunConfig, Space], again: bool, alone: bool) -> None:
    """Queue what a process does next.

    Args:
        again: another training of good settings; else others are tried.
        alone: as long as some are left, settings of the plan are changed one at a time; else only while too few trials
            are complete for a proposal.
    """
    base, space = start
    trials = study.get_trials(deepcopy=False)
    chosen = to_repeat(trials) if again else None
    if chosen is not None:
        study.enqueue_trial(chosen.first.params, user_attrs={SEED: chosen.begun})
    elif not any(
        trial.state == TrialState.WAITING for trial in trials
    ):  # the plan, or a stopped one
        number = len(trials)
        plan = trials[0].params if trials else {}
        changed = one_changed(plan, space, number, base.seed + number)
        values = (changed if alone else None) or proposed(trials, base.seed + number) or changed
        if values is not None:
            study.enqueue_trial(values)


def _study(how: Search, base: RunConfig) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    url = how.storage or f"sqlite:///{(how.folder / DATABASE).absolute().as_posix()}"
    try:
        storage = optuna.storages.RDBStorage(
            url, heartbeat_interval=HEARTBEAT_S,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2),
        )  # fmt: skip
    except Exception as error:  # of the database, of which there are many kinds
        raise BadInput(
            f"The database of the search cannot be opened: {' '.join(str(error).split())[:300]}",
            hint="A URL is like postgresql://user@host/name; without --storage a file in the folder is used.",
        ) from error
    existing = {one.study_name: one.n_trials for one in optuna.get_all_study_summaries(storage)}
    name = NAME if how.storage is None else str(how.folder.resolve())
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=base.seed + existing.get(name, 0)),
        pruner=optuna.pruners.NopPruner(),
    )  # fmt: skip


class _Objective:
    """Trains a trial and returns its score.

    Attributes:
        failed: why the last trial failed; empty where it did not.
    """

    def __init__(
        self, study: optuna.Study, start: tuple[RunConfig, Space], how: Search, reporter: Reporter
    ) -> None:
        self._study, self._start, self._how, self._reporter = study, start, how, reporter
        self.failed = ""

    def __call__(self, trial: Trial) -> float:
        self.failed = ""
        base, space = self._start
        values = {key: one.suggest(trial, key) for key, one in space.items()}
        folder = trial_folder(self._how.folder, trial.number)
        shown = [f"{key.rpartition('.')[2]} {_short(value)}" for key, value in values.items()]
        head, again = f"trial {trial.number}", trial.user_attrs.get(SEED, 0)
        if again:
            shown.append(f"again with seed {base.seed + again}")
        self._reporter.say(f"{head}: {', '.join(shown)}")
        progress = _Progress(trial, folder, self._reporter, head, prune=not again)
        try:
            settings = [
                *as_settings(values),
                f"seed={base.seed + again}",
                *([f'train.device="{self._how.device}"'] if self._how.device else []),
            ]
            result = train(
                override(base, settings), output=folder, overwrite=True, reporter=progress
            )
        except optuna.TrialPruned as ended:
            self._reporter.say(f"{head}: ended {ended}")
            raise
        except FAILURES as error:
            self.failed = " ".join(str(error).split())[:500]
            trial.set_user_attr(FAILURE, self.failed)
            self._reporter.say(f"{head}: failed: {str(error).splitlines()[0]}")
            raise
        except KeyboardInterrupt:
            self._study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            raise
        finally:
            shutil.rmtree(folder / "last", ignore_errors=True)  # no trial is resumed
        self._reporter.say(f"{head}: {_outcome(result)}")
        return merit(result.report)


def _outcome(result: RunResult) -> str:
    if result.mean_dice is not None and not result.scores:
        return f"mean Dice {result.mean_dice:.4f} after {result.steps} steps"
    return f"score {merit(result.report):.4g} after {result.steps} steps"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace(" ", "")


def best_of(study: optuna.Study) -> Ranked | None:
    """The best settings that have a complete trial."""
    return next(iter(ranking(study.get_trials(deepcopy=False))), None)


def _write(study: optuna.Study, base: RunConfig, folder: Path) -> None:
    """The run file of the best settings, and the page."""
    best = best_of(study)
    if best is not None:
        file = trial_folder(folder, best.first.number) / RUN_FILE
        if file.is_file():  # another machine's, where the study is shared
            start = started(folder)
            split = {key: start[key] for key in ("train", "val")}
            config = as_run_file(load_config(file), base, split)
            write_text(folder / BEST, dump_config(config))
    write_study(study, folder / PAGE)
