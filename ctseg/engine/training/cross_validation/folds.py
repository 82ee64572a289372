"""Cross-validation: a run for each fold of a data set, all with the plan of the first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctseg.config import RunConfig, load_config
from ctseg.data.joined import dataset_of
from ctseg.data.readers.layout import Splits, load_json
from ctseg.data.splits import all_folds
from ctseg.engine.evaluation.runs import FOLD, SPLITS, report_of
from ctseg.engine.training.cross_validation.fold_processes import device_of, train_side_by_side
from ctseg.engine.training.cross_validation.set_aside import set_aside, settle
from ctseg.engine.training.job import RUN_FILE, Reporter, Silent
from ctseg.engine.training.loop import has_ended
from ctseg.engine.training.run import check_names, default_folder, train
from ctseg.engine.training.run_folder import check_free
from ctseg.engine.training.run_report import show_folds
from ctseg.errors import BadInput
from ctseg.files import write_text
from ctseg.metrics.report import Report
from ctseg.specs import DataSet

ANY = "auto"
"""The device of those who name none."""


def is_series(folder: Path) -> bool:
    """Whether a folder holds the runs of `train_folds`, of which the first has begun.

    Runs that a killed process had set aside are put back.
    """
    settle(folder)
    return not (folder / RUN_FILE).is_file() and (folder / FOLD.format(0) / RUN_FILE).is_file()


def train_folds(
    config: RunConfig,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Path, Report]:
    """Train every fold of a data set, into the runs `fold0`, `fold1`, ... of a folder.

    The first fold is planned; the others take its plan over, so that all of them make one ensemble. The folder also
    gets `splits.json`, the cases of each fold, and `report.html`, all validations together.

    Args:
        config: as for `train`; its fold does not count, and of a series that is resumed only its device, for folds
            that have not begun. With several devices, separated by commas, as many folds train side by side, each in a
            process of its own.
        output: the folder; `runs/<data set>-<architecture>-folds` by default.
        resume: go on in `output`: finished folds stay, the one that was stopped is resumed, the others follow.
        overwrite: delete the runs in `output`, all of them as soon as the first fold has been planned anew.
        reporter: told how far it has come.

    Returns:
        the folder, and the validations of all folds as one report.

    Raises:
        BadInput: data that have no folds, a folder that holds other runs, cases that have changed since it began, or
            a fold that is to be resumed on another device than its own.
        KeyboardInterrupt: after Ctrl-C; the folder can be resumed.
    """
    reporter = reporter or Silent()
    if resume:
        folder, devices = _resumed(output), config.train.device.split(",")
        config = load_config(folder / FOLD.format(0) / RUN_FILE)
    else:
        devices = config.train.device.split(",")
        config = config.model_copy(update={"data": config.data.model_copy(update={"fold": 0})})
        check_names(config)
    dataset = dataset_of(config.data, config.preprocess.grid)
    splits = _folds_of(dataset, config)
    if not resume:
        place = default_folder(dataset, config)
        folder = Path(output) if output is not None else place.with_name(f"{place.name[:-1]}s")
        if (folder / RUN_FILE).is_file():
            raise BadInput(
                f"{folder} is a run itself, which would hide the folds in it.",
                hint="Choose another folder for the folds with -o.",
            )
        settle(folder)
        for number in range(len(splits)):
            check_free(folder / FOLD.format(number), overwrite)
    try:
        if overwrite:
            set_aside(folder)
        _keep_splits(folder, splits, new=not resume)
        wanted = list(_unfinished(folder, len(splits), resume, reporter))
        _check_devices(folder, wanted, devices)
        if len(devices) > 1:
            train_side_by_side(folder, config, wanted, devices, reporter)
        else:
            for number, begun in wanted:
                if number:
                    settle(folder)
                run = folder / FOLD.format(number)
                reporter.say(f"Fold {number} of 0 to {len(splits) - 1}: {run}")
                own = config if number == 0 else _planned(folder, number, devices[0])
                train(own, output=run, resume=begun, reporter=reporter)
    finally:
        settle(folder)
    report = report_of(folder)
    show_folds(folder, report, reporter)
    return folder, report


def _resumed(output: Path | str | None) -> Path:
    if output is None:
        raise BadInput("Which folds are to be resumed?", hint="ctseg train --resume -o RUNS")
    if not is_series(Path(output)):
        raise BadInput(
            f"{output} holds no folds that have begun: there is no {FOLD.format(0)}/{RUN_FILE} in it.",
            hint="Start them: ctseg train DATA --fold all -o RUNS",
        )
    return Path(output)


def _folds_of(dataset: DataSet, config: RunConfig) -> Splits:
    data = config.data
    if data.train or data.val or data.val_slices:
        raise BadInput(
            "The cases that train and validate are named, so there are no folds.",
            hint="Leave out data.train, data.val and data.val_slices, or --fold all.",
        )
    return all_folds(dataset, data.folds)


def _keep_splits(folder: Path, splits: Splits, *, new: bool) -> None:
    """Write the cases of each fold, or compare them with those that the folds began with.

    Raises:
        BadInput: the data set has other cases or folds by now, so that a case would train and validate.
    """
    content = [{"train": list(train), "val": list(val)} for train, val in splits]
    file = folder / SPLITS
    if not new and file.is_file():
        if load_json(file) != content:
            raise BadInput(
                f"The cases or folds of the data set have changed since {file} was written.",
                hint="Restore the data set, or start anew: ctseg train DATA --fold all --overwrite",
            )
        return
    write_text(file, json.dumps(content, indent=1) + "\n")


def _unfinished(
    folder: Path, count: int, resume: bool, reporter: Reporter
) -> Iterator[tuple[int, bool]]:
    """The folds that are not finished, and whether each has begun."""
    for number in range(count):
        run = folder / FOLD.format(number)
        begun = resume and (run / RUN_FILE).is_file()
        if begun and has_ended(run):
            reporter.say(f"Fold {number} is finished: {run}")
            continue
        yield number, begun


def _check_devices(folder: Path, folds: Sequence[tuple[int, bool]], devices: list[str]) -> None:
    """Refuse other devices for folds that have begun, as a run that is resumed does."""
    for number, begun in folds:
        if begun and devices != [ANY] and (own := device_of(folder, number)) not in devices:
            raise BadInput(
                f"Fold {number} has begun on {own}, and a resumed run keeps its device.",
                hint=f"Name it as well: --device {','.join([own, *devices])}; or leave --device out.",
            )


def _planned(folder: Path, number: int, device: str) -> RunConfig:
    """The configuration of a later fold: that of the first one, on another device where one is asked for."""
    config = load_config(folder / FOLD.format(0) / RUN_FILE)
    data, train = config.data.model_copy(update={"fold": number}), config.train
    if device != ANY:
        train = train.model_copy(update={"device": device})
    return config.model_copy(update={"data": data, "train": train})
