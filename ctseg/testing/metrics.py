"""The check of a metric."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.extension_specs import MetricSpec
from ctseg.metrics.catalogue import OF_VALUES
from ctseg.metrics.overlap import mask_counts
from ctseg.metrics.pairs import Cut, LabelPair, ValuePair
from ctseg.testing.options import require

SPACING = (2.0, 1.0, 0.5)


def check_metric(spec: MetricSpec) -> None:
    """Check that a metric fulfils the contract of `ctseg.extension_specs.MetricSpec`.

    It gives a number or None, the same one again, and leaves the maps as they are; a perfect prediction is at least as
    good as one that misses a third, and has the value 0 where neither higher nor lower is better.
    """
    make = _values if spec.group == OF_VALUES else _label
    scores = {}
    for name, lost in (("perfect", 0), ("worse", 3)):
        pair, maps = make(lost)
        before = [array.copy() for array in maps]
        first: Any = spec.measure(pair)
        again = spec.measure(make(lost)[0])
        require(
            first is None or (isinstance(first, Real) and not isinstance(first, bool)),
            f"{spec.name}: gives {type(first).__name__}, a number or None is expected",
        )
        require(first == again or (first != first), f"{spec.name}: gives {first}, then {again}")
        same = all(np.array_equal(a, b) for a, b in zip(before, maps, strict=True))
        require(same, f"{spec.name}: changes the maps that it measures")
        scores[name] = None if first is None or not math.isfinite(first) else float(first)
    perfect, worse = scores["perfect"], scores["worse"]
    require(worse is not None, f"{spec.name}: has no score for an ordinary prediction")
    assert worse is not None
    if perfect is None:  # e.g. a PSNR of no error
        return
    if spec.better is None:
        require(perfect == 0, f"{spec.name}: is {perfect:.4g} for a perfect prediction, not 0")
        return
    right = perfect >= worse if spec.better == "higher" else perfect <= worse
    require(
        right,
        f"{spec.name}: is {perfect:.4g} for a perfect and {worse:.4g} for a worse prediction, and {spec.better} "
        "is better",
    )


def _label(lost: int) -> tuple[LabelPair, list[NDArray[Any]]]:
    reference = np.zeros((12, 12, 12), bool)
    reference[2:11, 3:9, 3:9] = True
    predicted = reference.copy()
    predicted[2 : 2 + lost] = False
    counts = mask_counts(predicted, reference)
    cut = Cut(predicted, reference)
    return LabelPair("organ", counts, SPACING, 1.0, (0.5,), lambda: cut), [predicted, reference]


def _values(lost: int) -> tuple[ValuePair, list[NDArray[Any]]]:
    reference = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)
    predicted = reference.copy()
    predicted[:lost] += 1
    return ValuePair("density", predicted, reference), [predicted, reference]
