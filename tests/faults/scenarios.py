"""The commands that faults meet, what must hold after one, and how a user goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import ctseg
from tests.faults.workplace import SMALL, Workplace

Command = Callable[[Workplace], list[object]]
CPU = ["--device", "cpu", "--precision", "fp32"]
RUN = [*SMALL, "--seed", 1, "--steps", 4]


@dataclass(frozen=True)
class Scenario:
    """One command.

    Attributes:
        name: for messages.
        output: what it writes, relative to the workplace; everything else must stay as it is.
        command: the arguments.
        again: how to go on after a fault; None where nothing is left to do.
        fresh: paths that are removed before it starts.
    """

    name: str
    output: str
    command: Command
    again: Callable[[Workplace], list[object] | None]
    fresh: tuple[str, ...] = ()


def _train(place: Workplace) -> list[object]:
    return ["train", place.data, "-o", place.root / "run", *RUN]


def _resume(place: Workplace) -> list[object]:
    if (place.root / "run" / "config.toml").is_file():
        return ["train", "--resume", "-o", place.root / "run"]
    return _train(place)


def _overwrite(place: Workplace) -> list[object]:
    return ["train", place.data, "-o", place.done, "--overwrite", *RUN]


def _prepare(place: Workplace) -> list[object]:
    return ["data", "prepare", place.data, "--workers", 2]


def _predict(place: Workplace) -> list[object]:
    return ["predict", place.scans, "-m", "unet3d.first", "-o", place.root / "out", *CPU]


def _convert(suffix: str) -> Command:
    return lambda place: [
        "data", "convert", place.scans, place.root / "out", "--to", suffix, "--allow-loss",
    ]  # fmt: skip


def _publish(tag: str, *options: str) -> Command:
    return lambda place: [
        "zoo", "publish", place.done, "--tag", tag, "--zoo", place.zoo, "--no-measure", *options,
    ]  # fmt: skip


def _publish_again(place: Workplace) -> list[object] | None:
    there = "unet3d.newer" in ctseg.list_weights("unet3d.*")
    return None if there else _publish("newer")(place)


def _remove(place: Workplace) -> list[object]:
    return ["zoo", "remove", "unet3d.first", "--zoo", place.zoo, "--yes"]


def _remove_again(place: Workplace) -> list[object] | None:
    return _remove(place) if "unet3d.first" in ctseg.list_weights("unet3d.*") else None


def _skipping(command: Command) -> Command:
    return lambda place: [*command(place), "--skip-existing"]


SCENARIOS = (
    Scenario("train", "run", _train, _resume),
    Scenario("train --overwrite", "done", _overwrite, _overwrite),
    Scenario("data prepare", "cache", _prepare, _prepare, fresh=("cache",)),
    Scenario("predict", "out", _predict, _skipping(_predict)),
    *(
        Scenario(f"data convert {suffix}", "out", _convert(suffix), _skipping(_convert(suffix)))
        for suffix in (".nrrd", ".h5", ".tif", ".nii.gz")
    ),
    Scenario("zoo publish", "zoo", _publish("newer"), _publish_again),
    Scenario(
        "zoo publish --overwrite", "zoo",
        _publish("first", "--overwrite"), _publish("first", "--overwrite"),
    ),
    Scenario("zoo remove", "zoo", _remove, _remove_again),
)  # fmt: skip
TIMES = (
    "computed_by",
    "seconds",
    "validation_seconds",
    "seconds_by_phase",
    "log_bytes",
    "sha256",
    "bytes",
    "made",
    "memory_mib",
    "forecasts",
    "runtime",
    "size",
)
"""What is measured and so differs from one run to the next, and what follows from that."""
RECORD = "predictions.json"
MAY_CHANGE = ("cache",)
"""What any command may fill: prepared cases."""


def content(path: Path) -> str:
    """A digest of what a file says, without the seconds that work took and without how it is packed."""
    return hashlib.sha256(repr(_said(path)).encode()).hexdigest()[:16]


def _said(path: Path) -> Any:
    name = path.name
    if name.endswith(".safetensors"):
        tensors = safetensors.numpy.load_file(path)
        return sorted((k, str(v.dtype), v.shape, v.tobytes()) for k, v in tensors.items())
    if name.endswith((".nii.gz", ".h5", ".tif", ".nrrd")):
        volume = ctseg.read(path)
        return volume.geometry, str(volume.array.dtype), volume.array.tobytes()
    if name.endswith(".npy"):
        return np.load(path, mmap_mode="r", allow_pickle=False).tobytes()
    if name.endswith(".jsonl"):
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if name.endswith(".json"):
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    return path.read_bytes()


def _timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _timeless(v) for k, v in data.items() if k not in TIMES}
    return [_timeless(v) for v in data] if isinstance(data, list) else data


def unreadable(place: Workplace, scenario: Scenario) -> dict[str, str]:
    """Files of the command's output under their final names that are not whole."""
    found = {}
    for path in visible(place, scenario):
        try:
            content(path)
        except Exception as error:  # whatever it is, the file is not whole
            found[str(path.relative_to(place.root))] = f"{type(error).__name__}: {error}"
    return found


def visible(place: Workplace, scenario: Scenario) -> list[Path]:
    """Files of the output; those of a run that is under way only where they count as results."""
    folder = place.root / scenario.output
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        working = parts[0] in ("last.new", "last.old", "tensorboard") or path.name == "log.jsonl"
        if path.is_file() and not hidden and not working:
            found.append(path)
    return found


def results(place: Workplace, scenario: Scenario) -> dict[str, str]:
    """What the command has made, as contents by relative path; pictures, reports and TensorBoard's files aside."""
    folder = place.root / scenario.output
    out = {
        str(path.relative_to(folder)): content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "tensorboard" not in path.parts
        and path.suffix not in (".png", ".html", ".toml")
        and path.name not in (".lock", "README.md", RECORD)
    }
    record = folder / RECORD
    if record.is_file():
        for case in json.loads(record.read_text(encoding="utf-8"))["cases"]:
            out[f"{RECORD}: {case['case']}"] = repr(_timeless(case))
    return out


def others(place: Workplace, scenario: Scenario) -> dict[str, str]:
    """Everything that the command has no business with, as bytes."""
    output = place.root / scenario.output
    files = [*place.root.rglob("*"), *place.data.rglob("*")]
    entries = ("unet3d.first", "unet3d.newer") if scenario.output == "zoo" else ()
    out = {}
    for path in files:
        inside = path.is_relative_to(output)
        if scenario.output == "zoo" and path.is_relative_to(output):
            parts = path.relative_to(output).parts
            inside = len(parts) < 2 or parts[0] in entries or parts[0].startswith(".")
        skipped = path.is_relative_to(place.root) and (
            path.relative_to(place.root).parts[0] in MAY_CHANGE
        )
        if path.is_file() and not inside and not skipped:
            out[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return out
