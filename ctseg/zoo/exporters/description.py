"""`model.json` of an export: all that a reader needs besides the networks, written from the card."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctseg.card import Card
from ctseg.config.postprocess import PostprocessRule
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import Resample, step_to_dict
from ctseg.engine.inference import tiling
from ctseg.engine.model.build import constraints_of
from ctseg.version import __version__
from ctseg.zoo.exporters.original import Exported
from ctseg.zoo.store import file_record

FORMAT = "ctseg-export/1"
AXES = "Arrays are [channel, z, y, x]. Spacing, origin and direction are x, y, z in LPS, in mm."
ACTIVATIONS = {"classes": "softmax", "channels": "sigmoid", "regression": "none"}
DECISIONS = {
    "classes": "Each voxel has the label with the largest logit.",
    "channels": "A label is where its logit is above 0; in the label map the later one counts.",
    "regression": "The logits are the values, scaled back by the step normalise_target if there is one.",
}
ORDER = (
    "Apply the steps in their order. The way back: interpolate logits linearly to the grid of the scan, undo the steps "
    "that move voxels in reverse order, then decide. Voxels outside of a crop are background."
)
OFFSETS = (
    "Along each axis a tile starts at round(i * (size - tile) / (n - 1)) for i in 0..n-1, with the smallest n whose "
    "steps are at most tile * (1 - overlap); blends named monai_* keep the step instead and move only the last tile. "
    "The logits of a voxel are the mean of its tiles, weighted by the product of the weights along z, y and x."
)


def describe(card: Card, networks: Sequence[Exported], folder: Path) -> dict[str, Any]:
    """The description of an export.

    Args:
        folder: in which the exported files lie.
    """
    out: dict[str, Any] = {
        "format": FORMAT,
        "made_by": f"ctseg {__version__}",
        "name": card.name,
        "summary": card.summary,
        "licence": card.licence or card.training_data.licence,
        "attribution": card.attribution,
        "intended_use": card.intended_use,
        "limits": card.limits,
        "trained_on": card.training_data.model_dump(mode="json"),
        "axes": AXES,
        "coarse_models": [_stage(stage) for stage in card.stages],
        "models": [
            _model(part, networks, folder) | {"labels": _labels(part, card)}
            for part in card.parts or (card,)
        ],
        "post_processing": _rules(card.predict.postprocess),
    }
    if card.parts:
        out["label_map"] = "Where several models see something, the later one counts."
    return out


def _model(card: Card, networks: Sequence[Exported], folder: Path) -> dict[str, Any]:
    """One network, or an ensemble, with its way from a scan to labels."""
    own = {member.file for member in card.members}
    steps = Pipeline.of(
        card.preprocess, {kind: p.package for kind, p in card.step_providers.items()}
    ).steps
    last = next((step for step in reversed(steps) if isinstance(step, Resample)), None)
    chosen = [one for one in networks if not own or one.member in own]
    return {
        "architecture": card.architecture,
        "options": card.options,
        "channels": list(card.channels),
        "preprocessing": [
            {**step_to_dict(step), "meaning": inspect.getdoc(type(step))} for step in steps
        ],
        "preprocessing_order": ORDER,
        "spacing_xyz": None if last is None else list(last.spacing_xyz),
        "tiles": _tiles(card),
        "networks": [_network(card, one, folder) for one in chosen],
        "average": card.predict.average if len(chosen) > 1 else None,
        "temperature": card.temperature,
        "activation": ACTIVATIONS[card.task.kind],
        "decision": DECISIONS[card.task.kind],
    }


def _labels(part: Card, whole: Card) -> list[dict[str, Any]]:
    """Channel, name and value of each label; a part's labels have the values that they have in the whole."""
    values = {label.name: label.value for label in whole.task.labels}
    return [
        {"channel": channel, "name": label.name, "value": values.get(label.name, label.value)}
        for channel, label in enumerate(part.task.labels)
    ]


def _tiles(card: Card) -> dict[str, Any]:
    """Size, places and weights of the tiles."""
    predict, constraints = card.predict, constraints_of(card)
    assert predict.tile_zyx is not None
    return {
        "tile_zyx": list(predict.tile_zyx),
        "overlap_zyx": list(tiling.overlap_zyx(predict.overlap)),
        "blend": predict.blend,
        "weights_zyx": [
            [float(f"{v:.6g}") for v in tiling.window(size, predict.blend)]
            for size in predict.tile_zyx
        ],
        "least_weight": tiling.least_weight(predict.tile_zyx, predict.blend),
        "places": OFFSETS,
        "padding_of_small_scans": predict.padding,
        "mirror_axes": list(predict.mirror_axes or ()),
        "slice_by_slice": constraints.dims == 2,
        "context_slices": constraints.context_slices,
    }


def _network(card: Card, exported: Exported, folder: Path) -> dict[str, Any]:
    tile = list(card.predict.tile_zyx or ())
    batch = "batch" if exported.batch is None else exported.batch
    return {
        "file": exported.file,
        "sha256": file_record(folder / exported.file).sha256,
        "input": {"shape": [batch, card.network_channels, *tile], "type": "float32"},
        "output": {"shape": [batch, card.out_channels, *tile], "type": "float32"},
        "largest_deviation": exported.deviation,
        "checked_with": exported.checked_with,
    }


def _stage(stage: Any) -> dict[str, Any]:
    use = (
        "Its labels are further channels of the network, 0 or 1 each, in this order."
        if stage.as_channels
        else f"Only the box of its labels, {stage.margin_mm:g} mm wider on every side, is predicted."
    )
    return {"model": stage.model, "labels": list(stage.labels) or "all", "use": use}


def _rules(rules: Sequence[PostprocessRule]) -> list[Mapping[str, Any]]:
    fields = PostprocessRule.model_fields
    return [
        {
            "meaning": {
                k: fields[k].description
                for k, v in rule.model_dump().items()
                if fields[k].description and v is not None
            },
            **rule.model_dump(mode="json", exclude_none=True),
        }
        for rule in rules
    ]
