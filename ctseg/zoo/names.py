"""Names of models: what a user's name stands for among many (a full name, one without version, a network, an alias)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

VERSION = re.compile(r"(?P<base>.+\..+)_v(?P<number>\d+)")


def plain_name(text: str, default: str) -> str:
    """Text as a tag or the stem of a file: lower-case letters, digits and underscores; `default` if none are left."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or default


def fitting(
    name: str,
    names: Collection[str],
    aliases: Mapping[str, str],
    deprecated: Collection[str] = (),
) -> list[str]:
    """The full names that fit; several only where a bare architecture has several models.

    A full name comes first; then the newest `NAME_v<number>`, deprecated ones only if all are; then the models of the
    architecture `NAME`; then the alias, so that no alias can take the place of a model.
    """
    if name in names:
        return [name]
    versions = _versions(name, names)
    if versions:
        sound = [one for one in versions if one not in deprecated]
        return [(sound or versions)[-1]]
    models = sorted(one for one in names if one.startswith(f"{name}."))
    if models:
        return models
    target = aliases.get(name)
    return [target] if target in names and target is not None else []


def _versions(base: str, names: Iterable[str]) -> list[str]:
    """The models of that name with a version, from old to new."""
    found = []
    for name in names:
        match = VERSION.fullmatch(name)
        if match and match["base"] == base and len(match["number"]) < 10:
            found.append((int(match["number"]), name))
    return [name for _, name in sorted(found)]
