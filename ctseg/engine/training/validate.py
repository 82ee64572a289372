"""Validation on whole volumes in the geometry of the source, by the same way as prediction."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ctseg.card_metrics import Metrics
from ctseg.config import RunConfig, load_config
from ctseg.data.joined import dataset_of
from ctseg.data.load import load_extra, load_image, load_label
from ctseg.data.splits import depths, split
from ctseg.data.steps.target import Scale
from ctseg.data.store import Prepared, about
from ctseg.data.stream import ready as stream_of
from ctseg.engine.evaluation.case_maps import CaseMaps
from ctseg.engine.evaluation.evaluate import evaluate_case
from ctseg.engine.inference.decoders import Masks
from ctseg.engine.inference.model import Model, NetworkModel, decoder_of, predict_array
from ctseg.engine.prediction.api import predict_volume
from ctseg.engine.training.job import RUN_FILE, TrainingJob
from ctseg.engine.training.planned import check_cases
from ctseg.errors import BadInput, CtsegError
from ctseg.metrics.aligned import Look
from ctseg.metrics.catalogue import in_group
from ctseg.metrics.report import CaseResult, Report
from ctseg.specs import Case, Task
from ctseg.task import may_overlap
from ctseg.volume.volume import Volume

BEST = "best.safetensors"
OnCase = Callable[[int, int, str], None]
WORST = -sys.float_info.max
_HEALTHY = ("absent", "invented")
"""States of a label that the reference does not have."""


def validation_model(job: TrainingJob, net: torch.nn.Module) -> Model:
    """The network as the validations of a run predict with it."""
    model = NetworkModel(job.card, [net], job.runtime)
    overlap = job.config.train.val_overlap
    return model if overlap is None else model.with_settings(overlap=overlap)


def validate(
    model: Model,
    cases: Sequence[Case],
    prepared: Sequence[Prepared],
    on_case: OnCase | None = None,
    look: Look | None = None,
) -> Report:
    """Predict prepared cases and score them against their labels as stored.

    Args:
        on_case: called with the number done, the total and the case's id; what it raises ends the validation.
        look: called with the maps of each case as they are compared, for pictures.

    Raises:
        CtsegError: a file that is gone or damaged by now; the message names the case.
    """
    results = []
    for done, (case, ready) in enumerate(zip(cases, prepared, strict=True), start=1):
        try:
            stream = stream_of(ready.image, ready.applied)
            decoder = Masks(model.task) if may_overlap(model.task) else decoder_of(model)
            labels = predict_array(model, stream, decoder)
            ready.close()
            results.append(score(model.task, case, Volume(labels, ready.applied.source), look))
        except CtsegError as error:
            if case.id not in error.message.split():
                error.message = f"Case {case.id}: {error.message}"
            raise
        if on_case:
            on_case(done, len(cases), case.id)
    return Report(tuple(results))


def measure(
    weights: Path | Sequence[Path],
    run_folder: Path,
    on_case: OnCase | None = None,
    prepared: Callable[[Model], Model] | None = None,
    precision: str = "",
) -> Report:
    """Score weights on the validation cases of a run, from the files of the data set.

    Args:
        prepared: what is done with the model first, such as putting a coarse stage before it.
        precision: in place of that of the run; `int8` is computed on the CPU.

    Raises:
        BadInput: the run has no data set.
    """
    config, cases = validation_cases(run_folder)
    files = [weights] if isinstance(weights, Path) else list(weights)
    integers = precision == "int8"
    model: Model = NetworkModel.from_files(
        files,
        device="cpu" if integers else config.train.device,
        precision=precision or config.train.precision,
        backend="openvino" if integers else "torch",
    )
    model = model if prepared is None else prepared(model)
    results = []
    for done, case in enumerate(cases, start=1):
        results.append(score_files(model, case))
        if on_case:
            on_case(done, len(cases), case.id)
    return Report(tuple(results))


def validation_cases(run: Path) -> tuple[RunConfig, tuple[Case, ...]]:
    """The configuration of a run, and the cases that validate in it; raises as `cases_of`."""
    config, _, cases = cases_of(run)
    return config, cases


def cases_of(run: Path) -> tuple[RunConfig, tuple[Case, ...], tuple[Case, ...]]:
    """The configuration of a run, the cases that train in it and those that validate.

    Raises:
        BadInput: the run has no data set, or one whose cases have changed since it began.
    """
    config = load_config(run / RUN_FILE)
    if not config.data.path:
        raise BadInput(f"The run {run} names no data set to measure on.")
    dataset = dataset_of(config.data, config.preprocess.grid)
    training, validation = split(dataset, config.data, depths(dataset))
    check_cases(run, training, validation)
    return config, training, validation


def score_files(model: Model, case: Case) -> CaseResult:
    """Predict a case from its files, with the post-processing of the card, and score it."""
    apart = may_overlap(model.task)
    return score(model.task, case, predict_volume(model, load_image(case), apart=apart))


def score(task: Task, case: Case, prediction: Volume, look: Look | None = None) -> CaseResult:
    """One prediction, a map [Z, Y, X] or a mask a label [K, Z, Y, X], against the case's label as stored."""
    source = prediction.geometry
    with about(case, "scored"):  # its files may be gone by now
        reference = load_label(case, task, Volume(prediction.array, source))
        mask = load_extra(case, case.mask, reference)
    maps = CaseMaps(
        prediction, reference, case.id, mask=mask, group=case.group, images=case.images,
        drawn=case.drawn, look=look,
    )  # fmt: skip
    return evaluate_case(task, maps)


def metrics_of(report: Report, *, command: str, intervals: bool = False) -> Metrics:
    """A report as the figures of a card, on request with the intervals of a Dice."""
    each, mean = report.intervals("dice") if intervals else ({}, None)
    return Metrics(
        dice_interval=each,
        mean_interval=mean,
        dice=report.dice,
        mean_dice=report.mean_dice,
        scores=scores_of(report),
        cases=len(report.cases),
        command=command,
    )


def scores_of(report: Report) -> dict[str, dict[str, float]]:
    """The means of a regression's metrics by channel; empty for other tasks."""
    return {name: report.by_label(name) for name in in_group(report.metrics, "regression")}


def merit(report: Report, scale: Scale | None = None) -> float:
    """The number by which the best validation is kept; higher is better.

    The mean over the labels of their score (see `label_merit`): the mean foreground Dice where every case has every
    label. 1 where neither map has any label, -1 where nothing could be scored. For a regression minus the mean
    squared error, in squares of each channel's deviation where it is known, so that no channel counts more for its
    unit.
    """
    if "mse" not in report.metrics:
        scores = [score for label in report.labels for score in label_merit(report, label)]
        if not report.labels and report.cases:
            return 1.0
        return statistics.fmean(scores) if scores else -1.0
    errors = report.by_label("mse")
    if not errors:
        return WORST
    parts = list(errors.values())
    if scale is not None and len(scale[1]) == len(parts):
        parts = [mse / std**2 for mse, std in zip(parts, scale[1], strict=True)]
    return -sum(parts) / len(parts)


def label_merit(report: Report, label: str) -> list[float]:
    """The score of one label, alone in a list that is empty where no case could be scored.

    Cases that have the label score its mean Dice; cases without it the share of them in which it is rightly not
    found. Where there are cases of both kinds, the two count alike: neither weights that find nothing nor weights
    that invent in healthy scans rank high, however many scans are healthy.
    """
    items = [item for case in report.cases for item in case.labels if item.label == label]
    found = [item.dice for item in items if item.state in ("both", "missed")]
    dice = [value for value in found if value is not None]
    healthy = [float(item.state == "absent") for item in items if item.state in _HEALTHY]
    parts = [statistics.fmean(values) for values in (dice, healthy) if values]
    return [statistics.fmean(parts)] if parts else []
