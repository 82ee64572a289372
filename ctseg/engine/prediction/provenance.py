"""What a result was made of and with, so that it can be told whether it is still the one that is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctseg.engine.inference.cascade import Cascade
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.model import Model
from ctseg.engine.model.build import installed_providers
from ctseg.engine.model.weights import tensors_sha256
from ctseg.specs import ImageRef
from ctseg.volume.file_state import all_files, digest_of, size_and_time, state_of

INDIFFERENT = ("batch_size", "device", "backend")
"""Settings that change a result in its last digits at most."""


def model_digest(model: Model) -> str:
    """A checksum over all that a model makes of a scan: weights, network, preprocessing and task."""
    parts = [
        [
            tensors_of(one), one.card.architecture, one.card.options,
            *(part.model_dump(mode="json") for part in (one.card.task, one.card.preprocess)),
            one.card.temperature,
        ]
        for one in parts_of(model)
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def tensors_of(model: Model) -> list[str]:
    """The checksums of a model's weights, as its card names them or, where it does not, as they are."""
    named = [member.tensors_sha256 for member in model.card.members]
    return named or [tensors_sha256(network.state_dict()) for network in model.networks]


def providers_of(model: Model) -> list[str]:
    """The packages that provide the networks and steps here, with their versions."""
    return sorted({owner for one in parts_of(model) for owner in installed_providers(one.card)})


def parts_of(model: Model) -> Iterator[Model]:
    """The models of one card each that a model consists of."""
    if isinstance(model, Cascade):
        for stage in model.stages:
            yield from parts_of(stage.model)
        yield from parts_of(model.model)
    elif isinstance(model, Ensemble):
        for one in model.models:
            yield from parts_of(one)
    else:
        yield model


def inputs_of(images: Sequence[ImageRef]) -> list[dict[str, Any]]:
    """What tells the files of a scan from others: size, time, and a checksum, and how they are read.

    Where they cannot be read nothing tells them, which reading the scan will say.
    """
    found = []
    for ref in images:
        try:
            state = state_of(ref.path)
        except OSError:
            state = dict.fromkeys(("bytes", "modified_ns", "digest"))
        found.append({**state, **_read_with(ref)})
    return found


def _read_with(ref: ImageRef) -> dict[str, Any]:
    options = {name: str(value) for name, value in sorted(ref.options.items())}
    return {"options": options, "slices": None if ref.slices is None else list(ref.slices)}


def made_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why what was made with these model and settings is not what would be made now; None where it is.

    Args:
        before, now: headers of records; see `ctseg.engine.prediction.record`.
    """
    key = "model_digest" if before.get("model_digest") else "tensors_sha256"
    if before.get(key) != now[key]:
        return f"the model {before.get('model')} made it, which is not this one"
    providers = before.get("providers") or now["providers"]
    if providers != now["providers"]:
        return f"{_shown(providers)} made it, and {_shown(now['providers'])} is installed"
    settings, wanted = before.get("settings"), now["settings"]
    if not isinstance(settings, dict):
        return "its settings are not known"
    for name in [*wanted, *(name for name in settings if name not in wanted)]:
        old, new = settings.get(name), wanted.get(name)
        if name not in INDIFFERENT and old != new:
            return f"it was made with {name} = {_shown(old)} instead of {_shown(new)}"
    return None


def other_input(line: Mapping[str, Any], images: Sequence[ImageRef]) -> str | None:
    """Why a scan is not the one from which a result was made; None where it is.

    A file of the same place, size and time is taken for the same; any other one has its checksum compared.

    Args:
        line: what the record says of the scan.
    """
    before, paths = line.get("made_from"), line.get("input")
    other = "it was made from another scan of that name"
    if not isinstance(before, list) or len(before) != len(images) or not isinstance(paths, list):
        return other
    for old, ref, path in zip(before, images, [*paths, *[None] * len(images)], strict=False):
        if not isinstance(old, dict):
            return other
        read_with = _read_with(ref)
        for what in read_with:
            if old.get(what) != read_with[what]:
                return f"its scan was read with other {what}"
        try:
            files = all_files(ref.path)
            now = size_and_time(files)
            if path == str(ref.path) and all(old.get(key) == now[key] for key in now):
                continue
            if old.get("bytes") != now["bytes"] or old.get("digest") != digest_of(ref.path, files):
                return "its scan has changed since, or is another one of that name"
        except OSError:
            return "its scan cannot be read"
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
