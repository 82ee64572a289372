"""Checkpoints of PyTorch, read as data: tensors, plain values and NumPy's numbers, and nothing that runs code."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctseg.errors import BadInput, CorruptWeights, first_line

_NUMBERS = (
    "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32", "Float64",
)  # fmt: skip
_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED: tuple[Any, ...] = (
    np.dtype,
    *(getattr(np.dtypes, f"{name}DType") for name in _NUMBERS),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
)
"""What a pickle may name beside what PyTorch itself allows: NumPy's numbers and their types."""


def read_checkpoint(path: Path, *, name: str = "") -> dict[str, Any]:
    """The content of a checkpoint that `torch.save` wrote, on the CPU.

    Args:
        name: of the file in messages; its path where it is not given.

    Raises:
        BadInput: the file names classes or functions, which loading would run; each is named.
        CorruptWeights: no checkpoint, or a damaged one.
    """
    name = name or str(path)
    if not zipfile.is_zipfile(path):
        raise CorruptWeights(
            f"{name} is no checkpoint of PyTorch in its present form, or only the start of one.",
            hint="Copy it again; one from before PyTorch 1.6 must be saved anew with a present version.",
        )
    with torch.serialization.safe_globals(list(ALLOWED)):
        try:
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            if foreign:
                raise _refused(name, sorted(foreign))
            with warnings.catch_warnings():  # torch warns of its own classes in odd places
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(path, map_location="cpu", weights_only=True)
        except BadInput:
            raise
        except pickle.UnpicklingError as error:
            raise _refused(name, [first_line(error)]) from None
        except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
            raise CorruptWeights(
                f"{name} cannot be read as a checkpoint: {type(error).__name__}: {first_line(error)}.",
                hint="Copy it again from where it was trained.",
            ) from error
    if not isinstance(content, dict):
        raise CorruptWeights(
            f"{name} holds {type(content).__name__} where a checkpoint is expected."
        )
    return content


def state_of(content: Any, *, name: str) -> dict[str, torch.Tensor]:
    """A state dict: names and tensors, checked.

    Raises:
        CorruptWeights: anything else.
    """
    if not isinstance(content, dict) or not content:
        raise CorruptWeights(f"{name} holds no weights.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CorruptWeights(f"The weights in {name} hold {key!r}, which is no tensor.")
    return dict(content)


def _refused(name: str, found: list[str]) -> BadInput:
    return BadInput(
        f"{name} asks for {', '.join(found)}: loading it would run code that the file names, so it was not loaded.",
        hint="A checkpoint needs tensors, plain values and NumPy's numbers only; save it anew without other objects.",
    )
