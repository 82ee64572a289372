"""Instances told apart: by hand, where the answer is plain."""

from __future__ import annotations

import numpy as np
import pytest

from ctseg.errors import BadInput
from ctseg.metrics.instances import (
    AdaptedRand,
    adapted_rand,
    average_precision,
    components,
    contingency,
    match,
)

TRUTH = np.array([[[1, 1, 1, 1, 0, 7, 7, 7, 7, 0]]])
SPLIT = np.array([[[5, 5, 6, 6, 0, 9, 9, 9, 0, 0]]])


def test_matches_at_thresholds() -> None:
    found = contingency(SPLIT, TRUTH)
    assert match(found, 0.75).__dict__ == {
        "true_positives": 1,
        "false_positives": 2,
        "false_negatives": 1,
    }
    assert match(found, 0.5).true_positives == 2  # one of the two halves
    assert match(found, 0.8).average_precision == 0
    assert average_precision(found, (0.5, 0.75)) == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert average_precision(contingency(TRUTH, TRUTH)) == 1
    assert average_precision(contingency(TRUTH * 0, TRUTH * 0)) is None
    assert average_precision(contingency(TRUTH * 0, TRUTH)) == 0


def test_adapted_rand_of_a_split() -> None:
    found = adapted_rand(contingency(SPLIT, TRUTH))
    assert found is not None
    # ordered pairs: belong together 2 * 12, joined 2 + 2 + 6 (the lost voxel is alone), both 10
    assert (found.precision, found.recall) == (1, pytest.approx(10 / 24))
    assert found.error == pytest.approx(1 - 2 * 10 / 34)
    assert adapted_rand(contingency(TRUTH, TRUTH * 0)) is None


def test_the_adapted_rand_error_is_1_where_only_one_map_has_pairs() -> None:
    """As the F-score of scikit-image's `adapted_rand_error`, whose other numbers are 0 / 0 and 0."""
    alone, joined = np.array([[[1, 2, 3, 4]]]), np.array([[[1, 1, 2, 3]]])
    found = adapted_rand(contingency(joined, alone))
    assert found == AdaptedRand(error=1, precision=0, recall=None)
    assert adapted_rand(contingency(alone, joined)) == AdaptedRand(1, precision=None, recall=0)
    assert adapted_rand(contingency(alone, alone)) is None


def test_what_does_not_count_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    valid = TRUTH == 7
    assert match(contingency(SPLIT, TRUTH, valid), 0.5).__dict__ == {
        "true_positives": 1, "false_positives": 0, "false_negatives": 0,
    }  # fmt: skip
    rng = np.random.default_rng(1)
    one, two = rng.integers(0, 40, (2, 9, 8, 7))
    whole = contingency(one, two).shared.toarray()
    monkeypatch.setattr("ctseg.volume.distinct_values.SLAB_VOXELS", 100)
    assert np.array_equal(contingency(one, two).shared.toarray(), whole)
    assert whole.sum() == one.size
    with pytest.raises(BadInput, match="shapes"):
        contingency(one, two[1:])


def test_components_touch_by_corners() -> None:
    mask = np.zeros((3, 3, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 5] = True
    assert components(mask).max() == 2
