"""The contract file: every hook is documented, and every hook has a real user."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

from ctseg import hookspecs, plugins

HOOKS = [
    name for name, value in inspect.getmembers(hookspecs, inspect.isfunction)
    if name.startswith("ctseg_") and value.__module__ == hookspecs.__name__
]  # fmt: skip


@pytest.fixture(scope="module")
def builtin() -> plugins.Registry:
    point = importlib.metadata.EntryPoint("builtin", plugins.BUILTIN, plugins.ENTRY_POINT_GROUP)
    return plugins.Registry([point])


def test_there_are_hooks():
    assert "ctseg_architectures" in HOOKS


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_and_typed(name):
    hook = getattr(hookspecs, name)
    assert hook.__doc__
    assert hook.__doc__.strip().endswith(".")
    assert "return" in hook.__annotations__
    assert hasattr(hook, f"{hookspecs.PROJECT}_spec")


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_real_implementation_that_gives_something(name, builtin):
    implementations = getattr(builtin.manager.hook, name).get_hookimpls()
    assert implementations, f"nothing implements {name}; add a hook when its first user arrives"
    assert list(implementations[0].function())
    assert implementations[0].function.__doc__


def test_every_kind_of_the_registry_has_its_hook():
    assert {hook for hook, _ in plugins._HOOKS.values()} <= set(HOOKS)


def test_listing_what_exists_imports_nothing_heavy():
    code = (
        "import sys; from ctseg import plugins; "
        "[plugins.names(k) for k in plugins.LISTINGS]; plugins.registry().zoos(); "
        "print([m for m in ('torch', 'numpy', 'timm', 'SimpleITK', 'h5py', 'pydantic', 'monai') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
