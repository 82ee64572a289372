"""A model ready to predict, by name."""

from __future__ import annotations

from pathlib import Path

from ctseg.engine.segmenter import Segmenter
from ctseg.zoo.resolve import resolve_model


def load(
    name: str | Path,
    device: str = "auto",
    precision: str = "auto",
    *,
    zoo: Path | str | None = None,
) -> Segmenter:
    """Load a model by zoo name, run folder or weight file.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        zoo: zoo to look in first instead of the user's own.

    Raises:
        UnknownName, BadInput, CorruptWeights: as `ctseg.zoo.resolve.resolve_model`.

    Example:
        >>> segmenter = load("unet3d.hippocampus_v1")
        >>> mask = segmenter.predict(volume)
    """
    return Segmenter.from_files(resolve_model(name, zoo).files, device=device, precision=precision)
