"""Reports for the tests of pages: hostile names, missed and invented labels."""

from __future__ import annotations

import numpy as np

from ctseg.metrics.report import CaseResult, LabelResult, Report, State

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def label_result(name: str, dice: float, state: State = "both", ml: float = 10.0) -> LabelResult:
    values = {"dice": dice, "iou": dice / (2 - dice), "hd95": 10 * (1 - dice)}
    if state == "absent":
        values = {}
    predicted = 0.0 if state in ("missed", "absent") else ml * (0.8 + 0.2 * dice)
    reference = 0.0 if state in ("invented", "absent") else ml
    return LabelResult(name, values, predicted, reference, state)


def report(cases: int = 5, worse: float = 0.0) -> Report:
    """Cases named after their rank, each with a liver and, mostly, a label of a hostile name."""
    rng = np.random.default_rng(0)
    out = []
    for number in range(cases):
        dice = 0.5 + 0.4 * number / cases - worse
        states: list[State] = ["both", "missed", "invented", "absent"]
        state = states[number % 4]
        confusion = {
            "background": {"background": 900.0, "liver": 1.0},
            "liver": {"liver": 9.0, HOSTILE: 0.5, "background": 0.5},
            HOSTILE: {HOSTILE: 2.0, "liver": 0.25},
        }
        labels = (
            label_result("liver", dice, ml=1000 * rng.uniform(0.8, 1.2)),
            label_result(HOSTILE, dice if state == "both" else 0.0, state),
        )
        name = f"case <{number}>" if number else HOSTILE
        out.append(CaseResult(name, labels, None, 500.0, ("a note <b>",), confusion))
    return Report(tuple(out), {"tolerance_mm": 1.0})
