"""The report of a training run, from the files of its folder, at any time after the first validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ctseg.config import load_config
from ctseg.config.checking import parse_json
from ctseg.files import whole_file, write_text
from ctseg.markup import Markup, element, markup
from ctseg.metrics.report import Report
from ctseg.metrics.summary import heads_of, ranked, score_name
from ctseg.report.history import read_history
from ctseg.report.html import scores
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.html.charts import legend
from ctseg.report.html.evaluation import summary_of
from ctseg.report.html.page import Section, folded, page
from ctseg.report.html.run_curves import curves, progress_facts
from ctseg.report.html.run_plan import choices_table, configuration, environment, fingerprint
from ctseg.specs import Task
from ctseg.task import colour_of
from ctseg.volume.preview.paint import Picture, data_uri, png_of

RANKS = ("worst", "median", "best")
_TILES = ("scan", "reference", "prediction")
_SHOWN_ROWS = 30


def write_pictures(folder: Path, report: Report, slices: CaseSlices) -> None:
    """Write `validation/worst.png`, `median.png` and `best.png`: scan, reference and prediction side by side.

    Raises:
        FileProblem: they cannot be written.
    """
    chosen = shown_cases(report)
    for rank in RANKS:
        png = folder / "validation" / f"{rank}.png"
        tiles = slices.tiles(chosen[rank]) if rank in chosen else {}
        if not tiles:
            png.unlink(missing_ok=True)
            continue
        black = np.zeros_like(tiles["reference"])
        strip = np.concatenate([_in_colour(tiles.get(name, black)) for name in _TILES], axis=1)
        with whole_file(png) as temporary:
            temporary.write_bytes(png_of(strip))


def _in_colour(picture: Picture) -> Picture:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def shown_cases(report: Report) -> dict[str, str]:
    """The case of each rank; a single case is the best one, and two have no median."""
    cases = [case.case for case, _ in ranked(report)]
    ranks = {"best": cases[-1:], "worst": cases[:1] if len(cases) > 1 else []}
    ranks["median"] = [cases[len(cases) // 2]] if len(cases) > 2 else []
    return {rank: found[0] for rank, found in ranks.items() if found}


def write_run(folder: Path) -> None:
    """Write `report.html` of a run.

    Raises:
        FileProblem: the log, the configuration or the validation cannot be read, or the page cannot be written.
        ConfigError: the configuration is damaged.
    """
    config = load_config(folder / "config.toml")
    history = read_history(folder / "log.jsonl")
    report = Report.read(folder / "validation" / "report.json")
    plan = _read_json(folder / "plan.json")
    task = config.task.task() if config.task is not None else None
    colours = _colours(task)
    state = _read_json(folder / "last" / "state.json").get("state")
    sections = [
        Section(
            "Run", (progress_facts(config, history, state if isinstance(state, dict) else {}),)
        ),
        Section("First stage", (_first_stage(folder),)),
        Section("Curves", (curves(config, history, colours),)),
        Section("Best validation", (summary_of(report), scores.note_list(report))),
        Section("Worst, median and best scan", (_pictures(folder, report, colours),)),
        Section("Distribution", (scores.box_plots(report),)),
        Section("Volumes", (scores.volume_agreement(report),)),
        Section("Confusion", (scores.confusion(report),)),
        Section("Validation cases", (_cases(report),)),
        Section("Plan", (choices_table(plan.get("choices")),)),
        Section("Fingerprint", (fingerprint(plan.get("fingerprint")),)),
        Section("Environment", (environment(plan),)),
        Section("Configuration", (configuration(folder),)),
    ]
    told = f"{config.model.architecture} on {Path(config.data.path).name}, fold {config.data.fold}"
    write_text(folder / "report.html", page(f"Run {folder.resolve().name}", told, sections))


def _first_stage(folder: Path) -> Markup:
    """The best validation of the first stage, with its own report; nothing where the run has none."""
    found = folder / "first_stage" / "validation" / "report.json"
    if not found.is_file():
        return markup()
    report = Report.read(found)
    link = element("a", "its own report", href="first_stage/report.html")
    told = "A network at low resolution finds the region in which this one looks; see "
    return markup(element("p", told, link, "."), summary_of(report))


def _read_json(path: Path) -> dict[str, Any]:
    """A file's table; empty where it is absent or damaged, since a report can do without."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"), finite=False)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _cases(report: Report) -> Markup:
    """The table of the cases, on request if it is long."""
    shown = scores.case_table(report)
    return (
        shown if len(report.rows()) <= _SHOWN_ROWS else folded(f"{len(report.cases)} cases", shown)
    )


def _colours(task: Task | None) -> dict[str, tuple[int, int, int]]:
    """The colour of each label; values of a regression have none."""
    if task is None or task.kind == "regression":
        return {}
    return {label.name: colour_of(task, i) for i, label in enumerate(task.foreground)}


def _pictures(folder: Path, report: Report, colours: dict[str, tuple[int, int, int]]) -> Markup:
    """The scans of each rank, from the pictures that the best validation left."""
    name = score_name(report)
    if name is None:
        return markup()
    by_name = {case.case: case for case in report.cases}
    head = heads_of(report)[name]
    parts = []
    chosen = shown_cases(report)
    for rank in RANKS:
        png = folder / "validation" / f"{rank}.png"
        if rank not in chosen:
            continue
        tiles = _tiles(png)
        if tiles:
            case = by_name[chosen[rank]]
            parts.append(scores.case_figure(case, (name, head), tiles, f", {rank}"))
    if not parts:
        return markup()
    told = "The axial slice of each where prediction and reference differ most."
    return markup(
        element("p", told, class_="soft"),
        legend((label, f"rgb{rgb}") for label, rgb in colours.items()),
        element("div", *parts, class_="scans"),
    )


def _tiles(png: Path) -> list[tuple[str, str]]:
    """The parts of a picture that `write_pictures` wrote."""
    from PIL import Image

    try:
        with Image.open(png) as picture:
            strip = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError):
        return []
    width = strip.shape[1] // len(_TILES)
    if not width:
        return []
    parts = [strip[:, i * width : (i + 1) * width] for i in range(len(_TILES))]
    return [(name, data_uri(png_of(part))) for name, part in zip(_TILES, parts, strict=True)]
