"""Results folders of nnU-Net v2 with random weights, made with its own classes, and its own predictions."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ctseg.nets.timm_import import timm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm()  # nnU-Net imports timm, which needs help where torchvision has no operators
for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(variable, "nowhere")  # nnU-Net asks for them when it is imported

UNET = "dynamic_network_architectures.architectures.unet"
LABELS = {"background": 0, "organ": 1, "lesion": 2}


def plans(
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    patch: Sequence[int] = (16, 24, 24),
    strides: Sequence[Sequence[int]] = ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    schemes: Sequence[str] = ("CTNormalization",),
    masked: Sequence[bool] = (False,),
    configuration: str = "3d_fullres",
    transpose: Sequence[int] = (0, 1, 2),
    residual: bool = False,
    reader: str = "SimpleITKIO",
    **settings: Any,
) -> dict[str, Any]:
    """Plans in nnU-Net's schema with a small network."""
    dims, stages = len(patch), len(strides)
    kind = {"n_blocks_per_stage": [1, 2, 2]} if residual else {"n_conv_per_stage": [2] * stages}
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [6, 10, 12][:stages],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[3] * dims] * stages,
        "strides": [list(s) for s in strides],
        **kind,
        "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    resampled = {"force_separate_z": None, "order_z": 0}
    one = {
        "data_identifier": f"nnUNetPlans_{configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(p) for p in patch],
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(masked),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampled},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampled},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampled},
        "architecture": {
            "network_class_name": f"{UNET}.{'ResidualEncoderUNet' if residual else 'PlainConvUNet'}",
            "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
        **settings,
    }
    intensities = {
        "max": 700.0, "mean": 40.0, "median": 45.0, "min": -300.0,
        "percentile_00_5": -120.0, "percentile_99_5": 210.0, "std": 63.0,
    }  # fmt: skip
    return {
        "dataset_name": "Dataset900_Made",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(patch),
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "configurations": {configuration: one},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(i): {**intensities, "mean": 40.0 + i} for i in range(len(schemes))
        },
    }


def dataset_json(
    labels: dict[str, Any] | None = None, channels: Sequence[str] = ("CT",), **more: Any
) -> dict[str, Any]:
    return {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": labels or LABELS,
        "numTraining": 7,
        "file_ending": ".nii.gz",
        "licence": "CC BY 4.0",
        **more,
    }


def results_folder(
    parent: Path,
    made: dict[str, Any],
    about: dict[str, Any],
    *,
    folds: Sequence[int | str] = (0,),
    mirror_axes: tuple[int, ...] | None = (0, 1, 2),
    trainer: str = "nnUNetTrainer",
    background: float = 0.0,
) -> Path:
    """A trained model as nnU-Net leaves it, of the first configuration of the plans.

    Args:
        background: added to its logit, since random weights seldom find it among many labels.
    """
    configuration = next(iter(made["configurations"]))
    folder = parent / f"{trainer}__nnUNetPlans__{configuration}"
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(made))
    (folder / "dataset.json").write_text(json.dumps(about))
    for fold in folds:
        seed = 100 if fold == "all" else int(fold)
        with _quiet():
            content = checkpoint(made, about, configuration, trainer, seed=seed)
        content["inference_allowed_mirroring_axes"] = mirror_axes
        for name, tensor in content["network_weights"].items():
            if "seg_layers" in name and name.endswith("bias"):
                tensor[0] += background
        (folder / f"fold_{fold}").mkdir()
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def checkpoint(
    made: dict[str, Any], about: dict[str, Any], configuration: str, trainer: str, *, seed: int
) -> dict[str, Any]:
    """What `nnUNetTrainer.save_checkpoint` saves, of an untrained network."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(json.loads(json.dumps(made)))
    settings = manager.get_configuration(configuration)
    labels = manager.get_label_manager(about)
    place = str(Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer")
    cls = recursive_find_python_class(place, trainer, "nnunetv2.training.nnUNetTrainer")
    torch.manual_seed(seed)
    net = cls.build_network_architecture(
        manager, settings, determine_num_input_channels(manager, settings, about),
        labels.num_segmentation_heads, enable_deep_supervision=True,
    )  # fmt: skip
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if name.endswith("norm.weight"):
                tensor.copy_(1 + 0.2 * torch.randn(tensor.shape))
            elif name.endswith("bias"):
                tensor.copy_(0.2 * torch.randn(tensor.shape))
            elif "seg_layers" in name:
                tensor.mul_(4)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.99, nesterov=True)
    return {
        "network_weights": net.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float64(0.1)],
            "ema_fg_dice": [np.float32(0.2)],
            "train_losses": [np.float32(0.3)],
            "lrs": [0.01],
            "epoch_start_timestamps": [1.7e9],
        },
        "_best_ema": np.float64(0.2),
        "current_epoch": 1,
        "init_args": {
            "plans": made, "configuration": configuration, "fold": 0, "dataset_json": about,
        },
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }  # fmt: skip


def scan(
    folder: Path,
    name: str,
    shape_zyx: tuple[int, int, int],
    spacing_xyz: tuple[float, float, float],
    *,
    channels: int = 1,
    empty: int = 0,
    direction: np.ndarray | None = None,
    seed: int = 0,
) -> list[Path]:
    """Files of a made-up scan, one a channel, in Hounsfield units; `empty` voxels at each face are 0."""
    from ctseg.volume.io import write
    from ctseg.volume.volume import Volume

    rng = np.random.default_rng(seed)
    files = []
    for channel in range(channels):
        coarse = ndimage.gaussian_filter(rng.standard_normal(shape_zyx), 2.5)
        image = 150 * coarse / coarse.std() + 20 * rng.standard_normal(shape_zyx) + 40
        if empty:
            inside = np.zeros(shape_zyx, bool)
            inside[empty:-empty, empty + 1 : -empty, empty : -empty - 1] = True
            inside[tuple(n // 2 for n in shape_zyx)] = False  # a hole
            image = np.where(inside, image, 0)
        path = folder / f"{name}_{channel:04d}.nii.gz"
        geometry: dict[str, Any] = {"spacing_xyz": spacing_xyz, "origin_xyz": (3.0, -4.0, 5.0)}
        if direction is not None:
            geometry["direction"] = direction
        write(Volume.from_array(image.astype(np.float32), **geometry), path)
        files.append(path)
    return files


def predicted(
    results: Path,
    files: Sequence[Path],
    out: Path,
    *,
    mirror: bool = False,
    folds: Sequence[int | str] | None = None,
    exact: bool = True,
    before: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net's own label map [Z, Y, X] and probabilities of a scan, as its predictor writes them.

    Args:
        before: folder with the label map of the stage before a cascade, under the scan's name.
        exact: sums of logits in float32; nnU-Net takes float16, whose rounding decides near-ties.
    """
    import SimpleITK as sitk
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    out.mkdir(exist_ok=True, parents=True)
    target = out / "map"
    with _quiet(), _exact_sums() if exact else contextlib.nullcontext():
        predictor = nnUNetPredictor(
            use_mirroring=mirror, device=torch.device("cpu"), perform_everything_on_device=False,
            allow_tqdm=False,
        )  # fmt: skip
        used = tuple(folds) if folds is not None else None
        predictor.initialize_from_trained_model_folder(str(results), used)
        if before is None:
            predictor.predict_from_files_sequential(
                [[str(f) for f in files]], [str(target)], save_probabilities=True
            )
        else:
            _cascaded(predictor, files, before, target)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(target) + ".nii.gz"))
    return found, np.load(str(target) + ".npz")["probabilities"]


def _cascaded(predictor: Any, files: Sequence[Path], before: Path, target: Path) -> None:
    """By its own parts, in this process: its sequential method forgets the channels of a cascade."""
    from nnunetv2.inference.data_iterators import preprocess_fromfiles_save_to_queue
    from nnunetv2.inference.export_prediction import export_prediction_from_logits

    waiting: queue.Queue[dict[str, Any]] = queue.Queue()
    label = before / (files[0].name.removesuffix("_0000.nii.gz") + ".nii.gz")
    plans, about = predictor.plans_manager, predictor.dataset_json
    preprocess_fromfiles_save_to_queue(
        [[str(f) for f in files]], [str(label)], [str(target)], plans, about,
        predictor.configuration_manager, waiting, threading.Event(), threading.Event(),
    )  # fmt: skip
    item = waiting.get()
    logits = predictor.predict_logits_from_preprocessed_data(item["data"]).cpu()
    export_prediction_from_logits(
        logits, item["data_properties"], predictor.configuration_manager, plans, about,
        str(target), save_probabilities=True,
    )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _exact_sums() -> Iterator[None]:
    from nnunetv2.inference import predict_from_raw_data as theirs

    half, gaussian = torch.half, theirs.compute_gaussian
    plain = functools.partial(gaussian.__wrapped__, dtype=torch.float32)
    plain_with_cache = functools.lru_cache(plain)
    try:
        torch.half = torch.float32
        theirs.compute_gaussian = plain_with_cache
        yield
    finally:
        torch.half, theirs.compute_gaussian = half, gaussian
