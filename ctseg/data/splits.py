"""Which cases train and which validate."""

from __future__ import annotations

import dataclasses

import numpy as np

from ctseg.config import DataConfig
from ctseg.data.readers.layout import Splits
from ctseg.errors import BadInput, UnknownName
from ctseg.specs import Case, DataSet, ImageRef
from ctseg.volume.io import open_ref


def fold_cases(
    dataset: DataSet, fold: int, folds: int = 5, seed: int = 12345
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Case ids that train and that validate in one fold.

    The folds that the data set brings are used where it does; otherwise groups (patients) are shuffled with a
    fixed seed and dealt out, so that no group stands on both sides.

    Raises:
        BadInput: there is no such fold, or there are too few groups.
    """
    if dataset.splits:
        if fold >= len(dataset.splits):
            raise BadInput(
                f"The data set {dataset.name} has the folds 0 to {len(dataset.splits) - 1}, not {fold}."
            )
        return dataset.splits[fold]
    if fold >= folds:
        raise BadInput(f"There are {folds} folds, 0 to {folds - 1}; fold {fold} is none of them.")
    groups = groups_of(dataset)
    if len(groups) < 2 and len(dataset.cases) > 1:
        last = f"--set 'data.val=[\"{dataset.cases[-1].id}\"]'"
        raise BadInput(
            f"The {len(dataset.cases)} cases of {dataset.name} all belong to '{groups[0]}', and no patient or specimen "
            "may both train and validate.",
            hint=f"Add cases of another one, or name those that validate all the same: {last}",
        )
    if len(groups) < 2:
        raise BadInput(
            f"The data set {dataset.name} has one case only; something must be left for validation.",
            hint="Name the slices that validate: --set data.val_slices=START:STOP",
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    count = min(folds, len(groups))
    if fold >= count:
        raise BadInput(
            f"The data set {dataset.name} has {count} cases or groups, which make the folds 0 to {count - 1}; "
            f"fold {fold} is none of them."
        )
    held = {groups[i] for i in order[fold::count]}
    train = tuple(c.id for c in dataset.cases if (c.group or c.id) not in held)
    val = tuple(c.id for c in dataset.cases if (c.group or c.id) in held)
    return train, val


def all_folds(dataset: DataSet, folds: int = 5) -> Splits:
    """Case ids that train and that validate in each fold; see `fold_cases`."""
    if dataset.splits:
        return dataset.splits
    count = max(1, min(folds, len(groups_of(dataset))))
    return tuple(fold_cases(dataset, fold, folds) for fold in range(count))


def groups_of(dataset: DataSet) -> list[str]:
    """The patients or specimens of the labelled cases; a case that names none is one by itself."""
    return sorted({case.group or case.id for case in dataset.cases})


def split(
    dataset: DataSet, config: DataConfig, depths: dict[str, int]
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The cases that train and those that validate, as the configuration asks.

    A data set of one volume is split along its slow axis: `val_slices` validate, the last third by default.

    Args:
        depths: number of slices of each case where the data set is a single volume.

    Raises:
        UnknownName: a case id that the data set does not have.
        BadInput: nothing is left to train or to validate on.
    """
    one = len(dataset.cases) == 1 and not config.train and not config.val
    if config.val_slices and not one:
        raise BadInput(
            f"`data.val_slices` divides a single volume; {dataset.name} has {len(dataset.cases)} cases.",
            hint="Leave it out, or name the cases that validate: --set 'data.val=[\"ID\"]'",
        )
    if one and config.fold:
        raise BadInput(
            f"The single volume of {dataset.name} is divided by slices; it has no fold {config.fold}.",
            hint="Name the slices that validate: --set data.val_slices=START:STOP",
        )
    if one:
        case = dataset.cases[0]
        return _split_slices(case, config.val_slices, depths[case.id])
    by_id = {case.id: case for case in dataset.cases}
    train, val = (
        (config.train, config.val)
        if config.train or config.val
        else fold_cases(dataset, config.fold, config.folds)
    )
    if not train:
        train = tuple(i for i in by_id if i not in set(val))
    if not val:
        val = tuple(i for i in by_id if i not in set(train))
    for name in (*train, *val):
        if name not in by_id:
            raise UnknownName("case", name, by_id, listing=f"ctseg data inspect {dataset.path}")
    if not train or not val:
        raise BadInput(f"{len(train)} cases train and {len(val)} validate; both need at least one.")
    both = sorted(set(train) & set(val))
    if both:
        raise BadInput(f"These cases would train and validate: {', '.join(both[:5])}.")
    return tuple(by_id[i] for i in train), tuple(by_id[i] for i in val)


def _split_slices(case: Case, text: str, depth: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    start, stop = (depth * 2 // 3, depth)
    if text:
        first, _, last = text.partition(":")
        start, stop = int(first or 0), min(int(last or depth), depth)
    if not 0 <= start < stop or stop - start >= depth:
        raise BadInput(
            f"The slices {start}:{stop} of {depth} leave nothing to train or to validate on.",
            hint="Give a part of the volume: --set data.val_slices=START:STOP",
        )
    train = [
        part(case, a, b, f"{case.id}_{a}_{b}") for a, b in ((0, start), (stop, depth)) if b > a
    ]
    return tuple(train), (part(case, start, stop, f"{case.id}_{start}_{stop}"),)


def part(case: Case, start: int, stop: int, name: str) -> Case:
    """The slices start to stop of a case, as a case of its own."""

    def cut(ref: ImageRef | None) -> ImageRef | None:
        return None if ref is None else dataclasses.replace(ref, slices=(start, stop))

    images = tuple(dataclasses.replace(ref, slices=(start, stop)) for ref in case.images)
    return dataclasses.replace(
        case,
        id=name,
        images=images,
        label=cut(case.label),
        weight=cut(case.weight),
        mask=cut(case.mask),
        group=case.group or case.id,
    )


def depths(dataset: DataSet) -> dict[str, int]:
    """The number of slices of a data set's volume where it has but one."""
    if len(dataset.cases) != 1:
        return {}
    case = dataset.cases[0]
    source = open_ref(case.images[0])
    try:
        return {case.id: source.geometry.shape_zyx[0]}
    finally:
        source.close()
