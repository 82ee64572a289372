"""The plugin contract: hooks that provide networks, losses, data sets and formats to ctseg.

A plugin is an importable module (or object) in the entry-point group `ctseg` that implements some of these functions
with `@ctseg.hookimpl`. Built-ins use the same hooks. Keep heavy imports inside `build` and `open`, since every listing
runs the hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pluggy

from ctseg.importer_specs import ImporterSpec
from ctseg.specs import ArchitectureSpec, FormatSpec, LossSpec, ReaderSpec

PROJECT = "ctseg"
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
def ctseg_zoos() -> Sequence[Path]:  # type: ignore[empty-body]
    """Folders of published weights that the plugin ships, each laid out as a zoo."""
