"""Patches a second of our loader, MONAI's and TorchIO's with equal work, and what share of a training step data take.

All draw from the same prepared scans in memory, half of the patches on a label: an affine transform for 36 of 100
patches, mirroring, noise, blur, gamma and low resolution. Where the peers may work in several ways, the fastest counts:
MONAI's CacheDataset with the label's voxels found beforehand, in this process, in threads and in two processes;
TorchIO's Queue in this process and in two, with one and with four patches a volume. TorchIO lowers the resolution of
one axis rather than of three. Its documentation transforms volumes before it draws several patches from each; that is
less work than a transform for each patch, and stands there for comparison only.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

import ctseg
from ctseg.config import AugmentConfig, RunConfig, parse_config
from ctseg.config.augment import PROBABILITIES
from ctseg.data.loading import Batch, Loader, Recipe, in_memory
from ctseg.data.prepared_case import Prepared
from ctseg.engine.model.build import build
from ctseg.engine.model.create import create_loss
from ctseg.engine.training.job import TrainingJob
from ctseg.engine.training.optim import make_optimizer
from ctseg.engine.training.step import Stepper, loader_of
from ctseg.losses.deep import DeepSupervision

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"hippocampus": "Dataset004_Hippocampus", "sts_ct": "sts_ct"}
SHARED = {
    "rotation": 0.2, "scale": 0.2, "noise": 0.1, "blur": 0.2, "gamma": 0.3, "low_resolution": 0.25,
}  # fmt: skip
AFFINE = 0.36
SECONDS = 6.0
"""For which each way to load is run."""
STEPS = 12
LESS = "less work: 4 patches of each transformed volume"


def measure(
    seconds: float = SECONDS, steps: int = STEPS, cases: int | None = None
) -> dict[str, Any]:
    """Patches a second and shares of a step, for each data set that is there."""
    warnings.filterwarnings("ignore")
    folder = Path(os.environ.get("CTSEG_TEST_DATA", DATA))
    out: dict[str, Any] = {"what": "patches a second; the share of a training step that data take"}
    for name, path in SETS.items():
        if not (folder / path).is_dir():
            out[name] = f"not at {folder}"
            continue
        with tempfile.TemporaryDirectory() as scratch:
            job = _job(folder / path, Path(scratch) / "run")
            out[name] = _one_set(job, seconds, steps, cases)
    return out


def _one_set(job: TrainingJob, seconds: float, steps: int, cases: int | None) -> dict[str, Any]:
    patch, batch = job.config.train.patch_zyx, job.config.train.batch_size
    assert patch is not None
    assert batch is not None
    prepared = [in_memory(case) for case in list(job.train)[:cases]]
    found: dict[str, Any] = {
        "patch_zyx": patch, "batch_size": batch, "cases": len(prepared),
        "training step": _share(job, steps),
        "ctseg": {k: round(_rate(make, batch, seconds), 1) for k, make in _ours(prepared, job).items()},
    }  # fmt: skip
    best = max(found["ctseg"].values())
    for peer, ways in (("monai", _monai), ("torchio", _torchio)):
        rates = {}
        for way, make in ways(_padded(prepared, patch), patch, batch).items():
            rates[way] = round(_rate(make, batch, seconds), 1)
        found[peer] = rates
        equal = [rate for way, rate in rates.items() if way != LESS]
        found[f"times faster than {peer}"] = round(best / max(equal), 2)
    return found


def _rate(make: Callable[[], Iterator[Any]], batch: int, seconds: float) -> float:
    """Patches a second, after the first batches."""
    source = make()
    for _ in range(4):
        next(source)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        next(source)
        count += batch
    rate = count / (time.perf_counter() - begun)
    close = getattr(source, "close", None)
    if close is not None:
        close()
    return rate


# ---------------------------------------------------------------- the training step


def _job(data: Path, folder: Path) -> TrainingJob:
    """What `ctseg train DATA` would train, prepared."""
    caught: list[TrainingJob] = []

    def catch(job: TrainingJob, *, resume: bool = False) -> Any:
        caught.append(job)
        return SimpleNamespace()

    config: RunConfig = parse_config({"data": {"path": str(data)}, "train": {"epochs": 1}})
    with mock.patch("ctseg.engine.training.loop.train", catch):
        ctseg.train(config, output=folder)
    return caught[0]


def _share(job: TrainingJob, steps: int) -> dict[str, float]:
    """Milliseconds of a step with a batch that is there, and of making a batch of the run's own configuration."""
    net = job.runtime.place(build(job.card)).train()
    loss = DeepSupervision(create_loss(job.config.loss.name, **job.config.loss.options))
    with loader_of(job) as loader:
        fixed: Batch = loader.batch(0)
        there: Any = SimpleNamespace(batch=lambda _: fixed)
        bare = Stepper(job, net, loss, make_optimizer(net, job.config.train), there)
        step = statistics.median(_seconds(bare, steps))
        data = statistics.fmean(_seconds(loader.batch, 10 * steps))
    return {
        "network, ms": round(1000 * step, 1),
        "data, ms": round(1000 * data, 1),
        "share of data": round(data / (step + data), 4),
    }


def _seconds(call: Callable[[int], Any], count: int) -> list[float]:
    times = []
    for step in range(count + 3):
        begun = time.perf_counter()
        call(step)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return times[3:]


# ---------------------------------------------------------------- ways to load


def _ours(cases: Sequence[Prepared], job: TrainingJob) -> dict[str, Callable[[], Iterator[Any]]]:
    patch, batch = job.config.train.patch_zyx, job.config.train.batch_size
    assert patch is not None
    assert batch is not None
    off = dict.fromkeys(PROBABILITIES, 0.0)
    augment = AugmentConfig(preset="nnunet", **{**off, **SHARED}).resolved(patch)
    recipe = Recipe(patch, batch, 0, augment)

    def make(workers: int) -> Callable[[], Iterator[Any]]:
        def batches() -> Iterator[Any]:
            with Loader(cases, recipe, workers=workers) as loader:
                for step in itertools.count():
                    yield loader.batch(step)

        return batches

    return {f"{n} workers": make(n) for n in (0, 1, 2)}


def _padded(cases: Sequence[Prepared], patch: tuple[int, int, int]) -> list[dict[str, Any]]:
    """The prepared scans, large enough for a patch."""
    out = []
    for case in cases:
        image, label = np.asarray(case.image), np.asarray(case.target).clip(0)
        missing = [max(p - n, 0) for n, p in zip(image.shape[1:], patch, strict=True)]
        pad = [(0, 0), *((m // 2, m - m // 2) for m in missing)]
        out.append(
            {
                "image": torch.from_numpy(np.pad(image, pad, mode="reflect")),
                "label": torch.from_numpy(np.pad(label, pad)),
            }
        )
    return out


def _forever(loader: Iterable[Any]) -> Callable[[], Iterator[Any]]:
    return lambda: itertools.chain.from_iterable(itertools.repeat(loader))


def _monai(
    items: list[dict[str, Any]], patch: tuple[int, int, int], batch: int
) -> dict[str, Callable[[], Iterator[Any]]]:
    from monai.data import CacheDataset, DataLoader, ThreadDataLoader, set_track_meta
    from monai.transforms import (
        Compose,
        EnsureTyped,
        FgBgToIndicesd,
        RandAdjustContrastd,
        RandAffined,
        RandCropByPosNegLabeld,
        RandFlipd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandSimulateLowResolutiond,
    )

    set_track_meta(False)
    both, angle, sigma = ["image", "label"], np.pi / 6, (0.5, 1.0)
    transforms = Compose(
        [
            EnsureTyped(both),
            FgBgToIndicesd("label"),
            RandCropByPosNegLabeld(
                both, "label", patch, pos=1, neg=1, num_samples=1,
                fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices",
            ),
            RandAffined(
                both, prob=AFFINE, rotate_range=(angle,) * 3, scale_range=((-0.3, 0.4),) * 3,
                mode=("bilinear", "nearest"), padding_mode="reflection",
            ),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandGaussianNoised("image", prob=SHARED["noise"], std=0.3),
            RandGaussianSmoothd(
                "image", prob=SHARED["blur"], sigma_x=sigma, sigma_y=sigma, sigma_z=sigma
            ),
            RandAdjustContrastd(
                "image", prob=SHARED["gamma"], gamma=(0.7, 1.5), retain_stats=True
            ),
            RandSimulateLowResolutiond(
                "image", prob=SHARED["low_resolution"], zoom_range=(0.5, 1.0),
                upsample_mode="trilinear", align_corners=False,
            ),
        ]
    )  # fmt: skip
    data = CacheDataset(items, transforms, progress=False)
    options: dict[str, Any] = {"batch_size": batch, "shuffle": True}
    return {
        "this process": _forever(DataLoader(data, num_workers=0, **options)),
        "a thread": _forever(ThreadDataLoader(data, num_workers=0, **options)),
        "2 processes": _forever(
            DataLoader(data, num_workers=2, persistent_workers=True, **options)
        ),
        "2 processes and a thread": _forever(
            ThreadDataLoader(data, num_workers=2, persistent_workers=True, **options)
        ),
    }


def _torchio(
    items: list[dict[str, Any]], patch: tuple[int, int, int], batch: int
) -> dict[str, Callable[[], Iterator[Any]]]:
    import torchio as tio

    subjects = [
        tio.Subject(image=tio.ScalarImage(tensor=i["image"]), label=tio.LabelMap(tensor=i["label"]))
        for i in items
    ]
    transforms = tio.Compose(
        [
            tio.RandomAffine(scales=(0.7, 1.4), degrees=30, isotropic=True, p=AFFINE),
            tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5),
            tio.RandomNoise(std=(0, 0.3), p=SHARED["noise"]),
            tio.RandomBlur(std=(0.5, 1), p=SHARED["blur"]),
            tio.RandomGamma(log_gamma=(-0.35, 0.4), p=SHARED["gamma"]),
            tio.RandomAnisotropy(downsampling=(1, 2), p=SHARED["low_resolution"]),
        ]
    )
    labels = sorted({int(v) for i in items for v in i["label"].unique()})
    shares = {v: 0.5 / max(len(labels) - 1, 1) if v else 0.5 for v in labels}

    def make(workers: int, a_volume: int, whole: bool) -> Callable[[], Iterator[Any]]:
        queue = tio.Queue(
            tio.SubjectsDataset(subjects, transform=transforms if whole else None),
            max_length=4 * max(batch, a_volume),
            samples_per_volume=a_volume,
            sampler=tio.LabelSampler(patch, "label", shares),
            num_workers=workers,
        )
        source = queue if whole else _Transformed(queue, transforms)
        return _forever(tio.SubjectsLoader(source, batch_size=batch, num_workers=0))

    ways = {}
    for workers, a_volume in itertools.product((0, 2), (1, 4)):
        where = "2 processes" if workers else "this process"
        ways[f"{where}, {a_volume} a volume"] = make(workers, a_volume, False)
    ways[LESS] = make(0, 4, True)
    return ways


class _Transformed(torch.utils.data.Dataset[Any]):
    """A queue whose patches are transformed one by one."""

    def __init__(self, queue: Any, transforms: Callable[[Any], Any]) -> None:
        self.queue, self.transforms = queue, transforms

    def __len__(self) -> int:
        return len(self.queue)

    def __getitem__(self, index: int) -> Any:
        return self.transforms(self.queue[index])
