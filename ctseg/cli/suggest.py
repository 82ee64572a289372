"""`ctseg evaluate --suggest-cleanup`: whether keeping largest parts would help, as the cases at hand say."""

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
    """Print the rules that raise the mean Dice, in the form of a run file, and what they change."""
    from ctseg.engine.evaluation.matching import find_pairs
    from ctseg.engine.evaluation.suggest_cleanup import suggest_for

    found = find_pairs(
        predictions,
        reference,
        cases=cases,
        prediction_options=prediction_options,
        reference_options=reference_options,
    )
    with ui.progress(f"Trying rules on {predictions.name}") as bar:
        made = suggest_for(found, lambda done, total, case: bar.update(done, total, case))
    rules = [rule.model_dump(mode="json", exclude_defaults=True) for rule in made.rules]
    if as_json:
        ui.print_json(
            {"postprocess": rules, "before": made.before, "after": made.after, "cases": made.cases}
        )
        return
    rows = [(name, made.before[name], made.after[name]) for name in made.before]
    ui.table(("label", "Dice", "with the rules"), rows, title=f"On {made.cases} cases")
    if not rules:
        ui.say("Keeping only the largest parts helps nowhere.")
        return
    ui.say(
        "Put this into the run file before it is published, or give the options to ctseg predict:"
    )
    ui.show("[predict]")
    ui.show("postprocess = [")
    for rule in rules:
        fields = ", ".join(f"{key} = {_toml(value)}" for key, value in rule.items())
        ui.show(f"    {{ {fields} }},")
    ui.show("]")


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # strings, numbers and lists are written alike
