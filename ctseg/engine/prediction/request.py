"""What is wanted of every scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ctseg.config.postprocess import PostprocessRule


@dataclass(frozen=True)
class Request:
    """What is wanted of every scan. What comes of it, and under which names, is told by
    `ctseg.engine.prediction.outputs`.

    Attributes:
        output: a folder; or a file, where there is one scan. The label map goes there (of a regression its values),
            everything else beside it.
        probabilities: also write the probability of each label.
        labels: names of those to keep, all where it is None.
        skip_existing: leave scans alone of which every output is there, as this model and these settings make it.
        suffix: of the written files; that of the input where it is empty.
        dtype: of probabilities, confidence, and the values of a regression.
        probabilities_suffix: the format of the probabilities.
        masks: also write one map of 0 and 1 a label.
        confidence: also write the probability of the label that was chosen.
        instances: also number the connected parts of the labels.
        rules: of post-processing; None for those of the model's card, an empty tuple for none.
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
    instances: bool = False
    rules: tuple[PostprocessRule, ...] | None = None
