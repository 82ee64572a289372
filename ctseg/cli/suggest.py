"""`ctseg evaluate --suggest-cleanup`: suggests for which labels to keep only the largest component."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctseg.cli import ui

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctseg.specs import DataSet


def suggest(
    predictions: Path,
    reference: Path | DataSet,
    cases: Sequence[str] | None,
    *,
    prediction_options: dict[str, Any] | None,
    reference_options: dict[str, Any] | None,
    as_json: bool,
) -> None:
    """Print the rules that raise the mean Dice, in the syntax of a run file, and their effect."""
    from ctseg.engine.evaluation.matching import find_pairs
    from ctseg.engine.evaluation.suggest_cleanup import suggest_for

    pairs = find_pairs(
        predictions,
        reference,
        cases=cases,
        prediction_options=prediction_options,
        reference_options=reference_options,
    )
    with ui.progress(f"Trying rules on {predictions.name}") as bar:
        suggestion = suggest_for(pairs, lambda done, total, case: bar.update(done, total, case))
    rules = [rule.model_dump(mode="json", exclude_defaults=True) for rule in suggestion.rules]
    before, after, count = suggestion.before, suggestion.after, suggestion.cases
    if as_json:
        ui.print_json({"postprocess": rules, "before": before, "after": after, "cases": count})
        return
    rows = [(name, before[name], after[name]) for name in before]
    ui.table(("label", "Dice", "with the rules"), rows, title=f"On {count} cases")
    if not rules:
        ui.say("Keeping only the largest components helps nowhere.")
        return
    ui.say(
        "Add this to the run file before publishing, or give ctseg predict the same rules with --set:"
    )
    ui.show("[predict]")
    ui.show("postprocess = [")
    for rule in rules:
        fields = ", ".join(f"{key} = {_toml(value)}" for key, value in rule.items())
        ui.show(f"    {{ {fields} }},")
    ui.show("]")


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # same syntax as TOML for these types
