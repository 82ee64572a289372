"""Weights & Biases and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctseg.extension_specs import Tracker, TrackerSpec
from ctseg.hookspecs import hookimpl


def _wandb(folder: Path, config: Mapping[str, Any], run_id: str | None) -> Tracker:
    from ctseg.engine.training.trackers import Wandb

    return Wandb(folder, config, run_id)


def _mlflow(folder: Path, config: Mapping[str, Any], run_id: str | None) -> Tracker:
    from ctseg.engine.training.trackers import MLflow

    return MLflow(folder, config, run_id)


@hookimpl
def ctseg_trackers() -> Sequence[TrackerSpec]:
    """Services, each configured by its own environment variables."""
    return [
        TrackerSpec(
            "wandb", _wandb, "Weights & Biases; WANDB_MODE=offline keeps everything on disk",
            needs="wandb", install="ctseg[wandb]",
        ),
        TrackerSpec(
            "mlflow", _mlflow, "MLflow, at MLFLOW_TRACKING_URI",
            needs="mlflow", install="ctseg[mlflow]",
        ),
    ]  # fmt: skip
