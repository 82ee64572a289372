"""Write the table and the plot that compare ctseg with its peers on the first page: README.md and docs/index.md.

python docs/peers.py            writes them from benchmarks/results/*.json
python docs/peers.py --check    fails where a page or the plot differs from the stored results
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOT = DOCS / "assets" / "peers.svg"
PAGES = (ROOT / "README.md", DOCS / "index.md")
BEGIN = "<!-- peers: written by docs/peers.py from benchmarks/results -->\n"
END = "<!-- /peers -->"
PEERS = {"nnunet": "nnU-Net", "monai": "MONAI"}

WIDTH, LEFT, BAR, ROW, HEADING = 640, 150, 380, 24, 34
OURS, DEFAULT, TUNED = "#00897b", "#78909c", "#b0bec5"


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        what: the work that is measured.
        benchmark: the name after `python -m benchmarks`.
        unit: of the values.
        values: ctseg, and each peer with its defaults.
        tuned: each peer with the best settings found by hand.
    """

    what: str
    benchmark: str
    unit: str
    values: dict[str, float]
    tuned: dict[str, float]

    def cell(self, who: str) -> str:
        """`239 (130) s`: defaults, and in brackets the best settings by hand; a dash where nothing is measured."""
        if who not in self.values:
            return "–"
        text = short(self.values[who])
        if who in self.tuned:
            text += f" ({short(self.tuned[who])})"
        return f"{text} {self.unit}".replace(" ", "\N{NO-BREAK SPACE}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a file is out of date"
    )
    check = parser.parse_args(arguments).check
    old = []
    for path, text in wanted().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        old.append(path.name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and old:
        print(f"Out of date: {', '.join(old)}. Run: python docs/peers.py", file=sys.stderr)
        return 1
    return 0


def wanted() -> dict[Path, str]:
    """The text of each file that this script writes."""
    found = figures()
    texts = {PLOT: plot([found[0], found[2], found[4]])}
    for page in PAGES:
        before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{page} lacks the lines '{BEGIN.strip()}' and '{END}'.")
        texts[page] = before + begin + table(found) + "\n" + machine() + end + after
    return texts


# ---------------------------------------------------------------- the results


def figures() -> list[Figure]:
    """What the first page shows, in its order."""
    scan = result("predict")["volumes"]["256"]["runs"]
    job = result("job")
    step = result("networks")["devices"]["cpu"]["plans"]["cube_96"]["networks"]
    export = result("export")["slices"]["100"]
    metrics = result("metrics")["seconds"]
    processes = job["nnunet_by_processes"]
    return [
        Figure(
            "Predict a 256³ scan, 125 tiles of 96³", "predict", "s",
            {"ctseg": scan["ctseg logits"]["seconds"]}
            | {p: scan[f"{p} as it comes"]["seconds"] for p in PEERS},
            {p: scan[f"{p} by hand"]["seconds"] for p in PEERS},
        ),
        Figure(
            "Predict 44 small scans from the command line", "job", "s",
            {"ctseg": job["ctseg"], "nnunet": processes["3"]},
            {"nnunet": min(processes.values())},
        ),
        Figure(
            "One training step, 2 patches of 96³", "networks", "s",
            {who: step[who]["default"]["step"]["seconds"] for who in ("ctseg", *PEERS)},
            {p: step[p]["by_hand"]["step"]["seconds"] for p in PEERS},
        ),
        Figure(
            "Resample 117 classes to 512 x 512 x 100", "export", "s",
            {who: export[who]["seconds"] for who in ("ctseg", "nnunet")}, {},
        ),
        Figure(
            "Memory to predict a 512 x 512 x 2048 scan", "memory", "GiB", memory(2048, 512), {}
        ),
        Figure(
            "Surface metrics of 40 organs, MONAI within each organ's box", "metrics", "s",
            {"ctseg": metrics["ctseg"], "monai": metrics["monai_in_box"]}, {},
        ),
    ]  # fmt: skip


def memory(slices: int, side: int) -> dict[str, float]:
    """GiB by tool, for three classes."""
    return {
        run["who"]: run["anonymous_gib"]
        for run in result("memory")["runs"]
        if run["shape_zyx"] == [slices, side, side] and run["classes"] == 3
    }


def machine() -> str:
    """The machine, and how to read the table."""
    setup, name = stored("networks")["machine"], result("networks")["devices"]["cpu"]["name"]
    return (
        f"Measured on {setup['cpus']} cores of an {name} with bfloat16, torch {setup['torch']}; in brackets the best "
        "settings found by hand\n(bfloat16, channels-last, number of processes). No GPU has been measured yet.\n"
    )


def result(name: str) -> Any:
    return stored(name)["result"]


def stored(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# ---------------------------------------------------------------- table and plot


def table(rows: list[Figure]) -> str:
    lines = [
        "| work | ctseg | nnU-Net | MONAI | `python -m benchmarks` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"**{row.cell('ctseg')}**", row.cell("nnunet"), row.cell("monai")]
        lines.append(f"| {row.what} | {' | '.join(cells)} | `{row.benchmark}` |")
    return "\n".join(lines) + "\n"


def plot(panels: list[Figure]) -> str:
    """Horizontal bars, one panel below the other, as SVG."""
    parts, y = [], 8
    for panel in panels:
        rows = bars(panel)
        longest = max(value for _, value, _ in rows)
        parts.append(_text(16, y + 20, f"{panel.what}, {panel.unit}", weight="bold"))
        y += HEADING
        for label, value, colour in rows:
            width = max(1.0, BAR * value / longest)
            parts.append(_text(LEFT - 8, y + 15, label, anchor="end"))
            parts.append(
                f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 6}" rx="2" fill="{colour}"/>'
            )
            parts.append(_text(LEFT + width + 6, y + 15, short(value)))
            y += ROW
        y += 8
    title = "ctseg beside nnU-Net and MONAI: time and memory, lower is better"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        'font-family="system-ui, sans-serif" font-size="14" fill="#263238" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{y}" rx="6" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def bars(panel: Figure) -> list[tuple[str, float, str]]:
    """Label, value and colour of each bar."""
    rows = [("ctseg", panel.values["ctseg"], OURS)]
    for who, name in PEERS.items():
        rows.append((name, panel.values[who], DEFAULT))
        if who in panel.tuned:
            rows.append((f"{name}, tuned", panel.tuned[who], TUNED))
    return rows


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


if __name__ == "__main__":
    raise SystemExit(main())
