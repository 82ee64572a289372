"""timm, imported on first use: the one place that knows how.

`import timm` needs torchvision, whose wheel may be built for another torch than the one installed; its compiled
operators then do not load and the import fails although timm uses none of them. Declaring the two missing schemas
first mends that, and does nothing where torchvision is whole.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch

_KEPT: list[Any] = []  # a Library's definitions live as long as the object
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
