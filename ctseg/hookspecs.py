"""The plugin contract: hooks that provide networks, losses, metrics, steps and more to ctseg.

A plugin is an importable module (or object) in the entry-point group `ctseg` that implements some of these functions
with `@ctseg.hookimpl`. Built-ins use the same hooks. Keep heavy imports inside `build`, `load`, `measure` and `open`,
since every listing runs the hooks. `ctseg_contract = ">=1,<2"` in the module declares the versions of the contract
that the plugin was written for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pluggy

from ctseg.extension_specs import AugmentationSpec, CommandSpec, MetricSpec, StepSpec, TrackerSpec
from ctseg.importer_specs import ImporterSpec
from ctseg.specs import ArchitectureSpec, FormatSpec, LossSpec, ReaderSpec

PROJECT = "ctseg"
CONTRACT = "1.1"
"""Version of the contract: the second number rises when hooks or optional fields are added, the first one when plugins
must change."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ctseg_architectures() -> Sequence[ArchitectureSpec]:  # type: ignore[empty-body]
    """Networks that can be trained, published and predicted with by name."""


@hookspec
def ctseg_losses() -> Sequence[LossSpec]:  # type: ignore[empty-body]
    """Losses, each with the tasks that it supports."""


@hookspec
def ctseg_readers() -> Sequence[ReaderSpec]:  # type: ignore[empty-body]
    """Layouts of data sets on disk, from which training cases are read."""


@hookspec
def ctseg_formats() -> Sequence[FormatSpec]:  # type: ignore[empty-body]
    """Formats of volumes, for reading and, with a writer, for writing."""


@hookspec
def ctseg_importers() -> Sequence[ImporterSpec]:  # type: ignore[empty-body]
    """Kinds of foreign models that `ctseg zoo import NAME PATH` imports into the zoo."""


@hookspec
def ctseg_metrics() -> Sequence[MetricSpec]:  # type: ignore[empty-body]
    """Metrics of `ctseg evaluate`."""


@hookspec
def ctseg_steps() -> Sequence[StepSpec]:  # type: ignore[empty-body]
    """Preprocessing steps for `[preprocess]` in run files and cards."""


@hookspec
def ctseg_trackers() -> Sequence[TrackerSpec]:  # type: ignore[empty-body]
    """Services that show the numbers of runs, for `train.trackers` in run files."""


@hookspec
def ctseg_augmentations() -> Sequence[AugmentationSpec]:  # type: ignore[empty-body]
    """Random transforms of patches for `[augment.extra.NAME]` in run files."""


@hookspec
def ctseg_commands() -> Sequence[CommandSpec]:  # type: ignore[empty-body]
    """Commands that are run as `ctseg NAME`."""


@hookspec
def ctseg_zoos() -> Sequence[Path]:  # type: ignore[empty-body]
    """Folders of published weights that the plugin ships, each laid out as a zoo."""
