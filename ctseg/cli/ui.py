"""What every command shares: results on stdout, progress on stderr, options with one meaning everywhere.

On a terminal output is rich; piped, it is plain lines that nothing wraps or colours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import tables

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="Precision: auto, fp32, bf16 or fp16.", metavar="PRECISION"),
]
ZooOption = Annotated[
    Path | None,
    typer.Option("--zoo", help="Zoo folder (default: see ctseg doctor).", metavar="FOLDER"),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

PLAIN_SECONDS = 5.0
"""Piped progress prints a line at most this often."""


@functools.cache
def out() -> Console:
    """The console of results: stdout."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


@functools.cache
def err() -> Console:
    """The console of progress, warnings and errors: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def show(text: str = "") -> None:
    """A line of the result, on stdout, never wrapped."""
    out().print(tables.harmless(text), soft_wrap=True)


def say(text: str = "", *, style: str | None = None) -> None:
    """A line of progress, on stderr, never wrapped."""
    err().print(tables.harmless(text), style=style, soft_wrap=True)


def warn(text: str) -> None:
    """A warning, on stderr."""
    say(f"Warning: {text}", style="yellow")


def examples(*lines: str) -> str:
    """The epilog of a command's help page: one example a line."""
    escaped = [line.replace("[", r"\[") for line in lines]
    return "\n".join(["[bold]Examples[/bold]", *escaped]) if lines else ""


def plain(value: Any) -> Any:
    """Any result as what JSON can hold: NaN and infinities become null."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    for method in ("model_dump", "tolist"):  # pydantic models; NumPy and torch values
        if hasattr(value, method):
            return plain(getattr(value, method)())
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value)]
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def print_json(value: Any) -> None:
    """A result as JSON on stdout; it never holds NaN or Infinity, nor what stdout cannot encode."""
    data = plain(value)
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2, allow_nan=False)
    typer.echo(text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    prose: Collection[str] = (),
    keys: int = 1,
) -> None:
    """A table on stdout. Numbers are set to the right; floats are shown with three decimals, None as a dash.

    On a terminal it fits the width: names and numbers stay whole, prose breaks between words, and what is too wide
    even so goes below, in a second part. Piped, each row is one line.

    Args:
        prose: titles of the columns whose cells may break between words.
        keys: so many first columns say what a row is about; each part of the table has them.
    """
    made = tables.columns_of(columns, rows, prose)
    if title:
        show(title)
    if not out().is_terminal:
        for line in tables.plain(made):
            typer.echo(line.text)
        return
    for line in tables.fitted(made, out().width, keys):
        out().print(line.text, style="bold" if line.header else None, soft_wrap=True)


class Progress:
    """How far a piece of work has come; made by `progress`.

    The time left is told from the second part on, by the pace since the first was done: that one takes longer, as
    what is needed is still being made ready.
    """

    def __init__(
        self, description: str, total: float | None, bar: rich.progress.Progress | None,
        *, shown: bool = True,
    ) -> None:  # fmt: skip
        self._shown = shown
        self.description, self.total, self.done = description, total, 0.0
        self._bar, self._text = bar, ""
        self._task = (
            None if bar is None else bar.add_task(description, total=total, text="", left="")
        )
        self._start = self._last = time.monotonic()
        self._first: tuple[float, float] | None = None

    def advance(self, amount: float = 1, text: str | None = None) -> None:
        """Some more is done; `text` says what about it, e.g. the loss."""
        self.update(self.done + amount, text=text)

    def update(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """So much is done."""
        self.done = done
        self.total = self.total if total is None else total
        self._text = self._text if text is None else text
        if self._first is None and done > 0:
            self._first = (time.monotonic(), done)
        if self._bar is not None and self._task is not None:
            left = self._left()
            self._bar.update(
                self._task, completed=done, total=self.total, text=self._text,
                left=f"{left} left" if left else "",
            )  # fmt: skip
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self._line()

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        say(text)

    def _left(self) -> str:
        """How long the rest will take, where that can be told."""
        if self._first is None or not self.total or self.done >= self.total:
            return ""
        since, before = self._first
        if self.done <= before:
            return ""
        seconds = time.monotonic() - since
        return _clock(seconds * (self.total - self.done) / (self.done - before))

    def _line(self) -> None:
        self._last = time.monotonic()
        if not self._shown:
            return
        share = f"{round(self.done, 2):g}" + (f"/{self.total:g}" if self.total else "")
        left = self._left()
        told = f", {left} left" if left else ""
        detail = f"  {self._text}" if self._text else ""
        say(f"{self.description}: {share} in {_clock(self._last - self._start)}{told}{detail}")

    def finish(self) -> None:
        if self._bar is None and self._last > self._start:  # quick work needs no last line
            self._line()


@contextlib.contextmanager
def progress(
    description: str, total: float | None = None, *, shown: bool = True
) -> Iterator[Progress]:
    """A bar on a terminal, otherwise a line every few seconds; both on stderr.

    Args:
        shown: else nothing is printed, as by all but the first of several processes.

    Example:
        >>> with progress("Predicting", total=3) as bar:
        ...     bar.advance(text="case_001")
    """
    if not shown or not err().is_terminal:
        plain_bar = Progress(description, total, None, shown=shown)
        yield plain_bar
        plain_bar.finish()
        return
    from rich import progress as parts

    with parts.Progress(
        parts.TextColumn("{task.description}", markup=False),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeElapsedColumn(),
        parts.TextColumn("{task.fields[left]}", markup=False),
        parts.TextColumn("{task.fields[text]}", markup=False),
        console=err(),
        transient=True,
    ) as bar:
        yield Progress(description, total, bar)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost; without a terminal the answer must be `--yes`.

    Raises:
        BadInput: nobody can be asked.
        typer.Exit: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        from ctseg.errors import BadInput

        raise BadInput(f"{question} Nobody is there to answer.", hint="Say so beforehand: --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(0)


def check_zoo(zoo: Path | None) -> None:
    """Refuse a zoo that was named and is not there: what other zoos hold is not what was asked for.

    Raises:
        FileProblem: there is no such folder.
    """
    if zoo is not None and not zoo.expanduser().is_dir():
        from ctseg.errors import FileProblem

        raise FileProblem(f"The zoo {zoo} does not exist.", hint="Check the path after --zoo.")
