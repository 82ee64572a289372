"""Chooses what computes a network on a CPU: PyTorch or OpenVINO.

A network is converted only if the tiles to come take long enough to repay it. Then both compute a tile of noise:
OpenVINO must give the same logits, and be faster.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctseg import machine
from ctseg.engine.inference.backends import int8, openvino, records
from ctseg.engine.inference.forward import Compute, by_torch, logits_of
from ctseg.engine.model.runtime import Runtime
from ctseg.engine.model.runtime_trial import hooked
from ctseg.engine.model.weights import tensors_sha256
from ctseg.errors import BadInput, RunFailed, first_line

FEWEST = 12
"""Tiles below which PyTorch is not even timed, which takes two tiles."""
START_S, START_TILES = 5.0, 8
"""What a conversion takes, in seconds and in tiles."""
SAVED = {"fp32": 0.1, "bf16": 0.1}
"""The part of PyTorch's time that is expected to be saved, to tell whether a conversion is worth trying."""
FASTER = 0.95
"""OpenVINO is used if it takes at most this part of PyTorch's time."""
CLOSE = 1e-3
"""Largest difference of logits from PyTorch's fp32 ones, relative to the largest. In bf16 OpenVINO may differ as far as
`HALF` times PyTorch's own bf16."""
INTEGERS = 0.5
"""The same for int8: only wrong computation comes near. A published network's Dice was measured, and noise, which the
trial computes, is not what its ranges are for (published models differ by 0.06)."""
HALF = 2.0
ROOM, COPIES = 2**30, 4
"""Free memory that a conversion needs: bytes, and copies of the weights."""
TIMES = 2
"""Timed tiles of each."""
FAR = 1e9


@dataclass(frozen=True)
class Work:
    """What a network is to compute.

    Attributes:
        shape_czyx: of a tile.
        tiles: in the scan, mirrored views counted.
    """

    shape_czyx: tuple[int, ...]
    tiles: int


@dataclass(frozen=True)
class Choice:
    """What computes a network.

    Attributes:
        program: OpenVINO's; None for PyTorch.
        text: for logs and records.
        final: whether more work would not change it.
        torch_s: seconds a tile of PyTorch, where it was timed.
    """

    program: openvino.Program | None
    text: str
    final: bool = True
    torch_s: float = 0.0


@dataclass
class _State:
    """What is known of a network in this process.

    Attributes:
        identity: all that its results depend on besides its weights; empty where that is unknown.
        ranges: for int8, as `ctseg.engine.inference.backends.int8` makes them.
        scans: number of scans like the present one that are expected.
        tiles: number of tiles that PyTorch computed so far.
        weights: tells whether the weights were changed since the choices were made.
        choices: by tile, precision and number of threads.
        latest: the last choice.
    """

    identity: str = ""
    ranges: int8.Ranges = field(default_factory=dict)
    scans: int = 1
    tiles: int = 0
    weights: tuple[Any, ...] = ()
    choices: dict[tuple[Any, ...], Choice] = field(default_factory=dict)
    latest: Choice | None = None


_states: weakref.WeakKeyDictionary[torch.nn.Module, _State] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def identify(network: torch.nn.Module, identity: str) -> None:
    """Name all that a network's results depend on besides its weights, so that its conversion is kept on disk."""
    _states.setdefault(network, _State()).identity = identity


def use_ranges(network: torch.nn.Module, ranges: int8.Ranges) -> None:
    """Name the ranges of a network's activations, so that it can be computed in int8."""
    _states.setdefault(network, _State()).ranges = ranges


@contextlib.contextmanager
def expecting(networks: Iterable[torch.nn.Module], scans: int) -> Iterator[None]:
    """Expect this many scans of similar size."""
    states = [_states.setdefault(network, _State()) for network in networks]
    for state in states:
        state.scans = max(scans, 1)
    try:
        yield
    finally:
        for state in states:
            state.scans = 1


def used(networks: Iterable[torch.nn.Module]) -> list[str]:
    """What computed these networks last, with the figures by which it was chosen; nothing where there was no choice."""
    latest = [_states[network].latest for network in networks if network in _states]
    return list(dict.fromkeys(choice.text for choice in latest if choice is not None))


def computation_of(
    network: torch.nn.Module,
    runtime: Runtime,
    work: Work,
    on_note: Callable[[str], None] | None = None,
) -> Compute:
    """What computes a network on tiles of one shape.

    Args:
        network: in eval mode on the runtime's device.
        on_note: called with the choice when it is made, except that there is too little work for one.

    Raises:
        BadInput: int8 is asked for and no ranges are known.
        RunFailed: int8 is asked for and cannot be computed here.
    """
    if runtime.backend == "torch":
        return by_torch(network, runtime)
    with _lock:
        state = _states.setdefault(network, _State())
        weights = _weights(network)
        if weights != state.weights:
            state.choices.clear()
            state.weights = weights
        key = (work.shape_czyx, runtime.precision, runtime.backend, torch.get_num_threads())
        choice = state.choices.get(key)
        if choice is None or not choice.final:
            choice = _Trial(network, runtime, work.shape_czyx, state).choose(
                state.tiles + work.tiles * state.scans, 0.0 if choice is None else choice.torch_s
            )
            state.choices[key] = choice
            if choice.final and on_note is not None:
                on_note(choice.text)
        state.latest = choice
        if choice.program is not None:
            return choice.program.run()
        if runtime.precision == "int8":
            raise RunFailed(
                f"int8 cannot be computed: {choice.text.removeprefix('torch: ')}",
                hint="Use --precision auto.",
            )
        state.tiles += work.tiles
        return by_torch(network, runtime)


def _weights(network: torch.nn.Module) -> tuple[Any, ...]:
    """Differs after weights were changed in whatever way, or hooks were added; takes a few milliseconds."""
    with torch.no_grad():
        tensors = (*network.parameters(), *network.buffers())
        sums = [float(t.sum(dtype=torch.float64)) if t.numel() else 0.0 for t in tensors]
    return (*((t.data_ptr(), t._version) for t in tensors), *sums, hooked(network))


class _Trial:
    """Tries OpenVINO on a network and a tile."""

    def __init__(
        self, network: torch.nn.Module, runtime: Runtime, shape_czyx: Sequence[int], state: _State
    ) -> None:
        self._network, self._runtime, self._identity = network, runtime, state.identity
        self._ranges = state.ranges if runtime.precision == "int8" else {}
        if runtime.precision == "int8" and not self._ranges:
            raise BadInput(
                "int8 needs a model that was published with --int8.",
                hint="Use another precision.",
            )
        self._asked = runtime.backend == "openvino"
        self._threads = torch.get_num_threads()
        generator = torch.Generator().manual_seed(0)
        self._tile = torch.randn((1, *shape_czyx), generator=generator)

    def choose(self, tiles: int, torch_s: float) -> Choice:
        """Choose for so many tiles.

        Args:
            torch_s: seconds a tile of PyTorch; 0 if not known.
        """
        if hooked(self._network):
            return Choice(None, "torch: the network has hooks, which OpenVINO would pass over.")
        if not self._asked and tiles < FEWEST:
            return Choice(None, "torch: few tiles.", final=False)
        if not self._asked and machine.free_memory() < ROOM + COPIES * self._weights_bytes():
            return Choice(None, "torch: memory is short.", final=False)
        made_of: dict[str, Any] = {}
        path = record = None
        if self._identity and records.folder().is_dir():
            made_of = self._made_of()
            path = records.place(made_of)
            record = records.read(path)
        if record is not None and path is not None:
            known = self._known(record, path, tiles)
            if known is not None:
                return known
        elif not self._asked:
            saved = tiles * SAVED[self._runtime.precision]
            if saved <= START_TILES:  # however long a tile takes
                return Choice(None, f"torch: {tiles} tiles do not repay a conversion.", final=False)
            torch_s = torch_s or self._torch_seconds()
            if saved * torch_s < START_S + START_TILES * torch_s:
                text = f"torch: {tiles} tiles of {torch_s:.3g} s do not repay a conversion."
                return Choice(None, text, final=False, torch_s=torch_s)
        if self._identity and path is None:
            made_of = self._made_of()
            path = records.place(made_of)
        return self._tried(made_of, path)

    def _weights_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._network.state_dict().values())

    def _torch_seconds(self) -> float:
        usual = by_torch(self._network, self._runtime)
        _seconds(usual, self._tile)  # the first time takes longer
        return _seconds(usual, self._tile)

    def _made_of(self) -> dict[str, Any]:
        """What a conversion and its measured times depend on."""
        return {
            "identity": self._identity,
            "weights": tensors_sha256(self._network.state_dict()),
            "tile_czyx": list(self._tile.shape[1:]),
            "precision": self._runtime.precision,
            "threads": self._threads,
            **({"ranges": dict(self._ranges)} if self._ranges else {}),
            **openvino.about(),
        }

    def _known(self, record: records.Record, path: Path, tiles: int) -> Choice | None:
        """The choice by what was measured in an earlier process; None if the kept files are damaged."""
        chosen = self._chosen(record, None)
        if not self._wanted(record):
            return chosen
        if not self._asked and tiles * (record.torch_s - record.openvino_s) < record.start_s:
            return Choice(
                None, f"torch: {tiles} tiles do not repay the start of OpenVINO.", final=False
            )
        parts = records.read_network(path)
        if parts is None:
            return None
        with contextlib.suppress(Exception):  # whatever OpenVINO raises; then it is converted anew
            program = openvino.Program(
                openvino.load(*parts), self._runtime.precision, self._threads
            )
            return self._chosen(record, program)
        return None

    def _tried(self, made_of: Mapping[str, Any], path: Path | None) -> Choice:
        """Convert the network and compare both on a tile."""
        try:
            model = openvino.convert(self._network, self._tile)
            if self._ranges:
                int8.round_convolutions(model, self._network, self._ranges)
            begun = time.perf_counter()
            program = openvino.Program(model, self._runtime.precision, self._threads)
            record = self._measured(program.run(), time.perf_counter() - begun)
        except Exception as error:  # whatever torch and OpenVINO raise
            text = f"torch: OpenVINO cannot compute the network ({type(error).__name__}: {first_line(error)})."
            return Choice(None, text)
        if path is not None:
            save = partial(openvino.save, model) if self._wanted(record) else None
            records.write(path, made_of, record, save)
        return self._chosen(record, program)

    def _measured(self, run: Compute, start_s: float) -> records.Record:
        exact, usual = (
            by_torch(self._network, _plain(self._runtime)),
            by_torch(self._network, self._runtime),
        )
        with torch.inference_mode():
            expected, other = (
                logits_of(exact(self._tile), self._tile),
                logits_of(usual(self._tile), self._tile),
            )
            found = logits_of(run(self._tile), self._tile)
        allowed = INTEGERS if self._ranges else CLOSE
        if self._runtime.precision == "bf16":
            allowed = max(CLOSE, HALF * _deviation(other, expected))
        seconds = [(_seconds(usual, self._tile), _seconds(run, self._tile)) for _ in range(TIMES)]
        ours, theirs = (min(times) for times in zip(*seconds, strict=True))
        return records.Record(ours, theirs, _deviation(found, expected), allowed, start_s)

    def _wanted(self, record: records.Record) -> bool:
        fast = record.openvino_s <= FASTER * record.torch_s
        return record.agrees and (self._asked or fast)

    def _chosen(self, record: records.Record, program: openvino.Program | None) -> Choice:
        if not record.agrees:
            text = (
                f"torch: OpenVINO's logits differ by {record.difference:.1e} of the largest "
                f"({record.allowed:.1e} is allowed)."
            )
        elif not self._wanted(record):
            text = f"torch: {record.torch_s:.3g} s a tile, OpenVINO {record.openvino_s:.3g} s."
        else:
            return Choice(program, f"openvino {openvino.version()}: {record}.")
        return Choice(None, text)


def _plain(runtime: Runtime) -> Runtime:
    return dataclasses.replace(runtime, precision="fp32", exact=True)


def _seconds(compute: Compute, tile_bczyx: torch.Tensor) -> float:
    begun = time.perf_counter()
    with torch.inference_mode():
        compute(tile_bczyx)
    return time.perf_counter() - begun


def _deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value; a large number where one is not finite."""
    worst = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    return worst if worst < FAR else FAR
