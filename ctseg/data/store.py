"""The prepared store: every case preprocessed once, kept so that random patches are read at memory speed.

One folder a case: `image.npy` (float32, C Z Y X), `target.npy` (as `ctseg.task.encode`), `places.npy` (voxels of each
label, for sampling) and `case.json` (what made it, and the way through the steps). The folder appears only when
whole; a changed plan, task or input file makes it anew. A case read lazily has places and `case.json` only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs
from numpy.typing import NDArray

from ctseg.data import lazy, lazy_survey
from ctseg.data.load import check_channels, load_extra, load_image, load_label, stored_task
from ctseg.data.patch_centres import PLACES, patch_centres
from ctseg.data.pipeline import Pipeline, follow_values
from ctseg.data.prepared_case import Prepared, load_array, open_prepared
from ctseg.data.steps import foreign_steps
from ctseg.data.steps.base import Box
from ctseg.data.steps.region import Nowhere, Region
from ctseg.data.targets import target_of
from ctseg.errors import BadInput, ConfigError, CtsegError, FileProblem, RunFailed
from ctseg.files import allow_open_files, disk_errors, write_text
from ctseg.machine import cores
from ctseg.specs import Case, ImageRef, Task
from ctseg.task import to_dict, undrawn
from ctseg.temporary import clear_abandoned, held
from ctseg.volume.formats.companion_files import files_of

__all__ = ["PLACES", "Prepared", "Store", "cache_folder", "fingerprint", "patch_centres"]

STORE_VERSION = 5
LARGE_BYTES = 16 * 2**30
"""A case whose prepared arrays would be larger is read lazily where its steps allow."""
Mode = Literal["auto", "store", "lazy"]
_ELSEWHERE = "CTSEG_CACHE=FOLDER in the environment"
_DAMAGED = (OSError, ValueError, KeyError, EOFError)
"""What opening a folder of the store raises where something in it is missing or damaged."""
_CROWDED = (errno.EMFILE, errno.ENFILE)
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def cache_folder() -> Path:
    """Where prepared data lie: `CTSEG_CACHE`, or the user's cache folder."""
    asked = os.environ.get("CTSEG_CACHE")
    return Path(asked or platformdirs.user_cache_dir("ctseg")).expanduser()


def default_workers() -> int:
    """Threads that prepare: as many as cores, but no more scans in memory than four."""
    return min(4, cores())


class Store:
    """The prepared cases of one pipeline and task.

    Args:
        folder: root; the cache folder by default.
        mode: `lazy` reads patches from the cases' files, `store` copies every case, `auto` copies those that are
            not too large or cannot be read lazily.
        regions: the only voxels of cases that count, by their ids: boxes of the scan as it is stored, None for none.
        channels: names of the channels that each scan has; without them they are not checked.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        task: Task,
        folder: Path | None = None,
        mode: Mode = "auto",
        *,
        regions: Mapping[str, Box | None] | None = None,
        channels: Sequence[str] = (),
    ) -> None:
        self.channels = channels
        self.pipeline, self.task, self.mode, self.regions = pipeline, task, mode, regions or {}
        self._made_of: dict[str, Any] = {
            "version": STORE_VERSION,
            "preprocess": pipeline.to_config().model_dump(mode="json"),
            "task": to_dict(task),
        }
        foreign = foreign_steps(pipeline.to_config())
        if foreign:  # another version of a plugin may compute something else
            self._made_of["plugins"] = {kind: plugin.owner for kind, plugin in foreign.items()}
        text = json.dumps(self._made_of, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = (folder or cache_folder() / "prepared") / key

    def prepare(
        self,
        cases: Sequence[Case],
        on_case: Callable[[str], None] | None = None,
        *,
        workers: int | None = None,
    ) -> list[Prepared]:
        """All cases, those made that are missing or whose files have changed.

        What is finished stays when one fails or Ctrl-C is pressed, and is not made again. Workers are threads:
        reading, resampling and writing run without the interpreter's lock, errors arrive as they are, and scans
        need not travel between processes.

        Args:
            on_case: called with the id of each finished case, in the calling thread.
            workers: cases prepared at a time; as many as cores by default, at most 4.

        Raises:
            CtsegError: a case that cannot be prepared, named, with its cause.
        """
        self._open_folder()
        allow_open_files(sum(len(case.images) + 3 for case in cases))  # label, weights, mask
        count = min(default_workers() if workers is None else max(workers, 1), len(cases))
        if count <= 1:
            made = []
            for case in cases:
                made.append(self.case(case))
                if on_case:
                    on_case(case.id)
            return made
        pool = ThreadPoolExecutor(count, "ctseg-prepare")
        try:
            futures = [pool.submit(self.case, case) for case in cases]
            left = set(futures)
            names = {future: case.id for future, case in zip(futures, cases, strict=True)}
            while left:
                done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()  # the first error ends it
                    if on_case:
                        on_case(names[future])
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def case(self, case: Case) -> Prepared:
        """One case, made where it is missing or out of date."""
        with about(case):
            return replace(self._case(case), undrawn=undrawn(self.task, self._drawn(case)))

    def _drawn(self, case: Case) -> list[str] | None:
        """The labels of the task that were drawn in a case, which may name others as well."""
        if case.drawn is None:
            return None
        return [label.name for label in self.task.foreground if label.name in case.drawn]

    def _pipeline(self, case: Case) -> Pipeline:
        """The steps of a case: its region comes first."""
        if case.id not in self.regions:
            return self.pipeline
        box = self.regions[case.id]
        return Pipeline((Nowhere() if box is None else Region(box), *self.pipeline.steps))

    def _case(self, case: Case) -> Prepared:
        name = re.sub(r"[^\w.-]", "_", case.id)[:80]  # an id may be a path
        key = f"{name}-{fingerprint(case)[:12]}"
        if case.id in self.regions:
            key += f"-{hashlib.sha256(str(self.regions[case.id]).encode()).hexdigest()[:12]}"
        folder = self.folder / key
        if self.mode != "lazy" and (folder / "case.json").is_file():
            with contextlib.suppress(*_DAMAGED):
                made = self._open(case, folder)  # else it is damaged, and made again
                if len(made.image) != len(self.channels):
                    self._check_channels(case)
                return made
        self._check_channels(case)
        if self._is_lazy(case):
            return self._lazily(case, self.folder / f"{key}-lazy")
        self._make(case, folder)
        return self._open(case, folder)

    def _check_channels(self, case: Case) -> None:
        if self.channels:
            check_channels([case], self.channels)

    def _open_folder(self) -> None:
        """Say what the store is made of, and remove what killed processes left half made."""
        with disk_errors(self.folder, option=_ELSEWHERE):
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, FileProblem):  # a store that is whole may be read-only
            write_text(self.folder / "made_of.json", json.dumps(self._made_of))
        clear_abandoned(self.folder.glob(".making-*"))

    def _open(self, case: Case, folder: Path) -> Prepared:
        meta = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        return open_prepared(case.id, folder, self._pipeline(case).restore(meta["applied"]))

    # ------------------------------------------------------------ lazily

    def _is_lazy(self, case: Case) -> bool:
        if self.mode == "store":
            return False
        reason = lazy_survey.reason_not_lazy(self._pipeline(case), case)
        if self.mode == "lazy":
            if reason:
                raise ConfigError(
                    f"Case {case.id} cannot be read patch by patch: {reason}.",
                    hint="Take that step out of [preprocess], convert the file, or copy the case into the store: "
                    "--set data.prepare=store",
                )
            return True
        if reason:
            return False
        size = lazy_survey.size_of(case, self.task)
        parent = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        return size > LARGE_BYTES or size > 0.8 * shutil.disk_usage(parent).free

    def _lazily(self, case: Case, folder: Path) -> Prepared:
        with contextlib.suppress(*_DAMAGED):
            return self._open_lazily(case, folder)
        task = stored_task(case, self.task)
        geometry, records, found = lazy_survey.survey(self.pipeline, task, case)
        applied = self.pipeline.applied_of(geometry, records)
        meta = {"case": case.id, "applied": applied.to_dict(), "lazy": True}
        with self._making(folder, lambda: self._open_lazily(case, folder)) as temporary:
            save_array(temporary / "places.npy", found)
            (temporary / "case.json").write_text(json.dumps(meta), encoding="utf-8")
        return self._open_lazily(case, folder)

    def _open_lazily(self, case: Case, folder: Path) -> Prepared:
        meta = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        applied = self.pipeline.restore(meta["applied"])
        task = stored_task(case, self.task)
        return lazy.open_lazily(task, case, applied, load_array(folder / "places.npy"))

    # ------------------------------------------------------------ copied

    def _make(self, case: Case, folder: Path) -> None:
        scan = load_image(case)
        label = load_label(case, self.task, scan)
        image, applied = self._pipeline(case).image(scan.czyx, scan.geometry)
        mask = load_extra(case, case.mask, scan)
        target = target_of(self.task, label.czyx, None if mask is None else mask > 0, applied)
        weight = load_extra(case, case.weight, scan)
        meta = {"case": case.id, "applied": applied.to_dict()}
        with self._making(folder, lambda: self._open(case, folder)) as temporary:
            save_array(temporary / "image.npy", image)
            save_array(temporary / "target.npy", target)
            save_array(temporary / "places.npy", patch_centres(self.task, target))
            if weight is not None:
                save_array(temporary / "weight.npy", follow_values(applied, weight))
            (temporary / "case.json").write_text(json.dumps(meta), encoding="utf-8")

    @contextlib.contextmanager
    def _making(self, folder: Path, opened: Callable[[], Prepared]) -> Iterator[Path]:
        """A folder that gets its name when all is in it, and is removed where something fails.

        Args:
            opened: opens what has the name. Where that works another process, training on another fold perhaps, was
                faster; its work stays, since it may be in use already.

        Raises:
            FileProblem: the disk is full.
        """
        with disk_errors(folder, option=_ELSEWHERE), full_disk(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = folder.parent / f".making-{secrets.token_hex(8)}"
            temporary.mkdir()  # unlike a `tempfile`, others who share the store may read it
            try:
                with held(temporary):
                    yield temporary
                    if not _works(opened):
                        shutil.rmtree(folder, ignore_errors=True)  # a broken one
                        try:
                            temporary.rename(folder)
                        except OSError:
                            if not _works(opened):
                                raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _works(opened: Callable[[], Prepared]) -> bool:
    with contextlib.suppress(*_DAMAGED):
        opened()
        return True
    return False


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Say that the disk of the store is full, and what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(next(p for p in folder.parents if p.exists())).free
        raise FileProblem(
            f"The disk is full: {folder} could not be written ({error.strerror}; "
            f"{free / 2**20:.0f} MiB free).",
            hint="Free some space (ctseg data prepare --clear removes what older runs prepared) or place the store "
            "elsewhere (CTSEG_CACHE=FOLDER), then start again: finished cases are kept.",
        ) from error


@contextlib.contextmanager
def about(case: Case, doing: str = "prepared") -> Iterator[None]:
    """Name the case in whatever goes wrong with it.

    Args:
        doing: what could not be done.
    """
    try:
        yield
    except CtsegError as error:
        if f"ase {case.id}" not in error.message:
            error.message = f"Case {case.id}: {error.message}"
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _CROWDED:
            raise FileProblem(
                f"Case {case.id} could not be {doing}: too many files are open at once.",
                hint="Allow more before you start ctseg: ulimit -n 65536",
            ) from error
        raise RunFailed(
            f"Case {case.id} could not be {doing}: {type(error).__name__}: {error}."
        ) from error


class _Stream:
    """A file of which NumPy knows `write` alone, so that errors of the disk keep their number."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        return int(self._file.write(data))


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as .npy, uncompressed and in the order of its axes, so that patches can be mapped."""
    with path.open("wb") as file:
        np.lib.format.write_array(_Stream(file), np.ascontiguousarray(array), allow_pickle=False)


def fingerprint(case: Case) -> str:
    """A key of the files that a case consists of: paths, options, sizes and times of change."""
    refs = [*case.images, case.label, case.weight, case.mask]
    parts: list[Any] = [None if ref is None else _stamp(ref) for ref in refs]
    if case.task is not None:
        parts.append({"by name": to_dict(case.task)})  # earlier versions went by position
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _stamp(ref: ImageRef) -> list[Any]:
    with disk_errors(ref.path):
        path = ref.path.resolve()
        if not path.exists():
            raise BadInput(f"{ref.path} does not exist.", hint="Was it moved or deleted?")
        files = [file.resolve() for file in files_of(ref.path)]
        if path.is_dir():  # a folder of slices, or a Zarr store
            files = sorted(p for p in path.rglob("*") if p.is_file())
        stamps = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    digest = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    onto = [] if ref.onto is None else [str(ref.onto.path.absolute())]
    return [str(path), dict(ref.options), ref.slices, digest, *onto]
