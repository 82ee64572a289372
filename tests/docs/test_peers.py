"""The comparison with peers on the first page: what the table and the plot show is what was measured."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_peers", ROOT / "docs" / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_pages_and_plot_show_the_stored_results(peers: ModuleType) -> None:
    for path, text in peers.wanted().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python docs/peers.py"


def test_the_table_has_the_seconds_of_the_benchmark() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "predict.json").read_text("utf-8"))
    runs = stored["result"]["volumes"]["256"]["runs"]
    for page in ("README.md", "docs/index.md"):
        row = next(r for r in (ROOT / page).read_text("utf-8").splitlines() if "`predict` |" in r)
        numbers = [float(n) for n in re.findall(r"[\d.]+", row.split("|", 2)[2])]
        expected = [
            runs[name]["seconds"]
            for name in ("ctseg logits", "nnunet as it comes", "nnunet by hand",
                         "monai as it comes", "monai by hand")
        ]  # fmt: skip
        assert numbers == pytest.approx(expected, rel=5e-3)


def test_every_row_names_a_benchmark_that_exists(peers: ModuleType) -> None:
    for figure in peers.figures():
        assert (ROOT / "benchmarks" / f"{figure.benchmark}.py").is_file()


def test_the_longest_bar_of_a_panel_is_the_largest_value(peers: ModuleType) -> None:
    figure = peers.Figure("work", "x", "s", {"ctseg": 1, "nnunet": 4, "monai": 2}, {"monai": 1})
    widths = [float(w) for w in re.findall(r'y="\d+" width="([\d.]+)"', peers.plot([figure]))]
    assert widths == pytest.approx([peers.BAR * share for share in (0.25, 1, 0.5, 0.25)], abs=0.06)


def test_an_old_page_fails_the_check(
    peers: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{peers.BEGIN}old\n{peers.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(peers, "PAGES", (page,))
    monkeypatch.setattr(peers, "PLOT", tmp_path / "peers.svg")
    assert peers.main(["--check"]) == 1
    assert "README.md" in capsys.readouterr().err
    assert peers.main([]) == 0
    assert peers.main(["--check"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text


def test_every_page_has_a_title_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    titled = dict(re.findall(r"^ +- (.+): (\S+\.md)$", config, re.MULTILINE))
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert set(titled.values()) == pages
