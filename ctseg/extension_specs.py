"""Specs of metrics, preprocessing steps, augmentations, trackers and commands: what their hooks return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ctseg.spec_tools import check_name, check_spec

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class MetricSpec:
    """A metric of `ctseg evaluate`.

    Attributes:
        name: name in options and JSON.
        title: column header; one that ends in mm or ml is shown in a suitable unit.
        group: word by which `--metrics` chooses several metrics at once. `regression`: the metric is for the values of
            a regression. `overlap`: it needs only `LabelPair.counts`, so that no masks are cut out.
        better: whether higher or lower is better; None where 0 is best and the sign gives the direction of the error.
        worst: score of a structure that only one of the two maps has, `diagonal` for the length of the scan's diagonal;
            None if it is measured as usual.
        measure: `measure(pair) -> float | None` from a `ctseg.metrics.pairs.LabelPair`, or a `ValuePair` for the group
            `regression`. None and numbers that are not finite mean no score, which the mean leaves out.
        summary: description in one line.
    """

    name: str
    title: str
    group: str
    better: Literal["higher", "lower"] | None
    worst: float | Literal["diagonal"] | None
    measure: Callable[[Any], float | None]
    summary: str

    def __post_init__(self) -> None:
        check_name(self.name)
        check_name(self.group)


@dataclass(frozen=True)
class StepSpec:
    """A preprocessing step.

    Attributes:
        name: the step's `kind` in run files and cards.
        load: returns the step's class, a frozen dataclass that implements `ctseg.data.steps.Step`; it imports NumPy
            only when it is called.
        summary: one line for the listing.
        reference: paper or source.
    """

    name: str
    load: Callable[[], type[Any]]
    summary: str
    reference: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)


class Augment(Protocol):
    """Changes one sample: returns image and target of the same shapes and types, changed in place or new."""

    def __call__(
        self,
        image: torch.Tensor,
        target: torch.Tensor,
        *,
        rng: np.random.Generator,
        spacing_zyx: tuple[float, float, float],
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclass(frozen=True)
class AugmentationSpec:
    """A random transform of patches, which runs after the built-in ones: `[augment.extra.NAME]` in the run file.

    ctseg draws whether it happens (`probability`); `rng` belongs to the seed, the step, the sample and the name, so
    that resumed runs draw the same numbers.

    Attributes:
        name: e.g. `rings`.
        build: `build(config) -> augment(image, target, *, rng, spacing_zyx) -> (image, target)`. The image is float
            [C, Z, Y, X] after preprocessing; the target [T, Z, Y, X] holds integers, -1 where ignored, or floats of a
            regression, NaN where ignored. Both lie on the device of the training.
        config: a dataclass whose fields are the options; each field needs a default.
        summary: one line for the listing.
        reference: paper or source.
    """

    name: str
    build: Callable[[Any], Augment]
    config: type
    summary: str
    reference: str = ""

    def __post_init__(self) -> None:
        check_spec(self.name, self.config)


class Tracker(Protocol):
    """Where the numbers of a run go besides its folder.

    Attributes:
        run_id: what `TrackerSpec.open` is given when the run is resumed.
    """

    run_id: str

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Take a line of `log.jsonl`, of kind `step` or `epoch`, with its `step`; lines of other kinds come too."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TrackerSpec:
    """A service that shows the numbers of runs: a name in `train.trackers`.

    Attributes:
        name: e.g. `wandb`.
        open: `open(folder, config, run_id) -> Tracker` for a run folder and its configuration as plain data; `run_id`
            is that of the tracker before a resume, None at the start.
        summary: one line for the listing.
        needs: module that must be importable.
        install: what to install where it is not, e.g. `ctseg[wandb]`.
    """

    name: str
    open: Callable[[Path, Mapping[str, Any], str | None], Tracker]
    summary: str
    needs: str
    install: str

    def __post_init__(self) -> None:
        check_name(self.name)


@dataclass(frozen=True)
class CommandSpec:
    """A command `ctseg NAME`.

    Attributes:
        name: lower-case; words are joined by a hyphen.
        load: returns a Typer application or a function with annotations as Typer reads them; called only when the
            command is asked for.
        summary: one line for `ctseg --help`.
    """

    name: str
    load: Callable[[], Any]
    summary: str

    def __post_init__(self) -> None:
        check_name(self.name.replace("-", "_"))
