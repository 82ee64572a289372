"""Plans around preprocessing steps that the user wrote."""

from __future__ import annotations

from ctseg.config import parse_config
from ctseg.data.pipeline import Pipeline
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.limits import Limits
from ctseg.planning.plan import make_plan
from ctseg.task import classes_task

STATISTICS = {
    "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0, "std": 30.0,
}  # fmt: skip


def patch_of(*steps: dict, shape=(40, 400, 400), spacing=(5.0, 0.8, 0.8)) -> tuple[int, ...]:
    found = Fingerprint((shape,) * 3, (spacing,) * 3, (STATISTICS,), {"organ": 10.0}, 3)
    config = parse_config({"preprocess": {"steps": [{"kind": "orient"}, *steps]}})
    made, _ = make_plan(config, classes_task({"organ": 1}), ("CT",), found, Limits("cpu"))
    assert made.train.patch_zyx is not None
    assert Pipeline.of(made.preprocess).steps == Pipeline.of(config.preprocess).steps
    return made.train.patch_zyx


def test_a_patch_fits_the_grid_after_downscaling_padding_and_transposing():
    plain = patch_of()
    assert patch_of({"kind": "downscale", "factor_zyx": [1, 2, 2]}) != plain
    small = patch_of({"kind": "crop_or_pad", "shape_zyx": [16, 32, 32]})
    assert all(p <= n for p, n in zip(small, (16, 32, 32), strict=True))
    turned = patch_of({"kind": "transpose", "order_zyx": [2, 1, 0]})
    assert turned == plain[::-1]
    assert patch_of({"kind": "clip"}) == plain
