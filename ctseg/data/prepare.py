"""The prepared store: every case preprocessed once, kept so that random patches are read at memory speed.

One folder a case: `image.npy` (float32, C Z Y X), `target.npy` (as `ctseg.task.encode`), `places.npy` (voxels of each
label, for sampling) and `case.json` (what made it, and the way through the steps). The folder appears only when
whole; a changed plan, task or input file makes it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from ctseg.data.load import load_extra, load_image, load_label
from ctseg.data.pipeline import Pipeline, Trail, follow_label, follow_values
from ctseg.errors import CtsegError, RunFailed
from ctseg.files import disk_errors
from ctseg.specs import Case, ImageRef, Task
from ctseg.task import encode, to_dict

STORE_VERSION = 1
PLACES = 4096
"""At most this many voxels of each label are kept to centre patches on; drawn with a fixed seed."""


@dataclass(frozen=True)
class Prepared:
    """One case of the store; the arrays are memory maps.

    Attributes:
        image: float32 [C, Z, Y, X].
        target: class indices [1, Z, Y, X], or one map a channel [C, Z, Y, X]; -1 (NaN) where ignored.
        places: int32 [N, 4] of (foreground index, z, y, x).
        weight: float32 [1, Z, Y, X] where the case has a weight map, else None.
        trail: how it came from the source grid.
    """

    id: str
    image: NDArray[np.float32]
    target: NDArray[Any]
    places: NDArray[np.int32]
    trail: Trail
    weight: NDArray[np.float32] | None = None


def cache_folder() -> Path:
    """Where prepared data lie: `CTSEG_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("CTSEG_CACHE") or platformdirs.user_cache_dir("ctseg"))


class Store:
    """The prepared cases of one pipeline and task.

    Args:
        folder: root; the cache folder by default.
    """

    def __init__(self, pipeline: Pipeline, task: Task, folder: Path | None = None) -> None:
        self.pipeline, self.task = pipeline, task
        made_of = [STORE_VERSION, pipeline.to_config().model_dump(mode="json"), to_dict(task)]
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = (folder or cache_folder() / "prepared") / key

    def prepare(
        self, cases: Sequence[Case], on_case: Callable[[str], None] | None = None
    ) -> list[Prepared]:
        """All cases, those made that are missing or whose files have changed.

        Raises:
            CtsegError: a case that cannot be prepared, named, with its cause.
        """
        out = []
        for case in cases:
            out.append(self.case(case))
            if on_case:
                on_case(case.id)
        return out

    def case(self, case: Case) -> Prepared:
        """One case, made where it is missing or out of date."""
        made_of = fingerprint(case)
        folder = self.folder / f"{case.id}-{made_of[:12]}"
        if not (folder / "case.json").is_file():
            try:
                self._make(case, folder)
            except CtsegError:
                raise
            except Exception as error:
                raise RunFailed(
                    f"Case {case.id} could not be prepared: {type(error).__name__}: {error}."
                ) from error
        return self._open(case.id, folder)

    def _open(self, name: str, folder: Path) -> Prepared:
        meta = json.loads((folder / "case.json").read_text(encoding="utf-8"))

        def array(part: str) -> NDArray[Any]:
            loaded: NDArray[Any] = np.load(folder / f"{part}.npy", mmap_mode="r")
            return loaded

        trail = self.pipeline.trail(meta["trail"])
        weight = array("weight") if (folder / "weight.npy").is_file() else None
        return Prepared(name, array("image"), array("target"), array("places"), trail, weight)

    def _make(self, case: Case, folder: Path) -> None:
        scan = load_image(case)
        label = load_label(case, self.task, scan)
        image, trail = self.pipeline.image(scan.czyx, scan.geometry)
        if self.task.kind == "regression":
            raise RunFailed("Float targets cannot be prepared: no step resamples them.")
        moved = follow_label(trail, label.czyx)
        stacked = self.task.kind == "channels"
        target = encode(self.task, moved[0] if stacked and not self.task.stacked else moved)
        mask = load_extra(case, case.mask, scan)
        if mask is not None:
            valid = follow_label(trail, (mask > 0).astype(np.uint8)) > 0
            target = np.where(valid, target, -1).astype(target.dtype)
        weight = load_extra(case, case.weight, scan)
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
            try:
                np.save(temporary / "image.npy", image)
                np.save(temporary / "target.npy", target)
                np.save(temporary / "places.npy", places(self.task, target))
                if weight is not None:
                    np.save(temporary / "weight.npy", follow_values(trail, weight))
                meta = {"case": case.id, "trail": trail.to_dict()}
                (temporary / "case.json").write_text(json.dumps(meta), encoding="utf-8")
                if folder.exists():  # another process made it meanwhile, or a broken one was left
                    shutil.rmtree(folder)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def places(task: Task, target_czyx: NDArray[Any]) -> NDArray[np.int32]:
    """Voxels to centre patches on: up to `PLACES` of each foreground label, int32 [N, 4] of (index, z, y, x)."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(len(task.foreground)):
        inside = target_czyx[0] == index + 1 if task.kind == "classes" else target_czyx[index] == 1
        voxels = np.flatnonzero(inside)
        if voxels.size > PLACES:
            voxels = rng.choice(voxels, PLACES, replace=False)
        zyx = np.stack(np.unravel_index(np.sort(voxels), inside.shape), 1)
        found.append(np.concatenate([np.full((len(zyx), 1), index), zyx], 1))
    return np.concatenate(found).astype(np.int32)


def fingerprint(case: Case) -> str:
    """A key of the files that a case consists of: paths, options, sizes and times of change."""
    refs = [*case.images, case.label, case.weight, case.mask]
    parts = [_stamp(ref) for ref in refs if ref is not None]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _stamp(ref: ImageRef) -> list[Any]:
    with disk_errors(ref.path):
        stat = ref.path.stat() if ref.path.exists() else None
    stamp = [stat.st_size, stat.st_mtime_ns] if stat else []
    return [str(ref.path.resolve()), dict(ref.options), ref.slices, *stamp]
