"""Loads the model of a service and tries it before the first scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ctseg.engine.inference.model import Model, NetworkModel
from ctseg.errors import RunFailed
from ctseg.zoo.load import load
from ctseg.zoo.probe import read_probe
from ctseg.zoo.resolve import resolve_model


def open_model(
    name: str, *, device: str, precision: str, zoo: Path | None, on_say: Callable[[str], None]
) -> Model:
    """Load a model as `ctseg predict -m` does, and compare its logits for the probe of its entry, if it has one.

    Args:
        on_say: called with notes about the model.

    Raises:
        RunFailed: the model computes something else here than when it was published.
        CtsegError: as `ctseg.load`.
    """
    model = load(name, device, precision, zoo=zoo, on_note=on_say).with_settings().model
    if isinstance(model, NetworkModel):
        files = resolve_model(name, zoo).files
        probe = read_probe(files[0].parent)
        for file, network in zip(files, model.networks, strict=True):
            expected = probe.get(file.name)
            problems = expected.problems(network, model.runtime, file.name) if expected else []
            if problems:
                raise RunFailed(
                    f"{problems[0]}.", hint="Look for the cause: ctseg doctor, ctseg zoo verify"
                )
    return model
