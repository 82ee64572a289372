"""Results folders that ctseg exports, read by nnU-Net's own predictor: its label maps are those of ctseg."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ctseg
from ctseg import plugins
from ctseg.nets.foreign.network import ForeignNetwork
from ctseg.nets.foreign.nnunet import map_state, read_architecture
from ctseg.nets.foreign.nnunet_export import write_architecture, write_state
from ctseg.zoo.exporters.export import export_model
from ctseg.zoo.importers.entry import EntryOptions, import_model

pytest.importorskip("nnunetv2")

_spec = importlib.util.spec_from_file_location(
    "nnunet_folders", Path(__file__).with_name("nnunet_folders.py")
)
assert _spec is not None
assert _spec.loader is not None
made_with = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_with)
dataset_json, plans, predicted = made_with.dataset_json, made_with.plans, made_with.predicted
results_folder, scan = made_with.results_folder, made_with.scan

FLAT = {
    "configuration": "2d",
    "patch": (24, 16),
    "spacing": (0.9, 0.8),
    "strides": ((1, 1), (2, 2), (2, 2)),
}
ONE = {"shape": (20, 28, 23), "spacing": (1.0, 1.0, 1.0)}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "resampled, two folds": (
        {"spacing": (1, 0.9, 1.1)}, {}, {**ONE, "spacing": (0.7, 0.7, 1.25)}, {"folds": (0, 3)},
    ),
    "thick slices, transposed, mirrored": (
        {"transpose": (2, 0, 1), "spacing": (4, 0.9, 0.8), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2))},
        {}, {"shape": (27, 28, 9), "spacing": (3.6, 1, 1)}, {"mirror": True},
    ),
    "residual, channels": (
        {
            "residual": True, "masked": (True, False, False, False),
            "schemes": (
                "ZScoreNormalization", "CTNormalization", "RescaleTo01Normalization", "NoNormalization",
            ),
        },
        {"channels": ("T1", "CT", "PET", "map")}, ONE, {"channels": 4, "empty": 2},
    ),
    "regions, no mirroring": (
        {}, {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]},
        ONE, {"axes": None},
    ),
    "2d, batch norm": (
        FLAT, {}, {"shape": (6, 34, 30), "spacing": (0.8, 0.8, 4)},
        {"axes": (0, 1), "mirror": True, "trainer": "nnUNetTrainerBN"},
    ),
    "never apart, turned to RAS": (
        {"reader": "NibabelIOWithReorient"} | {
            f"resampling_fn_{key}_kwargs": {
                "is_seg": key == "seg", "order": 3 if key == "data" else 1, "order_z": 0, "force_separate_z": False,
            }
            for key in ("data", "seg", "probabilities")
        },
        {}, {"shape": (7, 34, 30), "spacing": (0.8, 0.8, 4), "turned": True}, {},
    ),
    "not resampled": (
        {f"resampling_fn_{key}": "no_resampling_hack" for key in ("data", "seg", "probabilities")}
        | {f"resampling_fn_{key}_kwargs": {} for key in ("data", "seg", "probabilities")},
        {}, ONE, {"folds": ("all",)},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTSEG_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The scan has voxels of:ctseg.errors.CtsegWarning")
@pytest.mark.parametrize("name", CASES)
def test_there_and_back_gives_the_same_labels(name: str, tmp_path: Path) -> None:
    settings, about, image, how = CASES[name]
    results = results_folder(
        tmp_path / "made", plans(**settings), dataset_json(**about), folds=how.get("folds", (0,)),
        mirror_axes=how.get("axes", (0, 1, 2)), trainer=how.get("trainer", "nnUNetTrainer"),
    )  # fmt: skip
    direction = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]) if image.get("turned") else None
    files = scan(
        tmp_path, "case", image["shape"], image["spacing"], channels=how.get("channels", 1),
        empty=how.get("empty", 0), direction=direction,
    )  # fmt: skip
    run = {"mirror": how.get("mirror", False), "folds": how.get("folds", (0,))}
    expected, probabilities = predicted(results, files, tmp_path / "theirs", **run)
    entry, _ = import_model("nnunet", [results])
    done = export_model(entry.name, "nnunet", tmp_path / "Dataset905_Back")
    assert {one.checked_with for one in done.networks} == {"dynamic_network_architectures"}
    back = next(done.folder.glob("nnUNetTrainer__nnUNetPlans__*"))
    labels, shares = predicted(back, files, tmp_path / "back", **run)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(labels, expected)
    assert np.abs(shares - probabilities).max() < 1e-5
    again, _ = import_model("nnunet", [done.folder], EntryOptions(tag="again"))
    assert again.card().predict == entry.card().predict
    assert again.card().preprocess == entry.card().preprocess
    assert again.card().task == entry.card().task


@pytest.mark.slow
def test_a_cascade_goes_back_as_two_configurations(tmp_path: Path) -> None:
    low = plans(spacing=(1.9, 1.8, 1.7), configuration="3d_lowres")
    high = plans(configuration="3d_cascade_fullres", previous_stage="3d_lowres")
    low["configurations"] |= high["configurations"]
    both = {**low, "configurations": dict(reversed(low["configurations"].items()))}
    data = tmp_path / "Dataset900_Made"
    results_folder(data, low, dataset_json())
    fine = results_folder(data, both, dataset_json())
    files = scan(tmp_path, "case", (18, 28, 24), (1.0, 1.0, 1.0), empty=2)
    entry, _ = import_model("nnunet", [fine], EntryOptions(tag="both"))
    done = export_model(entry.name, "nnunet", tmp_path / "Dataset906_Back")
    assert [one.file.split("/")[0].rsplit("__")[-1] for one in done.networks] == [
        "3d_lowres", "3d_cascade_fullres",
    ]  # fmt: skip
    coarse, fine = (done.folder / one.file.split("/")[0] for one in done.networks)
    assert any("-prev_stage_predictions" in note for note in done.notes)
    predicted(coarse, files, tmp_path / "coarse")
    (tmp_path / "before").mkdir()
    (tmp_path / "coarse" / "map.nii.gz").rename(tmp_path / "before" / "case.nii.gz")
    expected, _ = predicted(fine, files, tmp_path / "theirs", before=tmp_path / "before")
    segmenter = ctseg.load(entry.name, device="cpu", precision="fp32")
    assert np.mean(segmenter.predict(ctseg.read(files[0])).array == expected) >= 0.9995


NETWORKS = {
    "unet3d": {
        "features": (4, 6, 8), "encoder_convs": (1, 2, 3), "decoder_convs": (2, 1), "bias": False,
        "kernels_zyx": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides_zyx": ((1, 2, 2), (2, 2, 2)),
    },
    "residual_unet3d": {
        "features": (4, 4, 8), "blocks_per_level": (2, 1, 2), "stem_features": 6, "norm": "batch", "activation": "relu",
        "dropout": 0.3,
    },
    "unet2d": {"features": (4, 8), "activation": "gelu", "norm": "none"},
    "residual_unet2d": {"features": (4, 8), "blocks_per_level": (1, 2), "activation": "elu", "deep_supervision": True},
    "swapped": {"features": (4, 8), "layer_order": "cli", "leaky_slope": 0.2, "norm_eps": 1e-3},
    "supervised": {"features": (4, 6, 8), "deep_supervision": True, "activation": "silu"},
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_nnunets_own(name: str) -> None:
    """Strictly loaded by nnU-Net's class, the same logits; and read back, the same tensors."""
    from dynamic_network_architectures.architectures import unet

    architecture = name if name in ("unet2d", "residual_unet2d", "residual_unet3d") else "unet3d"
    spec = plugins.architecture(architecture)
    config = plugins.make_config(spec, NETWORKS[name])
    network = ForeignNetwork(architecture, config)
    torch.manual_seed(0)
    ours = spec.build(config, in_channels=2, out_channels=3).eval()
    with torch.no_grad():
        for tensor in ours.state_dict().values():
            if tensor.ndim == 1:
                tensor.copy_(0.5 + torch.rand(tensor.shape))
    written = json.loads(json.dumps(write_architecture(network)))
    kwargs = written["arch_kwargs"]
    for key in written["_kw_requires_import"]:
        if kwargs[key]:
            kwargs[key] = getattr(torch.nn, kwargs[key].rsplit(".", 1)[-1])
    theirs = getattr(unet, written["network_class_name"].rsplit(".", 1)[-1])(
        input_channels=2, num_classes=3, deep_supervision=False, **kwargs
    ).eval()
    state = write_state(ours.state_dict(), network)
    theirs.load_state_dict(state, strict=True)
    x = torch.randn(1, 2, 8, 16, 16)
    with torch.no_grad():
        found = (
            theirs(x[0].transpose(0, 1)).transpose(0, 1)[None] if network.slicewise else theirs(x)
        )
        torch.testing.assert_close(found, ours(x), atol=1e-5, rtol=1e-5)
    described = read_architecture(
        written["network_class_name"], write_architecture(network)["arch_kwargs"],
        deep_supervision=config.deep_supervision,
    )  # fmt: skip
    back = map_state(state, described)
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, back[key]) for key, value in ours.state_dict().items())
