"""The plugin manager: what is installed is found, and nothing that is broken takes the rest down."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctseg import plugins
from ctseg.errors import NameClash, UnknownName
from ctseg.plugins import Registry

ROOT = Path(__file__).resolve().parents[2]

NETWORK = """
from dataclasses import dataclass
import ctseg
from ctseg.specs import ArchitectureSpec

@dataclass(frozen=True)
class Options:
    width: int = 4

def build(config, *, in_channels, out_channels):
    from torch import nn
    return nn.Conv3d(in_channels, out_channels, 1)

@ctseg.hookimpl
def ctseg_architectures():
    return [ArchitectureSpec("NAME", build, Options, "one convolution")]
"""


def install(folder: Path, package: str, source: str, *, version: str = "1.2") -> None:
    """What pip would leave behind: a module, and a dist-info folder with its entry point."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[ctseg]\nmine = {module}\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder on the path, whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def only(registry: Registry, package: str) -> plugins.PluginInfo:
    return next(info for info in registry.plugins if info.package == package)


def test_a_plugin_is_found_with_its_provenance(site):
    install(site, "good-net", NETWORK.replace("NAME", "good_net"))
    registry = Registry()
    entry = registry.get("architecture", "good_net")
    assert (entry.plugin.package, entry.plugin.version) == ("good-net", "1.2")
    assert entry.plugin.error is None
    assert registry.provided_by(entry.plugin)["architecture"] == ["good_net"]
    assert registry.get("architecture", "unet3d").plugin.module == "ctseg.builtin"
    assert registry.plugins[0].module == "ctseg.builtin"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("raise RuntimeError('no such library')", "RuntimeError: no such library"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_on_import_is_reported_and_survived(site, source, complaint):
    install(site, "bad-import", source)
    registry = Registry()
    info = only(registry, "bad-import")
    assert complaint in info.error
    assert "Traceback" in info.details
    assert "unet3d" in registry.table("architecture")
    with pytest.raises(UnknownName) as caught:
        registry.get("architecture", "net_of_the_bad_one")
    assert "failed to load: bad-import" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (NETWORK.replace("ctseg_architectures", "ctseg_architecture"), "ctseg_architecture"),
        (NETWORK.replace("architectures():", "architectures(path):"), "path"),
    ],
    ids=["name", "arguments"],
)
def test_a_misspelt_hook_is_reported(site, source, complaint):
    install(site, "misspelt", source.replace("NAME", "misspelt_net"))
    registry = Registry()
    info = only(registry, "misspelt")
    assert "PluginValidationError" in info.error
    assert complaint in info.error
    assert "misspelt_net" not in registry.table("architecture")
    assert "unet3d" in registry.table("architecture")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return ['unet']", "returned str where ArchitectureSpec is expected"),
        ("return None", "TypeError"),
        ("raise OSError('disk')", "OSError: disk"),
        ("return [ArchitectureSpec('Bad Name', build, Options, '')]", "is no valid name"),
        ("return [ArchitectureSpec('bad', build, dict, '')]", "must be a dataclass"),
    ],
)
def test_a_hook_that_raises_or_returns_something_else_is_reported(site, body, complaint):
    head = NETWORK.split("    return [ArchitectureSpec")[0]
    install(site, "bad-hook", f"{head}    {body}\n")
    registry = Registry()
    assert "unet3d" in registry.table("architecture")
    assert complaint in only(registry, "bad-hook").error


def test_what_a_plugin_gave_before_one_of_its_hooks_failed_is_still_its(site):
    broken = "\n@ctseg.hookimpl\ndef ctseg_losses():\n    raise OSError('disk')\n"
    broken += "\n@ctseg.hookimpl\ndef ctseg_zoos():\n    return [None]\n"
    install(site, "half-broken", NETWORK.replace("NAME", "half_net") + broken)
    registry = Registry()
    assert "half_net" in registry.table("architecture")
    registry.table("loss")
    info = only(registry, "half-broken")
    assert info.error == "OSError: disk"
    assert registry.provided_by(info)["architecture"] == ["half_net"]
    assert not any(folder.name == "None" for folder in registry.zoos())
    assert "returned NoneType where a Path is expected" in only(registry, "half-broken").error


def test_a_name_claimed_twice_is_refused_naming_both_owners(site):
    install(site, "first-net", NETWORK.replace("NAME", "same"))
    install(site, "second-net", NETWORK.replace("NAME", "same"), version="7.1")
    with pytest.raises(NameClash) as caught:
        Registry().table("architecture")
    assert "first-net 1.2" in caught.value.message
    assert "second-net 7.1" in caught.value.message
    assert "Uninstall" in caught.value.hint


def test_a_name_of_the_box_cannot_be_taken(site):
    install(site, "impostor", NETWORK.replace("NAME", "unet3d"))
    with pytest.raises(NameClash, match=r"ctseg .* and impostor"):
        Registry().table("architecture")


def test_a_plugin_may_ship_a_zoo(site, tmp_path):
    install(
        site,
        "with-zoo",
        "from pathlib import Path\nimport ctseg\n"
        f"@ctseg.hookimpl\ndef ctseg_zoos():\n    return [Path({str(tmp_path)!r})]\n",
    )
    assert tmp_path in Registry().zoos()


def test_without_plugins_the_box_alone_is_there():
    point = importlib.metadata.EntryPoint("builtin", plugins.BUILTIN, plugins.ENTRY_POINT_GROUP)
    registry = Registry([point])
    assert [info.module for info in registry.plugins] == ["ctseg.builtin"]
    with pytest.raises(UnknownName, match="Did you mean 'unet3d'"):
        registry.get("architecture", "unet3")


# ---------------------------------------------------------------- the same from the command line


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "ctseg", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        cwd=site,
        check=False,
    )


@pytest.mark.slow
def test_a_good_and_a_broken_plugin_side_by_side(tmp_path):
    install(tmp_path, "good-net", NETWORK.replace("NAME", "good_net"))
    install(tmp_path, "bad-import", "raise RuntimeError('no such library')")
    done = run(tmp_path, "plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["package"]: row for row in json.loads(done.stdout)}
    assert rows["good-net"]["provides"] == {"architecture": ["good_net"]}
    assert rows["bad-import"]["error"] == "RuntimeError: no such library"
    assert "Traceback" in rows["bad-import"]["details"]
    done = run(tmp_path, "plugins", "list")
    assert "bad-import could not be used: RuntimeError: no such library" in done.stdout
    done = run(tmp_path, "architectures", "list")
    assert done.returncode == 0
    assert "good_net" in done.stdout
    assert "Warning: bad-import could not be loaded" in done.stderr
    done = run(tmp_path, "architectures", "show", "good_net")
    assert done.returncode == 0, done.stderr
    assert "from good-net 1.2" in done.stdout
    done = run(tmp_path, "architectures", "show", "god_net")
    assert done.returncode == 2
    assert "Did you mean 'good_net'?" in done.stderr
    assert "failed to load: bad-import" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_clash_is_one_message_and_exit_2(tmp_path):
    install(tmp_path, "impostor", NETWORK.replace("NAME", "unet3d"))
    done = run(tmp_path, "architectures", "list")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "impostor 1.2" in done.stderr
    assert "Traceback" not in done.stderr
