"""Values of a regression that the file could not hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctseg.engine.inference.decoders import Values
from ctseg.errors import RunFailed
from ctseg.specs import Label, Task

TASK = Task("regression", (Label("density", (0,), 0),))
PLACES = tuple(np.arange(4.0) for _ in range(3))


@pytest.mark.parametrize("value", [7e4, -7e4])
def test_what_float16_does_not_hold_is_refused_before_it_becomes_infinite(value):
    low = torch.zeros(1, 4, 4, 4)
    low[0, 1, 2, 3] = value
    with pytest.raises(RunFailed, match="float16 does not hold") as failure:
        Values(TASK, None, dtype="float16").decode(low, PLACES)
    assert "float32" in str(failure.value.hint)
    assert Values(TASK, None).decode(low, PLACES)[1, 2, 3] == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value):
    low = torch.zeros(1, 4, 4, 4)
    low[0, 0, 0, 0] = value
    with pytest.raises(RunFailed, match="NaN or infinite"):
        Values(TASK, None).decode(low, PLACES)
