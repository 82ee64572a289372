"""Statistics and label names of a real mask by TotalSegmentator, against what TotalSegmentator 2.18.0 makes of it.

The figures were printed by its `get_basic_statistics(..., exclude_masks_at_border=False)` and `load_multilabel_nifti`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ctseg.engine.evaluation.label_statistics import statistics_of_files
from ctseg.specs import ImageRef

FIGURES = {
    "spleen": (1, 255204.0, 32.83718), "kidney_left": (3, 99252.0, 14.74973), "liver": (5, 1043118.0, 45.29106),
    "lung_middle_lobe_right": (13, 27.0, -787.0), "vertebrae_L1": (31, 57753.0, 196.21505),
}  # fmt: skip
"""Value in the map, volume in mm3 and mean intensity."""


@pytest.mark.real_data
def test_volumes_means_and_names_are_those_of_totalsegmentator(real_data: Path) -> None:
    folder = real_data / "abdomen_ct"
    found = statistics_of_files(
        [ImageRef(folder / "ct.nii.gz")], ImageRef(folder / "organs_predicted.nii.gz")
    )
    by_name = {one.name: one.plain() for one in found.labels}
    assert sum(one["voxels"] > 0 for one in by_name.values()) == 41
    for name, (value, volume, mean) in FIGURES.items():
        assert by_name[name]["value"] == value
        assert by_name[name]["volume_mm3"] == volume
        assert by_name[name]["values"][0]["mean"] == pytest.approx(mean, abs=1e-3)
