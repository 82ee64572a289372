"""Slices that a user names."""

from __future__ import annotations

import numpy as np
import pytest

from ctseg.errors import BadInput
from ctseg.report.slices import choose_slices

LABEL = np.zeros((20, 30, 40), np.uint8)
LABEL[4:12, 10:20, 5:35] = 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("4", [5, 7, 9, 11]),
        ("1", [8]),
        ("99", list(range(4, 12))),
        ("3,1,19", [3, 1, 19]),
        ("7,", [7]),
        ("2:9:3", [2, 5, 8]),
        (":3", [0, 1, 2]),
        (None, list(range(20))),
    ],
)
def test_chosen(text: str | None, wanted: list[int]) -> None:
    assert choose_slices(text, "axial", LABEL, labelled=True) == wanted


def test_a_scan_without_labels_is_spread_over_all_of_it() -> None:
    assert choose_slices("2", "coronal", LABEL, labelled=False) == [7, 22]
    assert choose_slices("2", "coronal", np.zeros_like(LABEL), labelled=True) == [7, 22]
    assert choose_slices("2", "sagittal", LABEL, labelled=True) == [12, 27]


@pytest.mark.parametrize(
    ("text", "says"),
    [("0", "names no"), ("a", "names no"), ("1:2:0", "names no"), ("20,", "0 to 19"), ("5:5", "0 to 19")],
)  # fmt: skip
def test_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        choose_slices(text, "axial", LABEL, labelled=True)
