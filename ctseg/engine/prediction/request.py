"""`Request`: the results requested for every scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ctseg.config.postprocess import PostprocessRule


@dataclass(frozen=True)
class Request:
    """The results requested for every scan; `ctseg.engine.prediction.outputs` turns it into files.

    Attributes:
        output: a folder, or a file for a single scan, for the label map (or the values of a regression); further
            results are written next to it.
        probabilities: also write the probability of each label.
        labels: names of the labels to keep; None for all.
        skip_existing: skip scans whose outputs all exist, as this model and these settings make them.
        suffix: suffix of the written files; that of the input by default.
        dtype: voxel type of probabilities, confidence, uncertainty, and the values of a regression.
        probabilities_suffix: suffix, and so the format, of the probabilities.
        masks: also write one binary mask for each label.
        confidence: also write the probability of the predicted label.
        uncertainty: also write the entropy of each voxel, and name the slices where it is largest.
        instances: also number the connected components of the labels.
        statistics: also write the statistics of each label and of the scan's values in it.
        preview: also draw a picture of the scan with the label map.
        also: suffixes of further formats in which the label map is written.
        rules: post-processing rules; None for those of the model's card, an empty tuple for none.
    """

    output: Path
    probabilities: bool = False
    labels: tuple[str, ...] | None = None
    skip_existing: bool = False
    suffix: str = ""
    dtype: Literal["float16", "float32", "float64"] = "float32"
    probabilities_suffix: str = ".h5"
    masks: bool = False
    confidence: bool = False
    uncertainty: bool = False
    instances: bool = False
    statistics: bool = False
    preview: bool = False
    also: tuple[str, ...] = ()
    rules: tuple[PostprocessRule, ...] | None = None
