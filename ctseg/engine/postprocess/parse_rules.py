"""Parses post-processing rules from the values of `--set keep_largest=`, `min_size=` and `fill_holes=`."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ctseg.config.checking import validate
from ctseg.config.postprocess import EVERY_LABEL, PostprocessRule
from ctseg.errors import ConfigError

PER_ML = {"ml": 1.0, "cm3": 1.0, "mm3": 1e-3, "um3": 1e-12, "l": 1000.0}
HOLES = ("3d", "slices")


def rules_from_text(
    *,
    keep_largest: str | None = None,
    min_size: str | None = None,
    fill_holes: str | None = None,
    names: Collection[str] = (),
) -> tuple[PostprocessRule, ...]:
    """Parse the rules from three options; the options for one label are combined into one rule.

    Beside labels that the same option names, `all` stands for the others.

    Args:
        keep_largest: `all`, `liver,spleen`, `kidneys=2` (the two largest components), `liver+tumour` (as one mask).
        min_size: `0.5ml`, `30vox` for every label, or `liver=0.5ml,lesion=30vox`.
        fill_holes: `all`, `liver`, `vessel=slices`.
        names: names of the foreground labels, if known; they may contain `,`, `=` and `+`.

    Raises:
        ConfigError: an option with invalid syntax or an invalid value, or with `all` beside labels if no names are
            known.
    """
    rules: dict[tuple[str, ...], dict[str, Any]] = {}
    for label, value in _items("--set keep_largest", keep_largest, names):
        rules.setdefault(label, {})["keep_largest"] = _number(value)
    for label, value in _items("--set min_size", min_size, names, bare=True):
        rules.setdefault(label, {}).update(_size(value))
    for label, value in _items("--set fill_holes", fill_holes, names):
        rules.setdefault(label, {})["fill_holes"] = _holes(value)
    return tuple(
        validate(
            PostprocessRule,
            {"label": label[0] if len(label) == 1 else label, **what},
            where=f"the rule for {'+'.join(label)}",
        )
        for label, what in rules.items()
    )


def _items(
    option: str, text: str | None, names: Collection[str], *, bare: bool = False
) -> list[tuple[tuple[str, ...], str]]:
    """Labels and their values, e.g. `a=2,b` -> `a`: 2, `b`: "".

    Args:
        bare: a word without `=` is a value for every label.
    """
    if text is None:
        return []
    out: list[tuple[tuple[str, ...], str]] = []
    for item in _words(text, names):
        label, equals, value = ("", "", item) if bare else (item, "", "")
        if item not in names and "=" in item:
            label, equals, value = (part.strip() for part in item.rpartition("="))
        if equals and not (label and value):
            raise ConfigError(f"'{option} {text}': '{item}' is not LABEL=VALUE.")
        label_names = _label(label or "all", names)
        if label_names in (known for known, _ in out):
            raise ConfigError(f"'{option} {text}' names {'+'.join(label_names)} twice.")
        out.append((label_names, value))
    if not out:
        raise ConfigError(f"'{option}' names no label.", hint=f"For example: {_example(option)}")
    return _spelt_out(out, names, where=f"'{option} {text}'")


def _spelt_out(
    items: list[tuple[tuple[str, ...], str]], names: Collection[str], *, where: str
) -> list[tuple[tuple[str, ...], str]]:
    """The items with `all`, where it stands beside labels, as the labels that no other item names."""
    every = (EVERY_LABEL,)
    if len(items) == 1 or every not in dict(items):
        return items
    named = [name for label, _ in items if label != every for name in label]
    if not names:
        raise ConfigError(
            f"{where} names {named[0]} twice: by itself, and among all labels.",
            hint="Name each label, e.g. --set keep_largest=liver,kidneys=2",
        )
    out = []
    for label, value in items:
        others = [(name,) for name in names if name not in named] if label == every else [label]
        out += [(other, value) for other in others]
    return out


def _words(text: str, names: Collection[str]) -> list[str]:
    """Split a text at commas, except within known names."""
    out: list[str] = []
    parts = [part.strip() for part in text.split(",")]
    while parts:
        for many in range(len(parts), 0, -1):
            whole = ",".join(parts[:many])
            spaced = ", ".join(parts[:many])
            if many == 1 or whole in names or spaced in names:
                out.append(spaced if spaced in names else whole)
                del parts[:many]
                break
    return [word for word in out if word]


def _label(text: str, names: Collection[str]) -> tuple[str, ...]:
    if text in names:
        return (text,)
    if text.lower() == "all" or text == EVERY_LABEL:
        return (EVERY_LABEL,)
    return tuple(part.strip() for part in text.split("+"))


def _number(text: str) -> int:
    if not text:
        return 1
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ConfigError(
            f"'--set keep_largest' cannot keep '{text}' parts.",
            hint="Give a whole number from 1, e.g. --set keep_largest=kidneys=2",
        )
    return int(text)


def _size(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Zµμ]+3?)", text)
    unit = match[2].lower().replace("µ", "u").replace("μ", "u") if match else ""
    if match and unit in ("vox", "voxel", "voxels") and match[1].isdigit() and int(match[1]):
        return {"min_size_voxels": int(match[1])}
    if match and unit in PER_ML and float(match[1]) > 0:
        return {"min_size_ml": float(match[1]) * PER_ML[unit]}
    raise ConfigError(
        f"'--set min_size' cannot be '{text}'.",
        hint=f"Give a number and a unit ({', '.join(PER_ML)} or vox), e.g. --set min_size=0.5ml or "
        "--set min_size=liver=0.5ml,lesion=30vox",
    )


def _holes(text: str) -> str:
    mode = text.lower() or "3d"
    if mode not in HOLES:
        raise ConfigError(
            f"'--set fill_holes' knows no '{text}'.",
            hint="Holes are filled in the whole scan (liver=3d, the default) or slice by slice (liver=slices).",
        )
    return mode


def _example(option: str) -> str:
    value = "liver=0.5ml" if "min_size" in option else "liver,spleen"
    return f"{option}={value}" if " " in option else f"{option} {value}"
