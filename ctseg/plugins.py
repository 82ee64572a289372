"""The plugin manager: discovery, look-up by name, provenance, and failures that take nothing else down."""

from __future__ import annotations

import fnmatch
import functools
import importlib.metadata
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pluggy

from ctseg import hookspecs
from ctseg.errors import NameClash, UnknownName
from ctseg.extension_specs import AugmentationSpec, CommandSpec, MetricSpec, StepSpec, TrackerSpec
from ctseg.importer_specs import ImporterSpec
from ctseg.plugin_guard import check_contract, guarded
from ctseg.specs import ArchitectureSpec, FormatSpec, LossSpec, ReaderSpec

Kind = Literal[
    "architecture", "loss", "metric", "step", "augmentation", "tracker", "reader", "format", "importer", "command"
]  # fmt: skip
ENTRY_POINT_GROUP = "ctseg"
BUILTIN = "ctseg.builtin"

_HOOKS: Mapping[Kind, tuple[str, type]] = {
    "architecture": ("ctseg_architectures", ArchitectureSpec),
    "loss": ("ctseg_losses", LossSpec),
    "metric": ("ctseg_metrics", MetricSpec),
    "step": ("ctseg_steps", StepSpec),
    "augmentation": ("ctseg_augmentations", AugmentationSpec),
    "tracker": ("ctseg_trackers", TrackerSpec),
    "reader": ("ctseg_readers", ReaderSpec),
    "format": ("ctseg_formats", FormatSpec),
    "importer": ("ctseg_importers", ImporterSpec),
    "command": ("ctseg_commands", CommandSpec),
}
LISTINGS: Mapping[Kind, str | None] = dict.fromkeys(_HOOKS) | {
    "architecture": "ctseg architectures list",
    "loss": "ctseg losses list",
}


@dataclass(frozen=True)
class PluginInfo:
    """Where a plugin comes from and whether it could be loaded.

    Attributes:
        name: name of the entry point.
        package, version: the distribution that declares it.
        module: what the entry point names.
        error: why it could not be loaded or used, None where it works.
        details: the traceback, for `--debug` and `plugins list --json`.
    """

    name: str
    package: str
    version: str
    module: str
    error: str | None = None
    details: str = ""

    @property
    def owner(self) -> str:
        """The package with its version, for messages."""
        return f"{self.package} {self.version}".strip()


@dataclass(frozen=True)
class Registered:
    """A spec and the plugin that it came from."""

    spec: Any
    plugin: PluginInfo


class Registry:
    """Everything that plugins registered, by kind and name.

    Args:
        entry_points: what to load instead of the installed entry points; tests use it.
    """

    def __init__(self, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[PluginInfo] = []
        self._infos: dict[str, PluginInfo] = {}
        self._tables: dict[Kind, dict[str, Registered]] = {}
        self._clashes: dict[tuple[Kind, str], list[Registered]] = {}
        found = _installed() if entry_points is None else list(entry_points)
        for entry_point in found:
            self._load(entry_point)

    def _load(self, entry_point: importlib.metadata.EntryPoint) -> None:
        dist = entry_point.dist
        info = PluginInfo(
            name=entry_point.name,
            package=dist.name if dist else entry_point.module.split(".")[0],
            version=dist.version if dist else "",
            module=entry_point.value,
        )
        key = f"{info.package}:{info.name}"
        try:
            plugin = entry_point.load()
            check_contract(plugin, hookspecs.CONTRACT)
            self.manager.register(plugin, name=key)
        except (
            Exception,
            SystemExit,
        ) as error:  # a stranger's code: whatever it raises is reported, never fatal
            if self.manager.has_plugin(key):
                self.manager.unregister(name=key)
            self.plugins.append(_failed(info, error))
            return
        self._infos[key] = info
        self.plugins.append(info)
        unknown = self._unknown_hooks(key)
        if unknown:  # the hooks that are known still count
            known = ", ".join(sorted({hook for hook, _ in _HOOKS.values()} | {"ctseg_zoos"}))
            text = (
                f"unknown hook {', '.join(unknown)} (this ctseg has {known}; "
                f"its contract is {hookspecs.CONTRACT})"
            )
            self._fail(key, pluggy.PluginValidationError(self.manager.get_plugin(key), text))

    def _unknown_hooks(self, key: str) -> list[str]:
        """The hooks of a plugin that this ctseg does not have: misspelt, or of another version."""
        callers = self.manager.get_hookcallers(self.manager.get_plugin(key)) or []
        return sorted(caller.name for caller in callers if not caller.has_spec())

    def table(self, kind: Kind) -> dict[str, Registered]:
        """Every spec of one kind, by name.

        Raises:
            NameClash: two plugins claim one name.
        """
        table = self.entries(kind)
        for clash_kind, name in self._clashes:
            if clash_kind == kind:
                raise self._clash(kind, name)
        return table

    def entries(self, kind: Kind) -> dict[str, Registered]:
        """Every spec of one kind, by name; a name that two plugins claim has the first one."""
        if kind not in self._tables:
            self._tables[kind] = self._collect(kind)
        return self._tables[kind]

    def _collect(self, kind: Kind) -> dict[str, Registered]:
        hook, spec_type = _HOOKS[kind]
        table: dict[str, Registered] = {}
        spec: Any
        for key, spec in self._call(hook):
            info = self._infos[key]
            if not _is_a(spec, spec_type):
                problem = TypeError(
                    f"{hook} returned {type(spec).__name__} where {spec_type.__name__} is expected"
                )
                self._fail(key, problem)
                continue
            if info.module != BUILTIN:
                spec = guarded(kind, spec, info.owner, partial(self._fail, key))
            entry = Registered(spec, info)
            if spec.name in table:
                self._clashes.setdefault((kind, spec.name), [table[spec.name]]).append(entry)
                self._fail(key, self._clash(kind, spec.name))
                continue
            table[spec.name] = entry
        return table

    def _clash(self, kind: Kind, name: str) -> NameClash:
        one, two, *_ = (f"{e.plugin.owner} ({e.plugin.module})" for e in self._clashes[kind, name])
        return NameClash(
            f"The {kind} '{name}' is claimed by two plugins: {one} and {two}.",
            hint="Uninstall one of the two packages, or ask its author to choose another name.",
        )

    def _call(self, hook: str) -> list[tuple[str, Any]]:
        """The results of one hook with the plugin that gave each; a plugin that raises is reported and left out."""
        results: list[tuple[str, Any]] = []
        implementations = {
            i.plugin_name: i for i in getattr(self.manager.hook, hook).get_hookimpls()
        }
        for key in self._infos:  # in order of registration, so that listings are stable
            if key not in implementations:
                continue
            try:
                results += [(key, item) for item in implementations[key].function()]
            except (Exception, SystemExit) as error:
                self._fail(key, error)
        return results

    def _fail(self, key: str, error: BaseException) -> None:
        info = self._infos[key]
        self.plugins[self.plugins.index(info)] = failed = _failed(info, error)
        self._infos[key] = failed

    def get(self, kind: Kind, name: str, *, package: str | None = None) -> Registered:
        """The spec of that name and its plugin.

        Args:
            package: whose spec is meant where two plugins claim the name.

        Raises:
            UnknownName: nothing of that kind has the name; the message has the nearest one.
            NameClash: two plugins claim the name.
        """
        table = self.entries(kind)
        if (kind, name) in self._clashes:
            owned = [e for e in self._clashes[kind, name] if same_package(e.plugin, package)]
            if len(owned) != 1:
                raise self._clash(kind, name)
            return owned[0]
        if name not in table:
            error = UnknownName(kind, name, table, listing=LISTINGS[kind])
            broken = [p.package for p in self.plugins if p.error]
            if broken:
                error.hint = (
                    f"{error.hint}\n  Plugins that failed to load: {', '.join(broken)} "
                    "(see: ctseg plugins list)"
                )
            raise error
        return table[name]

    def provided_by(self, info: PluginInfo) -> dict[Kind, list[str]]:
        """The names that one plugin registered, by kind; also where another of its hooks failed meanwhile."""

        def owns(other: PluginInfo) -> bool:
            return (other.package, other.name) == (info.package, info.name)

        return {
            kind: [name for name, entry in self.entries(kind).items() if owns(entry.plugin)]
            for kind in _HOOKS
        }

    def zoos(self) -> list[Path]:
        """The folders of weights that plugins ship; a plugin that returns something else is reported."""
        folders = []
        for key, folder in self._call("ctseg_zoos"):
            if isinstance(folder, str | Path):
                folders.append(Path(folder))
            else:
                kind = type(folder).__name__
                self._fail(key, TypeError(f"ctseg_zoos returned {kind} where a Path is expected"))
        return folders


def same_package(info: PluginInfo, package: str | None) -> bool:
    """Whether a plugin comes from the package of that name."""
    return package is not None and _normal(info.package) == _normal(package)


def _normal(package: str) -> str:
    """The name of a package as package indexes compare it."""
    return package.replace("_", "-").replace(".", "-").lower()


def owner_of(error: BaseException) -> PluginInfo | None:
    """The plugin in whose code an unforeseen error arose; None where it was none."""
    if not registry.cache_info().currsize:
        return None
    roots = {
        info.module.split(":")[0].split(".")[0]: info
        for info in registry().plugins
        if info.module != BUILTIN
    }
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        found = roots.get(str(frame.f_globals.get("__name__")).split(".")[0])
        if found is not None:
            return found
    return None


def _is_a(spec: Any, kind: type) -> bool:
    return isinstance(spec, kind)


def _failed(info: PluginInfo, error: BaseException) -> PluginInfo:
    return PluginInfo(
        name=info.name,
        package=info.package,
        version=info.version,
        module=info.module,
        error=f"{type(error).__name__}: {error}",
        details="".join(traceback.format_exception(error)),
    )


def _installed() -> list[importlib.metadata.EntryPoint]:
    """Installed entry points, what ships in the box first."""
    found = list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    own = [e for e in found if e.value == BUILTIN]
    if not own:  # run from a source tree that is not installed
        own = [importlib.metadata.EntryPoint("builtin", BUILTIN, ENTRY_POINT_GROUP)]
    others = sorted((e for e in found if e.value != BUILTIN), key=lambda e: (e.name, e.value))
    return [own[0], *others]


@functools.cache
def registry() -> Registry:
    """The registry of this process, made on first use."""
    return Registry()


def architecture(name: str) -> ArchitectureSpec:
    return cast(ArchitectureSpec, registry().get("architecture", name).spec)


def loss(name: str) -> LossSpec:
    return cast(LossSpec, registry().get("loss", name).spec)


def reader(name: str) -> ReaderSpec:
    return cast(ReaderSpec, registry().get("reader", name).spec)


def format_named(name: str) -> FormatSpec:
    return cast(FormatSpec, registry().get("format", name).spec)


def importer(name: str) -> ImporterSpec:
    return cast(ImporterSpec, registry().get("importer", name).spec)


def importers() -> list[ImporterSpec]:
    return [entry.spec for entry in registry().entries("importer").values()]


def readers() -> list[ReaderSpec]:
    return [entry.spec for entry in registry().entries("reader").values()]


def formats() -> list[FormatSpec]:
    """All formats. Those of other packages come first: one that knows a kind of DICOM file is asked before the one
    in the box, which takes them all."""
    entries = registry().entries("format").values()
    return [entry.spec for entry in sorted(entries, key=lambda one: one.plugin.module == BUILTIN)]


def names(kind: Kind, pattern: str = "*") -> list[str]:
    """Registered names of one kind that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(registry().table(kind), pattern))


def make_config(
    spec: ArchitectureSpec | LossSpec | AugmentationSpec, options: Mapping[str, Any]
) -> Any:
    """The spec's config dataclass filled from options, each checked against the field's declared type.

    Raises:
        ConfigError: an option that does not exist (with the nearest one), or a value of the wrong type.
    """
    from ctseg.config.checking import fill_dataclass

    return fill_dataclass(spec.config, options, owner=spec.name)


__all__ = [
    "PluginInfo",
    "Registered",
    "Registry",
    "architecture",
    "format_named",
    "formats",
    "importer",
    "importers",
    "loss",
    "make_config",
    "names",
    "owner_of",
    "reader",
    "readers",
    "registry",
]
