"""Damaged files made of good ones: mutators that know where a format keeps its numbers, lengths, words and values.

A `Mutator` makes one change; `damaged` makes a few with mutators that it draws; the same randomness, the same copy.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

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
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1e300, 2**31, 2**63, 2**64, 10**30, float("nan"), float("inf"), "",
    " ", "x", "0", "-1", "nan", "1e400", "..", "../../x", "/", "/dev/zero", "\0", "\ud800", "é", "x" * 300, "9" * 5000,
    [], [[]], [None], [0], ["x"], [1, "x", None], {}, {"x": {}}, {"0": 1}, [{}],
)  # fmt: skip
FRONT = 1 << 16
"""Bytes within which words are looked for in a file that is not text throughout."""
_SECTION = 1 << 13
"""Bytes of a long text in which one word is chosen."""
_WORD = re.compile(rb"[^\s:=,;()<>\"\[\]{}]+")
_NUMBER = re.compile(rb"[-+.\deE]+")
_OPENING = re.compile(rb"[\[{\d\"]")


def damaged(content: bytes, ways: Sequence[Mutator], draw: random.Random) -> bytes:
    """A copy with one to four changes; a way that is listed twice is drawn twice as often."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        content = draw.choice(ways)(content, draw)
    return content


def packed(
    ways: Sequence[Mutator], unpack: Callable[[bytes], bytes], pack: Callable[[bytes, bytes], bytes]
) -> Mutator:
    """Changes of what a container holds; now and then of the container, too.

    Args:
        pack: takes the container as it was, and what it is to hold.
    """
    outside = scramble()

    def change(content: bytes, draw: random.Random) -> bytes:
        try:
            content = pack(content, damaged(unpack(content), ways, draw))
        except Exception:  # a container that is damaged already
            return outside(content, draw)
        return outside(content, draw) if draw.random() < 0.2 else content

    return change


def binary(header: int = 600) -> tuple[Mutator, ...]:
    """What does for any binary file, most of it near its beginning; text in it is changed as text."""
    return (scramble(header), scramble(), number(header), number(header), word(FRONT), word(FRONT))


def text(header: int = 0) -> tuple[Mutator, ...]:
    """What does for lines of words and numbers."""
    return (scramble(header), *(line(header),) * 2, *(word(header),) * 4)


def scramble(header: int = 0) -> Mutator:
    """Bits, bytes and lengths, mostly within the header; 0 for the whole file."""

    def change(data: bytes, draw: random.Random) -> bytes:
        if not data:
            return data
        end = min(header or len(data), len(data))
        at = draw.randrange(end if draw.random() < 0.8 else len(data))
        length = draw.choice((1, 1, 2, 4, 16, 100))
        kind = draw.randrange(9)
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
        if kind == 6:
            return data[: at + length] + data[at:]
        if kind == 7:
            other = draw.randrange(len(data))
            return data[:at] + data[other : other + length] + data[at + length :]
        return data + draw.choice((bytes(length), draw.randbytes(length), data[:end]))

    return change


def number(header: int = 0) -> Mutator:
    """A binary number of one to eight bytes somewhere, as a length, an offset or a count would be."""

    def change(data: bytes, draw: random.Random) -> bytes:
        if len(data) < 8:
            return data
        end = min(header or len(data), len(data)) if draw.random() < 0.7 else len(data)
        width = draw.choice((1, 2, 4, 8))
        at = draw.randrange(end) // min(width, 2) * min(width, 2)
        value = draw.choice((draw.choice(NUMBERS), draw.randrange(len(data) + 64)))
        order = draw.choice(("little", "little", "little", "big"))
        new = (value % 256**width).to_bytes(width, order)
        return data[:at] + new + data[at + width :]

    return change


def field(fields: Sequence[tuple[int, str]]) -> Mutator:
    """A binary number with one from the edge of its type, or near what it was.

    Args:
        fields: the offset of each and its `struct` code, byte order included.
    """

    def change(data: bytes, draw: random.Random) -> bytes:
        offset, code = draw.choice(fields)
        size = struct.calcsize(code)
        if offset + size > len(data):
            return data
        old = struct.unpack_from(code, data, offset)[0]
        out = bytearray(data)
        if code[-1] in "fd":
            values = [*REALS, old * 2, -old, old + 1e-3, old * 1e6]
        else:
            flipped = old ^ 1 << draw.randrange(8 * size)
            values = [*NUMBERS, old + 1, old - 1, old * 2, -old, flipped]
        try:
            struct.pack_into(code, out, offset, draw.choice(values))
        except (struct.error, OverflowError):  # which the type does not hold: its bytes at random
            out[offset : offset + size] = draw.randbytes(size)
        return bytes(out)

    return change


def line(header: int = 0) -> Mutator:
    """A line lost, doubled, moved, joined with the next, or made very long."""

    def change(data: bytes, draw: random.Random) -> bytes:
        end = min(header or len(data), len(data))
        lines, rest = data[:end].splitlines(keepends=True), data[end:]
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

    return change


def word(header: int = 0) -> Mutator:
    """A word or number of the header with another one."""

    def change(data: bytes, draw: random.Random) -> bytes:
        end = min(header or len(data), len(data))
        start = max(0, draw.randrange(-_SECTION, end - _SECTION)) if end > _SECTION else 0
        found = list(_WORD.finditer(data, start, min(end, start + _SECTION)))
        if not found:
            return data
        numbers = [match for match in found if _NUMBER.fullmatch(match[0])]
        match = draw.choice(numbers if numbers and draw.random() < 0.6 else found)
        new_number = str(draw.choice((*NUMBERS, *REALS))).encode()
        other = draw.choice(found)[0]
        new = draw.choice(
            (
                new_number,
                new_number,
                new_number,
                other,
                draw.choice(WORDS),
                match[0] + b" " + match[0],
            )
        )
        return data[: match.start()] + new + data[match.end() :]

    return change


def dumped(value: Any) -> bytes:
    """JSON, with what Python's module lets pass: NaN, and half of a surrogate pair."""
    return json.dumps(value).encode()


def tree(
    load: Callable[[bytes], Any] = json.loads, dump: Callable[[Any], bytes] = dumped
) -> Mutator:
    """A value in nested tables and lists: of another kind, lost, doubled, under another key, or very deep."""
    fallback = word()

    def change(data: bytes, draw: random.Random) -> bytes:
        try:
            content = load(data)
            return dump(_changed(content, draw))
        except (
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
        ):  # damaged already, or no such value in the format
            return fallback(data, draw)

    return change


def _changed(content: Any, draw: random.Random) -> Any:
    places = list(_places(content))
    if not places:
        return draw.choice(VALUES)
    parent, key = draw.choice(places)
    kind = draw.randrange(10)
    if kind < 4:
        parent[key] = draw.choice(VALUES)
    elif kind == 4:
        del parent[key]
    elif kind == 5:
        other, name = draw.choice(places)
        parent[key] = json.loads(json.dumps(other[name]))
    elif kind == 6:
        parent[key] = draw.choice(([parent[key]], {"x": parent[key]}, str(parent[key])))
    elif kind == 7 and isinstance(parent, dict):
        parent[draw.choice(("", "x", "0", f"{key} ", str(key).upper(), "é"))] = parent.pop(key)
    elif kind == 7:
        parent.insert(key, json.loads(json.dumps(parent[key])))
    elif kind == 8:
        old = parent[key]
        number = isinstance(old, int | float)
        parent[key] = (
            draw.choice((*NUMBERS, *REALS, -old, old + 1)) if number else draw.choice(VALUES)
        )
    else:
        deep: Any = draw.choice(VALUES)
        for _ in range(draw.choice((3, 50, 900))):
            deep = draw.choice(([deep], {"x": deep}))
        parent[key] = deep
    return content


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every table or list within, with each of its keys."""
    out: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        node = waiting.pop()
        keys = (
            list(node)
            if isinstance(node, dict)
            else range(len(node))
            if isinstance(node, list)
            else ()
        )
        for key in keys:
            out.append((node, key))
            waiting.append(node[key])
    return out


def nested(data: bytes, draw: random.Random) -> bytes:
    """A bracket that is opened thousands of times, somewhere in a text."""
    match = _OPENING.search(data, draw.randrange(len(data) + 1)) or _OPENING.search(data)
    at = match.start() if match else 0
    return data[:at] + draw.choice((b"[", b'{"x":')) * draw.choice((100, 5000, 100_000)) + data[at:]


def document() -> tuple[Mutator, ...]:
    """What does for a JSON file."""
    return (*(tree(),) * 7, scramble(), word(), word(), line(), nested)


def json_lines() -> tuple[Mutator, ...]:
    """What does for a file of one JSON value a line."""
    one = tree()

    def change(data: bytes, draw: random.Random) -> bytes:
        lines = data.split(b"\n")
        at = draw.randrange(len(lines))
        lines[at] = one(lines[at], draw)
        return b"\n".join(lines)

    return (*(change,) * 7, scramble(), word(), line(), nested)
