"""`ctseg predict`: segments scans with a published model or a run."""

from __future__ import annotations

import functools
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui
from ctseg.cli.folds import parse_fold
from ctseg.cli.options import axes, completion
from ctseg.cli.options.data import parse_options
from ctseg.cli.options.settings import PANEL, ConfigOption, SettingsOption, model_of
from ctseg.cli.options.spellings import respelled
from ctseg.cli.predict_report import print_summary
from ctseg.cli.zoo.fetch import with_fetching
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctseg.config.commands import PredictOptions
    from ctseg.config.postprocess import PostprocessRule
    from ctseg.engine.inference.model import Model
    from ctseg.engine.prediction.case_job import MemoryOptions
    from ctseg.engine.prediction.folder import Execution
    from ctseg.engine.prediction.inputs import Item
    from ctseg.engine.prediction.queue import Summary
    from ctseg.engine.prediction.request import Request

EXAMPLES = ("ctseg predict scan.nii.gz -m unet3d.hippocampus_v1 -o mask.nii.gz",)
OLD_SPELLINGS = MappingProxyType(
    {
        "--dtype": "--set dtype={}",
        "--format": "--set format={}",
        "--probabilities-format": "--set probabilities_format={}",
        "--keep-largest": "--set keep_largest={}",
        "--min-size": "--set min_size={}",
        "--fill-holes": "--set fill_holes={}",
        "--dataset": "--set dataset={}",
        "--region": "--set region={}",
        "--coarse-labels": "--set coarse_labels={}",
        "--margin": "--set margin_mm={}",
        "--skip-air": "--set skip_air={}",
        "--batch-size": "--set batch_size={}",
    }
)
Command = respelled(OLD_SPELLINGS)
RESULTS, SPEED = "Results", "Speed and memory"


def predict(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Scans (a,b: channels), folders, data sets.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            show_default=False,
            autocompletion=completion.models,
            help="Zoo name or path (repeatable).",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            show_default=False,
            help="File for one scan, else folder.",
        ),
    ],
    fold: Annotated[
        str | None, typer.Option("--fold", metavar="N", help="Fold of a data set, or all.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="NAME,NAME", help="Labels to write.", rich_help_panel=RESULTS
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Write the probability of each label.", rich_help_panel=RESULTS
        ),
    ] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            rich_help_panel=RESULTS,
            help="Write the chosen label's probability.",
        ),
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Write the entropy of each voxel.", rich_help_panel=RESULTS
        ),
    ] = False,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks", help="Write a binary mask for each label.", rich_help_panel=RESULTS
        ),
    ] = False,
    instances: Annotated[
        bool,
        typer.Option(
            "--instances",
            help="Write a map of numbered connected parts.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="Write volume and values of each label.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview", help="Draw each scan with its label map.", rich_help_panel=RESULTS
        ),
    ] = False,
    no_postprocess: Annotated[
        bool,
        typer.Option(
            "--no-postprocess",
            help="Skip the model's post-processing.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Skip scans whose results exist.", rich_help_panel=RESULTS
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel=RESULTS),
    ] = False,
    tile: Annotated[
        str | None,
        typer.Option("--tile", metavar=axes.ZYX, help="Tile in voxels.", rich_help_panel=SPEED),
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            "--overlap",
            metavar=axes.ZYX,
            help="Overlap of tiles, as 0.25 or 0.25,0.5,0.5.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", rich_help_panel=SPEED, help="Average mirrored views, if the model allows it."
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", rich_help_panel=SPEED, help="Memory limit, e.g. 8G."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="Device: auto, cpu, cuda, cuda:1 or mps.",
            show_default=False,
            rich_help_panel=SPEED,
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="TYPE",
            help="Precision: auto, fp32, bf16, fp16 or int8.",
            show_default=False,
            rich_help_panel=SPEED,
        ),
    ] = "auto",
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            metavar="NAME",
            help="On CPUs: auto, torch or openvino.",
            show_default=False,
            rich_help_panel=SPEED,
        ),
    ] = "auto",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Option of the reader or format, e.g. series=1.2.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    coarse: Annotated[
        str | None,
        typer.Option(
            "--coarse",
            metavar="NAME",
            autocompletion=completion.models,
            help="Coarse model that selects the region.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    zoo: Annotated[
        Path | None,
        typer.Option("--zoo", metavar="FOLDER", help="Zoo folder.", rich_help_panel=PANEL),
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch",
            help="Fetch models that are missing from your sources.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    settings: SettingsOption = None,
    config: ConfigOption = None,
) -> None:
    """Segment scans; results have the grid of their scan."""
    from ctseg.config.run import DEFAULT_FOLDS
    from ctseg.config.settings import read_settings
    from ctseg.data.readers.grids import number_of
    from ctseg.data.steps.region import parse_region
    from ctseg.engine.prediction.folder import Execution
    from ctseg.engine.prediction.inputs import find_items
    from ctseg.engine.prediction.multiprocess.team import open_team
    from ctseg.engine.prediction.queue import Summary
    from ctseg.engine.prediction.request import Request
    from ctseg.zoo.load import load
    from ctseg.zoo.out_of_fold import folds_of

    ui.check_zoo(zoo)
    rare: Any = read_settings(model_of("predict"), settings or [], config, example="dtype=float16")
    if rare.probabilities_format is not None and not probabilities:
        raise BadInput(
            "The setting probabilities_format has no effect without --probabilities.",
            hint="Add --probabilities, or leave the setting out.",
        )
    if memory is not None and backend == "auto" and precision != "int8":
        backend = "torch"  # whose memory can be told beforehand
    number, every = parse_fold(fold)
    summary, scans = Summary(), 0
    with open_team() as team:
        if team is not None and every:
            raise BadInput(
                f"{team.size} processes were started for --fold all; they predict one fold together.",
                hint="Name a fold (--fold 0), or start it without torchrun.",
            )
        find_folds = functools.partial(folds_of, model, zoo)
        folds = (with_fetching(find_folds, zoo) if fetch else find_folds()) if every else (number,)
        for one in folds:
            load_model = functools.partial(
                load, model[0] if len(model) == 1 else model, device=device, precision=precision, backend=backend,
                zoo=zoo, region=None if rare.region is None else parse_region(_region(rare.region)),
                coarse=coarse, coarse_labels=rare.coarse_labels, margin_mm=rare.margin_mm, force=rare.force, fold=one,
                on_note=functools.partial(ui.say, prose=True) if team is None or team.leads else None,
            )  # fmt: skip
            segmenter = with_fetching(load_model, zoo) if fetch else load_model()
            loaded = segmenter.with_settings(
                tile_zyx=None if tile is None else axes.numbers(tile, int),
                overlap=None if overlap is None else axes.fractions(overlap),
                tta=tta, batch_size=rare.batch_size, skip_air=rare.skip_air,
            ).model  # fmt: skip
            items = find_items(
                inputs, channels=loaded.card.in_channels, fold=one,
                folds=loaded.card.training_data.folds or DEFAULT_FOLDS,
                grid=number_of(loaded.card.preprocess.grid, loaded.card.channels),
                options=parse_options(option or []) | ({"dataset": rare.dataset} if rare.dataset else {}),
            )  # fmt: skip
            scans += len(items)
            suffix, also = _formats(rare.format, output)
            request = Request(
                output, probabilities, _names(labels), skip_existing, suffix, rare.dtype,
                rare.probabilities_format or ".h5", masks, confidence, uncertainty, instances, statistics, preview,
                also, rules=_rules(loaded, rare, no=no_postprocess),
            )  # fmt: skip
            execution = Execution(_fit(memory, fixed_batch=rare.batch_size is not None), team=team)
            name = (loaded.card.name or model[0]) + ("" if one is None else f", fold {one}")
            _run(loaded, items, request, execution, summary, name)
    if team is None or team.leads:
        debug = bool(context.find_root().params.get("debug"))
        print_summary(summary, loaded, request, scans=scans, as_json=as_json, debug=debug)


def _run(
    loaded: Model, items: Sequence[Item], request: Request, execution: Execution, summary: Summary, name: str
) -> None:  # fmt: skip
    """Predict every scan with a progress bar; on Ctrl-C say how to continue."""
    from ctseg.engine.prediction.folder import Listener, predict_folder

    team = execution.team
    leads = team is None or team.leads
    if leads:
        together = f" in {team.size} processes" if team is not None else ""
        ui.say(f"{name} on {loaded.runtime.describe()}{together}; {len(items)} scan(s)")
    try:
        with ui.progress("Predicting", len(items), shown=leads) as bar:
            predict_folder(
                loaded,
                items,
                request,
                execution=execution,
                listener=Listener(
                    on_progress=bar.update, on_say=bar.say if leads else None, summary=summary
                ),
            )
    except KeyboardInterrupt:
        if leads:
            ui.say(f"{len(summary.done)} scan(s) done; continue with --skip-existing.")
        raise


def _fit(memory: str | None, *, fixed_batch: bool) -> MemoryOptions:
    from ctseg.engine.inference.memory.fit import parse_size
    from ctseg.engine.prediction.case_job import MemoryOptions

    return MemoryOptions(None if memory is None else parse_size(memory), fixed_batch)


def _region(text: str) -> str:
    """Convert `Z:Z,Y:Y,X:X`, with or without names of axes, to z, y, x order."""
    if "=" not in text:
        return text
    return ",".join(axes.in_order(text, example="0:40,100:300,90:310"))


def _formats(text: str, output: Path) -> tuple[str, tuple[str, ...]]:
    """The suffix of label maps, and those of further formats; the suffix of an output file comes first."""
    suffixes = [part.strip() for part in text.split(",") if part.strip()]
    suffixes = [part if part.startswith(".") else f".{part}" for part in dict.fromkeys(suffixes)]
    suffixes.sort(key=lambda suffix: not output.name.lower().endswith(suffix.lower()))
    return (suffixes[0], tuple(suffixes[1:])) if suffixes else ("", ())


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    if not names:
        raise BadInput(f"'{text}' names no label.", hint="Separate names by commas: liver,spleen")
    return names


def _rules(model: Model, rare: PredictOptions, *, no: bool) -> tuple[PostprocessRule, ...] | None:
    """The rules from the settings; None to use those of the model's card."""
    from ctseg.engine.postprocess import rules_from_text

    texts = {name: getattr(rare, name) for name in ("keep_largest", "min_size", "fill_holes")}
    given = [name for name, text in texts.items() if text is not None]
    if no and given:
        raise BadInput(
            f"--no-postprocess and --set {given[0]} contradict each other.",
            hint="Leave one of them out.",
        )
    if no:
        return ()
    names = [label.name for label in model.task.foreground]
    return rules_from_text(**texts, names=names) if given else None
