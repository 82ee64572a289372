"""`[predict] postprocess`: rules that clean label maps up; they travel with the card."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EVERY_LABEL = "*"


class PostprocessRule(BaseModel):
    """One rule: which parts of a label stay, and which of its holes are filled.

    Attributes:
        label: its name; `*` for each foreground label on its own; a list joins several into one mask.
        connectivity: 26 joins voxels that touch by a corner, 18 by an edge, 6 by a face alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    label: str | tuple[str, ...]
    keep_largest: int | None = Field(
        None, ge=1, description="connected parts that stay, the largest ones"
    )
    min_size_ml: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="smaller connected parts are removed"
    )
    min_size_voxels: int | None = Field(
        None, ge=1, description="the same, in voxels of the scan; instead of min_size_ml"
    )
    fill_holes: Literal["3d", "slices"] | None = Field(
        None,
        description="background that the label encloses becomes the label: in the whole scan, or slice by slice",
    )
    connectivity: Literal[6, 18, 26] = 26

    @model_validator(mode="after")
    def _complete(self) -> PostprocessRule:
        names = (self.label,) if isinstance(self.label, str) else self.label
        if not names or not all(name.strip() for name in names):
            raise ValueError("a rule names a label, or '*' for each")
        if len(names) > 1 and EVERY_LABEL in names:
            raise ValueError("'*' stands alone; name the labels that are to be joined")
        if len(set(names)) < len(names):
            raise ValueError("a label is named twice")
        if self.min_size_ml is not None and self.min_size_voxels is not None:
            raise ValueError("give min_size_ml or min_size_voxels, not both")
        if not (self.filters or self.fill_holes):
            raise ValueError(
                "the rule does nothing; give keep_largest, min_size_ml, min_size_voxels or fill_holes"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The labels named, joined where there are several."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def filters(self) -> bool:
        """Whether the rule removes parts."""
        sizes = (self.keep_largest, self.min_size_ml, self.min_size_voxels)
        return any(size is not None for size in sizes)
