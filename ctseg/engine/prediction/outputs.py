"""`Outputs`: turns a request for one scan into result specs, and summarises the results for the record.

The label map is the first result. Masks of exclusive labels are derived from it as it is written, so that they agree
with it after post-processing. Masks of `channels`, which may overlap, come from the network: if rules change the map,
the masks follow it. For independent channels (`stacked`) the masks are the first result: rules and volumes are theirs,
and the map is derived from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.config.postprocess import EVERY_LABEL, PostprocessRule
from ctseg.engine.inference.decoders import (
    Confidence,
    Decoder,
    LabelMap,
    Masks,
    Probabilities,
    Uncertainty,
    Values,
)
from ctseg.engine.inference.label_merge import no_probabilities
from ctseg.engine.postprocess import check_rules, postprocess
from ctseg.engine.postprocess.rules import written_values
from ctseg.engine.prediction.companions import (
    Companion,
    MaskCounts,
    StatisticsFiles,
    VoxelCounts,
)
from ctseg.engine.prediction.label_maps import (
    decode_masks,
    follow,
    keep_values,
    objects_by_label,
    postprocess_masks,
    table_of,
    write_numbers,
)
from ctseg.engine.prediction.output_paths import as_suffix, output_paths_of, requested_labels
from ctseg.engine.prediction.preview import PreviewPicture
from ctseg.engine.prediction.request import Request
from ctseg.engine.prediction.result_files import (
    Derive,
    DerivedFile,
    OutputTransaction,
    ResultSpec,
    slabs_of,
)
from ctseg.engine.prediction.uncertainty import UncertaintySums
from ctseg.engine.prediction.writer_options import dataset_option
from ctseg.errors import BadInput
from ctseg.specs import Label, Task
from ctseg.task import label_dtype, select
from ctseg.volume.file_names import stem_of
from ctseg.volume.geometry import Geometry
from ctseg.volume.scratch import scratch

if TYPE_CHECKING:
    from ctseg.engine.inference.model import Model

FURTHER = (
    "probabilities", "confidence", "uncertainty", "masks", "instances", "statistics", "preview"
)  # fmt: skip
"""Results that a regression does not have, by the names of their options."""


def check_request(model: Model, request: Request) -> None:
    """Reject a request that the model cannot fulfil, before any work is done.

    Raises:
        UnknownName: the request or a rule names a label that the task does not have.
        BadInput: an empty list of labels, a result that a regression or a merged model does not have, or a format
            without a writer.
    """
    task = model.task
    requested_labels(task, request.labels)
    check_rules(task, _rules(model, request))
    if request.labels is not None and not request.labels:
        raise BadInput(
            "No label is named, so there is nothing to write.",
            hint=f"The labels are: {', '.join(label.name for label in task.foreground)}",
        )
    if request.probabilities:
        as_suffix(request.probabilities_suffix)
    for suffix in request.also:
        as_suffix(suffix)
    if model.card.parts and (request.probabilities or request.confidence or request.uncertainty):
        raise no_probabilities()
    if task.kind == "regression":
        if request.also:
            raise BadInput(
                "The values of a regression are written in one format.",
                hint=f"Leave out {', '.join(request.also)}, or convert the values: ctseg data convert",
            )
        for what in FURTHER:
            if getattr(request, what):
                raise BadInput(
                    f"A regression has no {what}: it predicts values.",
                    hint=f"Leave out --{what}.",
                )


class Outputs:
    """The results of one scan. An object serves one prediction; another attempt needs a new one.

    Args:
        target: path of the label map: the request's output itself, or a file in that folder.

    Attributes:
        paths: paths of all files; `--skip-existing` skips a scan if `paths.there`.
        results: result specs for `ctseg.engine.prediction.scan_job`.

    Raises:
        BadInput, UnknownName: as in `check_request`.
    """

    def __init__(self, model: Model, request: Request, target: Path) -> None:
        check_request(model, request)
        self._model, self._request, self._task = model, request, model.task
        self._independent = self._task.kind == "channels" and self._task.stacked
        self.paths = output_paths_of(self._task, request, target)
        self._labels = requested_labels(self._task, request.labels)
        self._counts, self._mask_counts = VoxelCounts(), MaskCounts(self._labels)
        self._uncertainty = UncertaintySums()
        self._map: NDArray[Any] | None = None
        self._cleaned: dict[str, dict[str, float]] = {}
        self._objects: dict[str, dict[str, float | None]] = {}
        self._folder: Path | None = target.parent
        self._rules = self._applicable(_rules(model, request))
        if self._task.kind == "regression":
            self.results: tuple[ResultSpec, ...] = (self._values(),)
        elif self._independent:
            self.results = (self._from_masks(), *self._additional())
        else:
            self.results = (*self._from_map(), *self._additional())

    def in_memory(
        self, run: Callable[[Decoder], NDArray[Any]], geometry: Geometry, *, apart: bool = False
    ) -> NDArray[Any]:
        """The main result as an array instead of a file.

        Args:
            run: predicts the whole result of a decoder on the scan's grid.
            apart: give the masks of independent channels [K, Z, Y, X] instead of their map.
        """
        self._folder = None
        whole = run(self.results[0].decoder)
        if self._independent:
            self._postprocess_masks(whole, geometry, None)
            return whole if apart else decode_masks(whole, self._labels, label_dtype(self._task))
        if self._rules:
            self._postprocess_map(whole, geometry, None)
        return whole

    def record(self) -> dict[str, Any]:
        """The files, volumes and changes of post-processing as plain data, for `predictions.json`."""
        ml = self._counts.voxel_ml
        record: dict[str, Any] = {"output": str(self.paths.main)}
        if names := self.paths.names():
            record["beside"] = names
        labels = () if self._task.kind == "regression" else self._labels
        record["volumes_ml"] = {
            label.name: None if ml is None else self._voxels(label) * ml for label in labels
        }
        if self._request.uncertainty:
            record["uncertainty"] = self._uncertainty.record(self._counts.foreground)
        if self._rules:
            record["postprocess"] = self._cleaned
        if self._request.instances:
            record["instances"] = self._objects
        return record

    def _voxels(self, label: Label) -> int:
        if self._independent:
            return self._mask_counts.voxels[label]
        return sum(map(self._counts.of, written_values(self._labels, label)))

    def _applicable(self, rules: Sequence[PostprocessRule]) -> tuple[PostprocessRule, ...]:
        """The rules that concern the requested labels.

        Exclusive labels are all post-processed and selected afterwards; of `channels` only the requested ones are
        predicted.
        """
        if self._task.kind == "classes" or self._request.labels is None:
            return tuple(rules)
        names = {label.name for label in self._labels}
        applicable = []
        for rule in rules:
            own = tuple(name for name in rule.names if name in names)
            if rule.names == (EVERY_LABEL,):
                applicable.append(rule)
            elif own:
                label = own[0] if len(own) == 1 else own
                applicable.append(rule.model_copy(update={"label": label}))
        return tuple(applicable)

    def _values(self) -> ResultSpec:
        names = self._request.labels
        decoder = Values(
            self._task, self._model.scale, dtype=self._request.dtype,
            selected=None if names is None else self._labels,
        )  # fmt: skip
        return ResultSpec(
            self.paths.main, decoder, options=dataset_option(self.paths.main, "values")
        )

    def _from_map(self) -> list[ResultSpec]:
        """The label map, and the masks that are derived from it or follow it."""
        exclusive = self._task.kind == "classes"
        names, paths = self._request.labels, self.paths
        select_later = (
            exclusive and self._rules
        )  # rules may refer to labels that were not requested
        decoder = LabelMap(self._task, None if names is None or select_later else self._labels)
        change = self._postprocess_map if self._rules or self._request.instances else None
        masks = self._mask_files(lambda label: partial(_equal, value=label.value))
        specs = [
            ResultSpec(
                paths.main, decoder, self._labels, postprocess=change, companions=self._companions(),
                options=dataset_option(paths.main, "map"),
                derived=(*(masks if exclusive else ()), *self._copies(_unchanged)),
            )
        ]  # fmt: skip
        if not exclusive and paths.masks:
            follow_map = self._follow_map if self._rules else None
            masks_of_regions = Masks(self._task, self._labels)
            derived = self._channel_files()
            specs.append(
                ResultSpec(None, masks_of_regions, postprocess=follow_map, derived=derived)
            )
        return specs

    def _from_masks(self) -> ResultSpec:
        """Masks of independent channels, and the label map that is derived from them."""
        dtype = label_dtype(self._task)
        derive = partial(decode_masks, labels=self._labels, dtype=dtype)
        main = DerivedFile(
            self.paths.main, derive, dtype, self._labels, self._companions(),
            dataset_option(self.paths.main, "map"),
        )  # fmt: skip
        change = self._postprocess_masks if self._rules or self._request.instances else None
        return ResultSpec(
            None, Masks(self._task, self._labels), postprocess=change,
            companions=(self._mask_counts, *self._statistics(masks=True)),
            derived=(main, *self._copies(derive), *self._channel_files()),
        )  # fmt: skip

    def _copies(self, derive: Derive) -> tuple[DerivedFile, ...]:
        """The label map in further formats."""
        dtype = label_dtype(self._task)
        return tuple(
            DerivedFile(path, derive, dtype, self._labels, options=dataset_option(path, "map"))
            for path in self.paths.also.values()
        )

    def _companions(self) -> tuple[Companion, ...]:
        """What is gathered from the label map while it is written."""
        paths = self.paths
        preview: tuple[Companion, ...] = ()
        if paths.preview is not None:
            preview = (PreviewPicture(paths.preview, paths.main.name, self._labels),)
        return (self._counts, *self._statistics(masks=False), *preview)

    def _statistics(self, *, masks: bool) -> tuple[Companion, ...]:
        """Statistics of labels: of independent ones, which may overlap, from their masks, else from the map."""
        paths = self.paths
        if paths.statistics is None or paths.statistics_table is None:
            return ()
        if masks != self._independent:
            return ()
        labels = {label: written_values(self._labels, label) for label in self._labels}
        case = stem_of(paths.main)
        return (
            StatisticsFiles(paths.statistics, paths.statistics_table, case, labels, masks=masks),
        )

    def _additional(self) -> list[ResultSpec]:
        """Probabilities, confidence and uncertainty, if requested."""
        task, request, paths = self._task, self._request, self.paths
        temperature = self._model.card.temperature
        specs = []
        if paths.probabilities is not None:
            selected = None if request.labels is None else self._labels
            probabilities = Probabilities(
                task, temperature=temperature, dtype=request.dtype, selected=selected
            )
            options = dataset_option(paths.probabilities, "probabilities")
            labels = selected or task.labels
            specs.append(ResultSpec(paths.probabilities, probabilities, labels, options=options))
        if paths.confidence is not None:
            confidence = Confidence(task, temperature=temperature, dtype=request.dtype)
            options = dataset_option(paths.confidence, "confidence")
            specs.append(ResultSpec(paths.confidence, confidence, options=options))
        if paths.uncertainty is not None:
            uncertainty = Uncertainty(task, temperature=temperature, dtype=request.dtype)
            options = dataset_option(paths.uncertainty, "uncertainty")
            sums = (self._uncertainty,)
            specs.append(
                ResultSpec(paths.uncertainty, uncertainty, options=options, companions=sums)
            )
        return specs

    def _mask_files(self, derive_for: Callable[[Label], Derive]) -> tuple[DerivedFile, ...]:
        """One derived mask file for each label, if masks are requested."""
        return tuple(
            DerivedFile(
                self.paths.masks[label.name], derive_for(label),
                labels=(Label(label.name, (1,), 1, label.colour),),
                options=dataset_option(self.paths.masks[label.name], "map"),
            )
            for label in (self._labels if self.paths.masks else ())
        )  # fmt: skip

    def _channel_files(self) -> tuple[DerivedFile, ...]:
        return self._mask_files(lambda label: partial(_channel, index=self._labels.index(label)))

    def _postprocess_map(
        self, map_zyx: NDArray[Any], geometry: Geometry, files: OutputTransaction | None
    ) -> None:
        if self._rules:
            exclusive = self._task.kind == "classes"
            task = self._task if exclusive else dataclasses.replace(self._task, labels=self._labels)
            self._cleaned = postprocess(map_zyx, task, self._rules, geometry=geometry)
            if exclusive and self._request.labels is not None:
                keep_values(map_zyx, [label.value for label in self._labels])
            # only kept for masks that follow it: it is as large as the scan, and this object outlives the scan
            self._map = map_zyx if self.paths.masks and not exclusive else None
        self._number(map_zyx, files)

    def _follow_map(self, masks_kzyx: NDArray[Any], _: Geometry, __: OutputTransaction) -> None:
        assert self._map is not None  # the map is the first result, and post-processed first
        inside: dict[int, list[bool]] = {}
        for index, label in enumerate(self._labels):
            inside[label.value] = [
                k <= index and label.value in written_values(self._labels, other)
                for k, other in enumerate(self._labels)
            ]
        follow(masks_kzyx, self._map, self._labels, inside)
        self._map = None

    def _postprocess_masks(
        self, masks_kzyx: NDArray[Any], geometry: Geometry, files: OutputTransaction | None
    ) -> None:
        self._cleaned = postprocess_masks(
            masks_kzyx, self._labels, self._rules, geometry=geometry, folder=self._folder
        )
        if self._request.instances:
            dtype = label_dtype(self._task)
            map_zyx = scratch(masks_kzyx.shape[1:], dtype, self._folder)
            for start, stop in slabs_of(masks_kzyx):
                map_zyx[start:stop] = decode_masks(masks_kzyx[:, start:stop], self._labels, dtype)
            self._number(map_zyx, files)

    def _number(self, map_zyx: NDArray[Any], files: OutputTransaction | None) -> None:
        paths, voxel_ml = self.paths, self._counts.voxel_ml
        if files is not None and paths.instances is not None and paths.table is not None:
            options = dataset_option(paths.instances, "instances")
            objects = write_numbers(map_zyx, files, paths.instances, options)
            files.text(paths.table, table_of(objects, self._labels, voxel_ml))
            self._objects = objects_by_label(objects, self._labels, voxel_ml)


def written_labels(task: Task, labels: Iterable[str] | None = None) -> tuple[Label, ...]:
    """The labels that a prediction may contain, for formats that store their names; a regression has none."""
    if task.kind == "regression":
        if labels is not None:
            select(task, labels)  # raises for an unknown name
        return ()
    return task.foreground if labels is None else select(task, labels)


def _rules(model: Model, request: Request) -> tuple[PostprocessRule, ...]:
    return model.card.predict.postprocess if request.rules is None else request.rules


def _unchanged(slab: NDArray[Any]) -> NDArray[Any]:
    return slab


def _equal(slab: NDArray[Any], value: int) -> NDArray[np.uint8]:
    mask: NDArray[np.uint8] = (slab == value).view(np.uint8)
    return mask


def _channel(slab: NDArray[Any], index: int) -> NDArray[Any]:
    return np.ascontiguousarray(slab[index])
