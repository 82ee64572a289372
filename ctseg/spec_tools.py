"""Helpers for specs: read-only mappings, and checks and metadata of config classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


class Frozen(Mapping[str, Any]):
    """A read-only mapping that, unlike `types.MappingProxyType`, can be pickled for the workers of a loader."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return Frozen, (self._items,)


def frozen(mapping: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """A read-only copy of a mapping, for use as a field of a frozen spec."""
    return Frozen(mapping or {})


def check_name(name: str) -> None:
    """Reject a name that would break the command line or a run file."""
    if not name or name != name.lower() or not name.replace("_", "").isalnum():
        raise ValueError(
            f"'{name}' is no valid name: use only lower-case letters, digits and underscores"
        )


def check_spec(name: str, config: type) -> None:
    """Reject a spec whose name or config class would break the command line."""
    check_name(name)
    if not is_dataclass(config):
        raise TypeError(f"the config of '{name}' must be a dataclass, not {config!r}")


def option_help(config: type) -> dict[str, str]:
    """The meaning of each option of a config dataclass, from its fields' metadata."""
    return {f.name: str(f.metadata.get("help", "")) for f in fields(config)}


def training_only(config: type) -> frozenset[str]:
    """The options that only affect the start of training, such as a file of pretrained weights.

    Their fields have `metadata={"training_only": True}`. Cards omit them, since a card comes with its own weights.
    """
    return frozenset(f.name for f in fields(config) if f.metadata.get("training_only"))
