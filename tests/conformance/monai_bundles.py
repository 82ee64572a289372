"""Bundles as MONAI's own tools read and run them: the reference that imported ones are compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

METADATA = {
    "version": "0.1.0",
    "monai_version": "1.5",
    "name": "Two parts",
    "task": "two parts of a phantom",
    "license": "CC0-1.0",
    "data_source": "a phantom",
    "network_data_format": {
        "inputs": {"image": {"modality": "CT", "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "left", "2": "right"}}},
    },
}
UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": "@classes", "channels": [4, 8, 12],
    "strides": [2, 2], "num_res_units": 2, "norm": "batch",
}  # fmt: skip
LOAD = [
    {"_target_": "LoadImaged", "keys": "@image_key"},
    {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
    {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
]
WINDOW = {
    "_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": -100, "a_max": 200, "b_min": 0, "b_max": 1,
    "clip": True,
}  # fmt: skip
INVERT = {
    "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "@image_key",
    "nearest_interp": False, "to_tensor": True,
}  # fmt: skip
SOFTMAX = [
    INVERT,
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
]


def config(**changes: Any) -> dict[str, Any]:
    """A configuration for inference in the form of the model zoo's."""
    before, after = changes.pop("before", [WINDOW]), changes.pop("after", SOFTMAX)
    out = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "classes": 3,
        "patch": "$[8 * 2] * 3",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cpu')",
        "network_def": UNET,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [*LOAD, *before]},
        "inferer": {
            "_target_": "SlidingWindowInferer", "roi_size": "@patch", "sw_batch_size": 2, "overlap": 0.25,
        },
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "handlers": [
            {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
             "load_dict": {"model": "@network"}}
        ],
    }  # fmt: skip
    return out | changes


def write_bundle(folder: Path, content: dict[str, Any], *, weights: bool = True) -> Path:
    """A bundle with random weights, as `torch.save` writes them."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    if weights:
        torch.manual_seed(0)
        network = parsed(folder).get_parsed_content("network_def")
        torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def parsed(folder: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser["imports"] = []
    return parser


def run_bundle(folder: Path, scan: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scan as the network sees it, logits [K, X, Y, Z] and labels [X, Y, Z], all by MONAI."""
    parser = parsed(folder)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    before = parser.get_parsed_content("preprocessing")
    inferer = parser.get_parsed_content("inferer")
    data = before({"image": str(scan)})
    with torch.no_grad():
        logits = inferer(data["image"][None], network)[0]
    data["pred"] = logits
    after = parser.get_parsed_content("postprocessing")
    out = after(dict(data))["pred"]
    return data["image"].numpy(), np.asarray(logits), np.asarray(out)
