"""Damaged files made of good ones: a mutator that knows where a format keeps its numbers, lengths and words.

For any reader: describe a file by a `Layout`, draw damaged copies with `mutations`, and check with `only_ctseg_errors`
that reading them ends in an answer or a `CtsegError`, in bounded time. The same seed draws the same copies.
"""

from __future__ import annotations

import random
import re
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ctseg.errors import CtsegError

NUMBERS = (
    0, 1, 2, 3, -1, -2, 7, 127, 128, 255, 256, 32767, 32768, -32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
    2**32, 2**32 + 1, -(2**31), 2**53, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**15, 10**30,
)  # fmt: skip
REALS = (
    0.0, -0.0, 1e-45, 1e-30, 1e-3, 1.0, -1.0, 1e9, 3.4e38, -3.4e38, 1e300, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
WORDS = (
    b"", b" ", b"none", b"nan", b"inf", b"-0", b"1e400", b"0x10", b"(", b")", b"((", b"%", b"%s%s%n", b"%d", b"LIST",
    b"LOCAL", b"../../etc/passwd", b"/etc/passwd", b"/dev/zero", b".", b"..", b"\0", b"\xff\xfe", b"\xc3\xa9", b"True",
    b"False", b"gzip", b"raw", b"hex", b"ascii", b"block", b"x" * 300, b"9" * 5000, b"1 " * 2000,
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What a mutator knows of a file.

    Attributes:
        header: its first bytes, in which most of the damage is done; 0 for the whole file.
        fields: offsets of binary fields and the `struct` code of each, byte order included.
        text: whether the header is lines of words and numbers.
        pack: what is done to the damaged bytes before they are a file, e.g. `gzip.compress`.
    """

    header: int = 0
    fields: tuple[tuple[int, str], ...] = ()
    text: bool = False
    pack: Callable[[bytes], bytes] | None = None


def mutations(content: bytes, layout: Layout, count: int, seed: int = 0) -> Iterator[bytes]:
    """So many damaged copies of a file, each with one to four changes."""
    for number in range(count):
        draw = random.Random(
            f"{seed}/{number}"
        )  # a string, so that neighbouring numbers draw unlike
        data = content
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
            data = _changed(data, layout, draw)
        if layout.pack is not None:
            data = layout.pack(data)
            if draw.random() < 0.2:  # the container is damaged, too
                data = _bytes(data, 0, draw)
        yield data


def _changed(data: bytes, layout: Layout, draw: random.Random) -> bytes:
    choices: list[Callable[[], bytes]] = [lambda: _bytes(data, layout.header, draw)]
    if layout.fields:
        choices += [lambda: _field(data, layout.fields, draw)] * 3
    if layout.text:
        choices += [lambda: _line(data, layout.header, draw)] * 2
        choices += [lambda: _word(data, layout.header, draw)] * 4
    return draw.choice(choices)()


def _field(data: bytes, fields: tuple[tuple[int, str], ...], draw: random.Random) -> bytes:
    """A binary number with one from the edge of its type, or near what it was."""
    offset, code = draw.choice(fields)
    size = struct.calcsize(code)
    if offset + size > len(data):
        return data
    old = struct.unpack_from(code, data, offset)[0]
    out = bytearray(data)
    if code[-1] in "fd":
        values = [*REALS, old * 2, -old, old + 1e-3, old * 1e6]
    else:
        values = [*NUMBERS, old + 1, old - 1, old * 2, -old, old ^ 1 << draw.randrange(8 * size)]
    try:
        struct.pack_into(code, out, offset, draw.choice(values))
    except (struct.error, OverflowError):  # which the type does not hold: its bytes at random
        out[offset : offset + size] = draw.randbytes(size)
    return bytes(out)


def _bytes(data: bytes, header: int, draw: random.Random) -> bytes:
    """Bits, bytes and lengths of the file, mostly within its header."""
    if not data:
        return data
    end = min(header or len(data), len(data))
    at = draw.randrange(end if draw.random() < 0.8 else len(data))
    length = draw.choice((1, 1, 2, 4, 16, 100))
    kind = draw.randrange(7)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + draw.randbytes(length) + data[at + length :]
    if kind == 2:
        return data[:at] + bytes([draw.choice((0, 255))]) * length + data[at + length :]
    if kind == 3:
        return data[: draw.choice((at, draw.randrange(len(data)), max(0, len(data) - length)))]
    if kind == 4:
        return data[:at] + draw.randbytes(length) + data[at:]
    if kind == 5:
        return data[:at] + data[at + length :]
    return data + draw.choice((bytes(length), draw.randbytes(length), data[:end]))


def _lines(data: bytes, header: int) -> tuple[list[bytes], bytes]:
    end = min(header or len(data), len(data))
    return data[:end].splitlines(keepends=True), data[end:]


def _line(data: bytes, header: int, draw: random.Random) -> bytes:
    """A line lost, doubled, moved, joined with the next, or made very long."""
    lines, rest = _lines(data, header)
    if not lines:
        return data
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(to, lines[at])
    elif kind == 2:
        lines[at], lines[to] = lines[to], lines[at]
    elif kind == 3:
        lines[at] = lines[at].rstrip(b"\r\n")
    elif kind == 4:
        more = draw.choice((b"x", b"1 ", b"\0")) * draw.choice((100, 5000, 70000))
        lines[at] = lines[at].rstrip(b"\n") + more + b"\n"
    else:
        lines.insert(at, draw.choice((b"\n", b"#\n", b":\n", b"=\n", b"a:=b\n", b"\r\n")))
    return b"".join(lines) + rest


def _word(data: bytes, header: int, draw: random.Random) -> bytes:
    """A word or number of the header with another one."""
    end = min(header or len(data), len(data))
    found = list(re.finditer(rb"[^\s:=,()]+", data[:end]))
    if not found:
        return data
    numbers = [match for match in found if re.fullmatch(rb"[-+.\deE]+", match[0])]
    match = draw.choice(numbers if numbers and draw.random() < 0.6 else found)
    number = str(draw.choice((*NUMBERS, *REALS))).encode()
    other = draw.choice(found)[0]
    new = draw.choice(
        (number, number, number, other, draw.choice(WORDS), match[0] + b" " + match[0])
    )
    return data[: match.start()] + new + data[match.end() :]


class TooSlow(BaseException):
    """Raised into what takes too long; no `except Exception` swallows it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End what takes longer with `TooSlow`, on systems with alarms."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ring(*_: object) -> None:
        raise TooSlow(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def only_ctseg_errors(read: Callable[[], object], *, seconds: float = 20.0) -> CtsegError | None:
    """Run a reader over a damaged file.

    Returns:
        the error that it ended with, None where it read the file all the same.

    Raises:
        Exception: what is no `CtsegError`, as it was raised.
        TooSlow: it took longer.
    """
    try:
        with within(seconds):
            read()
    except CtsegError as error:
        found = error
    else:
        return None
    assert found.message
    assert "\n" not in found.message, found.message
    return found
