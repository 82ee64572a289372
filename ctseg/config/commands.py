"""Rarer settings of `ctseg predict` and `ctseg evaluate`: the keys of their `--set` and `--config`."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from ctseg.config import Section
from ctseg.config.run import DEFAULT_FOLDS


class Options(Section):
    """Settings of a command; numbers are accepted as text, since files and datasets may have such names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, coerce_numbers_to_str=True
    )


class PredictOptions(Options):
    """Rarer settings of `ctseg predict`."""

    dtype: Literal["float16", "float32", "float64"] = Field(
        "float32",
        description="type of probabilities, confidence, uncertainty and values of a regression",
    )
    format: str = Field(
        "",
        description="suffix of label maps, e.g. .nrrd, or several: .nii.gz,.seg.dcm; default: the input's",
    )
    probabilities_format: str | None = Field(
        None, description="suffix of probabilities, e.g. .zarr; default: .h5"
    )
    keep_largest: str | None = Field(
        None, description="labels of which the largest part stays: all, liver, lesion=3"
    )
    min_size: str | None = Field(
        None, description="smallest part that stays: 0.5ml or 30vox, or liver=0.5ml,lesion=30vox"
    )
    fill_holes: str | None = Field(
        None, description="labels whose enclosed holes are filled: all, liver, vessel=slices"
    )
    dataset: str | None = Field(None, description="dataset within HDF5 files")
    region: str | None = Field(
        None,
        description="box to predict, Z:Z,Y:Y,X:X or z=0:40,..; the stop is excluded",
    )
    coarse_labels: tuple[str, ...] | None = Field(
        None, description="labels of the coarse model that count, e.g. liver,spleen; default: all"
    )
    margin_mm: float | None = Field(
        None, description="margin around what the coarse model finds, in mm; default: its card's"
    )
    skip_air: float | None = Field(
        None, description="tiles without a voxel above this value count as background, e.g. -900"
    )
    batch_size: int | None = Field(None, ge=1, description="tiles per batch")
    force: bool = Field(
        False,
        description="accept, with a warning, scans and plugin versions that differ from those of training",
    )

    @field_validator("coarse_labels", mode="before")
    @classmethod
    def _labels(cls, value: Any) -> Any:
        return split_names(value)


class EvaluateOptions(Options):
    """Rarer settings of `ctseg evaluate`."""

    iou: tuple[float, ...] = Field(
        (0.5,), description="IoU thresholds for matching instances, e.g. 0.5,0.75"
    )
    data_range: float | None = Field(
        None, description="intensity range for PSNR; default: that of each target"
    )
    mask: str | None = Field(
        None, description="file of a map; voxels where it is above 0 count, for one case"
    )
    dataset: str | None = Field(None, description="dataset within predicted HDF5 files")
    reference_dataset: str | None = Field(None, description="dataset within reference HDF5 files")
    folds: int = Field(
        DEFAULT_FOLDS, ge=2, description="number of folds of --fold if the data set has no splits"
    )
    confidence_level: float = Field(
        95, ge=50, le=99.9, description="confidence level of the intervals, in per cent"
    )
    resamples: int = Field(
        2000, ge=0, description="bootstrap resamples; 0 leaves the intervals out"
    )
    bootstrap: Literal["bca", "percentile"] = Field(
        "bca", description="kind of bootstrap: bca or percentile"
    )
    seed: int = Field(0, ge=0, description="seed of the bootstrap")

    @field_validator("iou", mode="before")
    @classmethod
    def _thresholds(cls, value: Any) -> Any:
        return split_names(value if isinstance(value, str | list | tuple) else str(value))


def split_names(value: Any) -> Any:
    """`liver,spleen` as a list; anything else as it is.

    Raises:
        ValueError: a text that names nothing.
    """
    if not isinstance(value, str):
        return value
    names = [name for name in re.split(r"\s*,\s*", value.strip()) if name]
    if not names:
        raise ValueError("it names nothing; separate names by commas: liver,spleen")
    return names
