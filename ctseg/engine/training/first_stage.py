"""The first stage of a run: its weights beside those of the run, and the regions in which the run trains and validates.

The first stage is a run of its own in the folder `first_stage`. A training case counts where the first stage or the
labels themselves lie, a validation case where the first stage alone finds something, as in a prediction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctseg.card import CoarseStage
from ctseg.config import RunConfig
from ctseg.config.checking import parse_json
from ctseg.data.prepared_case import Prepared
from ctseg.data.steps import Orient
from ctseg.data.steps.base import Box
from ctseg.data.stream import ready as stream_of
from ctseg.engine.inference.cascade import find_labels, widened
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.weights import read_weights, save_weights
from ctseg.engine.training.job import Reporter
from ctseg.engine.training.planned import PLAN
from ctseg.engine.training.validate import BEST
from ctseg.files import write_text

FOLDER, WEIGHTS, REGIONS = "first_stage", "first_stage.safetensors", "regions.json"


def take_over(folder: Path, config: RunConfig) -> CoarseStage:
    """Put the best weights of the first stage beside those of the run, and describe them for its card."""
    tensors, card = read_weights(folder / FOLDER / BEST)
    members = tuple(member.model_copy(update={"file": WEIGHTS}) for member in card.members)
    card = card.model_copy(update={"members": members})
    save_weights(folder / WEIGHTS, tensors, card)
    margin = config.first_stage.margin_mm
    assert margin is not None
    return CoarseStage(model=f"{card.architecture}.{FOLDER}", margin_mm=margin, card=card)


def find_regions(
    folder: Path,
    config: RunConfig,
    stage: CoarseStage,
    prepared: Sequence[Prepared],
    training: int,
    reporter: Reporter,
) -> dict[str, Box | None]:
    """The region of each case in voxels of the scan as it is stored, None for none; kept in the run folder.

    Args:
        prepared: the cases as the first stage sees them, those that train before those that validate.
        training: how many train.
    """
    assert stage.card is not None
    made_by = stage.card.members[0].tensors_sha256
    known = _read(folder / REGIONS, made_by, [case.id for case in prepared])
    if known is not None:
        return known
    train = config.train
    model = NetworkModel.from_files(
        [folder / WEIGHTS], device=train.device, precision=train.precision
    )
    labels = _label_boxes(folder / PLAN, training)
    regions: dict[str, Box | None] = {}
    for number, case in enumerate(prepared):
        reporter.update(number, len(prepared), f"looking where to train: {case.id}")
        scan = case.applied.source
        box = find_labels(model, stream_of(case.image, case.applied))
        case.close()
        if number < training:
            own = labels[number]
            box = _joined(box, own and Orient().input_box(own, scan, {}))
            if box is None:  # a healthy scan, all of which is background
                z, y, x = scan.shape_zyx
                box = (0, z), (0, y), (0, x)
        regions[case.id] = box and widened(box, stage.margin_mm, scan)
    write_text(folder / REGIONS, json.dumps({"first_stage": made_by, "regions": regions}) + "\n")
    return regions


def summary(regions: Mapping[str, Box | None], prepared: Sequence[Prepared]) -> str:
    """How much of the cases the regions let a run see, in a few words."""
    pairs = [(regions[case.id], case.applied.source.shape_zyx) for case in prepared]
    parts = [math.prod(b - a for a, b in box) / math.prod(shape) for box, shape in pairs if box]
    nothing = len(pairs) - len(parts)
    text = f"it looks at {np.median(parts or [0.0]):.0%} of a scan"
    return (
        f"{text}, and at nothing in {nothing} where the first stage finds nothing"
        if nothing
        else text
    )


def _joined(one: Box | None, two: Box | None) -> Box | None:
    """The smallest box that holds both."""
    if one is None or two is None:
        return one or two
    z, y, x = ((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, two, strict=True))
    return z, y, x


def _label_boxes(plan: Path, count: int) -> list[Box | None]:
    """Where the labels of the training cases lie, with axes turned to LPS; None where the plan does not say it."""
    try:
        found = parse_json(plan.read_text(encoding="utf-8"))["fingerprint"]["boxes"]
        boxes = [None if box is None else _box(box) for box in found]
    except (OSError, ValueError, KeyError, TypeError):  # edited
        boxes = []
    return boxes if len(boxes) == count else [None] * count


def _read(file: Path, made_by: str, names: Sequence[str]) -> dict[str, Box | None] | None:
    """The regions that a run wrote; None where they are of another first stage, or of other cases."""
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
        found: Mapping[str, Any] = content["regions"]
        if content["first_stage"] != made_by or list(found) != list(names):
            return None
        return {name: None if box is None else _box(box) for name, box in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _box(spans: Any) -> Box:
    (z, z1), (y, y1), (x, x1) = ([int(n) for n in span] for span in spans)
    return (z, z1), (y, y1), (x, x1)
