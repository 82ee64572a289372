"""The pages against the code: generated ones are fresh, and every command that a page shows can be typed."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from ctseg import hookspecs
from ctseg.cli import plugin_commands
from ctseg.cli.app import app
from ctseg.cli.options.settings import MODELS, model_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def generator() -> ModuleType:
    return module_at(DOCS / "generate.py")


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_generated_pages_say_what_the_code_says() -> None:
    for name, page in generator().PAGES.items():
        written = (DOCS / "reference" / name).read_text(encoding="utf-8")
        assert written == page(), f"{name} is old; run: python docs/generate.py"


def test_the_page_of_figures_says_what_was_measured() -> None:
    page = module_at(ROOT / "benchmarks" / "page.py")
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == page.page(), "Figures are old; run: python -m benchmarks.page"
    for name in page.SECTIONS:
        assert f"`python -m benchmarks {name}`" in written


def test_the_generator_refuses_an_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = generator()
    monkeypatch.setattr(module, "REFERENCE", tmp_path)
    assert module.main(["--check"]) == 1
    assert "cli.md" in capsys.readouterr().err
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0
    (tmp_path / "cli.md").write_text("old", encoding="utf-8")
    assert module.main(["--check"]) == 1


def test_every_hook_is_a_hook_of_the_reference() -> None:
    page = (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")
    assert "::: ctseg.hookspecs" in page
    hooks = [name for name in vars(hookspecs) if name.startswith("ctseg_")]
    assert hooks
    for name in hooks:
        assert (getattr(hookspecs, name).__doc__ or "").strip(), name


def command_lines() -> Iterator[tuple[str, str]]:
    """Every line in a code block that starts with `ctseg`, after a prompt or not, continued lines joined."""
    for page in PAGES:
        block: str | None = None  # the language of the one that a line stands in
        if page.name == "in-the-box.md":
            for found in re.findall(r"`(ctseg [a-z]+ [A-Z][^`]*)`", page.read_text("utf-8")):
                yield page.name, found
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            typed = line.strip()
            if typed.startswith("```"):
                block = typed[3:] if block is None else None
            elif block in ("", "bash", "console", "sh"):
                typed = typed.removeprefix("$ ")
                if typed.startswith("ctseg "):
                    yield page.name, typed


def test_joined_data_sets_are_scored_on_the_cases_of_the_fold() -> None:
    """All the others train."""
    page = (DOCS / "how-to" / "partial-labels.md").read_text(encoding="utf-8")
    assert "ctseg train LIVER SPLEEN KIDNEYS --fold 0" in page
    scored = re.findall(r"ctseg (?:predict|evaluate) [^`\n]*LIVER[^`\n]*", page)
    assert len(scored) == 2 and all(" --fold 0" in line for line in scored)


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_commands_on_the_pages_exist(page: str, line: str) -> None:
    command: Any = get_command(app)
    words = shlex.split(line, comments=True)[1:]
    if "[OPTIONS]" in words:
        words = words[: words.index("[OPTIONS]")]
    if (
        words and words[0] == "acme-phantoms"
    ):  # a command of the package that the tutorial for authors writes
        return
    plugin = plugin_commands.stub(words[0]) if words and words[0] not in command.commands else None
    if plugin is not None:
        command = plugin.load()
        words.pop(0)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{page}: there is no '{words[0]}'"
        command = command.commands[words.pop(0)]
    known = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--help", "-h", "--version", "--debug"}
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            assert word.partition("=")[0] in known, f"{page}: '{line}' has an unknown option {word}"
    if command.name in MODELS:
        keys = [following for word, following in itertools.pairwise(words) if word == "--set"]
        unknown = {key.partition("=")[0] for key in keys} - set(model_of(command.name).model_fields)
        assert not unknown, f"{page}: '{line}' sets {unknown}"
