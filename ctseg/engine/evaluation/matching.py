"""`find_pairs`: matches predicted maps with references, from files, folders or a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ctseg import plugins
from ctseg.config import TaskConfig
from ctseg.config.checking import parse_json, validate
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Case, DataSet, ImageRef, Task, frozen
from ctseg.task import with_values_of
from ctseg.volume.file_names import file_name, matching, stem_of, volume_suffix
from ctseg.volume.file_state import is_in_state
from ctseg.volume.formats.companion_files import without_companions
from ctseg.volume.io import format_of
from ctseg.volume.volume import Volume

PREDICTIONS = "predictions.json"
"""Record of a prediction in its output folder; its `task` gives the meaning of the label values.

Cases that another call predicted say under `made_with` by what task and with which labels, if not by the same; under
`made`, the state of the file, by which one that something else wrote in its place is told.
"""
CHANGED = f"written by something else since {PREDICTIONS}; its values are taken to mean the same"


@dataclass(frozen=True)
class Pair:
    """One case to evaluate.

    Attributes:
        mask: evaluated region of the reference; None for all of it.
        group: the patient or specimen of the case.
        images: its scan, where a data set names it.
        drawn: names of the labels that were drawn in the reference, and predicted where others were predicted in other
            cases; None for all.
        masks: by label, the mask of the prediction that was written with its map.
        notes: what may make its scores wrong.
    """

    case: str
    prediction: ImageRef
    reference: ImageRef
    mask: ImageRef | Volume | Path | str | None = None
    group: str | None = None
    images: tuple[ImageRef, ...] = ()
    drawn: tuple[str, ...] | None = None
    masks: Mapping[str, ImageRef] = field(default_factory=frozen)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """The cases to evaluate.

    Attributes:
        task: meaning of the label values, if a file gives it.
        labels: labels that all predictions were restricted to; None for all.
        grid_tolerance: largest offset between the voxels of the two maps, as a fraction of a voxel; None for the
            default.
        foreign: values of the references whose labels the model does not have; they count as background.
    """

    pairs: tuple[Pair, ...]
    task: Task | None = None
    labels: tuple[str, ...] | None = None
    grid_tolerance: float | None = None
    foreign: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Made:
    """What a record says of a prediction.

    Attributes:
        task: meaning of its values.
        labels: the labels that it was restricted to; None for all.
        masks: by label, the masks that were written with it.
        notes: what may make this wrong.
    """

    task: Task | None = None
    labels: tuple[str, ...] | None = None
    masks: Mapping[str, ImageRef] = field(default_factory=frozen)
    notes: tuple[str, ...] = ()


def find_pairs(
    prediction: Path,
    reference: Path | DataSet,
    *,
    cases: Sequence[str] | None = None,
    prediction_options: Mapping[str, Any] | None = None,
    reference_options: Mapping[str, Any] | None = None,
) -> Pairs:
    """Pair predicted maps with references by case id.

    Args:
        prediction: a file or a folder of files.
        reference: a file, a folder of files, a data set's path, or a data set.
        cases: ids of the cases to pair; by default all, and each must have a prediction and a reference.
        prediction_options, reference_options: options for the formats' `open`, e.g. `{"dataset": "/label"}`.

    Raises:
        FileProblem: a path does not exist.
        BadInput: a case without a prediction or reference, or predictions of models that have other labels.
    """
    for path in (prediction, *([reference] if isinstance(reference, Path) else [])):
        if not path.exists() and not matching(path):
            raise FileProblem(f"{path} does not exist.", hint="Check the path.")
    predicted = _maps(prediction, prediction_options)
    dataset = _dataset(reference, reference_options)
    known_cases: dict[str, Case] = {}
    scans: dict[str, tuple[ImageRef, ...]] = {}
    if dataset is None:
        assert isinstance(reference, Path)
        expected, where = _maps(reference, reference_options), str(reference)
        around = _dataset_of_labels_folder(reference)
        known = around.task if around else None
        if around is not None:
            scans = {case.id: case.images for case in (*around.cases, *around.unlabelled)}
    else:
        expected = {case.id: case.label for case in dataset.cases if case.label is not None}
        known_cases = {case.id: case for case in dataset.cases}
        known, where = dataset.task, str(dataset.path)
    if _is_volume(prediction) and len(expected) == 1 and not cases:
        ids = list(expected)
        predicted = dict(zip(ids, predicted.values(), strict=True))
    else:
        ids = _ids(predicted, expected, cases, prediction, where)
    made = _from_record(prediction, [predicted[i] for i in ids])
    recorded = _task_of_all(made, ids)
    pairs = [_pair(i, predicted[i], expected[i], known_cases.get(i)) for i in ids]
    labels = {one.labels for one in made}
    if len(labels) > 1:
        pairs = [_restricted(pair, one.labels) for pair, one in zip(pairs, made, strict=True)]
    pairs = [
        replace(_with_scan(pair, scans), masks=one.masks, notes=one.notes)
        for pair, one in zip(pairs, made, strict=True)
    ]
    found = Pairs(tuple(pairs), recorded or known, labels.pop() if len(labels) == 1 else None)
    return found if recorded is None or known is None else _joined_by_name(found, recorded, known)


def _task_of_all(made: Sequence[_Made], ids: Sequence[str]) -> Task | None:
    """The task of all predictions."""
    for name, one in zip(ids, made, strict=True):
        if one.task != made[0].task:
            raise BadInput(
                f"{PREDICTIONS} says that models with other labels predicted the cases {ids[0]} and {name}.",
                hint="Evaluate those of one model at a time with --cases ID,ID, or predict all of them with one.",
            )
    return made[0].task if made else None


def _joined_by_name(pairs: Pairs, recorded: Task, own: Task) -> Pairs:
    """The cases with the task of the predictions, in the values of a data set that has other labels.

    A model may know more labels than the data set, or fewer, or give them other values. Names tell which are the same:
    labels of both are scored, and those of the data set alone count as background. Where the names agree on nothing,
    or names and values on everything, the task stays as it is.
    """
    if (
        recorded.kind != own.kind
        or recorded.kind == "regression"
        or own.stacked
        or recorded.stacked
    ):
        return pairs
    names = {label.name: label.values for label in own.foreground}
    ours = {label.name: label.values for label in recorded.foreground}
    common = tuple(name for name in ours if name in names)
    if not common or ours == names:
        return pairs
    task = with_values_of(recorded, own)
    known = {value for label in task.labels for value in label.values} | {task.ignore}
    others = {value for name, values in names.items() if name not in ours for value in values}
    if len(common) < len(ours):
        pairs = replace(pairs, pairs=tuple(_restricted(pair, common) for pair in pairs.pairs))
    return replace(pairs, task=task, foreign=tuple(sorted(others - known)))


def _restricted(pair: Pair, labels: tuple[str, ...] | None) -> Pair:
    return replace(pair, drawn=in_both(pair.drawn, labels))


def in_both(one: tuple[str, ...] | None, two: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The labels of two lists, of which None stands for all labels."""
    if one is None or two is None:
        return two if one is None else one
    return tuple(name for name in one if name in two)


def _pair(case_id: str, predicted: ImageRef, expected: ImageRef, case: Case | None) -> Pair:
    if case is None:
        return Pair(case_id, predicted, expected)
    return Pair(case_id, predicted, expected, case.mask, case.group, case.images, case.drawn)


def _with_scan(pair: Pair, scans: Mapping[str, tuple[ImageRef, ...]]) -> Pair:
    return pair if pair.images else replace(pair, images=scans.get(pair.case, ()))


def _ids(
    predicted: dict[str, ImageRef],
    expected: Mapping[str, ImageRef],
    cases: Sequence[str] | None,
    prediction: Path,
    where: str,
) -> list[str]:
    for name in list(predicted):  # a prediction may be named after the first channel of its scan
        short = name.removesuffix("_0000")
        if name not in expected and short in expected and short not in predicted:
            predicted[short] = predicted.pop(name)
    for name in expected:
        file = file_name(name)
        if name not in predicted and file in predicted and file not in expected:
            predicted[name] = predicted.pop(file)
    ids = sorted(set(predicted) | set(expected)) if cases is None else list(dict.fromkeys(cases))
    for maps, folder, what in (
        (predicted, prediction, "prediction"),
        (expected, where, "reference"),
    ):
        missing = [name for name in ids if name not in maps]
        if missing:
            raise BadInput(
                f"{len(missing)} of {len(ids)} cases have no {what} in {folder}: {_some(missing)}.",
                hint="Evaluate some of the cases with --fold N or --cases ID,ID.",
            )
    return ids


def _is_volume(path: Path) -> bool:
    """Whether a path is one volume: a file, or a folder with the suffix of a store, such as Zarr.

    A folder that has nothing but the suffix for a name, such as `seg.dcm`, holds files of that format.
    """
    if path.is_file():
        return True
    suffix = f".{path.name.lower()}"
    holds_files = volume_suffix(Path(suffix)) == suffix
    return bool(not holds_files and path.exists() and volume_suffix(path) and format_of(path))


def _maps(path: Path, options: Mapping[str, Any] | None) -> dict[str, ImageRef]:
    if _is_volume(path):
        return {stem_of(path): ImageRef(path, frozen(options))}
    inside = path.iterdir() if path.is_dir() else matching(path)
    files = without_companions(
        f for f in sorted(inside) if _is_volume(f) and not f.name.startswith(".")
    )
    maps: dict[str, ImageRef] = {}
    for file in files:
        if not volume_suffix(file):
            continue
        name = stem_of(file)
        if name in maps:
            raise BadInput(
                f"{path} holds two maps of the case '{name}': {maps[name].path.name} and {file.name}.",
                hint="Remove one of them.",
            )
        maps[name] = ImageRef(file, frozen(options))
    if not maps:
        raise BadInput(
            f"{path} holds no label maps.",
            hint="Give a folder of volume files, a volume file or a data set.",
        )
    return maps


def _dataset(reference: Path | DataSet, options: Mapping[str, Any] | None) -> DataSet | None:
    if isinstance(reference, DataSet):
        return reference
    if options or not any(spec.recognise(reference) for spec in plugins.readers()):
        return None
    from ctseg.data.readers.find import open_dataset

    return open_dataset(reference)


def _dataset_of_labels_folder(reference: Path) -> DataSet | None:
    """The data set to which a folder of labels, or a file in it, belongs."""
    folder = (reference if reference.is_dir() else reference.parent).resolve()
    if not folder.name.startswith("labels"):
        return None
    return _dataset(folder.parent, None)


def _from_record(prediction: Path, maps: Sequence[ImageRef]) -> list[_Made]:
    """What `predictions.json` in a folder of predictions says of these maps; of a single file, if it names it."""
    alone = _is_volume(prediction)
    folder = prediction.parent if alone or matching(prediction) else prediction
    file = folder / PREDICTIONS
    if not file.is_file():
        return [_Made()] * len(maps)
    try:
        data = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileProblem(
            f"{file} cannot be read: {error}.",
            hint="Predict the scans again, or remove the file and evaluate with a data set as reference.",
        ) from error
    if not isinstance(data, dict) or "task" not in data:
        return [_Made()] * len(maps)
    cases = data.get("cases")
    lines = {
        Path(str(line.get("output"))).name: line
        for line in (cases if isinstance(cases, list) else ())
        if isinstance(line, dict)
    }
    if alone and prediction.name not in lines:  # another program's file beside those of the record
        return [_Made()] * len(maps)
    whole = _made(data, data["task"], file)
    others = {
        name: _made(line["made_with"], data["task"], file)
        for name, line in lines.items()
        if isinstance(line.get("made_with"), dict)
    }
    made = []
    for ref in maps:
        line = lines.get(ref.path.name, {})
        one = others.get(ref.path.name, whole)
        if "made" in line and not is_in_state(ref.path, line["made"]):
            made.append(replace(one, notes=(CHANGED,)))
        else:
            made.append(replace(one, masks=_masks(line, ref)))
    return made


def _masks(line: Mapping[str, Any], ref: ImageRef) -> Mapping[str, ImageRef]:
    """The masks that a line of a record names, where they still lie beside the map; none if one is gone."""
    beside, folder = line.get("beside"), Path(str(line.get("output"))).parent
    named = beside.get("masks") if isinstance(beside, dict) else None
    masks: dict[str, ImageRef] = {}
    for name, text in named.items() if isinstance(named, dict) else ():
        file = Path(str(text))
        if not file.is_relative_to(folder):
            return {}
        path = ref.path.parent / file.relative_to(folder)
        if not path.exists():
            return {}
        masks[str(name)] = replace(ref, path=path)
    return masks


def _made(data: Mapping[str, Any], task: Any, file: Path) -> _Made:
    """What a record, or one of its lines, says of a prediction; `task` is that of the record."""
    settings = data.get("settings")
    labels = settings.get("labels") if isinstance(settings, dict) else None
    found = validate(TaskConfig, data.get("task", task), where=str(file)).task()
    return _Made(found, tuple(map(str, labels)) if isinstance(labels, list) else None)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
