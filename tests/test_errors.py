"""What errors say is shown on one line, whatever a file contained."""

from __future__ import annotations

from ctseg.errors import BadInput, UnknownName, first_line


def test_control_characters_of_a_file_are_escaped() -> None:
    error = BadInput("The UID is 1.2\n\x1b[2J\x00\x85é\ud800.", hint="First line\nsecond line")
    assert error.message == r"The UID is 1.2\n\x1b[2J\x00\x85é\ud800."
    assert error.hint == "First line\nsecond line"
    assert UnknownName("loss", "a\nb", []).message == r"Unknown loss 'a\nb'."


def test_a_library_says_no_more_than_its_first_line() -> None:
    assert first_line(RuntimeError("\nsize 5 is wrong.\nframe #0: main")) == "size 5 is wrong"
    assert first_line(RuntimeError()) == "RuntimeError"
    assert len(first_line(RuntimeError("x" * 10**6))) < 310
