"""Output and options that the commands share: results go to stdout, progress to stderr.

Output is rich on a terminal; piped output is plain lines without wrapping or colours.
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
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import tables

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console, RenderableType

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision", help="Precision: auto, fp32, bf16, fp16 or int8.", metavar="PRECISION"
    ),
]
ZooOption = Annotated[
    Path | None,
    typer.Option("--zoo", help="Zoo folder (default: see ctseg doctor).", metavar="FOLDER"),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to all questions.")]

BAR_WIDTH = 45
"""Columns of a terminal for a short bar, the amount done, times and gaps."""
PLAIN_SECONDS = 5.0
"""Minimum interval between lines of piped progress."""


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


def show(text: str = "", *, prose: bool = False) -> None:
    """Print a line of the result on stdout, without wrapping.

    Args:
        prose: whether a terminal shows it on several lines that break between words.
    """
    for line in _lines(text, out(), prose=prose):
        out().print(line, soft_wrap=True)


def say(text: str = "", *, style: str | None = None, prose: bool = False) -> None:
    """Print a line of progress on stderr, as `show` prints results."""
    for line in _lines(text, err(), prose=prose):
        err().print(line, style=style, soft_wrap=True)


def _lines(text: str, console: Console, *, prose: bool) -> list[str]:
    harmless = tables.harmless(text)
    wraps = prose and console.is_terminal
    return tables.wrapped(harmless, console.width) if wraps else [harmless]


def warn(text: str) -> None:
    """Print a warning on stderr."""
    say(f"Warning: {text}", style="yellow")


def examples(*lines: str) -> str:
    """The epilog of a command's help page: one example on each line."""
    escaped = [line.replace("[", r"\[") for line in lines]
    return "\n".join(["[bold]Examples[/bold]", *escaped]) if lines else ""


def plain(value: Any) -> Any:
    """Convert any result to plain JSON data; NaN and infinities become null."""
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
    """Print a result as JSON on stdout, with null for NaN and infinities, and escapes where stdout needs them."""
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
    """Print a table on stdout. Numbers are right-aligned; floats have three decimals, None is a dash.

    On a terminal the table fits the width: names and numbers stay whole, prose breaks between words, and a table that
    is still too wide is split by columns. Piped, each row is one line.

    Args:
        prose: titles of the columns whose cells may break between words.
        keys: number of leading key columns, which each part of a split table repeats.
    """
    laid_out = tables.columns_of(columns, rows, prose)
    if title:
        show(title)
    if not out().is_terminal:
        for line in tables.plain(laid_out):
            typer.echo(line.text)
        return
    for line in tables.fitted(laid_out, out().width, keys):
        out().print(line.text, style="bold" if line.header else None, soft_wrap=True)


class Progress:
    """The progress of a task; created by `progress`.

    The remaining time is estimated from the second update on, and the first one is not counted, since it
    includes the setup. An amount that goes down, or has another total and does not go on by one, is that of the
    next part of the task, whose time is estimated anew.
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
        """Add to the amount done; `text` is shown next to it, e.g. the loss."""
        self.update(self.done + amount, text=text)

    def update(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """Set the amount done."""
        other = total is not None and total != self.total
        if done < self.done or (other and done > self.done + 1):
            self._first = None
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
        """Print a permanent line above the bar; it may break between words."""
        say(text, prose=True)

    def show(self, numbers: Mapping[str, str]) -> None:
        """Show numbers below the bar of a terminal, in the place of those before."""
        if self._bar is not None:
            setattr(self._bar, "numbers", dict(numbers))  # noqa: B010 - of the class in `progress`

    def _left(self) -> str:
        """The estimated remaining time; empty if unknown."""
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
        done = f"{round(self.done, 2):g}" + (f"/{self.total:g}" if self.total else "")
        left = self._left()
        remaining = f", {left} left" if left else ""
        detail = f"  {self._text}" if self._text else ""
        say(f"{self.description}: {done} in {_clock(self._last - self._start)}{remaining}{detail}")

    def finish(self) -> None:
        if self._bar is None and self._last > self._start:  # nothing for tasks that end at once
            self._line()


@contextlib.contextmanager
def progress(
    description: str, total: float | None = None, *, shown: bool = True
) -> Iterator[Progress]:
    """Show a progress bar on a terminal, or a line every few seconds otherwise, on stderr.

    Args:
        shown: False prints nothing, for all but the first of several processes.

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
    from rich.columns import Columns
    from rich.table import Column
    from rich.text import Text

    class Bar(parts.Progress):
        """A progress bar with numbers below it."""

        numbers: Mapping[str, str] = MappingProxyType({})

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            if self.numbers:
                pairs = [Text(f"{k} ", "dim") + Text(v) for k, v in self.numbers.items()]
                yield Columns(pairs, padding=(0, 3))

    rest = err().width - len(description) - BAR_WIDTH
    detail = Column(no_wrap=True, overflow="ellipsis", max_width=max(rest, 8))
    with Bar(
        parts.TextColumn("{task.description}", markup=False),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeElapsedColumn(),
        parts.TextColumn("{task.fields[left]}", markup=False),
        parts.TextColumn("{task.fields[text]}", markup=False, table_column=detail),
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
    """Ask before data are removed; without a terminal `--yes` is required.

    Raises:
        BadInput: there is no terminal.
        typer.Exit: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        from ctseg.errors import BadInput

        raise BadInput(f"{question} There is no terminal to ask.", hint="Confirm with --yes.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(0)


def check_zoo(zoo: Path | None) -> None:
    """Reject a named zoo that does not exist, instead of searching only the other zoos.

    Raises:
        FileProblem: the folder does not exist.
    """
    if zoo is not None and not zoo.expanduser().is_dir():
        from ctseg.errors import FileProblem

        raise FileProblem(f"The zoo {zoo} does not exist.", hint="Check the path after --zoo.")
