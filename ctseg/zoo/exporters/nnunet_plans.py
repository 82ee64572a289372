"""A card in nnU-Net's terms: plans.json and dataset.json, and what of the card they cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ctseg.card import Card
from ctseg.config import TaskConfig
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import (
    Clip,
    Normalise,
    NormaliseCase,
    Orient,
    Resample,
    RescaleCase,
    Step,
    Transpose,
)
from ctseg.data.steps.base import OfChannels
from ctseg.errors import CtsegError
from ctseg.nets.foreign.network import ForeignNetwork
from ctseg.nets.foreign.nnunet_export import write_architecture
from ctseg.zoo.importers.nnunet_labels import task_of
from ctseg.zoo.importers.nnunet_steps import NONE, SPLINE, steps_of

PLANS_NAME = "nnUNetPlans"
SEPARATE = {"auto": None, "always": True, "never": False}
NO_INTENSITIES = {
    "max": 1.0, "mean": 0.0, "median": 0.0, "min": 0.0, "percentile_00_5": 0.0, "percentile_99_5": 1.0, "std": 1.0,
}  # fmt: skip
"""nnU-Net asks for statistics of every channel, and uses those of CT alone."""


def dataset_of(card: Card, name: str) -> dict[str, Any]:
    """The content of `dataset.json`."""
    task = card.task
    one = task.kind == "classes"
    labels: dict[str, Any] = {} if one else {"background": 0}
    for number, label in enumerate(task.labels):
        key = "background" if one and number == 0 else label.name
        labels[key] = label.value if one else list(label.values)
    if task.ignore is not None and task.ignore == _highest(task) + 1:
        labels["ignore"] = task.ignore  # nnU-Net takes no other number; prediction does not need it
    regions = {} if one else {"regions_class_order": [label.value for label in task.labels]}
    data = card.training_data
    return {
        "name": name,
        "description": card.summary,
        "channel_names": {str(i): channel for i, channel in enumerate(card.channels)},
        "labels": labels,
        **regions,
        "numTraining": data.cases,
        "file_ending": ".nii.gz",
        "licence": card.licence or data.licence,
        "reference": data.reference or card.attribution,
    }


def task_obstacles(card: Card, dataset: Mapping[str, Any]) -> list[str]:
    """What nnU-Net cannot say about the labels, since it would read `dataset.json` otherwise."""
    if card.task.kind == "regression":
        return ["a regression"]
    try:
        found = task_of(dataset)
    except CtsegError as error:
        return [f"labels: {error.message}"]
    pairs = zip_longest(_meaning(card.task), _meaning(found))
    other = [f"{ours} (nnU-Net: {theirs})" for ours, theirs in pairs if ours != theirs]
    if card.task.kind != found.kind:
        other = [f"a task of kind {card.task.kind} none of whose labels joins several values"]
    return [f"labels: {one}" for one in other]


def _meaning(task: TaskConfig) -> list[tuple[Any, ...]]:
    rows = [(label.name, label.values, label.value) for label in task.labels]
    if task.kind == "classes":
        rows[0] = ("background", *rows[0][1:])
    return rows


def _highest(task: TaskConfig) -> int:
    return max((value for label in task.labels for value in label.values), default=0)


def plans_of(
    card: Card, network: ForeignNetwork, dataset: str, configuration: str
) -> dict[str, Any]:
    """The content of `plans.json` that comes nearest to the card."""
    steps = Pipeline.of(card.preprocess, {}).steps
    orient, transpose, resample = (_first(steps, kind) for kind in (Orient, Transpose, Resample))
    turned = isinstance(orient, Orient) and orient.to == "RAS"
    order = transpose.order_zyx if isinstance(transpose, Transpose) else (0, 1, 2)
    schemes, masked, intensities = _normalisation(steps, card.in_channels)
    assert card.predict.tile_zyx is not None
    flat = network.slicewise
    spacing = list(resample.spacing_xyz[::-1]) if isinstance(resample, Resample) else [1.0] * 3
    return {
        "dataset_name": dataset,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": [value or 1.0 for value in spacing],
        "original_median_shape_after_transp": list(card.predict.tile_zyx),
        "image_reader_writer": "NibabelIOWithReorient" if turned else "SimpleITKIO",
        "transpose_forward": list(order),
        "transpose_backward": [int(axis) for axis in np.argsort(order)],
        "configurations": {
            configuration: {
                "data_identifier": f"{PLANS_NAME}_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(card.predict.tile_zyx[flat:]),
                "median_image_size_in_voxels": list(card.predict.tile_zyx[flat:]),
                "spacing": spacing[flat:],
                "normalization_schemes": schemes,
                "use_mask_for_norm": masked,
                **_resampling(resample),
                "architecture": write_architecture(network),
                "batch_dice": False,
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": intensities,
    }  # fmt: skip


def _first(steps: Sequence[Step], kind: type[Any]) -> Step | None:
    return next((step for step in steps if isinstance(step, kind)), None)


def _normalisation(
    steps: Sequence[Step], channels: int
) -> tuple[list[str], list[bool], dict[str, dict[str, float]]]:
    """Scheme of each channel, whether it is masked, and the statistics that CT needs."""
    schemes, masked, table, every = [], [], {}, range(channels)
    for channel in every:
        table[str(channel)] = dict(NO_INTENSITIES)
        own: list[Any] = [s for s in steps if isinstance(s, OfChannels)]
        own = [s for s in own if channel in (s.channels or every)]
        scheme, mask = "NoNormalization", False
        match own:
            case [Clip() as clip, Normalise() as normalise]:
                scheme = "CTNormalization"
                low, high = (_of(clip, v, channel) for v in (clip.low, clip.high))
                mean, std = (_of(normalise, v, channel) for v in (normalise.mean, normalise.std))
                table[str(channel)] = {
                    "max": high, "mean": mean, "median": mean, "min": low, "percentile_00_5": low,
                    "percentile_99_5": high, "std": std,
                }  # fmt: skip
            case [NormaliseCase() as case]:
                scheme, mask = "ZScoreNormalization", case.nonzero
            case [RescaleCase()]:
                scheme = "RescaleTo01Normalization"
            case [Normalise()]:
                scheme = "RGBTo01Normalization"
            case _:
                pass
        schemes.append(scheme)
        masked.append(mask)
    return schemes, masked, table


def _of(step: Clip | Normalise, values: tuple[float, ...], channel: int) -> float:
    """The number of a channel."""
    place = step.channels.index(channel) if step.channels else channel
    return values[place] if len(values) > 1 else values[0]


def _resampling(step: Step | None) -> dict[str, Any]:
    """The resampling functions of a configuration with their arguments."""
    keys = ("data", "seg", "probabilities")
    if not isinstance(step, Resample):
        return {
            f"resampling_fn_{key}{end}": {} if end else NONE
            for key in keys
            for end in ("", "_kwargs")
        }
    force = SEPARATE[step.coarse]
    along = {"data": step.coarse_order, "seg": 0, "probabilities": step.back_coarse_order}
    out: dict[str, Any] = {}
    for key in keys:
        out[f"resampling_fn_{key}"] = SPLINE
        out[f"resampling_fn_{key}_kwargs"] = {
            "is_seg": key == "seg", "order": step.order if key == "data" else 1, "order_z": along[key],
            "force_separate_z": force,
        }  # fmt: skip
    return out


def step_obstacles(card: Card, plans: Mapping[str, Any], configuration: str) -> list[str]:
    """Where nnU-Net's preprocessing by these plans differs from the card's steps."""
    ours = [_spelt_out(s, card.in_channels) for s in Pipeline.of(card.preprocess, {}).steps]
    try:
        read = steps_of(plans, plans["configurations"][configuration], card.in_channels)
    except CtsegError as error:
        return [f"preprocessing: {error.message}"]
    theirs = [_spelt_out(step, card.in_channels) for step in read]
    out = []
    for kind in dict.fromkeys([kind for kind, _ in (*ours, *theirs)]):
        pairs = zip_longest(*([o for k, o in side if k == kind] for side in (ours, theirs)))
        for mine, its in pairs:
            if mine is None:
                out.append(f"no step '{kind}', which nnU-Net always applies")
            elif its is None:
                out.append(f"the step '{kind}'")
            else:
                out += [
                    f"{kind}: {key} {value} (nnU-Net: {its[key]})"
                    for key, value in mine.items()
                    if value != its[key]
                ]
    if 0 in plans["configurations"][configuration]["spacing"]:
        out.append("resample: a spacing of 0, which keeps an axis")
    if not out and ours != theirs:
        order = ", ".join(kind for kind, _ in theirs)
        out.append(f"the order of the steps (nnU-Net: {order})")
    return out


def _spelt_out(step: Step, channels: int) -> tuple[str, dict[str, Any]]:
    """Kind and options, with one number for each channel where one serves all."""
    options = dict(vars(step))
    if options.get("channels") == tuple(range(channels)):
        options["channels"] = ()
    for key in ("low", "high", "mean", "std"):
        value = options.get(key)
        if isinstance(value, tuple) and len(value) == 1:
            options[key] = value * (len(options.get("channels") or ()) or channels)
    return step.kind, options
