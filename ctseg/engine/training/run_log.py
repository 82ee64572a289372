"""What a run says about itself: `log.jsonl` always, TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from ctseg.config.checking import parse_json
from ctseg.engine.training.board import Board
from ctseg.engine.training.trackers import Trackers
from ctseg.files import disk_errors


class RunLog:
    """Appends lines to `log.jsonl`, and their numbers to TensorBoard.

    Args:
        folder: of the run; None in a process that writes no log.
        keep_bytes: length of the log to keep; what a killed run wrote after its resume point is cut off.
        step: of the resume point; TensorBoard shows nothing that was written for later ones.
        trackers: get the numbers, too.

    Attributes:
        board: the log of TensorBoard; None where it is not installed.
        cut: the lines that were cut off.
    """

    def __init__(
        self,
        folder: Path | None,
        keep_bytes: int = 0,
        step: int = 0,
        trackers: Trackers | None = None,
    ) -> None:
        self.cut: list[dict[str, Any]] = []
        self.board: Board | None = None
        self.trackers = trackers
        self.path = Path() if folder is None else folder / "log.jsonl"
        self._silent = folder is None
        if folder is None:
            return
        if self.path.exists():
            self.cut = _lines(self.path, keep_bytes)
            os.truncate(self.path, min(keep_bytes, self.path.stat().st_size))
            self._end_line()
        self.board = Board.open(folder / "tensorboard", step)

    def _end_line(self) -> None:
        """End the last line where a log that somebody changed was cut within one."""
        with disk_errors(self.path), self.path.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
                file.write(b"\n")

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line; NaN and infinity become null.

        Raises:
            FileProblem: the disk is full, or the place cannot be written any more.
        """
        if self._silent:
            return
        line = json.dumps({"kind": kind, **_plain(fields)}, ensure_ascii=False, allow_nan=False)
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.board is not None:
            self.board.write(kind, fields)
        if self.trackers is not None:
            self.trackers.write(kind, fields)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        if self.trackers is not None:
            self.trackers.close()


def _lines(path: Path, start: int) -> list[dict[str, Any]]:
    """The whole lines of a log from a byte on; what is damaged is left out."""
    with disk_errors(path), path.open("rb") as file:
        file.seek(start)
        content = file.read()
    lines = []
    for line in content.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            entry = parse_json(line.decode("utf-8"))
            if isinstance(entry, dict):
                lines.append(entry)
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
