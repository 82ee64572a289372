"""Training for some minutes: the plan of ctseg, and a plain MONAI script with the same minutes, cores and cases.

    python -m benchmarks train                                     fold 0 of hippocampus, 5 minutes for each
    python -m benchmarks.train --time 20m --only ctseg

`ctseg train --fold 0 --time` is the whole command, its start and its last validation included. The script is MONAI's
tutorial on a spleen, in its usual words: cached scans, random crops about foreground and background, flips, noise and
intensity, its UNet with residual units, Dice and cross-entropy, AdamW whose learning rate falls with the time as a
cosine, and a sliding window; reading the scans and the last validation do not count towards its time. Both predict the
validation scans of the fold, and `ctseg evaluate` gives the mean Dice.
Data: the folder that CTSEG_TEST_DATA names.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.precision import FOLD, data_folder
from ctseg.config.run import parse_duration
from ctseg.data.readers.find import open_dataset
from ctseg.planning.task import task_of
from ctseg.specs import DataSet

ROOT = Path(__file__).resolve().parent
DATASET = "Dataset004_Hippocampus"
PATCH = (32, 48, 32)
SCANS, CROPS = 2, 4
"""Of a step."""


def measure(
    budget: str = "5m", only: Sequence[str] = ("ctseg", "monai"), seed: int = 0
) -> dict[str, Any]:
    """Mean Dice on the validation scans, steps and seconds of each.

    Args:
        budget: time of each run, as `--time` takes it.
    """
    source = data_folder() / DATASET
    if not source.is_dir():
        return {"what": f"no data at {source}"}
    out: dict[str, Any] = {
        "what": f"mean Dice on fold {FOLD} of {DATASET} after {budget} of training",
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in only:
            folder = Path(scratch, name)
            trained = (_ctseg if name == "ctseg" else _monai)(source, folder, budget, seed)
            out[name] = {**trained, **_scores(folder / "predictions", source)}
            print(name, out[name], flush=True)
    return out


def _command(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ctseg", *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"ctseg {words[0]} failed:\n{done.stderr}")
    return done.stdout


def _scores(predictions: Path, source: Path) -> dict[str, Any]:
    found = json.loads(_command("evaluate", predictions, source, "--fold", str(FOLD), "--json"))
    labels = found["labels"]
    return {
        "mean_dice": round(sum(one["dice"] for one in labels.values()) / len(labels), 4),
        "labels": {name: round(one["dice"], 4) for name, one in labels.items()},
    }


def _ctseg(source: Path, folder: Path, budget: str, seed: int) -> dict[str, Any]:
    run, begun = folder / "run", time.perf_counter()
    _command("train", source, "--fold", str(FOLD), "--time", budget, "--seed", str(seed), "-o", run)
    seconds = round(time.perf_counter() - begun, 1)
    _command("predict", source, "--fold", str(FOLD), "-m", run, "-o", folder / "predictions")
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return {"steps": max(json.loads(line).get("step", 0) for line in lines), "seconds": seconds}


def _monai(source: Path, folder: Path, budget: str, seed: int) -> dict[str, Any]:
    import monai
    from monai.data import CacheDataset, DataLoader, decollate_batch
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet

    monai.utils.set_determinism(seed)
    dataset = open_dataset(source)
    train, test = _files(dataset)
    loader = DataLoader(
        CacheDataset(train, _training_transforms(), progress=False),
        batch_size=SCANS, shuffle=True, drop_last=True,
    )  # fmt: skip
    net = UNet(
        3,
        1,
        len(task_of(None, dataset).foreground) + 1,
        (16, 32, 64, 128, 256),
        (2,) * 4,
        num_res_units=2,
    )
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    wanted = parse_duration(budget)
    begun, steps, share = time.perf_counter(), 0, 0.0
    while share < 1:
        for batch in loader:
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * share)) / 2
            optimizer.zero_grad()
            loss(net(batch["image"]), batch["label"]).backward()
            optimizer.step()
            steps += 1
            share = (time.perf_counter() - begun) / wanted
            if share >= 1:
                break
    seconds = round(time.perf_counter() - begun, 1)
    net.eval()
    transforms, invert = _test_transforms(folder / "predictions")
    for batch in DataLoader(monai.data.Dataset(test, transforms), batch_size=1):
        with torch.inference_mode():
            batch["pred"] = sliding_window_inference(
                batch["image"], PATCH, 4, net, overlap=0.5, mode="gaussian"
            )
        for one in decollate_batch(batch):
            invert(one)
    for file in (folder / "predictions").glob("*/*.nii.gz"):
        file.rename(folder / "predictions" / file.name)
    return {"steps": steps, "seconds": seconds}


def _files(dataset: DataSet) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Image and label of the training and of the validation cases."""
    cases = {case.id: case for case in dataset.cases}
    train, test = (
        [
            {"image": str(cases[name].images[0].path), "label": str(label.path)}
            for name in ids
            if (label := cases[name].label) is not None
        ]
        for ids in dataset.splits[FOLD]
    )
    return train, test


def _training_transforms() -> Any:
    from monai import transforms as t

    keys = ["image", "label"]
    return t.Compose(
        [
            t.LoadImaged(keys),
            t.EnsureChannelFirstd(keys),
            t.Orientationd(keys, "RAS"),
            t.Spacingd(keys, (1, 1, 1), mode=("bilinear", "nearest")),
            t.NormalizeIntensityd("image"),
            t.SpatialPadd(keys, PATCH),
            t.RandCropByPosNegLabeld(keys, "label", PATCH, num_samples=CROPS, image_key="image"),
            *(t.RandFlipd(keys, 0.5, axis) for axis in range(3)),
            t.RandGaussianNoised("image", 0.15, std=0.1),
            t.RandScaleIntensityd("image", 0.1, 0.5),
            t.RandShiftIntensityd("image", 0.1, 0.5),
        ]
    )


def _test_transforms(folder: Path) -> tuple[Any, Any]:
    """Before the network, and after it: back onto the scan's grid and into a file."""
    from monai import transforms as t

    before = t.Compose(
        [
            t.LoadImaged("image"),
            t.EnsureChannelFirstd("image"),
            t.Orientationd("image", "RAS"),
            t.Spacingd("image", (1, 1, 1), mode="bilinear"),
            t.NormalizeIntensityd("image"),
        ]
    )
    after = t.Compose(
        [
            t.Invertd("pred", before, "image", nearest_interp=False, to_tensor=True),
            t.AsDiscreted("pred", argmax=True),
            t.SaveImaged("pred", output_dir=folder, output_postfix="", print_log=False),
        ]
    )
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--time", default="5m", help="of each run")
    parser.add_argument("--only", nargs="+", choices=["ctseg", "monai"], default=["ctseg", "monai"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(measure(given.time, given.only, given.seed), indent=2))


if __name__ == "__main__":
    main()
