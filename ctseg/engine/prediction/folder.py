"""Many scans, one model: loaded once, finished cases skipped, failures reported case by case.

Off the CPU the next scan is read and the last one written while the network works on this one. On the CPU all three
want the same cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctseg.engine.evaluation.matching import PREDICTIONS
from ctseg.engine.inference.backends.choice import expecting
from ctseg.engine.inference.model import Model
from ctseg.engine.prediction.case_job import CaseJob, MemoryOptions
from ctseg.engine.prediction.inputs import Item
from ctseg.engine.prediction.leftovers import remove_leftovers
from ctseg.engine.prediction.multiprocess.schedule import Schedule
from ctseg.engine.prediction.multiprocess.team import Team
from ctseg.engine.prediction.output_paths import as_suffix
from ctseg.engine.prediction.outputs import check_request
from ctseg.engine.prediction.provenance import parts_of
from ctseg.engine.prediction.queue import (
    CaseLog,
    CaseQueue,
    FollowerLog,
    LeaderLog,
    OnProgress,
    OnSay,
    Summary,
)
from ctseg.engine.prediction.record import PredictionRecord
from ctseg.engine.prediction.request import Request
from ctseg.errors import BadInput
from ctseg.files import disk_errors
from ctseg.volume.file_names import stem_of
from ctseg.volume.io import format_of, writer_format


@dataclass(frozen=True)
class Execution:
    """How scans share the machine.

    Attributes:
        fit: how the tiling is made to fit the memory.
        overlapped: whether reading and writing run beside the network; by default off the CPU.
        team: processes that share the scans; all call `predict_folder` alike, and the first one has the summary of all.
    """

    fit: MemoryOptions | None = None
    overlapped: bool | None = None
    team: Team | None = None


@dataclass(frozen=True)
class Listener:
    """What is told while scans are predicted.

    Attributes:
        on_progress: called with (scans done, scans in all, what is being done), tiles as fractions of a scan.
        on_say: called with lines worth keeping: a scan's size before it starts, what was changed on the way.
        summary: filled as scans are done, so that the caller knows what there is when the work is interrupted.
    """

    on_progress: OnProgress | None = None
    on_say: OnSay | None = None
    summary: Summary | None = None


ALONE, SILENT = Execution(), Listener()


def predict_folder(
    model: Model,
    items: Sequence[Item],
    request: Request,
    *,
    execution: Execution = ALONE,
    listener: Listener = SILENT,
) -> Summary:
    """Predict every scan; one that fails does not keep the others.

    A folder of outputs gets `predictions.json`, written anew after every scan, and so does that of a single file
    where finished scans are to be skipped, or where it has one already; see `ctseg.engine.prediction.record`. A full
    disk ends the work, since it would fail every scan that follows.

    Raises:
        BadInput: one output file for several scans, or a name that cannot be written.
        FileProblem: the output's place cannot be written.
        KeyboardInterrupt: finished scans are in place and in the record, nothing is half-written.
    """
    check_request(model, request)
    overlapped, team, on_say = execution.overlapped, execution.team, listener.on_say
    targets = targets_of(items, request)
    single = targets_file(request)
    folder = request.output.parent if single else request.output
    with disk_errors(request.output):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # else each scan would be read to find that out
            pass
    found = listener.summary if listener.summary is not None else Summary()
    cases = [CaseJob(model, item, targets[item.id], request, execution.fit) for item in items]
    check_places(cases, items)
    leads = team is None or team.leads
    todo = list(range(len(cases)))
    record = None
    if leads:
        remove_leftovers(folder)
        if request.skip_existing or not single or _is_recorded(items[0], request.output):
            record = PredictionRecord(folder, model, request, on_say)
        if request.skip_existing and record is not None:
            done = _finished(cases, record, on_say)
            found.skipped += [case.id for case in cases if case.id in done]
            todo = [number for number, case in enumerate(cases) if case.id not in done]
    if overlapped is None:
        # On two cores, with gzip in and out, reading and writing took 1 to 3 % of the time of a U-Net of three levels:
        # side by side with a network that uses every core there is nothing to gain.
        overlapped = model.runtime.device.type != "cpu"
    if team is None:
        outcomes = CaseLog(found, record, folder, on_say)
        turns: Iterator[CaseJob] = (cases[number] for number in todo)
    else:
        dispatch = Schedule(team, items, todo)
        turns = _shared(cases, dispatch)
        outcomes = (
            LeaderLog(found, record, folder, on_say, cases, dispatch) if leads
            else FollowerLog(found, folder, cases, dispatch, team)
        )  # fmt: skip
    work = CaseQueue(
        outcomes, len(todo), overlapped=overlapped, on_progress=listener.on_progress, on_say=on_say
    )
    with expecting((net for one in parts_of(model) for net in one.networks), len(todo)):
        work.run(turns)
    return found


def _finished(
    cases: Sequence[CaseJob], record: PredictionRecord, on_say: Callable[[str], None] | None
) -> set[str]:
    """The scans whose results are there and are those that would be made now; of the others it is told why not.

    A result that something else wrote since, such as a correction by hand, is not lost: it stays, and is told of.
    """
    done = set()
    for case in cases:
        if not case.there:
            continue
        if record.is_changed(case):
            done.add(case.id)
            if on_say:
                name = case.places.main.name
                on_say(
                    f"Warning: {case.id}: something else wrote {name} since it was predicted, so it is left as it is. "
                    "Remove it to predict the scan again."
                )
            continue
        why = record.reason_to_redo(case)
        if why is None:
            done.add(case.id)
        elif on_say:
            on_say(f"{case.id}: predicted anew: {why}.")
    return done


def _is_recorded(item: Item, output: Path) -> bool:
    """Whether the file of a scan lies in a folder with a record, where it is, by its name, the scan's result."""
    return (output.parent / PREDICTIONS).is_file() and stem_of(output) == item.id


def _shared(cases: Sequence[CaseJob], dispatch: Schedule) -> Iterator[CaseJob]:
    for number, share in dispatch.own_cases():
        cases[number].share = share
        yield cases[number]


def targets_file(request: Request) -> bool:
    """Whether the output names one volume, be it a store that is a folder, rather than a folder of them."""
    try:
        spec = writer_format(request.output)
    except BadInput:
        return False
    return not request.output.is_dir() or spec.recognise(request.output)


def targets_of(items: Sequence[Item], request: Request) -> dict[str, Path]:
    """Where each scan's label map goes.

    Raises:
        BadInput: several scans for one file, or a file of another format than is asked for.
    """
    if targets_file(request):
        if len(items) != 1:
            raise BadInput(
                f"{len(items)} scans cannot all be written to {request.output}.",
                hint="Give a folder with -o.",
            )
        if request.suffix and not request.output.name.lower().endswith(as_suffix(request.suffix)):
            raise BadInput(
                f"{request.output} has not the format {as_suffix(request.suffix)}.",
                hint="Leave out --set format, or give a folder with -o.",
            )
        return {items[0].id: request.output}
    if len(items) == 1 and request.output.suffix and not request.output.exists():
        writer_format(request.output)  # says which suffixes there are
    return {item.id: request.output / f"{item.id}{suffix_for(item, request)}" for item in items}


def check_places(cases: Sequence[CaseJob], items: Sequence[Item]) -> None:
    """Refuse results in the place of scans."""
    inputs = {ref.path.resolve() for item in items for ref in item.images}
    for case in cases:
        for path in case.places.all:
            if path.resolve() in inputs:
                raise BadInput(
                    f"The result would replace the scan {path}.",
                    hint="Choose another place with -o.",
                )


def suffix_for(item: Item, request: Request) -> str:
    """The suffix asked for, or that of the input's format; NIfTI where that cannot be written."""
    if request.suffix:
        return as_suffix(request.suffix)
    spec = format_of(item.path)
    writable = spec is not None and spec.writer is not None and spec.suffixes
    return spec.suffixes[0] if spec is not None and writable else ".nii.gz"
