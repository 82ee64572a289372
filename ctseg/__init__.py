"""Train, publish and run 3D segmentation models for CT: clinical scans and industrial micro-CT.

Heavy names are loaded on first use, so that `import ctseg` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ctseg.hookspecs import hookimpl

if TYPE_CHECKING:
    from ctseg.config import RunConfig
    from ctseg.engine.evaluate import evaluate
    from ctseg.engine.models import create_loss, create_model, list_architectures, list_losses
    from ctseg.engine.segmenter import Segmenter
    from ctseg.engine.tiles import predict_tiles
    from ctseg.engine.windows import pad_to_windows, window_coordinates
    from ctseg.metrics.report import Report
    from ctseg.planning.train import train
    from ctseg.volume.geometry import Geometry
    from ctseg.volume.io import open_volume as open  # noqa: A004
    from ctseg.volume.io import read, write
    from ctseg.volume.volume import Volume
    from ctseg.zoo.load import load
    from ctseg.zoo.publish import publish
    from ctseg.zoo.resolve import list_weights

__version__ = "0.1.0"

_LAZY = {
    "RunConfig": "ctseg.config:RunConfig",
    "Volume": "ctseg.volume.volume:Volume",
    "Geometry": "ctseg.volume.geometry:Geometry",
    "read": "ctseg.volume.io:read",
    "open": "ctseg.volume.io:open_volume",
    "write": "ctseg.volume.io:write",
    "create_model": "ctseg.engine.models:create_model",
    "create_loss": "ctseg.engine.models:create_loss",
    "list_architectures": "ctseg.engine.models:list_architectures",
    "list_losses": "ctseg.engine.models:list_losses",
    "predict_tiles": "ctseg.engine.tiles:predict_tiles",
    "pad_to_windows": "ctseg.engine.windows:pad_to_windows",
    "window_coordinates": "ctseg.engine.windows:window_coordinates",
    "Segmenter": "ctseg.engine.segmenter:Segmenter",
    "evaluate": "ctseg.engine.evaluate:evaluate",
    "Report": "ctseg.metrics.report:Report",
    "train": "ctseg.planning.train:train",
    "load": "ctseg.zoo.load:load",
    "publish": "ctseg.zoo.publish:publish",
    "list_weights": "ctseg.zoo.resolve:list_weights",
}

__all__ = [
    "Geometry",
    "Report",
    "RunConfig",
    "Segmenter",
    "Volume",
    "__version__",
    "create_loss",
    "create_model",
    "evaluate",
    "hookimpl",
    "list_architectures",
    "list_losses",
    "list_weights",
    "load",
    "open",
    "pad_to_windows",
    "predict_tiles",
    "publish",
    "read",
    "train",
    "window_coordinates",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ctseg' has no attribute '{name}'")
    module, _, attribute = _LAZY[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
