"""Networks as programs that run without ctseg: `torch.export` (.pt2) and ONNX."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ctseg.engine.model.quiet import quiet_export
from ctseg.errors import BadInput, first_line
from ctseg.report.extras import optional
from ctseg.zoo.exporters.original import VIEWS, Exported, Original, originals
from ctseg.zoo.resolve import Resolved

INPUT, OUTPUT = "tiles", "logits"
LARGEST_PROTOBUF = 2**31 - 2**20
"""Bytes of one ONNX file; the weights of a larger one lie beside it."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Saved = tuple[int | None, Callable[[torch.Tensor], torch.Tensor], str]
"""How many tiles a saved program takes at once (None: any number), the program, and what runs it."""


def export_torch(model: Resolved, folder: Path) -> list[Exported]:
    """A `.pt2` file for each network, checked as `torch.export.load` reads it.

    Raises:
        BadInput: a network that torch cannot export.
        RunFailed: one whose program gives other logits.
    """
    return [_exported(one, folder, ".pt2", _save_torch) for one in originals(model)]


def export_onnx(model: Resolved, folder: Path) -> list[Exported]:
    """An `.onnx` file for each network, checked with ONNX Runtime.

    Raises:
        BadInput: the extra `onnx` is missing, or a network cannot be exported.
        RunFailed: one whose program gives other logits.
    """
    for package in ONNX_PACKAGES:
        optional(package, "onnx")
    return [_exported(one, folder, ".onnx", _save_onnx) for one in originals(model)]


def _exported(
    original: Original, folder: Path, suffix: str, save: Callable[[Original, Path], Saved]
) -> Exported:
    file = folder / f"{Path(original.member).stem}{suffix}"
    batch, run, by = save(original, file)
    batches = (1, VIEWS) if batch is None else (batch,)
    worst = original.check(run, batches, f"The program ({suffix})")
    return Exported(file.name, original.member, batch, worst, by)


def _save_torch(original: Original, file: Path) -> Saved:
    program, batch = _traced(original)
    packed = io.BytesIO()  # on a full disk, torch's own writer raises what nobody understands
    with quiet_export():
        torch.export.save(program, packed)
    file.write_bytes(packed.getbuffer())
    with quiet_export():
        loaded = torch.export.load(file).module()

    def run(tiles: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = loaded(tiles)
        return found

    return batch, run, f"torch {torch.__version__}"


def _save_onnx(original: Original, file: Path) -> Saved:
    import onnxruntime

    program, batch = _traced(original)
    size = sum(t.numel() * t.element_size() for t in original.network.state_dict().values())
    with quiet_export(), _understood(original):
        made = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
        )
    assert made is not None
    made.save(str(file), external_data=size > LARGEST_PROTOBUF)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(tiles: torch.Tensor) -> torch.Tensor:
        (found,) = session.run([OUTPUT], {INPUT: tiles.numpy()})
        return torch.from_numpy(found)

    return batch, run, f"onnxruntime {onnxruntime.__version__}"


def _traced(original: Original) -> tuple[Any, int | None]:
    """The network as a program for tiles of the card's size, and the batch that it takes: any if it can be."""
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), quiet_export():
        with contextlib.suppress(Exception):  # a network that looks at its batch takes one of 1
            shapes = ({0: batch},)
            program = torch.export.export(
                original.network, (original.inputs,), dynamic_shapes=shapes
            )
            return program, None
        with _understood(original):
            return torch.export.export(original.network, (original.inputs[:1],)), 1


@contextlib.contextmanager
def _understood(original: Original) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch raises many kinds
        raise BadInput(
            f"The network {original.card.architecture} cannot be exported as a program: {type(error).__name__}: "
            f"{first_line(error)}.",
            hint="A network of a plugin must be one that torch.export understands.",
        ) from error
