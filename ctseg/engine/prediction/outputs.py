"""From what is wanted of a scan to the files that one run of the network fills, and what there is to say of them.

The label map is the first result. Masks of exclusive labels are cut from it as it is written, so that they agree with
it after post-processing too. Those of `channels`, which may overlap, come from the network: where rules change the map
they follow it; where every channel stands for itself (`stacked`), rules look at each mask, and the map is made of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.card import Card
from ctseg.config.postprocess import EVERY_LABEL, PostprocessRule
from ctseg.engine.inference.decoders import (
    Confidence,
    Decoder,
    LabelMap,
    Masks,
    Probabilities,
    Values,
)
from ctseg.engine.postprocess import check_rules, postprocess
from ctseg.engine.postprocess.rules import written_values
from ctseg.engine.prediction.label_maps import (
    decode_masks,
    follow,
    keep_values,
    number_objects,
    postprocess_masks,
)
from ctseg.engine.prediction.output_paths import as_suffix, output_paths_of, requested_labels
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.result_files import (
    DerivedFile,
    OutputTransaction,
    ResultSpec,
    slabs_of,
)
from ctseg.errors import BadInput
from ctseg.specs import Label, Task, frozen
from ctseg.task import label_dtype, select
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import writer_format
from ctseg.volume.scratch import scratch

if TYPE_CHECKING:
    from ctseg.engine.inference.model import Model

DATASETS = {
    "map": "/label", "values": "/raw", "probabilities": "/probabilities", "confidence": "/confidence",
    "instances": "/instances",
}  # fmt: skip
COUNTED = 2**20
"""Voxels that are counted at a time."""


def check_request(model: Model, request: Request) -> None:
    """Refuse what the model cannot give, before anything is done.

    Raises:
        UnknownName: a label that the task does not have, of the request or of a rule.
        BadInput: not a single label; what a regression has not; a format that cannot be written.
    """
    task = model.task
    requested_labels(task, request.labels)
    check_rules(task, _rules(model, request))
    if request.labels is not None and not request.labels:
        raise BadInput(
            "No label is named that could be written.",
            hint=f"The labels are: {', '.join(label.name for label in task.foreground)}",
        )
    if request.probabilities:
        as_suffix(request.probabilities_suffix)
    if task.kind == "regression":
        for what in ("probabilities", "confidence", "masks", "instances"):
            if getattr(request, what):
                raise BadInput(
                    f"A regression has no {what}: its values are what it predicts.",
                    hint=f"Leave out --{what}.",
                )


class Outputs:
    """The results of one scan. They are good for one prediction; another try needs new ones.

    Args:
        target: the scan's label map: the request's output itself, or a file in that folder.

    Attributes:
        places: all files; with `--skip-existing` a scan is left alone where `places.there`.
        wanted: for `ctseg.engine.prediction.scan_job`.

    Raises:
        BadInput, UnknownName: as `check_request`.
    """

    def __init__(self, model: Model, request: Request, target: Path) -> None:
        check_request(model, request)
        self._model, self._request, self._task = model, request, model.task
        self.places = output_paths_of(self._task, request, target)
        self._kept = requested_labels(self._task, request.labels)
        self._counts = VoxelCounts()
        self._map: NDArray[Any] | None = None
        self._cleaned: dict[str, dict[str, float]] = {}
        self._objects: dict[str, dict[str, float]] = {}
        self._folder: Path | None = target.parent
        self._rules = self._fitting(_rules(model, request))
        if self._task.kind == "regression":
            self.wanted: tuple[ResultSpec, ...] = (self._values(),)
        elif self._task.stacked and self._rules:
            self.wanted = (self._from_masks(), *self._beside())
        else:
            self.wanted = (*self._from_map(), *self._beside())

    def in_memory(self, run: Callable[[Decoder], NDArray[Any]], geometry: Geometry) -> NDArray[Any]:
        """The main result as an array rather than a file.

        Args:
            run: makes the whole of a product on the scan's grid.
        """
        self._folder = None
        first = self.wanted[0]
        whole = run(first.product)
        if self._rules and self._task.stacked:
            self._change_masks(whole, geometry, None)
            return decode_masks(whole, self._kept, label_dtype(self._task))
        if self._rules:
            self._change_map(whole, geometry, None)
        return whole

    def record(self, geometry: Geometry) -> dict[str, Any]:
        """What was written and found, as plain data: for `predictions.json`, when all is done."""
        ml = geometry.voxel_volume_mm3 / 1000
        found: dict[str, Any] = {"output": str(self.places.main)}
        if names := self.places.names():
            found["beside"] = names
        labels = () if self._task.kind == "regression" else self._kept
        found["volumes_ml"] = {
            label.name: sum(map(self._counts.of, written_values(self._kept, label))) * ml
            for label in labels
        }
        if self._rules:
            found["postprocess"] = self._cleaned
        if self._request.instances:
            found["instances"] = self._objects
        return found

    def _fitting(self, rules: Sequence[PostprocessRule]) -> tuple[PostprocessRule, ...]:
        """The rules as far as they are about what is asked for.

        Exclusive labels are all cleaned up and chosen afterwards. Of `channels` only those asked for are there.
        """
        if self._task.kind == "classes" or self._request.labels is None:
            return tuple(rules)
        names = {label.name for label in self._kept}
        fitting = []
        for rule in rules:
            own = tuple(name for name in rule.names if name in names)
            if rule.names == (EVERY_LABEL,):
                fitting.append(rule)
            elif own:
                label = own[0] if len(own) == 1 else own
                fitting.append(rule.model_copy(update={"label": label}))
        return tuple(fitting)

    def _values(self) -> ResultSpec:
        names = self._request.labels
        product = Values(
            self._task, self._model.scale, dtype=self._request.dtype,
            kept=None if names is None else self._kept,
        )  # fmt: skip
        return ResultSpec(self.places.main, product, options=_options(self.places.main, "values"))

    def _from_map(self) -> list[ResultSpec]:
        """The label map, and what is cut from it or follows it."""
        exclusive = self._task.kind == "classes"
        names, places = self._request.labels, self.places
        late = exclusive and self._rules  # rules may need labels that nobody asked for
        product = LabelMap(self._task, None if names is None or late else self._kept)
        change = self._change_map if self._rules or self._request.instances else None
        found = [
            ResultSpec(
                places.main, product, self._kept, finish=change, on_slab=self._counts.add,
                options=_options(places.main, "map"),
                made=self._masks_of(lambda label: partial(_equal, value=label.value)) if exclusive else (),
            )
        ]  # fmt: skip
        if places.masks and not exclusive:
            follows = self._follow_map if self._rules else None
            found.append(
                ResultSpec(None, Masks(self._task, self._kept), finish=follows, made=self._slices())
            )
        return found

    def _from_masks(self) -> ResultSpec:
        """Masks that stand for themselves, and the label map that is made of them."""
        dtype = label_dtype(self._task)
        main = DerivedFile(
            self.places.main, partial(decode_masks, labels=self._kept, dtype=dtype), dtype, self._kept,
            self._counts.add, _options(self.places.main, "map"),
        )  # fmt: skip
        product = Masks(self._task, self._kept)
        return ResultSpec(None, product, finish=self._change_masks, made=(main, *self._slices()))

    def _beside(self) -> list[ResultSpec]:
        task, request, places = self._task, self._request, self.places
        temperature = self._model.card.temperature
        found = []
        if places.probabilities is not None:
            some = None if request.labels is None else self._kept
            shares = Probabilities(task, temperature=temperature, dtype=request.dtype, kept=some)
            options = _options(places.probabilities, "probabilities")
            labels = some or task.labels
            found.append(ResultSpec(places.probabilities, shares, labels, options=options))
        if places.confidence is not None:
            sure = Confidence(task, temperature=temperature, dtype=request.dtype)
            options = _options(places.confidence, "confidence")
            found.append(ResultSpec(places.confidence, sure, options=options))
        return found

    def _masks_of(self, make: Any) -> tuple[DerivedFile, ...]:
        return tuple(
            DerivedFile(
                self.places.masks[label.name], make(label),
                labels=(Label(label.name, (1,), 1, label.colour),),
                options=_options(self.places.masks[label.name], "map"),
            )
            for label in (self._kept if self.places.masks else ())
        )  # fmt: skip

    def _slices(self) -> tuple[DerivedFile, ...]:
        return self._masks_of(lambda label: partial(_channel, index=self._kept.index(label)))

    def _change_map(
        self, map_zyx: NDArray[Any], geometry: Geometry, files: OutputTransaction | None
    ) -> None:
        if self._rules:
            exclusive = self._task.kind == "classes"
            task = self._task if exclusive else dataclasses.replace(self._task, labels=self._kept)
            self._cleaned = postprocess(map_zyx, task, self._rules, geometry=geometry)
            if exclusive and self._request.labels is not None:
                keep_values(map_zyx, [label.value for label in self._kept])
            # only for masks that follow it: it is as large as the scan, and this outlives the scan
            self._map = map_zyx if self.places.masks and not exclusive else None
        self._number(map_zyx, geometry, files)

    def _follow_map(self, masks_kzyx: NDArray[Any], _: Geometry, __: OutputTransaction) -> None:
        assert self._map is not None  # the map is the first result, and changed first
        inside: dict[int, list[bool]] = {}
        for index, label in enumerate(self._kept):
            inside[label.value] = [
                k <= index and label.value in written_values(self._kept, other)
                for k, other in enumerate(self._kept)
            ]
        follow(masks_kzyx, self._map, self._kept, inside)
        self._map = None

    def _change_masks(
        self, masks_kzyx: NDArray[Any], geometry: Geometry, files: OutputTransaction | None
    ) -> None:
        self._cleaned = postprocess_masks(
            masks_kzyx, self._kept, self._rules, geometry=geometry, folder=self._folder
        )
        if self._request.instances:
            dtype = label_dtype(self._task)
            map_zyx = scratch(masks_kzyx.shape[1:], dtype, self._folder)
            for start, stop in slabs_of(masks_kzyx):
                map_zyx[start:stop] = decode_masks(masks_kzyx[:, start:stop], self._kept, dtype)
            self._number(map_zyx, geometry, files)

    def _number(
        self, map_zyx: NDArray[Any], geometry: Geometry, files: OutputTransaction | None
    ) -> None:
        places = self.places
        if files is not None and places.instances is not None and places.table is not None:
            self._objects = number_objects(
                map_zyx, self._kept, geometry, files, path=places.instances, table=places.table,
                options=_options(places.instances, "instances"),
            )  # fmt: skip


def writer_options(card: Card, path: Path) -> dict[str, str]:
    """What the writer of a file is told about the model, where its format has a place for it."""
    told = {"algorithm": card.name or card.architecture}
    known = writer_format(path).writer_options
    return {name: value for name, value in told.items() if name in known}


def written_labels(task: Task, labels: Iterable[str] | None = None) -> tuple[Label, ...]:
    """The labels that a prediction may hold, for the formats that store their names; a regression has none."""
    if task.kind == "regression":
        if labels is not None:
            select(task, labels)  # an unknown name is refused all the same
        return ()
    return task.foreground if labels is None else select(task, labels)


class VoxelCounts:
    """How many voxels have each value, of a label map that comes slab by slab."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, slab: NDArray[Any]) -> None:
        flat = slab.reshape(-1)
        for start in range(0, flat.size, COUNTED):  # NumPy counts a copy of 8 bytes a voxel
            values, counts = _counts(flat[start : start + COUNTED])
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self._counts[value] = self._counts.get(value, 0) + count

    def of(self, value: int) -> int:
        return self._counts.get(value, 0)


def _counts(voxels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if voxels.dtype.itemsize > 2:
        return np.unique(voxels, return_counts=True)
    found = np.bincount(voxels)
    values = np.flatnonzero(found)
    return values, found[values]


def _rules(model: Model, request: Request) -> tuple[PostprocessRule, ...]:
    return model.card.predict.postprocess if request.rules is None else request.rules


def _options(path: Path, kind: str) -> Mapping[str, Any]:
    """Where in the file a result goes, of formats that hold several."""
    known = writer_format(path).writer_options
    return frozen({"dataset": DATASETS[kind]} if "dataset" in known else {})


def _equal(slab: NDArray[Any], value: int) -> NDArray[np.uint8]:
    mask: NDArray[np.uint8] = (slab == value).view(np.uint8)
    return mask


def _channel(slab: NDArray[Any], index: int) -> NDArray[Any]:
    return np.ascontiguousarray(slab[index])
