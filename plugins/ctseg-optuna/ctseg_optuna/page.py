"""The page of a search: its course, each setting against the score, and all trials."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from ctseg.files import write_text
from ctseg.markup import Cell, Markup, element, markup, table
from ctseg.report.html.charts import Named, Series, box_plot, line_chart
from ctseg.report.html.page import Section, page, wide
from ctseg_optuna.proposal import FAILURE
from ctseg_optuna.ranking import SEED, Ranked, of_plan, ranking

ENOUGH = 10
"""Complete trials from which the importance of a setting is estimated."""


def write_study(study: optuna.Study, html: Path) -> None:
    """Write the page.

    Raises:
        FileProblem: the page cannot be written.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    counts = [
        f"{sum(trial.state == state for trial in trials)} {text}"
        for state, text in (
            (TrialState.COMPLETE, "complete"), (TrialState.PRUNED, "ended early"), (TrialState.FAIL, "failed"),
        )
    ]  # fmt: skip
    sections = [
        Section("Best", (_best(ranking(trials)),)),
        Section("Course", (_course(complete),)),
        Section(
            "Settings",
            (_importances(study, complete), element("div", *_settings(complete), class_="charts")),
        ),
        Section("Trials", (_trials(trials),)),
    ]
    write_text(html, page("Search for settings", ", ".join(counts), sections))


def _best(ranked: Sequence[Ranked]) -> Markup:
    if not ranked:
        return markup()
    first = ranked[0].first
    head = element("p", f"Trial {first.number}, score {ranked[0]}; its run file is best.toml.")
    against = markup()
    plan = of_plan(ranked)
    if plan is not None and plan is not ranked[0]:
        against = element("p", f"The plan, trial {plan.first.number}: {plan}.")
    rows = [[key, _shown(first, key)] for key in first.params]
    several = [
        [one.first.number, Cell(f"{one.mean:.4f}", one.mean), len(one.scores), Cell(f"{one.error:.4f}", one.error)]
        for one in ranked if len(one.scores) > 1
    ]  # fmt: skip
    repeated = markup()
    if several:
        repeated = markup(
            element("p", "Trained with several seeds; ranked by the mean less its standard error:"),
            table(["first trial", "mean score", "seeds", "standard error"], several),
        )
    return markup(head, against, table(["setting", "value"], rows), repeated)


def _course(complete: Sequence[FrozenTrial]) -> Markup:
    points = [(float(t.number), float(t.value or 0)) for t in complete]
    top, so_far = float("-inf"), []
    for number, value in points:
        top = max(top, value)
        so_far.append((number, top))
    series = [Series("trial", points, "var(--blue, #3a7bd5)"), Series("best so far", so_far)]
    return line_chart("Score of each trial", series, across="trial", names=series)


def _settings(complete: Sequence[FrozenTrial]) -> list[Markup]:
    """A chart for each setting: a box for each choice, or the score over the number."""
    charts = []
    for key in dict.fromkeys(key for trial in complete for key in trial.params):
        having = [trial for trial in complete if key in trial.params]
        if isinstance(having[0].distributions[key], CategoricalDistribution):
            groups: dict[str, list[Named]] = {}
            for trial in having:
                score = Named(f"trial {trial.number}", float(trial.value or 0))
                groups.setdefault(_shown(trial, key), []).append(score)
            charts.append(box_plot(key, groups, across="score"))
        else:
            points = sorted((float(t.params[key]), float(t.value or 0)) for t in having)
            charts.append(line_chart(f"Score by {key}", [Series(key, points)], across=key))
    return charts


def _importances(study: optuna.Study, complete: Sequence[FrozenTrial]) -> Markup:
    """How much of the spread of scores each setting explains (PED-ANOVA, Watanabe et al., IJCAI 2023)."""
    if len(complete) < ENOUGH:
        return markup()
    found: dict[str, float] = {}
    with contextlib.suppress(ValueError, RuntimeError):
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not found:
        return markup()
    rows = [[key, Cell(f"{value:.0%}", value)] for key, value in found.items()]
    return table(["setting", "share of the spread"], rows)


def _trials(trials: Sequence[FrozenTrial]) -> Markup:
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    rows = []
    for trial in trials:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        seconds = trial.duration.total_seconds() if trial.duration is not None else None
        rows.append([
            trial.number, trial.state.name.lower(), Cell("-" if value is None else f"{value:.4f}", value),
            Cell("-" if seconds is None else f"{seconds:.0f} s", seconds),
            trial.user_attrs.get(SEED, 0), *(_shown(trial, key) for key in keys), trial.user_attrs.get(FAILURE, ""),
        ])  # fmt: skip
    return wide(
        table(["trial", "state", "score", "time", "repeat", *keys, "failure"], rows), "All trials"
    )


def _shown(trial: FrozenTrial, key: str) -> str:
    if key not in trial.params:
        return "-"
    value = trial.params[key]
    if isinstance(trial.distributions[key], CategoricalDistribution):
        value = json.loads(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
