"""THE contract: the hooks through which networks, losses, data sets and formats reach ctseg.

A plugin is an importable module (or object) named in the entry-point group `ctseg` that implements some of these
functions with `@ctseg.hookimpl`. What ships in the box takes the same path. Keep heavy imports inside `build` and
`open`: hooks run whenever something is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pluggy

from ctseg.specs import ArchitectureSpec, FormatSpec, ImporterSpec, LossSpec, ReaderSpec

PROJECT = "ctseg"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ctseg_architectures() -> Sequence[ArchitectureSpec]:  # type: ignore[empty-body]
    """Networks that can be trained, published and predicted with by name."""


@hookspec
def ctseg_losses() -> Sequence[LossSpec]:  # type: ignore[empty-body]
    """Losses, each with the tasks that it serves."""


@hookspec
def ctseg_readers() -> Sequence[ReaderSpec]:  # type: ignore[empty-body]
    """Layouts of data sets on disk, from which training cases are read."""


@hookspec
def ctseg_formats() -> Sequence[FormatSpec]:  # type: ignore[empty-body]
    """Formats of volumes, for reading and, where a writer is given, for writing."""


@hookspec
def ctseg_importers() -> Sequence[ImporterSpec]:  # type: ignore[empty-body]
    """Kinds of foreign models that become entries of the zoo: `ctseg zoo import NAME PATH`."""


@hookspec
def ctseg_zoos() -> Sequence[Path]:  # type: ignore[empty-body]
    """Folders of published weights that the plugin ships, each laid out as a zoo."""
