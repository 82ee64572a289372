"""The resume point of a run: `last/state.safetensors` and `last/state.json`. No pickle.

A new one is written whole beside the old one and takes its place, so that a kill at any moment leaves one of the
two.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ctseg.config.checking import parse_json
from ctseg.engine.model.weights import load_strictly
from ctseg.errors import CorruptWeights
from ctseg.files import disk_errors

_MEND = "Start the run anew with --overwrite; its best weights are in best.safetensors."


@dataclass
class State:
    """Where a run stands, as plain data.

    Attributes:
        step: optimizer steps done.
        steps, steps_per_epoch: as fixed at the start; a time budget moves the end (`move_end`).
        validated: the last step at which whole volumes were validated.
        best: best mean foreground Dice so far.
        best_step: where it was reached.
        without_gain: epochs since then.
        loss_sum, loss_count: of the epoch under way.
        log_sum, log_count: the same since the last line that `train.log_every` wrote.
        seconds: spent in all sessions of this run.
        log_bytes: length of `log.jsonl`; what a killed run wrote later is cut off.
        budget_left: seconds left of a time budget; None without one.
        step_seconds, validation_seconds: as they took lately; 0 if unknown.
        rate_steps: length of the run that the learning rate was planned for; 0 if its end never moved.
        turn_step, turn_position: where the end moved last, and where on its schedule the learning rate was then.
        forecasts: of time and memory, as they stand in the log.
        parts: in how many parts a batch passes through the network, for want of memory.
        processes: how many train together.
    """

    steps: int
    steps_per_epoch: int
    step: int = 0
    validated: int = 0
    best: float = -1.0
    best_step: int = 0
    without_gain: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    log_sum: float = 0.0
    log_count: int = 0
    seconds: float = 0.0
    log_bytes: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    budget_left: float | None = None
    step_seconds: float = 0.0
    validation_seconds: float = 0.0
    rate_steps: int = 0
    turn_step: int = 0
    turn_position: float = 0.0
    forecasts: list[dict[str, Any]] = field(default_factory=list)
    parts: int = 1
    processes: int = 1

    def position(self, step: int) -> float:
        """Where on its schedule the learning rate is at a step: at the step itself until the end of the run moves.

        Then it goes on from where it is, and reaches the end of the schedule at the new end of the run.
        """
        if not self.rate_steps or self.steps == self.turn_step:
            return step
        pace = (self.rate_steps - self.turn_position) / (self.steps - self.turn_step)
        return self.turn_position + (step - self.turn_step) * pace

    def move_end(self, steps: int) -> None:
        """Give the run another end, at this step or a later one."""
        if steps != self.steps:
            start, here = self.rate_steps or self.steps, self.position(self.step)
            self.rate_steps, self.turn_step, self.turn_position = start, self.step, here
            self.steps = steps

    def count(self, loss: float) -> None:
        """Count a step and its loss."""
        self.step += 1
        self.loss_sum += loss
        self.loss_count += 1
        self.log_sum += loss
        self.log_count += 1


def save(
    folder: Path,
    state: State,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the resume point in `folder`.

    Args:
        tensors: state dicts by name, e.g. `{"model": ..., "ema": ...}`.
    """
    flat = {f"{part}:{k}": v for part, group in tensors.items() for k, v in group.items()}
    moments, plain = split_optimizer(optimizer)
    flat |= {f"optimizer:{name}": value for name, value in moments.items()}
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    with disk_errors(folder):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in flat.items()}
        content = safetensors.torch.save(contiguous)
        meta: dict[str, Any] = {"state": asdict(state), "optimizer": plain}
        meta["sha256"] = _sha256(meta, content)
        (new / "state.safetensors").write_bytes(content)
        (new / "state.json").write_text(json.dumps(meta), encoding="utf-8")
        for path in new.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def exists(folder: Path) -> bool:
    """Whether there is a resume point, be it one that a kill left under its old name.

    What a kill left of an earlier one beside it is removed.
    """
    old = folder.with_name(folder.name + ".old")
    if old.exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)
    return (folder / "state.json").is_file()


def load(folder: Path) -> tuple[State, dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """The state, the tensors by part, and the optimizer's plain part.

    Raises:
        CorruptWeights: the files are not what `save` writes.
    """
    try:
        meta = parse_json((folder / "state.json").read_text(encoding="utf-8"), finite=False)
        content = (folder / "state.safetensors").read_bytes()
        unsummed = set(meta) == {"state", "optimizer"}  # of ctseg before its checksums
        if not unsummed and meta.pop("sha256") != _sha256(meta, content):
            raise ValueError("its checksum is another one, so it was damaged after it was written")
        flat = safetensors.torch.load(content)
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in flat.items():
            part, _, name = key.partition(":")
            parts.setdefault(part, {})[name] = value
        return State(**meta["state"]), parts, meta["optimizer"]
    except KeyError as error:
        raise CorruptWeights(f"The resume point {folder} lacks {error}.", hint=_MEND) from error
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise CorruptWeights(
            f"The resume point {folder} cannot be read: {error}.", hint=_MEND
        ) from error


def _sha256(meta: Mapping[str, Any], content: bytes) -> str:
    """Checksum of a whole resume point."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    digest.update(content)
    return digest.hexdigest()


def resume(
    folder: Path,
    net: torch.nn.Module,
    average: torch.nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> State:
    """Give networks and optimizer what the resume point holds.

    Args:
        average: the network of averaged weights, where there is one.

    Returns:
        where the run stands.

    Raises:
        CorruptWeights: the files are not what `save` writes, or belong to another network.
    """
    state, tensors, plain = load(folder)
    load_strictly(net, tensors.get("model", {}), folder)
    if average is not None:
        load_strictly(average, tensors.get("ema", {}), folder)
    try:
        restore_optimizer(optimizer, tensors.get("optimizer", {}), plain)
    except (ValueError, KeyError) as error:
        raise CorruptWeights(
            f"The resume point {folder} belongs to another optimizer: {error}.",
            hint="Resume with the config.toml that the run began with.",
        ) from error
    return state


def split_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's state as tensors (`index.name`) and plain data."""
    full = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, entries in full["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain[f"{index}.{name}"] = value
    return tensors, {"values": plain, "groups": full["param_groups"]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]
) -> None:
    """Give an optimizer back what `split_optimizer` took.

    Raises:
        ValueError: it is of another optimizer, or damaged.
    """
    state: dict[int, dict[str, Any]] = {}
    try:
        for key, value in [*tensors.items(), *plain["values"].items()]:
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        _check_groups(plain["groups"], optimizer.state_dict()["param_groups"])
        optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the state of the optimizer is damaged ({error})") from error
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # the memory layout of the parameter: other layouts may round differently
                like = torch.empty_like(parameter, dtype=value.dtype)
                entries[name] = like.copy_(value)


def _check_groups(found: Any, own: list[dict[str, Any]]) -> None:
    """Refuse groups of parameters that are not those of the optimizer: numbers may differ, the rest may not.

    Raises:
        ValueError: with the option that is another one.
    """
    if not isinstance(found, list) or len(found) != len(own):
        raise ValueError("other groups of parameters")
    for group, expected in zip(found, own, strict=True):
        for name, value in expected.items():
            if not _alike(group[name], value, same=name == "params"):
                raise ValueError(f"'{name}' is {group[name]!r}")
        if not all(_alike(value, 0.0) for name, value in group.items() if name not in expected):
            raise ValueError("options that are no numbers")


def _alike(found: Any, own: Any, *, same: bool = False) -> bool:
    """Whether a value of JSON may stand for another: a number for a number, and else the same."""
    if isinstance(own, list | tuple):
        fits = isinstance(found, list | tuple) and len(found) == len(own)
        return fits and all(_alike(f, o, same=same) for f, o in zip(found, own, strict=True))
    if same or type(own) not in (int, float):
        return bool(found == own) and type(found) is type(own)
    return type(found) in (int, float)
