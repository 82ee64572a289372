"""Small models for `benchmarks.nnunet_import`, planned, prepared and trained by nnU-Net's own tools.

    python benchmarks/nnunet_train.py FOLDER --data DATA

Needs nnunetv2, not ctseg. FOLDER gets `nnUNet_raw`, `nnUNet_preprocessed`, `nnUNet_results` and `scans/MODEL`, 20 scans
that the model was not trained on; `models.json` lists the models. Planner, preprocessing, trainer and checkpoints are
nnU-Net's own, with AdamW as optimizer. Batch and steps are few and all networks but the first are narrow, so that an
idle processor trains them within half an hour. The data are the hippocampus scans of the Medical Segmentation
Decathlon.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

DATASET = "Dataset004_Hippocampus"
TRAIN, TEST = 40, 20
EPOCHS = 3
LEARNING_RATE = 1e-3
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
THICK_XYZ = ((4.0, 1.0, 1.0), (3.4, 0.8, 0.9), (4.6, 1.2, 1.0), (3.8, 1.0, 1.1))
"""Spacings that scans get in turn; the thick axis is x, which nnU-Net moves to the front."""


@dataclass(frozen=True)
class Model:
    """One data set in nnU-Net's sense, and what is trained on it.

    Attributes:
        labels: of dataset.json; lists are regions, numbered in their order.
        spacings_xyz: to which scans are resampled in turn; as they are by default.
        configurations: that are trained, in this order.
        features: of the first and of the widest level; those of the plans by default.
        steps: of the optimizer.
        gib: of the GPU that nnU-Net plans for.
        target: spacing of 3d_fullres, smaller than that of the scans where a cascade is wanted.
    """

    number: int
    name: str
    labels: dict[str, Any] = field(default_factory=lambda: dict(LABELS))
    spacings_xyz: tuple[tuple[float, float, float], ...] = ()
    configurations: tuple[str, ...] = ("3d_fullres",)
    folds: tuple[int | str, ...] = (0,)
    features: tuple[int, int] | None = (16, 128)
    steps: int = 120
    gib: float | None = None
    target: tuple[float, float, float] | None = None

    @property
    def dataset(self) -> str:
        return f"Dataset{self.number:03d}_{self.name}"


MODELS = (
    Model(801, "Hippocampus", folds=(0, 1), features=None, steps=75),
    Model(
        802, "Regions", steps=150,
        labels={"background": 0, "whole": [1, 2], "posterior": [2], "ignore": 3},
    ),
    Model(
        803, "Thick", spacings_xyz=THICK_XYZ, configurations=("2d", "3d_fullres"), steps=240,
    ),
    Model(
        804, "Cascade", configurations=("3d_lowres", "3d_cascade_fullres"), features=(8, 64),
        steps=240, gib=0.05, folds=("all",), target=(0.8, 0.8, 0.8),
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help=f"the folder {DATASET}")
    parser.add_argument("--models", nargs="*", default=[model.name for model in MODELS])
    args = parser.parse_args()
    for kind in ("raw", "preprocessed", "results"):
        place = args.folder / f"nnUNet_{kind}"
        place.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{kind}"] = str(place)
    os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    for model in MODELS:
        if model.name in args.models:
            write_raw(model, args.data, args.folder)
            plan(model, args.folder)
            for configuration in model.configurations:
                for fold in model.folds:
                    train(model, configuration, fold)
    (args.folder / "models.json").write_text(json.dumps([asdict(m) for m in MODELS], indent=2))


def write_raw(model: Model, data: Path, folder: Path) -> None:
    """The first scans for training, the next ones to predict."""
    raw, test = folder / "nnUNet_raw" / model.dataset, folder / "scans" / model.name
    for place in (raw / "imagesTr", raw / "labelsTr", test):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    labels = sorted((data / "labelsTr").glob("*.nii.gz"))
    for number, label in enumerate(labels[: TRAIN + TEST]):
        name = label.name.removesuffix(".nii.gz")
        training = number < TRAIN
        spacing = model.spacings_xyz[number % len(model.spacings_xyz)] if model.spacings_xyz else ()
        image = _resampled(data / "imagesTr" / f"{name}_0000.nii.gz", spacing, sitk.sitkBSpline)
        place = raw / "imagesTr" if training else test
        sitk.WriteImage(image, str(place / f"{name}_0000.nii.gz"))
        if training:
            mask = _resampled(label, spacing, sitk.sitkNearestNeighbor)
            sitk.WriteImage(mask, str(raw / "labelsTr" / label.name))
    about: dict[str, Any] = {
        "channel_names": {"0": "MR"}, "labels": model.labels, "numTraining": TRAIN,
        "file_ending": ".nii.gz", "licence": "CC BY-SA 4.0",
    }  # fmt: skip
    regions = [value for value in model.labels.values() if isinstance(value, list)]
    if regions:
        about["regions_class_order"] = list(range(1, len(regions) + 1))
    (raw / "dataset.json").write_text(json.dumps(about))


def _resampled(file: Path, spacing_xyz: tuple[float, ...], interpolator: int) -> sitk.Image:
    image = sitk.ReadImage(str(file))
    if not spacing_xyz:
        return image
    sizes = zip(image.GetSize(), image.GetSpacing(), spacing_xyz, strict=True)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(image)
    resampler.SetSize([max(1, round(count * old / new)) for count, old, new in sizes])
    resampler.SetOutputSpacing(spacing_xyz)
    resampler.SetInterpolator(interpolator)
    return resampler.Execute(image)


def plan(model: Model, folder: Path) -> None:
    """Fingerprint, plans and preprocessing by nnU-Net."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    os.environ["nnUNet_n_proc_DA"] = "1"  # noqa: SIM112
    extract_fingerprints([model.number], num_processes=1, clean=True)
    plan_experiments(
        [model.number], gpu_memory_target_in_gb=model.gib, overwrite_target_spacing=model.target,
        overwrite_plans_name="nnUNetPlans",
    )  # fmt: skip
    path = folder / "nnUNet_preprocessed" / model.dataset / "nnUNetPlans.json"
    content = json.loads(path.read_text())
    for settings in content["configurations"].values():
        if "architecture" not in settings:
            continue  # inherits
        settings["batch_size"] = 2 if len(settings["patch_size"]) == 3 else 12
        if model.features is not None:
            first, widest = model.features
            kwargs = settings["architecture"]["arch_kwargs"]
            levels = range(kwargs["n_stages"])
            kwargs["features_per_stage"] = [min(first * 2**level, widest) for level in levels]
    path.write_text(json.dumps(content, indent=2))
    stored = [c.replace("3d_cascade_fullres", "3d_fullres") for c in model.configurations]
    preprocess([model.number], "nnUNetPlans", stored, [1] * len(stored))


def train(model: Model, configuration: str, fold: int | str) -> None:
    """nnU-Net's trainer with fewer steps; before a cascade also its validation, whose labels the next stage sees."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    begun = time.perf_counter()
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - patches are made in this process
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    trainer = get_trainer_from_args(
        model.dataset,
        configuration,
        fold,
        "nnUNetTrainer",
        "nnUNetPlans",
        device=torch.device("cpu"),
    )
    trainer.configure_optimizers = lambda: _adam(trainer)
    trainer.num_epochs = EPOCHS
    trainer.num_iterations_per_epoch = model.steps // EPOCHS
    trainer.num_val_iterations_per_epoch = 2
    trainer.run_training()
    if configuration == "3d_lowres":
        trainer.perform_actual_validation(False)
    print(f"{model.name} {configuration} fold {fold}: {time.perf_counter() - begun:.0f} s")


def _adam(trainer: Any) -> tuple[Any, Any]:
    """Learns something within a hundred steps, as nnU-Net's SGD does not."""
    import torch
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    optimizer = torch.optim.AdamW(trainer.network.parameters(), LEARNING_RATE)
    return optimizer, PolyLRScheduler(optimizer, LEARNING_RATE, trainer.num_epochs)


if __name__ == "__main__":
    main()
