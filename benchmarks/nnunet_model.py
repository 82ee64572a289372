"""A zoo model as a results folder of nnU-Net: its plans, and a checkpoint with the same weights."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ctseg
from ctseg.nets.foreign.nnunet import map_state, read_architecture

LAYERS = ["conv_op", "norm_op", "dropout_op", "nonlin"]
RESAMPLING = "resample_data_or_seg_to_shape"
CONFIGURATION = "3d_fullres"


def write_results(
    model: str, dataset: str, dataset_json: dict[str, Any], results: Path
) -> dict[str, float]:
    """Write what `nnUNetv2_predict -d DATASET -c 3d_fullres -f 0` looks for.

    Args:
        model: a zoo model of `unet3d` with two convolutions a level, made for scans in their own spacing of 1 mm.
        dataset: a name as nnU-Net demands, `Dataset004_Hippocampus`.
        dataset_json: of that data set.
        results: the folder that nnUNet_results will name.

    Returns:
        The largest logit of both networks on one tile of noise, and their largest difference.
    """
    segmenter = ctseg.load(model, device="cpu", precision="fp32")
    card, ours = segmenter.card, segmenter.networks[0]
    architecture = _architecture(card.options)
    theirs = _their_network(architecture, card.in_channels, card.out_channels)
    _copy_weights(ours, theirs, architecture)
    folder = results / dataset / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    (folder / "fold_0").mkdir(parents=True)
    plans = _plans(dataset, list(card.predict.tile_zyx or ()), architecture)
    (folder / "plans.json").write_text(json.dumps(plans, indent=2))
    (folder / "dataset.json").write_text(json.dumps(dataset_json, indent=2))
    checkpoint = {
        "network_weights": theirs.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    tile = torch.randn(1, card.in_channels, *(card.predict.tile_zyx or ()))
    with torch.inference_mode():
        one, two = ours(tile), theirs.eval()(tile)
    return {
        "logits_reach": float(one.abs().max()),
        "largest_difference": float((one - two).abs().max()),
    }


def as_theirs(ours: nn.Module, options: dict[str, Any], channels: tuple[int, int]) -> nn.Module:
    """The same U-Net with the same weights, as nnU-Net builds it.

    Args:
        options: of `unet3d`, all that `_architecture` reads.
        channels: that go in and come out.
    """
    architecture = _architecture(options)
    theirs = _their_network(architecture, *channels)
    _copy_weights(ours, theirs, architecture)
    return theirs.eval()


def _architecture(options: dict[str, Any]) -> dict[str, Any]:
    levels = len(options["features"])
    convs = options["convs_per_level"]
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": list(options["features"]),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [list(k) for k in options["kernels_zyx"]],
            "strides": [[1, 1, 1], *(list(s) for s in options["strides_zyx"])],
            "n_conv_per_stage": [convs] * levels,
            "n_conv_per_stage_decoder": [convs] * (levels - 1),
            "conv_bias": options["bias"],
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": LAYERS,
    }


def _their_network(architecture: dict[str, Any], in_channels: int, out_channels: int) -> nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    with contextlib.redirect_stdout(io.StringIO()):
        return get_network_from_plans(
            architecture["network_class_name"], architecture["arch_kwargs"], LAYERS,
            in_channels, out_channels, deep_supervision=False,
        )  # fmt: skip


def _copy_weights(ours: nn.Module, theirs: nn.Module, architecture: dict[str, Any]) -> None:
    """Our tensors under their names, by the map that leads the other way; heads of lower levels stay as they are."""
    network = read_architecture(
        architecture["network_class_name"], architecture["arch_kwargs"], deep_supervision=False
    )
    own, used = ours.state_dict(), set()
    for key, tensor in theirs.state_dict().items():
        for name in map_state({key: tensor}, network):
            tensor.copy_(own[name])
            used.add(name)
    if used != set(own):
        raise AssertionError(f"no place for {sorted(set(own) - used)}")


def _plans(dataset: str, patch: list[int], architecture: dict[str, Any]) -> dict[str, Any]:
    resampling = {}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        resampling[f"resampling_fn_{what}"] = RESAMPLING
        resampling[f"resampling_fn_{what}_kwargs"] = {
            "is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None,
        }  # fmt: skip
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}", "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2, "patch_size": patch, "median_image_size_in_voxels": [36, 50, 35],
        "spacing": [1.0, 1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False], **resampling, "architecture": architecture, "batch_dice": False,
    }  # fmt: skip
    return {
        "dataset_name": dataset, "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [36, 50, 35], "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
    }  # fmt: skip
