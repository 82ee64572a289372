"""Networks as OpenVINO programs for tiles of one size: conversion from PyTorch, and their computation.

A program takes one tile at a time, since batches save no time on a CPU; so a tile's result does not depend on the
batch that it is in. OpenVINO is kept from reporting its use to a server, which it does when it is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctseg import machine
from ctseg.engine.model.quiet import quiet_export
from ctseg.engine.model.runtime import Precision

TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""Names of the precisions in OpenVINO; integers are used where a network rounds (see `int8`)."""
DEVICE, TELEMETRY = "CPU", "openvino_telemetry"


def convert(network: torch.nn.Module, tile_bczyx: torch.Tensor) -> Any:
    """The network as an `openvino.Model` for tiles of this shape.

    Args:
        network: in eval mode on the CPU.

    Raises:
        Exception: torch cannot export the network, or OpenVINO lacks one of its operations.
    """
    _package()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with quiet_export(), torch.no_grad():
        program = torch.export.export(network, (tile_bczyx,)).run_decompositions(_decompositions())
        decoder = TorchFXPythonDecoder(program.module(), dynamic_shapes=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
        model.reshape(list(tile_bczyx.shape))
        return model


def _decompositions() -> Any:
    """How operations are replaced by simpler ones; not those that OpenVINO has itself, which are faster."""
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    table: Any = torch.export.default_decompositions()
    for operation in (*ops_to_not_decompose(), torch.ops.aten.instance_norm.default):
        with contextlib.suppress(KeyError):
            table.pop(operation)
    return table


class Program:
    """A compiled network.

    Args:
        model: an `openvino.Model` with one input and one output.
        threads: number of threads.
    """

    def __init__(self, model: Any, precision: Precision, threads: int) -> None:
        self._compiled = _core().compile_model(
            model,
            DEVICE,
            {
                "INFERENCE_PRECISION_HINT": TYPES[precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # processes side by side would all pin to the first cores
            },
        )

    def run(self) -> Run:
        """The computation, for one thread at a time."""
        return Run(self._compiled.create_infer_request())


class Run:
    """Computes tiles, float32 [B, C, Z, Y, X] in main memory, to the output of the network, float32."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def __call__(self, tiles_bczyx: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._one(tile) for tile in torch.split(tiles_bczyx, 1)])

    def _one(self, tile_bczyx: torch.Tensor) -> torch.Tensor:
        found = self._request.infer({0: tile_bczyx.contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(found[0])


def save(model: Any, file: Path) -> None:
    """Write a model as OpenVINO's IR: `file`, and its weights beside it with the suffix `.bin`."""
    _package().save_model(model, file, compress_to_fp16=False)


def load(description: bytes, weights: bytes) -> Any:
    """An `openvino.Model` from the contents of the two files of an IR."""
    held = _package().Tensor(np.frombuffer(weights, np.uint8))
    return _core().read_model(description, held)


def about() -> dict[str, str]:
    """What a program's result and speed depend on: versions, processor, and limits of its instructions."""
    limits = {
        name: value for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA")
        if (value := os.environ.get(name))
    }  # fmt: skip
    return {
        "openvino": version(), "torch": str(torch.__version__),
        "processor": machine.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(), **limits,
    }  # fmt: skip


def version() -> str:
    """The version of the installed package."""
    return metadata.version("openvino")


_cores: list[Any] = []


def _core() -> Any:
    if not _cores:
        _cores.append(_package().Core())
    return _cores[0]


def _package() -> Any:
    """The package `openvino`, imported without its telemetry: importing it would already report to a server."""
    if "openvino" not in sys.modules:
        before = sys.modules.get(TELEMETRY)
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
        try:
            return importlib.import_module("openvino")
        finally:
            if before is None:
                del sys.modules[TELEMETRY]
            else:
                sys.modules[TELEMETRY] = before
    return sys.modules["openvino"]
