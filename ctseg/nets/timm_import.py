"""Imports timm on first use; all other modules import it through this one.

`import timm` needs torchvision, whose wheel may be built for another torch than the one installed; its compiled
operators then do not load and the import fails although timm uses none of them. Declaring the two missing schemas
first makes the import work; where torchvision is intact it changes nothing.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch

_KEPT: list[Any] = []  # keeps the Library objects alive, and their definitions with them
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_library: Any = torch.library.Library


@functools.cache
def timm() -> ModuleType:
    """timm, imported on first use."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library: Any = _library("torchvision", "FRAGMENT")
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _KEPT.append(library)
    import timm as module
    import timm.optim
    import timm.scheduler
    import timm.utils

    return module
