"""Predictions of the cases that validated, with the runs that did not train on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.config.postprocess import PostprocessRule
from ctseg.data.load import load_extra, load_image, load_label
from ctseg.engine.evaluation.calibration import Calibration, LogitSample, fit_temperature
from ctseg.engine.evaluation.case_maps import CaseMaps
from ctseg.engine.evaluation.runs import report_of, runs_in
from ctseg.engine.evaluation.suggest_cleanup import Suggestion, suggest_rules
from ctseg.engine.inference.cascade import behind_own_stages
from ctseg.engine.inference.decoders import Decoder, LabelMap, Logits
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.model import Model, NetworkModel
from ctseg.engine.inference.sinks import Sink, ToArray
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.prediction.api import scan_of
from ctseg.engine.training.validate import BEST, OnCase, score_files, validation_cases
from ctseg.errors import BadInput
from ctseg.metrics.report import Report
from ctseg.specs import Case
from ctseg.task import encode, in_one_map
from ctseg.volume.volume import Volume

SAMPLES = 2**24
"""Logits that a temperature is fitted to, over all cases and labels."""


@dataclass(frozen=True)
class Fitted:
    """What validation cases say about a model.

    Attributes:
        calibration: the temperature; None for a regression.
        cleanup: post-processing rules that help; None where there can be none.
    """

    calibration: Calibration | None = None
    cleanup: Suggestion | None = None

    @property
    def rules(self) -> tuple[PostprocessRule, ...]:
        return () if self.cleanup is None else self.cleanup.rules


def fit(models: Sequence[tuple[Model, Path]], on_case: OnCase | None = None) -> Fitted:
    """Fit temperature and post-processing rules to the validation cases of runs in which every label was drawn.

    Voxels outside the mask of a case count for neither.

    Args:
        models: models without post-processing and with a temperature of 1, each with its run.
        on_case: called with the number done, the total and the case's id.
    """
    task = models[0][0].task
    if task.kind == "regression":
        return Fitted()
    work = [(model, case) for model, run in models for case in validation_cases(run)[1]]
    work = [(model, case) for model, case in work if case.drawn is None]
    samples: list[tuple[NDArray[np.float32], NDArray[Any]]] = []

    def predicted() -> Iterator[CaseMaps]:
        for done, (model, case) in enumerate(work, start=1):
            maps, sample = _predicted(model, case, len(work))
            samples.append(sample)
            if on_case:
                on_case(done, len(work), case.id)
            yield maps

    cleanup = None
    if task.stacked:  # rules treat one map of values
        for _ in predicted():
            pass
    else:
        cleanup = suggest_rules(in_one_map(task), predicted())
    return Fitted(fit_temperature(samples), cleanup)


def _predicted(
    model: Model, case: Case, cases: int
) -> tuple[CaseMaps, tuple[NDArray[np.float32], NDArray[Any]]]:
    """The label map of a case and its reference as stored, and a sample of logits."""
    image = load_image(case)
    reference = load_label(case, model.task, Volume(image.array[0], image.geometry))
    mask = load_extra(case, case.mask, image)
    target = encode(model.task, reference.array)
    if mask is not None:
        target[..., mask[0] <= 0] = -1
    stream = model.open(scan_of(image))
    mapper = SourceGridMapper(stream.applied)
    labels = LabelMap(model.task)
    out = np.zeros(mapper.source, labels.dtype)
    wanted = SAMPLES / (cases * model.task.out_channels)
    sample = LogitSample(target, mapper.box, wanted / max(1, int(np.prod(mapper.source))))
    results: list[tuple[Decoder, Sink]] = [
        (labels, ToArray(out, mapper.box, labels.fill)),
        (Logits(model.task), sample),
    ]
    model.predictor.run(stream, results, mapper=mapper)
    maps = CaseMaps(Volume(out, image.geometry), reference, case.id, mask=mask)
    return maps, sample.taken()


def ensemble_report(
    members: Sequence[Path], on_case: Callable[[str], None] | None = None
) -> Report:
    """The mean of several runs, or of several series of folds fold by fold, on the cases that validated.

    Args:
        members: runs, or folders of folds.

    Raises:
        BadInput: they do not validate on the same cases.
    """
    series = [runs_in(member) or (member,) for member in members]
    by_cases = [{_cases(run): run for run in runs} for runs in series]
    for member, runs in zip(members[1:], by_cases[1:], strict=True):
        if runs.keys() != by_cases[0].keys():
            raise BadInput(
                f"{members[0]} and {member} do not have the same folds, so their mean has no cases to be measured on.",
                hint="Train both on the same data set and folds.",
            )
    results = []
    for ids, run in by_cases[0].items():
        config, cases = validation_cases(run)
        files = [runs[ids] / BEST for runs in by_cases]
        device, precision = config.train.device, config.train.precision
        models = [
            behind_own_stages(NetworkModel.from_files([f], device=device, precision=precision), f)
            for f in files
        ]
        ensemble = Ensemble(models)
        for case in cases:
            results.append(score_files(ensemble, case))
            if on_case:
                on_case(case.id)
    return Report(tuple(results))


def _cases(run: Path) -> frozenset[str]:
    return frozenset(case.case for case in report_of(run).cases)
