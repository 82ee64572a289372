"""Weights on disk: safetensors with the model's card in the header, checked when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from ctseg.card import HEADER_KEY, Card
from ctseg.engine.model.weights_header import MEND, read_card
from ctseg.errors import BadInput, CorruptWeights, first_line
from ctseg.files import whole_file

__all__ = [
    "cast",
    "check_tensors",
    "load_strictly",
    "read_card",
    "read_weights",
    "save_weights",
    "tensors_sha256",
]


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor], card: Card) -> None:
    """Write tensors and card as one safetensors file, whole or not at all.

    Raises:
        FileProblem: the place cannot be written, or the disk is full.
    """
    seen: set[int] = set()
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.untyped_storage().data_ptr() in seen:
            value = value.clone()  # the format keeps no shared memory
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    data = safetensors.torch.save(plain, metadata={HEADER_KEY: card.to_json()})
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Checksum over the tensors: their sorted names, types, shapes and bytes. The file around them does not count."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(json.dumps([name, kind, list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(path: Path, *, verify: bool = True) -> tuple[dict[str, torch.Tensor], Card]:
    """The tensors of a weight file, on the CPU, and its card.

    Args:
        verify: compare the tensors with the checksum in the card, where the card has one.

    Raises:
        FileProblem: the file is missing or cannot be read.
        CorruptWeights: no safetensors file, truncated, without a card, or not the tensors that the card names.
    """
    card = read_card(path)
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptWeights(
            f"{path} is no whole safetensors file: {first_line(error)}.", hint=MEND
        ) from error
    if verify and card.members:
        check_tensors(tensors, card, path)
    return tensors, card


def check_tensors(tensors: Mapping[str, torch.Tensor], card: Card, path: Path) -> None:
    """Compare tensors with the checksum of the card's member of that file name (of any, for a renamed file)."""
    found = tensors_sha256(tensors)
    named = [m.tensors_sha256 for m in card.members if m.file == path.name]
    expected = named or [m.tensors_sha256 for m in card.members]
    if found not in expected:
        raise CorruptWeights(
            f"The tensors in {path} have the checksum {found[:12]}..., the card says {expected[0][:12]}...: "
            "the weights were changed or damaged after they were published.",
            hint=MEND,
        )


def load_strictly(
    network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Load weights that must fit the network tensor by tensor; half-precision ones become its own type.

    Raises:
        CorruptWeights: tensors missing, left over or of other shapes.
    """
    try:
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CorruptWeights(
            f"The weights in {path} do not fit the network that their card describes: {' '.join(lines[1:3])}",
            hint="Was the package that provides the architecture updated? (see: ctseg plugins list)",
        ) from error


def cast(tensors: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Floating tensors as `fp32`, `bf16` or `fp16`; the others as they are.

    Raises:
        BadInput: an unknown type, or values that fp16 cannot hold.
    """
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if dtype not in kinds:
        raise BadInput(
            f"Weights cannot be stored as '{dtype}'.", hint=f"Choose one of: {', '.join(kinds)}"
        )
    out = {k: v.to(kinds[dtype]) if v.is_floating_point() else v for k, v in tensors.items()}
    spoilt = [k for k, v in out.items() if v.is_floating_point() and not v.isfinite().all()]
    if spoilt:
        raise BadInput(
            f"The tensor '{spoilt[0]}' holds values that {dtype} cannot hold, or that are not finite.",
            hint="Store the weights with --dtype fp32, or look at the run: did its loss become NaN?",
        )
    return out
