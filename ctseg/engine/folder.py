"""Many scans, one model: loaded once, finished cases skipped, failures reported case by case.

Off the CPU the next scan is read and the last one written while the network works on this one. On the CPU all three
want the same cores.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctseg.engine.case import CaseJob, as_error
from ctseg.engine.inputs import Item
from ctseg.engine.leftovers import remove_leftovers
from ctseg.engine.outputs import check_request
from ctseg.engine.record import Record
from ctseg.engine.request import Request
from ctseg.engine.segmenter import Segmenter
from ctseg.errors import BadInput, CtsegError, DiskFull, FileProblem
from ctseg.files import disk_errors
from ctseg.volume.io import format_of, writer_format

FULL_BYTES = 2**26
"""A disk with less room than this has none for any further scan."""
OnProgress = Callable[[float, float, str], None]


@dataclass
class Summary:
    """What came of a folder.

    Attributes:
        done: a record a scan: outputs, seconds, tiles, and volumes in ml.
        skipped: ids that were there already.
        failed: cause by id.
        missing: ids that were not tried any more, because the disk is full.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, CtsegError] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def predict_folder(
    segmenter: Segmenter,
    items: Sequence[Item],
    request: Request,
    *,
    on_progress: OnProgress | None = None,
    on_say: Callable[[str], None] | None = None,
    overlapped: bool | None = None,
    summary: Summary | None = None,
) -> Summary:
    """Predict every scan; one that fails does not keep the others.

    A folder of outputs gets `predictions.json`, written anew after every scan; see `ctseg.engine.record`. A full disk
    ends the work, since it would fail every scan that follows.

    Args:
        on_progress: called with (scans done, scans in all, what is being done), tiles as fractions of a scan.
        on_say: called with lines worth keeping: a scan's size before it starts, what was changed on the way.
        overlapped: whether reading and writing run beside the network; by default off the CPU.
        summary: filled as scans are done, for who wants to know what there is when the work is interrupted.

    Raises:
        BadInput: one output file for several scans, or a name that cannot be written.
        FileProblem: the output's place cannot be written.
        KeyboardInterrupt: finished scans are in place and in the record, nothing is half-written.
    """
    check_request(segmenter, request)
    targets = targets_of(items, request)
    single = targets_file(request)
    folder = request.output.parent if single else request.output
    with disk_errors(request.output):
        folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    found = summary if summary is not None else Summary()
    cases = [CaseJob(segmenter, item, targets[item.id], request) for item in items]
    check_places(cases, items)
    if request.skip_existing:
        found.skipped += [case.id for case in cases if case.there]
        cases = [case for case in cases if not case.there]
    if overlapped is None:
        # measured with two cores, a U-Net and gzip in and out: see FIGURE
        overlapped = segmenter.runtime.device.type != "cpu"
    record = None if single else Record(folder, segmenter, request)
    _Work(cases, record, found, folder, on_progress, on_say).run(overlapped)
    return found


class _Work:
    """The way of all scans through reading, network and writing."""

    def __init__(
        self, cases: Sequence[CaseJob], record: Record | None, summary: Summary, folder: Path,
        on_progress: OnProgress | None, on_say: Callable[[str], None] | None,
    ) -> None:  # fmt: skip
        self._cases, self._record, self._summary, self._folder = cases, record, summary, folder
        self._on_progress, self._on_say = on_progress, on_say
        self._reader: ThreadPoolExecutor | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._finishing: deque[tuple[CaseJob, Future[dict[str, Any]]]] = deque()
        self._coming: Future[None] | None = None
        self._full = False

    def run(self, overlapped: bool) -> None:
        with ExitStack() as stack:
            if overlapped:
                self._reader = stack.enter_context(ThreadPoolExecutor(1, "ctseg-read"))
                self._writer = stack.enter_context(ThreadPoolExecutor(1, "ctseg-write"))
            for case in self._cases:
                stack.callback(case.close)
            try:
                self._all()
            finally:
                if self._coming is not None and not self._coming.cancel():
                    wait([self._coming])
                self._settle(0)
                if self._record is not None and self._cases:
                    self._write_record()

    def _all(self) -> None:
        for number, case in enumerate(self._cases):
            if self._full:
                self._summary.missing.append(case.id)
                continue

            def on_tiles(share: float, text: str, at: int = number) -> None:
                self._show(at + share, text)

            try:
                self._open(number)
                self._say(case.announcement)
                case.run(on_tiles, self._say)
                if self._writer is None:
                    self._done(case.finish())
                else:
                    self._finishing.append((case, self._writer.submit(case.finish)))
                    self._settle(1)
            except Exception as error:
                self._fail(case, error)
            self._show(number + 1, case.id)

    def _open(self, number: int) -> None:
        """Open a scan, or wait until it is, and begin with the one after it."""
        coming, self._coming = self._coming, None
        try:
            if coming is None:
                self._cases[number].open(self._writer)
            else:
                coming.result()
        finally:
            following = self._cases[number + 1 : number + 2]
            if self._reader is not None and following and following[0].may_be_read_ahead:
                self._coming = self._reader.submit(following[0].open, self._writer)

    def _settle(self, left: int) -> None:
        """Wait until no more than so many scans are still being written."""
        while len(self._finishing) > left:
            case, future = self._finishing.popleft()
            try:
                result = future.result()
            except Exception as error:
                self._fail(case, error)
            else:
                self._done(result)

    def _done(self, result: dict[str, Any]) -> None:
        self._summary.done.append(result)
        if self._record is not None:
            self._record.done(result)
            self._write_record()

    def _fail(self, case: CaseJob, error: Exception) -> None:
        case.close()
        told = as_error(error, self._folder)
        self._summary.failed[case.id] = told
        # room that was asked for beforehand may be there for a smaller scan
        if isinstance(told, DiskFull) and not (
            told.needed and free_bytes(self._folder) > FULL_BYTES
        ):
            self._full = True
        if self._record is not None:
            self._record.failed(case.id, told.message)
            self._write_record()

    def _write_record(self) -> None:
        assert self._record is not None
        try:
            self._record.write()
        except FileProblem as error:
            if not isinstance(error, DiskFull):
                raise
            self._full = (
                True  # the record of before is still there, and is written once more at the end
            )

    def _show(self, done: float, text: str) -> None:
        if self._on_progress:
            self._on_progress(done, len(self._cases), text)

    def _say(self, text: str) -> None:
        if self._on_say:
            self._on_say(text)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free


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
        BadInput: several scans for one file.
    """
    if targets_file(request):
        if len(items) != 1:
            raise BadInput(
                f"{len(items)} scans cannot all be written to {request.output}.",
                hint="Give a folder with -o.",
            )
        return {items[0].id: request.output}
    if request.output.suffix and not request.output.exists():
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
        suffix = request.suffix if request.suffix.startswith(".") else f".{request.suffix}"
        writer_format(Path(f"x{suffix}"))
        return suffix
    spec = format_of(item.path)
    writable = spec is not None and spec.writer is not None and spec.suffixes
    return spec.suffixes[0] if spec is not None and writable else ".nii.gz"
