"""The page that stands beside published weights, written from their card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.card import Card
from ctseg.metrics import catalogue
from ctseg.zoo.names import plain_name


def render(card: Card, sizes: Mapping[str, int]) -> str:
    """A model's README in Markdown.

    Args:
        sizes: bytes of each weight file.
    """
    parts = [
        f"# {card.name}",
        card.summary,
        f"```\n{usage(card)}\n```",
        _facts(card),
        "## Results\n\n" + _results(card),
        "## Licence and data\n\n" + _licence(card),
        _origin(card),
        "## Preprocessing\n\n"
        + "\n\n".join(
            (f"`{one.name}`:\n\n" if card.parts else "") + _preprocessing(one)
            for one in card.parts or (card,)
        ),
        "## Intended use and limits\n\n" + _limits(card),
        "## Files\n\n" + _files(card, sizes),
        f"`ctseg zoo {'import' if card.source else 'publish'}` wrote this page from `card.json`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def usage(card: Card) -> str:
    """The command that predicts with a published model."""
    made = "values" if card.task.kind == "regression" else "mask"
    scan = "scan.nii.gz"
    if len(card.channels) > 1:  # a file each, in this order
        scan = ",".join(f"{plain_name(name, 'channel')}.nii.gz" for name in card.channels)
    return f"ctseg predict {scan} -m {card.name} -o {made}.nii.gz"


def _facts(card: Card) -> str:
    provider = f"{card.provider.package} {card.provider.version}".strip()
    task = card.task.task()
    labels = ", ".join(f"{label.name} ({label.value})" for label in task.foreground)
    predicted = ("Labels", labels)
    if task.kind == "regression":
        predicted = ("Values", ", ".join(label.name for label in task.labels))
    rows = [
        ("Architecture", f"`{card.architecture}` (from {provider})"),
        ("Task", card.task.kind),
        predicted,
        ("Channels", ", ".join(card.channels)),
        (
            "Tile (z, y, x)",
            _text(card.predict.tile_zyx) if card.predict.tile_zyx else "size of the scan",
        ),
    ]
    for part in card.parts:
        own = ", ".join(label.name for label in part.task.task().foreground)
        rows.append((f"Part `{part.name}`", f"`{part.architecture}`: {own}"))
    for stage in card.stages:
        what = f"`{stage.model}`: only the box of its labels, {stage.margin_mm:g} mm wider, is looked at"
        if stage.card is not None and stage.card.metrics.mean_dice is not None:
            what += f" (mean Dice alone {stage.card.metrics.mean_dice:.4f})"
        rows.append(
            ("First stage", f"labels of `{stage.model}` as channels" if stage.as_channels else what)
        )
    if card.source is None:
        rows.append(("Training", f"{card.steps} steps, seed {card.seed}"))
    return _table(("", ""), rows)


def _results(card: Card) -> str:
    metrics = card.metrics
    if metrics.scores:
        names = list(metrics.scores)
        labels = dict.fromkeys(label for values in metrics.scores.values() for label in values)
        found = [(k, *(_score(metrics.scores[n].get(k)) for n in names)) for k in labels]
        known = catalogue.names()
        titles = (catalogue.metric(n).title if n in known else n for n in names)
        text = _table(("channel", *titles), found)
    elif metrics.dice:
        of_labels: list[tuple[str, ...]] = [
            (label, f"{value:.4f}", _interval(metrics.dice_interval.get(label)))
            for label, value in metrics.dice.items()
        ]
        if metrics.mean_dice is not None:
            mean = f"**{metrics.mean_dice:.4f}**"
            of_labels.append(("**mean**", mean, _interval(metrics.mean_interval)))
        columns = 3 if any(row[2] for row in of_labels) else 2
        heads = ("label", "Dice", "95 % interval")[:columns]
        text = _table(heads, [row[:columns] for row in of_labels])
    else:
        return "Not measured."
    text += (
        f"\n\nMeasured on whole volumes in the source geometry, {metrics.cases} validation cases."
    )
    if len(card.members) > 1:
        text += (
            " Each member was measured on its own fold; the table shows the means over all cases."
        )
    if metrics.mean_interval is not None:
        text += " Intervals are bootstrapped over patients."
    if metrics.command:
        text += f" To print the same figures:\n\n```\n{metrics.command}\n```"
    if card.int8 is not None and card.int8.inputs:
        text += f"\n\nWith `--precision int8` the mean Dice is {card.int8.mean_dice:.4f}."
    return text


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _licence(card: Card) -> str:
    data = card.training_data
    lines = [f"Weights: {card.licence}."]
    if card.attribution:
        lines.append(card.attribution)
    where = f"{data.cases} cases of {data.name}" if data.cases else data.name
    where += f", fold {data.fold}" if data.fold is not None else ""
    where += f" ({data.licence})" if data.licence else ""
    lines.append(f"Trained on {where}." + (f" {data.reference}" if data.reference else ""))
    if card.initial is not None:
        first = card.initial
        terms = f", {first.licence}" if first.licence else ""
        lines.append(
            f"Training began with `{first.model}` (SHA-256 `{first.tensors_sha256[:16]}...`{terms})."
        )
    return "\n\n".join(lines)


def _origin(card: Card) -> str:
    source = card.source
    if source is None:
        return ""
    rows = [("imported by", f"`ctseg zoo import {source.importer}`"), ("from", source.name)]
    rows += [(key, value) for key, value in source.details.items() if value]
    rows += [(file, f"SHA-256 `{digest[:16]}...`") for file, digest in source.files_sha256.items()]
    rows += [("not taken over", what) for what in source.left_out]
    return "## Where it comes from\n\n" + _table(("", ""), rows)


def _preprocessing(card: Card) -> str:
    rows = []
    for step in card.preprocess.steps:
        name = next((k for k in ("step", "name", "kind", "type") if k in step), "")
        rest = ", ".join(f"{k} {_text(v)}" for k, v in step.items() if k != name)
        rows.append((str(step.get(name, "")), rest))
    return _table(("step", "options"), rows) if rows else "None."


def _limits(card: Card) -> str:
    lines = [line for line in (card.intended_use, card.limits) if line]
    lines.append("For research only. Not a medical device, and not for diagnosis or treatment.")
    return "\n\n".join(lines)


def _files(card: Card, sizes: Mapping[str, int]) -> str:
    rows = [
        (m.file, f"{sizes[m.file] / 2**20:.2f} MiB", f"`{m.tensors_sha256[:16]}...`")
        for m, _ in card.networks
    ]
    return _table(("file", "size", "tensors (SHA-256)"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return " x ".join(_text(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
