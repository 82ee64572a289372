"""`ctseg compare`: which of several runs is best, by how much, and whether that may be chance."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctseg.cli import ui
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.metrics.compare import Ranked
    from ctseg.metrics.report import Report

EXAMPLES = (
    "ctseg compare runs/plain runs/residual",
    "ctseg compare runs/plain runs/residual runs/large --ensembles",
)
CHANCE = 0.05
"""Above this p a difference may well be chance."""


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Runs, or folders of folds, that validated on the same cases."),
    ],
    ensembles: Annotated[
        bool,
        typer.Option("--ensembles", help="Include the mean of each two, predicted fold by fold."),
    ] = False,
    as_json: ui.JsonOption = False,
) -> None:
    """Rank runs by mean Dice and test each against the best."""
    from ctseg.engine.evaluation.runs import report_of
    from ctseg.metrics.bootstrap import BootstrapSample
    from ctseg.metrics.compare import rank

    if len(set(runs)) < 2:
        raise BadInput(
            "A comparison needs two different runs.",
            hint="ctseg compare RUN RUN, or: ctseg evaluate RUN",
        )
    reports = {str(run): report_of(run) for run in dict.fromkeys(runs)}
    metric = "psnr" if all("psnr" in report.metrics for report in reports.values()) else "dice"
    rank(reports, metric=metric)  # what cannot be compared is told before anything is predicted
    models = {name: [name] for name in reports}
    if ensembles:
        for pair in itertools.combinations(list(reports), 2):
            models[" + ".join(pair)] = list(pair)
            reports[" + ".join(pair)] = _mean_of(pair, len(next(iter(reports.values())).cases))
    ranked = rank(reports, BootstrapSample(), metric=metric)
    if as_json:
        ui.print_json(
            {
                "metric": metric,
                "best": models[ranked[0].name],
                "ranking": [one.to_dict() for one in ranked],
            }
        )
        return
    _show(ranked, metric, len(ranked[0].report.cases))
    names = " ".join(f"-m {name}" for name in models[ranked[0].name])
    ui.show(f"Next: ctseg predict SCANS {names} -o predictions")


def _mean_of(pair: tuple[str, ...], cases: int) -> Report:
    from ctseg.engine.training.cross_validation.out_of_fold import ensemble_report

    with ui.progress(f"Predicting with {' + '.join(pair)}", total=cases) as bar:
        return ensemble_report([Path(name) for name in pair], lambda case: bar.advance(text=case))


def _show(ranked: list[Ranked], metric: str, cases: int) -> None:
    from ctseg.metrics.catalogue import metric as described

    rows = []
    for one in ranked:
        low_high = "-" if one.interval is None else "{:.4f} to {:.4f}".format(*one.interval)
        d = one.against_best
        gap = ("", "", "", "", "")
        if d is not None:
            span = "-" if d.interval is None else "{:.4f} to {:.4f}".format(*d.interval)
            p = "-" if d.p_holm is None else f"{d.p_holm:.4f}"
            gap = (f"{d.difference:+.4f}", span, str(d.better), str(d.worse), p)
        rows.append((one.name, f"{one.mean:.4f}", low_high, *gap))
    title = described(metric).title
    ui.table(
        ("", f"mean {title}", "95 % interval", "best less this", "95 % interval", "better", "worse", "p (Holm)"),
        rows,
        title=f"On {cases} cases, best first",
        prose=("",),
    )  # fmt: skip
    best, second = ranked[0], ranked[1].against_best
    ui.show()
    if second is None or second.p_holm is None:
        ui.show(f"{best.name} and {ranked[1].name} do not differ on any case.", prose=True)
        return
    told = f"{best.name} is best: {second.difference:+.4f} to {ranked[1].name}"
    may = "which may be chance" if second.p_holm > CHANCE else "which is unlikely to be chance"
    p = f"(p = {second.p_holm:.4f}, Wilcoxon signed-rank test)"
    better, worse = second.better or 0, second.worse or 0
    if second.p_holm <= CHANCE and better < worse:
        told = f"{best.name} has the best mean over the labels: {second.difference:+.4f} to {ranked[1].name}"
        may = f"which however is better in {worse} of {better + worse + second.equal} cases"
        p += (
            ". Labels that few cases have decide the mean; compare the labels: ctseg compare --json"
        )
    ui.show(f"{told}, {may} {p}.", prose=True)
