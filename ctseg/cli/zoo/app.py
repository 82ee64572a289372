"""`ctseg zoo`: commands for published weights."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui
from ctseg.cli.options import completion
from ctseg.cli.zoo import export, fetch, import_, listing
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.zoo.verify import Check

app = typer.Typer(
    no_args_is_help=True,
    help="Published weights: list, show, publish, import, export, fetch, verify, remove.",
)
app.command("list", epilog=ui.examples(*listing.EXAMPLES))(listing.list_)
app.command("import", epilog=ui.examples(*import_.EXAMPLES))(import_.import_)
app.command("export", epilog=ui.examples(*export.EXAMPLES))(export.export)
app.command("fetch", epilog=ui.examples(*fetch.EXAMPLES))(fetch.fetch)
app.command("serve-index", epilog=ui.examples(*fetch.SERVE_EXAMPLES))(fetch.serve_index)

CARD, WEIGHTS = "Card", "Weights and coarse model"
MARGIN = 10.0
"""Default margin around the labels of a coarse model, in mm."""


class Dtype(StrEnum):
    """Number types in which weights are stored."""

    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


@app.command(
    epilog=ui.examples("ctseg zoo show unet3d.hippocampus_v1", "ctseg zoo show runs/first")
)
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Zoo name, entry folder, run folder or weight file.",
            autocompletion=completion.models,
        ),
    ],
    zoo: ui.ZooOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Show the card of a model."""
    from ctseg.zoo.resolve import resolve_model

    ui.check_zoo(zoo)
    resolved = resolve_model(name, zoo)
    if as_json:
        ui.print_json(resolved.card)
        return
    card = resolved.card
    stages = [m.file for stage in card.stages if stage.card for m in stage.card.members]
    files = [*resolved.files, *(resolved.files[0].parent / file for file in stages)]
    data, metrics = card.training_data, card.metrics
    labels = ", ".join(f"{i.name} ({i.value})" for i in card.task.task().foreground)
    ui.table(
        ("", "card"),
        [
            ("name", card.name or resolved.name),
            ("summary", card.summary),
            ("architecture", f"{card.architecture} (from {card.provider.package})"),
            ("task", card.task.kind),
            ("labels", labels),
            ("region", ", then ".join(_stage(stage) for stage in card.stages) or "whole scan"),
            ("channels", ", ".join(card.channels)),
            ("tile (z, y, x)", " x ".join(map(str, card.predict.tile_zyx or ())) or "as the scan"),
            ("trained on", f"{data.cases} cases of {data.name}"),
            ("licence", card.licence or data.licence or "-"),
            ("attribution", card.attribution or "-"),
            ("imported from", _source(card)),
            ("training began with", card.initial.model if card.initial else "-"),
            ("intended use", card.intended_use or "-"),
            ("limits", card.limits or "-"),
            ("files", ", ".join(map(str, files))),
        ],
        prose=("card",),
    )
    ui.show()
    title = f"On {metrics.cases} validation cases"
    if metrics.scores:
        channels = dict.fromkeys(k for values in metrics.scores.values() for k in values)
        lines = [[k, *(values.get(k) for values in metrics.scores.values())] for k in channels]
        ui.table(["channel", *(name.upper() for name in metrics.scores)], lines, title=title)
    elif not metrics.cases:
        ui.show("Not measured.")
    else:
        rows = [(label, f"{value:.4f}") for label, value in metrics.dice.items()]
        if metrics.mean_dice is not None:
            rows.append(("mean", f"{metrics.mean_dice:.4f}"))
        ui.table(("label", "Dice"), rows, title=title)
    if card.int8 is not None:
        ui.show(_int8(card))
    if metrics.command:
        ui.show("\nMeasured with:")
        for line in metrics.command.splitlines():
            ui.show(f"  {line}")


def _source(card: Any) -> str:
    if card.source is None:
        return "-"
    left_out = "".join(f"; not taken over: {what}" for what in card.source.left_out)
    return f"{card.source.name} ({card.source.importer}){left_out}"


def _rules(card: Any) -> str:
    names = [str(rule.label) for rule in card.predict.postprocess]
    return f"clean-up rules for {', '.join(names)}" if names else "no clean-up rule helps"


def _int8(card: Any) -> str:
    found, known = card.int8, card.int8.mean_dice is not None
    text = f"mean Dice {found.mean_dice:.4f}" if known else "no Dice"
    return f"int8: {text}" if found.inputs else f"int8 left out: {text} with it"


def _stage(stage: Any) -> str:
    labels = ", ".join(stage.labels) or "all labels"
    if stage.as_channels:
        return f"whole scans, with {labels} of {stage.model} as channels"
    return f"{labels} of {stage.model} with a margin of {stage.margin_mm:g} mm"


@app.command(
    epilog=ui.examples(
        "ctseg zoo publish runs/first --tag hippocampus_v1",
        "ctseg zoo publish runs/folds --tag organs_v2 --licence 'CC BY 4.0'",
    )
)
def publish(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folder; several folds make an ensemble."),
    ],
    tag: Annotated[
        str,
        typer.Option("--tag", metavar="TAG", help="Tag in the name ARCHITECTURE.TAG."),
    ],
    zoo: ui.ZooOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of that name.")
    ] = False,
    as_json: ui.JsonOption = False,
    summary: Annotated[
        str,
        typer.Option(
            "--summary",
            metavar="TEXT",
            help="One line about the model.",
            show_default=False,
            rich_help_panel=CARD,
        ),
    ] = "",
    licence: Annotated[
        str,
        typer.Option(
            "--licence",
            metavar="TEXT",
            help="Licence of the weights (default: that of the data).",
            show_default=False,
            rich_help_panel=CARD,
        ),
    ] = "",
    attribution: Annotated[
        str,
        typer.Option(
            "--attribution",
            metavar="TEXT",
            help="Names to credit.",
            show_default=False,
            rich_help_panel=CARD,
        ),
    ] = "",
    intended_use: Annotated[
        str,
        typer.Option(
            "--intended-use",
            metavar="TEXT",
            help="Intended use.",
            show_default=False,
            rich_help_panel=CARD,
        ),
    ] = "",
    limits: Annotated[
        str,
        typer.Option(
            "--limits",
            metavar="TEXT",
            help="Known limits.",
            show_default=False,
            rich_help_panel=CARD,
        ),
    ] = "",
    dtype: Annotated[
        Dtype,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="Stored type: fp16, bf16, fp32.",
            rich_help_panel=WEIGHTS,
        ),
    ] = Dtype.fp16,
    measure: Annotated[
        bool,
        typer.Option(help="Validate the published weights.", rich_help_panel=WEIGHTS),
    ] = True,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Fit temperature and clean-up rules to the validation cases.",
            rich_help_panel=WEIGHTS,
        ),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Prepare --precision int8; kept if Dice holds.",
            rich_help_panel=WEIGHTS,
        ),
    ] = False,
    coarse: Annotated[
        str | None,
        typer.Option(
            "--coarse",
            metavar="NAME",
            help="Coarse model that selects the region.",
            autocompletion=completion.published,
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    coarse_labels: Annotated[
        str | None,
        typer.Option(
            "--coarse-labels",
            metavar="NAME,NAME",
            help="Labels of the coarse model to use.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            "--margin",
            metavar="MM",
            min=0,
            help="Margin around these labels.",
            rich_help_panel=WEIGHTS,
        ),
    ] = MARGIN,
) -> None:
    """Publish the best weights of a run under a name, with their card and figures."""
    from ctseg.card import CoarseStage
    from ctseg.config.checking import validate
    from ctseg.zoo.publish import publish as put
    from ctseg.zoo.readme import usage
    from ctseg.zoo.resolve import headers

    stages = []
    if coarse is None and (coarse_labels is not None or margin != MARGIN):
        raise BadInput(
            "--coarse-labels and --margin need a coarse model.",
            hint="Name it with --coarse NAME, or leave them out.",
        )
    if coarse is not None:
        labels = tuple(n.strip() for n in (coarse_labels or "").split(",") if n.strip())
        stage = {"model": coarse, "labels": labels, "margin_mm": margin}
        stages = [validate(CoarseStage, stage, where="--coarse")]
    with ui.progress("Validating the weights as published") as bar:
        entry = put(
            runs,
            tag=tag,
            zoo=zoo,
            dtype=dtype.value,
            summary=summary,
            licence=licence,
            attribution=attribution,
            intended_use=intended_use,
            limits=limits,
            stages=stages,
            overwrite=overwrite,
            measure=measure,
            fit=fit,
            int8=int8,
            on_case=lambda done, total, case: bar.update(done, total, case),
        )
    card = entry.card()
    if as_json:
        ui.print_json({"name": entry.name, "folder": entry.folder, "card": card})
        return
    ui.say(f"Published {entry.name} in {entry.folder}")
    for file in headers(entry.folder, card):
        ui.say(f"  {file.name}: {file.stat().st_size / 2**20:.2f} MiB")
    dice = card.metrics.mean_dice
    if dice is not None:
        ui.say(f"  mean Dice {dice:.4f} on {card.metrics.cases} validation cases")
    if int8:
        ui.say(f"  {_int8(card)}")
    if fit:
        ui.say(f"  temperature {card.temperature:g}, {_rules(card)}")
    for name, values in card.metrics.scores.items():
        each = ", ".join(f"{channel} {value:.5g}" for channel, value in values.items())
        ui.say(f"  {name}: {each} ({card.metrics.cases} validation cases)")
    ui.say(f"Use it: {usage(card)}")
    ui.show(entry.name)


@app.command(epilog=ui.examples("ctseg zoo verify", "ctseg zoo verify unet3d.hippocampus_v1"))
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models (default: all).",
            show_default=False,
            autocompletion=completion.published,
        ),
    ] = None,
    zoo: ui.ZooOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Check every file and tensor against its checksum, and that the weights load.

    Exit code 1 if a model is damaged.
    """
    from ctseg.zoo.verify import verify as check

    ui.check_zoo(zoo)
    checks = check(names or (), zoo)
    if as_json:
        ui.print_json(checks)
    elif checks:
        ui.table(
            ("name", "", "zoo"),
            [(c.name, _verdict(c), str(c.zoo)) for c in checks],
            prose=("",),
        )
    else:
        ui.say("No model is published: nothing to verify.")
    if not all(c.sound for c in checks):
        ui.say("Error: some models differ from what was published.", style="red")
        ui.say(
            "  Copy them again, or publish them again: ctseg zoo publish RUN --tag TAG --overwrite"
        )
        raise typer.Exit(1)


def _verdict(check: Check) -> str:
    verdict = "; ".join(check.problems) or "sound"
    return f"{verdict} ({'; '.join(check.notes)})" if check.notes else verdict


@app.command(epilog=ui.examples("ctseg zoo remove unet3d.trial_v0 --yes"))
def remove(
    name: Annotated[
        str,
        typer.Argument(help="Full name of the model.", autocompletion=completion.published),
    ],
    zoo: ui.ZooOption = None,
    yes: ui.YesOption = False,
) -> None:
    """Remove a model from your zoo."""
    from ctseg.zoo.remove import removable
    from ctseg.zoo.remove import remove as take_out

    ui.check_zoo(zoo)
    folder = removable(name, zoo).folder
    ui.confirm(f"Remove {name} ({folder})?", yes=yes)
    take_out(name, zoo)
    ui.say(f"Removed {folder}")
