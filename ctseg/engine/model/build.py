"""The network that a card describes."""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.nn.modules import module as registration

from ctseg import plugins
from ctseg.card import Card, Provider
from ctseg.engine.model.create import build_network
from ctseg.errors import CorruptWeights, CtsegWarning, PluginError, UnknownName
from ctseg.specs import Constraints, training_only
from ctseg.version import __version__

SPARE_TENSORS, SPARE_NUMBERS = 1000, 2**24
"""What a network may make while it is built beyond what its file holds: tensors that it replaces, fixed tables."""


def build(card: Card, options: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """The network that a card describes, with fresh weights.

    Args:
        options: of the network, on top of the card's; those that matter only where training starts count here alone,
            since a card must not name files of this machine.

    Raises:
        UnknownName: the architecture is not installed; the message names the plugin that provides it.
        PluginError: the plugin fails to build it.
    """
    entry = _provided(card)
    config = plugins.make_config(entry.spec, {**_options(card, entry), **(options or {})})
    return build_network(
        entry, config, in_channels=card.network_channels, out_channels=card.out_channels
    )


def build_for(card: Card, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The network of a card that comes with weights; it takes no more memory than these, whatever the card says.

    Raises:
        CorruptWeights: the card describes a far larger network than the weights are of.
        UnknownName, PluginError: as `build`.
    """
    with _bounded(tensors):
        return build(card)


def constraints_of(card: Card) -> Constraints:
    """What the card's network demands of tiles."""
    entry = _provided(card)
    spec = entry.spec
    found: Constraints = spec.constraints_for(plugins.make_config(spec, _options(card, entry)))
    return found


def check_provider(card: Card, *, force: bool = False) -> None:
    """Compare who provides the card's architecture and steps here with whom the model was trained with.

    Another version warns, another major one is refused, as is another package. The built-in networks keep their
    meaning, so that only a newer ctseg than this one warns.

    Args:
        force: warn where it would be refused.

    Raises:
        PluginError: another package or major version.
        UnknownName: as `build`.
    """
    for kind, name, due in _wanted(card):
        found = _find(kind, name, due).plugin
        if found.module == plugins.BUILTIN and plugins.same_package(found, due.package):
            if _numbers(card.ctseg_version) > _numbers(__version__):
                _warn(f"The model was made with ctseg {card.ctseg_version}; this is {__version__}.")
            continue
        other = not plugins.same_package(found, due.package)
        if not other and (not due.version or due.version == found.version):
            continue
        wanted = f"{due.package} {due.version}".strip()
        text = (
            f"The model was trained with '{name}' of {wanted}, and {found.owner} is installed: "
            "its predictions may differ."
        )
        if (other or _numbers(due.version)[:1] != _numbers(found.version)[:1]) and not force:
            pin = f"{due.package}=={due.version}" if due.version else due.package
            raise PluginError(
                text,
                hint=f'Install it: pip install "{pin}"   or predict all the same: --set force=true',
            )
        _warn(text)


def _wanted(card: Card) -> list[tuple[plugins.Kind, str, Provider]]:
    """What the card's plugins must provide: the network, and the steps that are not of the box."""
    steps = [("step", kind, due) for kind, due in card.step_providers.items()]
    return [("architecture", card.architecture, card.provider), *cast(Any, steps)]


def installed_providers(card: Card) -> list[str]:
    """Packages and versions that provide the card's architecture and steps here."""
    return sorted({_find(*wanted).plugin.owner for wanted in _wanted(card)})


def _provided(card: Card) -> plugins.Registered:
    return _find("architecture", card.architecture, card.provider)


def _find(kind: plugins.Kind, name: str, due: Provider) -> plugins.Registered:
    try:
        return plugins.registry().get(kind, name, package=due.package)
    except UnknownName as error:
        raise _missing(kind, due, error) from error


def _missing(kind: plugins.Kind, due: Provider, error: UnknownName) -> UnknownName:
    """What to do about a model whose network or step nobody provides here."""
    wanted = f"{due.package} {due.version}".strip()
    there = next(
        (p for p in plugins.registry().plugins if plugins.same_package(p, due.package)), None
    )
    hint = f"Install it: pip install {due.package}"
    if there is None:
        text = f"The model needs the plugin package {wanted}, which is not installed: it provides '{error.name}'."
    elif there.error:
        text = f"The model needs the plugin package {wanted}, and {there.owner} could not be used: {there.error}"
        hint = "Its traceback: ctseg plugins list --json"
    else:
        what = "network" if kind == "architecture" else kind
        text = f"The model needs '{error.name}' of {wanted}, and {there.owner} is installed, which has no such {what}."
        pin = f"{due.package}=={due.version}" if due.version else f"--upgrade {due.package}"
        hint = f"Install the version that has it: pip install {pin}"
    found = UnknownName(kind, error.name, error.known)
    found.message, found.hint = text, hint
    return found


def _options(card: Card, entry: plugins.Registered) -> dict[str, Any]:
    dropped = training_only(entry.spec.config)
    return {name: value for name, value in card.options.items() if name not in dropped}


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, e.g. (1, 2, 0)."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _warn(text: str) -> None:
    warnings.warn(CtsegWarning(text), stacklevel=3)


@contextmanager
def _bounded(tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Refuse a network that grows far beyond these tensors, before its memory is touched."""
    most = 4 * len(tensors) + SPARE_TENSORS
    room = 4 * sum(tensor.numel() for tensor in tensors.values()) + SPARE_NUMBERS
    thread, count, numbers = threading.get_ident(), 0, 0

    def look(_: torch.nn.Module, __: str, tensor: torch.Tensor | None) -> None:
        nonlocal count, numbers
        if tensor is None or threading.get_ident() != thread:
            return
        count, numbers = count + 1, numbers + math.prod(tensor.shape)
        if count > most or numbers > room:
            raise CorruptWeights(
                f"The card describes a far larger network than its {len(tensors)} tensors are of.",
                hint="The card was changed, or belongs to other weights.",
            )

    handles = (
        registration.register_module_parameter_registration_hook(look),
        registration.register_module_buffer_registration_hook(look),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
