"""What a result was made of and with, so that it can be told whether it is still the one that is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctseg.engine.inference.cascade import Cascade
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.model import Model
from ctseg.engine.model.build import installed_provider
from ctseg.engine.model.weights import tensors_sha256
from ctseg.specs import ImageRef
from ctseg.volume.formats.companion_files import files_of

LOOKED_AT = 2**16
"""Bytes at either end of a file that tell it from another one of its size and time."""
FEW_FILES = 64
"""Of a folder with more files names, sizes and times tell it from another one."""
INDIFFERENT = ("batch_size", "device")
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
    """The packages that provide the networks here, with their versions."""
    return sorted({installed_provider(one.card) for one in parts_of(model)})


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
    """What tells the files of a scan from others: size, time, and a checksum over some of their bytes.

    Where they cannot be read nothing tells them, which reading the scan will say.
    """
    found = []
    for ref in images:
        options = {name: str(value) for name, value in sorted(ref.options.items())}
        part = {"options": options} if options else {}
        span = {"slices": list(ref.slices)} if ref.slices is not None else {}
        try:
            state = _state(ref.path)
        except OSError:
            state = dict.fromkeys(("bytes", "modified_ns", "digest"))
        found.append({**state, **part, **span})
    return found


def _state(path: Path) -> dict[str, Any]:
    folder = path.is_dir()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if folder else files_of(path)
    digest, size, modified = hashlib.sha256(), 0, 0
    for file in files:
        about = file.stat()
        size, modified = size + about.st_size, max(modified, about.st_mtime_ns)
        name = str(file.relative_to(path)) if folder else ""
        digest.update(json.dumps([name, about.st_size]).encode())
        if len(files) > FEW_FILES:
            digest.update(str(about.st_mtime_ns).encode())
            continue
        with file.open("rb") as opened:
            digest.update(opened.read(LOOKED_AT))
            opened.seek(max(about.st_size - LOOKED_AT, 0))
            digest.update(opened.read(LOOKED_AT))
    return {"bytes": size, "modified_ns": modified, "digest": digest.hexdigest()[:32]}


def made_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why what was made with these model and settings is not what would be made now; None where it is.

    Args:
        before, now: headers of records; see `ctseg.engine.prediction.record`.
    """
    key = "model_digest" if before.get("model_digest") else "tensors_sha256"
    if before.get(key) != now[key]:
        return f"the model {before.get('model')} made it, which is not this one"
    if before.get("providers", now["providers"]) != now["providers"]:
        old, new = (", ".join(map(str, one["providers"])) for one in (before, now))
        return f"{old} made it, and {new} is installed"
    settings, wanted = before.get("settings"), now["settings"]
    if not isinstance(settings, dict):
        return "its settings are not known"
    for name in [*wanted, *(name for name in settings if name not in wanted)]:
        old, new = settings.get(name), wanted.get(name)
        if name not in INDIFFERENT and old != new:
            return f"it was made with {name} = {_shown(old)} instead of {_shown(new)}"
    return None


def other_input(before: Any, now: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a scan is not the one from which a result was made; None where it is."""
    if not isinstance(before, list) or len(before) != len(now):
        return "it was made from another scan of that name"
    for old, new in zip(before, now, strict=True):
        if not isinstance(old, dict):
            return "it was made from another scan of that name"
        for key in ("options", "slices"):
            if old.get(key) != new.get(key):
                return f"its scan was read with other {key}"
        if (old.get("bytes"), old.get("digest")) != (new["bytes"], new["digest"]):
            return "its scan has changed since, or is another one of that name"
        if old.get("modified_ns") != new["modified_ns"]:
            return "its scan was written anew since"
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
