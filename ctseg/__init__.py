"""Train, publish and run 3D segmentation models for CT: clinical scans and industrial micro-CT.

Heavy modules are loaded on first use, so that `import ctseg` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ctseg.version import __version__

if TYPE_CHECKING:
    from ctseg.config import RunConfig
    from ctseg.engine.evaluation.evaluate import evaluate
    from ctseg.engine.inference.predict_tiles import predict_tiles
    from ctseg.engine.inference.windows import pad_to_windows, window_coordinates
    from ctseg.engine.model.create import create_loss, create_model, list_architectures, list_losses
    from ctseg.engine.prediction.api import Segmenter
    from ctseg.engine.training.run import train
    from ctseg.hookspecs import hookimpl
    from ctseg.metrics.report import Report
    from ctseg.report.notebook import show
    from ctseg.volume.geometry import Geometry
    from ctseg.volume.io import open_volume as open  # noqa: A004
    from ctseg.volume.io import read, write
    from ctseg.volume.simpleitk import from_sitk, to_sitk
    from ctseg.volume.volume import Volume
    from ctseg.zoo.load import load
    from ctseg.zoo.publish import publish
    from ctseg.zoo.resolve import list_weights

_LAZY = {
    "hookimpl": "ctseg.hookspecs:hookimpl",
    "RunConfig": "ctseg.config:RunConfig",
    "Volume": "ctseg.volume.volume:Volume",
    "Geometry": "ctseg.volume.geometry:Geometry",
    "from_sitk": "ctseg.volume.simpleitk:from_sitk",
    "to_sitk": "ctseg.volume.simpleitk:to_sitk",
    "read": "ctseg.volume.io:read",
    "open": "ctseg.volume.io:open_volume",
    "write": "ctseg.volume.io:write",
    "create_model": "ctseg.engine.model.create:create_model",
    "create_loss": "ctseg.engine.model.create:create_loss",
    "list_architectures": "ctseg.engine.model.create:list_architectures",
    "list_losses": "ctseg.engine.model.create:list_losses",
    "predict_tiles": "ctseg.engine.inference.predict_tiles:predict_tiles",
    "pad_to_windows": "ctseg.engine.inference.windows:pad_to_windows",
    "window_coordinates": "ctseg.engine.inference.windows:window_coordinates",
    "Segmenter": "ctseg.engine.prediction.api:Segmenter",
    "evaluate": "ctseg.engine.evaluation.evaluate:evaluate",
    "Report": "ctseg.metrics.report:Report",
    "train": "ctseg.engine.training.run:train",
    "load": "ctseg.zoo.load:load",
    "publish": "ctseg.zoo.publish:publish",
    "list_weights": "ctseg.zoo.resolve:list_weights",
    "show": "ctseg.report.notebook:show",
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
    "from_sitk",
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
    "show",
    "to_sitk",
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
