"""From runs to a zoo entry: weights cast and checksummed, card completed, figures measured anew, all or nothing."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ctseg.card import Card, CoarseStage, Member, TrainingScans
from ctseg.card_metrics import Metrics
from ctseg.config import DataConfig, load_config
from ctseg.config.run import DEFAULT_FOLDS
from ctseg.engine.evaluation.runs import runs_in
from ctseg.engine.model.weights import cast, read_weights, save_weights, tensors_sha256
from ctseg.errors import BadInput, FileProblem
from ctseg.files import write_text
from ctseg.metrics.report import Report
from ctseg.version import __version__
from ctseg.zoo.first_stage import FOLDER, of_member, own_stage, read_first_stages
from ctseg.zoo.folders import NAME, user_zoo
from ctseg.zoo.new_entry import TAG, Dtype, check_free, new_folder, put_in_place
from ctseg.zoo.probe import write_probe
from ctseg.zoo.publish_int8 import check_int8, judged, with_ranges
from ctseg.zoo.readme import render
from ctseg.zoo.resolve import BEST, RUN_FILE, check_stages
from ctseg.zoo.store import CARD, README, ZooEntry

if TYPE_CHECKING:
    from ctseg.engine.inference.model import Model

OnCase = Callable[[int, int, str], None]
SHARED = (
    "architecture", "options", "in_channels", "out_channels", "channels", "task", "preprocess", "predict",
)  # fmt: skip
"""What the members of an ensemble must have in common."""


def publish(
    runs: Path | str | Sequence[Path | str],
    *,
    tag: str,
    zoo: Path | str | None = None,
    dtype: Dtype = "fp16",
    summary: str = "",
    licence: str = "",
    attribution: str = "",
    intended_use: str = "",
    limits: str = "",
    stages: Sequence[CoarseStage] = (),
    overwrite: bool = False,
    measure: bool = True,
    fit: bool = False,
    int8: bool = False,
    on_case: OnCase | None = None,
) -> ZooEntry:
    """Publish the best weights of a run, or of several folds as an ensemble.

    Args:
        runs: run folders, or folders of folds; several must share network, task and preprocessing.
        tag: makes the name: `<architecture>.<tag>`.
        zoo: where to publish; the user's own zoo where it is not given.
        dtype: how floating tensors are stored.
        licence: of the weights; that of the training data where it is not given.
        stages: models that say where to look first; they must be published in a zoo of the search path.
        measure: validate again with exactly the published weights, so that the card's figures are theirs;
            otherwise the card keeps those of the run.
        fit: fit the temperature and, where the run file names none, post-processing rules to the validation cases of
            the runs.
        int8: find the ranges of activations on training cases, for predictions with 8-bit integers, and keep them if
            the mean Dice of the validation cases is at most 0.001 lower with them. Needs the extra `openvino`.
        on_case: called with the number done, the total and the case's id while validating.

    Raises:
        BadInput: an unusable tag, no licence, or runs that do not belong together.
        NameClash: the name is taken and `overwrite` is not set.
        FileProblem: a run without weights, or a zoo that cannot be written.
    """
    named = [Path(run) for run in ([runs] if isinstance(runs, Path | str) else runs)]
    folders = [run for folder in named for run in runs_in(folder) or [folder]]
    if not TAG.fullmatch(tag):
        raise BadInput(
            f"'{tag}' is no usable tag.",
            hint="Use lower-case letters, digits and underscores, e.g. --tag hippocampus_v1",
        )
    loaded = [read_weights(_best(folder)) for folder in folders]
    if not loaded:
        raise BadInput(
            "There is no run to publish.", hint="Name one: ctseg zoo publish RUN --tag TAG"
        )
    cards = [card for _, card in loaded]
    name = f"{cards[0].architecture}.{tag}"
    if not NAME.fullmatch(name):
        raise BadInput(
            f"'{name}' cannot be the name of a published model.",
            hint="The name of an architecture has lower-case letters, digits and underscores only.",
        )
    check_stages(name, stages, zoo)  # what nobody knows is refused before anything is measured
    _check_alike(cards, folders)
    first = read_first_stages(folders, cards)
    if first and stages:
        raise BadInput(
            f"{folders[0]} has a first stage of its own, behind which it was trained.",
            hint="Leave out --coarse.",
        )
    if first:
        _check_alike([own for _, own in first], [folder / FOLDER for folder in folders])
    if measure or fit:
        _check_data(folders)
    if int8:
        check_int8(cards[0], measure=measure)
    members, stored = _members([tensors for tensors, _ in loaded], cards, dtype)
    card = _completed(cards, members, name)
    texts = {
        "summary": summary, "licence": licence, "attribution": attribution,
        "intended_use": intended_use, "limits": limits,
    }  # fmt: skip
    card = card.model_copy(update={key: text for key, text in texts.items() if text})
    card = _licensed(card.model_copy(update={"stages": tuple(stages)}))
    own_card, own_stored = card, dict[str, dict[str, torch.Tensor]]()
    if first:
        firsts = [own for _, own in first]
        own_members, own_stored = _members([t for t, _ in first], firsts, dtype, FOLDER)
        own_card = _completed(firsts, own_members, f"{name}.{FOLDER}")
        own_card = own_card.model_copy(
            update={"licence": card.licence, "attribution": card.attribution}
        )
        card = card.model_copy(update={"stages": (own_stage(cards[0], own_card),)})

    target = user_zoo(zoo)
    check_free(target / card.name, overwrite)
    with new_folder(target) as temporary:
        files = [temporary / member.file for member in members]
        for file, tensors in own_stored.items():
            save_weights(temporary / file, tensors, own_card)

        def save(card: Card) -> Card:
            for file in files:
                save_weights(file, stored[file.name], card)
            return card

        save(card)
        if fit:
            card = save(_fitted(files, folders, card, on_case))
        if measure:
            measured = _Measurement(files, folders, card.stages, zoo, on_case)
            found = None
            if int8:
                card = save(with_ranges(card, files, folders, measured.staged, on_case))
                found = measured.metrics(card, "int8")
            card = _with_metrics(card, measured.metrics(card))
            card = save(card if found is None else judged(card, found))
        sizes = {m.file: (temporary / m.file).stat().st_size for m, _ in card.networks}
        write_text(temporary / CARD, card.to_json() + "\n")
        write_text(temporary / README, render(card, sizes))
        write_probe(temporary, card)
        put_in_place(temporary, target / card.name, overwrite)
    return ZooEntry(card.name, target / card.name)


def _best(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileProblem(f"The run {folder} does not exist.", hint="Name the folder of a run.")
    best = folder / BEST
    if not best.is_file():
        raise FileProblem(
            f"The run {folder} has no {BEST}: nothing was validated in it.",
            hint=f"Is it a run folder? Let it train on: ctseg train --resume {folder}",
        )
    return best


def _check_data(folders: Sequence[Path]) -> None:
    for folder in folders:
        path = load_config(folder / RUN_FILE).data.path
        if not path or not (Path(path).exists() or glob.has_magic(path)):
            raise FileProblem(
                f"The data set '{path}' of the run {folder} is not there to validate on.",
                hint="Put it back, or keep the figures of the run: --no-measure",
            )


def _check_alike(cards: Sequence[Card], folders: Sequence[Path]) -> None:
    for card, folder in zip(cards[1:], folders[1:], strict=True):
        different = [name for name in SHARED if getattr(card, name) != getattr(cards[0], name)]
        if different:
            raise BadInput(
                f"{folders[0]} and {folder} cannot be one ensemble: they differ in {', '.join(different)}.",
                hint="Train every fold from the config.toml of the first: ctseg train CONFIG --fold N",
            )


def _members(
    weights: Sequence[dict[str, torch.Tensor]], cards: Sequence[Card], dtype: str, before: str = ""
) -> tuple[tuple[Member, ...], dict[str, dict[str, torch.Tensor]]]:
    members, stored = [], {}
    folds = [card.training_data.fold for card in cards]
    distinct = len(set(folds)) == len(folds) and None not in folds
    for index, (tensors, fold) in enumerate(zip(weights, folds, strict=True)):
        name = "weights" if len(weights) == 1 else f"fold{fold}" if distinct else f"member{index}"
        kept = cast(tensors, dtype)
        if before:
            name = before if len(weights) == 1 else f"{before}_{name}"
        file = f"{name}.safetensors"
        stored[file] = kept
        members.append(Member(file=file, tensors_sha256=tensors_sha256(kept), fold=fold))
    return tuple(members), stored


def _completed(cards: Sequence[Card], members: tuple[Member, ...], name: str) -> Card:
    card = cards[0]
    update: dict[str, Any] = {
        "name": name,
        "members": members,
        "ctseg_version": __version__,
    }
    if len(cards) > 1:
        data = card.training_data.model_copy(update={"fold": None, "cases": trained_on(cards)})
        update |= {"training_data": data, "metrics": _pooled([c.metrics for c in cards])}
        scans = TrainingScans.joined([c.training_scans for c in cards])
        if scans is not None:
            update |= {"training_scans": scans, "card_version": 2}
    return card.model_copy(update=update)


def trained_on(cards: Sequence[Card]) -> int:
    """Cases that some member of an ensemble has seen; of several folds that is every case, those that validate too."""
    folds = {card.training_data.fold for card in cards}
    if len(folds) < 2 or None in folds:
        return max(card.training_data.cases for card in cards)
    return max(card.training_data.cases + card.metrics.cases for card in cards)


def _licensed(card: Card) -> Card:
    data, initial = card.training_data, card.initial
    if initial is not None and not (card.licence or initial.licence):
        raise BadInput(
            f"Nothing says under which licence {initial.model} may be used, with which training began.",
            hint="Say it, together with that of the data: --licence 'CC BY 4.0'",
        )
    licence = card.licence or data.licence
    if not licence:
        raise BadInput(
            f"Nothing says under which licence '{card.name}' may be used: its data set names none.",
            hint="Say it: --licence 'CC BY 4.0' (what the licence of the training data allows)",
        )
    default = f"Derived from {data.name}" + (f" ({data.licence})." if data.licence else ".")
    if initial is not None:
        if initial.licence.casefold() not in licence.casefold():
            raise BadInput(
                f"Training began with {initial.model}, whose licence '{initial.licence}' binds these weights too; "
                f"'{licence}' does not name it.",
                hint=f"Name both: --licence '{initial.licence} and {licence}'",
            )
        terms = f" ({initial.licence})" if initial.licence else ""
        default += f" Training began with {initial.model}{terms}. {initial.attribution}"
    return card.model_copy(
        update={"licence": licence, "attribution": card.attribution or default.strip()}
    )


@dataclass(frozen=True)
class _Measurement:
    """Figures of weights on the validation cases of their runs."""

    files: Sequence[Path]
    folders: Sequence[Path]
    stages: Sequence[CoarseStage]
    zoo: Path | str | None
    on_case: OnCase | None

    def staged(self, model: Model, file: Path) -> Model:
        """The model of a file behind its stages; behind its own first stage, where the entry has one."""
        from ctseg.zoo.load import with_stages

        stages = of_member(self.stages, list(self.files).index(file))
        return with_stages(model, stages, self.zoo, folder=file.parent)

    def metrics(self, card: Card, precision: str = "") -> Metrics:
        from ctseg.engine.training.validate import measure, metrics_of

        found = [
            measure(file, run, self.on_case, partial(self.staged, file=file), precision)
            for file, run in zip(self.files, self.folders, strict=True)
        ]
        every = [case for report in found for case in report.cases]
        if len({case.case for case in every}) < len(
            every
        ):  # members that validate on the same cases
            return _pooled([metrics_of(report, command="") for report in found])
        intervals = "dice" in found[0].metrics
        command = _command(self.folders, card)
        return metrics_of(Report(tuple(every)), command=command, intervals=intervals)


def _fitted(
    files: Sequence[Path], folders: Sequence[Path], card: Card, on_case: OnCase | None
) -> Card:
    """The card with the temperature and the rules that the validation cases ask for."""
    from ctseg.engine.inference.model import NetworkModel
    from ctseg.engine.training.cross_validation.out_of_fold import fit

    if card.stages:
        raise BadInput(
            "Temperature and rules cannot be fitted to a model behind a coarse one.",
            hint="Leave out --fit, or the coarse model.",
        )
    models = []
    for file, run in zip(files, folders, strict=True):
        train = load_config(run / RUN_FILE).train
        device, precision = train.device, train.precision
        models.append((NetworkModel.from_files([file], device=device, precision=precision), run))
    found = fit(models, on_case)
    predict, update = card.predict, dict[str, Any]()
    if not predict.postprocess:
        predict = predict.model_copy(update={"postprocess": found.rules})
    if found.calibration is not None:
        update["temperature"] = round(found.calibration.temperature, 4)
    return card.model_copy(update={**update, "predict": predict})


def _pooled(parts: Sequence[Metrics]) -> Metrics:
    """Each member on its own validation cases, as in cross-validation: means weighted by the number of cases."""
    dice = _mean_of([(part.dice, part.cases) for part in parts])
    names = dict.fromkeys(name for part in parts for name in part.scores)
    return Metrics(
        dice=dice,
        mean_dice=sum(dice.values()) / len(dice) if dice else None,
        scores={n: _mean_of([(p.scores.get(n, {}), p.cases) for p in parts]) for n in names},
        cases=sum(part.cases for part in parts),
    )


def _mean_of(parts: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    """The mean of each label, weighted by the number of cases."""
    out = {}
    for label in dict.fromkeys(label for values, _ in parts for label in values):
        known = [(values[label], cases) for values, cases in parts if label in values]
        weight = sum(cases for _, cases in known)
        if weight:
            out[label] = sum(value * cases for value, cases in known) / weight
    return out


def _with_metrics(card: Card, metrics: Metrics) -> Card:
    new = {"card_version": 2} if metrics.dice_interval else {}
    return card.model_copy(update={"metrics": metrics, **new})


def _command(runs: Sequence[Path], card: Card) -> str:
    """What prints the card's figures again; empty where the cases that validated are no folds of a data set."""
    from ctseg.data.joined import dataset_of
    from ctseg.data.splits import all_folds

    config = load_config(runs[0] / RUN_FILE)
    data = config.data
    if (
        data.also or data.options
    ):  # no folder holds the cases of several; the commands find them by the path alone
        return ""
    dataset = dataset_of(data, config.preprocess.grid)
    if data.train or data.val or len(dataset.cases) == 1:
        return ""
    usual = bool(dataset.splits) or data.folds == DEFAULT_FOLDS
    more = "" if usual else f" --set folds={data.folds}"
    if data.grid_tolerance != DataConfig().grid_tolerance:
        more += f" --grid-tolerance {data.grid_tolerance:g}"
    fold: int | str = data.fold
    if len(runs) > 1:
        known = {member.fold for member in card.members}
        if known != set(range(len(all_folds(dataset, data.folds)))):
            return ""
        fold = "all"
    name = shlex.quote(dataset.path.resolve().name)
    return (
        f"ctseg predict {name} -m {card.name} --fold {fold} -o predictions\n"
        f"ctseg evaluate predictions {name} --fold {fold}{more}"
    )
