"""What a run takes over from the card of the model that it begins with: network, preprocessing, patch, tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctseg import plugins
from ctseg.card import Card
from ctseg.config import ModelConfig, PredictConfig, PreprocessConfig, RunConfig
from ctseg.data.readers.grids import number_of
from ctseg.engine.model.weights import read_card
from ctseg.engine.training.job import Reporter
from ctseg.errors import BadInput
from ctseg.planning.preprocessing import at_spacing
from ctseg.specs import DataSet

TILES = ("overlap", "blend", "padding")


def adopt(config: RunConfig, dataset: DataSet, reporter: Reporter) -> RunConfig:
    """The configuration, with what it leaves open as in the model that `model.init` names.

    Options of the network and the patch are taken over. So is the preprocessing, at the target spacing of the run
    file where it names one; for other channels it is planned anew, at the target spacing of the model.

    Raises:
        BadInput: another architecture, or a model that no single network can begin with.
        FileProblem, CorruptWeights: no weight file.
    """
    if not config.model.init:
        return config
    path = Path(config.model.init)
    card = read_card(path)
    name = card.name or str(path)
    if card.parts or any(stage.as_channels for stage in card.stages):
        raise BadInput(
            f"Training cannot begin with {name}: it consists of several networks.",
            hint="Name the weight file of one of them: --init FILE.safetensors",
        )
    if config.model.architecture not in (card.architecture, ModelConfig().architecture):
        raise BadInput(
            f"{name} is of the architecture {card.architecture}, not {config.model.architecture}.",
            hint="Leave out --architecture, or --init.",
        )
    if card.training_data.name.casefold() == dataset.name.casefold():
        reporter.say(
            f"Warning: {name} was trained on {card.training_data.name} itself; cases that validate here may be among "
            "those that it was trained on."
        )
    options = {**card.options, **config.model.options}
    model = {"architecture": card.architecture, "options": options, "init": str(path.resolve())}
    spec = plugins.architecture(card.architecture)
    constraints = spec.constraints_for(plugins.make_config(spec, options))
    train: dict[str, Any] = {}
    if config.train.patch_zyx is None and constraints.dims == 3 and card.predict.tile_zyx:
        train["patch_zyx"] = constraints.fit(card.predict.tile_zyx)
    usual = PredictConfig()
    open_tiles = all(getattr(config.predict, key) == getattr(usual, key) for key in TILES)
    tiles = {key: getattr(card.predict, key) for key in TILES} if open_tiles else {}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "preprocess": preprocessing(config.preprocess, card, dataset.channels),
            "train": config.train.model_copy(update=train),
            "predict": config.predict.model_copy(update=tiles),
        }
    )


def preprocessing(own: PreprocessConfig, card: Card, channels: Sequence[str]) -> PreprocessConfig:
    """The steps of the card at the spacing that the run file names; only a spacing where the channels are others.

    With the steps comes the channel whose grid counts, unless the run file names one.
    """
    if own.steps:
        return own
    steps = tuple(card.preprocess.steps)
    if [c.casefold() for c in channels] != [c.casefold() for c in card.channels]:
        at = next((step["spacing_xyz"] for step in steps if step["kind"] == "resample"), None)
        return own.model_copy(update={"spacing_xyz": own.spacing_xyz or (at and tuple(at))})
    if own.spacing_xyz is not None:
        steps = at_spacing(steps, own.spacing_xyz)
    theirs = card.preprocess.grid and channels[number_of(card.preprocess.grid, card.channels)]
    update = {"steps": steps, "spacing_xyz": None, "grid": own.grid or theirs}
    return own.model_copy(update=update)
