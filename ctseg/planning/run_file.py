"""A planned run as a run file that people read: every choice has its reason as a comment."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from ctseg.config import RunConfig, dump_config

WIDTH = 100
KEYS = {
    "size": "", "target_spacing_zyx": "preprocess", "resample": "preprocess", "normalisation": "preprocess",
    "targets": "preprocess", "norm": "model.options.norm", "model.options": "model.options",
    "patch_zyx": "train.patch_zyx", "batch_size": "train.batch_size", "weight_decay": "train.weight_decay",
    "lr": "train.lr", "loss": "loss.name", "tile_zyx": "predict.tile_zyx", "augment": "augment.preset",
    "rotation_degrees": "augment.rotation_degrees", "runtime": "train.precision",
    "first_stage": "first_stage",
}  # fmt: skip
"""Where the reason of each choice stands: a key, a section, or the top of the file."""


def commented(config: RunConfig, choices: Mapping[str, Any]) -> str:
    """The run file of a complete configuration.

    Args:
        choices: for each name its `value` and `reason`, as `plan.json` has them.
    """
    reasons: dict[str, list[str]] = {}
    for name, choice in choices.items():
        where = KEYS.get(name, "")
        own = where.rpartition(".")[2]
        title = "" if name in (own, where) else f"{name.removesuffix('_zyx').replace('_', ' ')}: "
        reasons.setdefault(where, []).append(f"{title}{choice['reason']}")
    head = ["Run file of ctseg; start it with: ctseg train THIS_FILE -o runs/NAME"]
    lines = [*_comment([*head, *reasons.get("", [])]), ""]
    section = ""
    for line in dump_config(config).splitlines():
        table, key = re.match(r"\[([^\[\]]+)\]", line), re.match(r"([\w-]+) =", line)
        if table:
            section = table[1]
            lines += [line, *_comment(reasons.get(section, []))]
            continue
        if key:
            lines += _comment(reasons.get(f"{section}.{key[1]}".lstrip("."), []))
        lines.append(line)
    return "\n".join(lines) + "\n"


def _comment(texts: list[str]) -> list[str]:
    return [
        f"# {line}"
        for text in texts
        for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False, subsequent_indent="  ")
    ]
