"""`[augment]`: probability and range of each random transform, and the presets that fill in what is left out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Zyx = tuple[int, int, int]
Range = tuple[float, float]
Axis = Literal["z", "y", "x"]
Preset = Literal["default", "nnunet", "gentle", "none"]
PROBABILITY = "probability"

FLAT = 3.0
"""A patch whose longest axis has more than this times the voxels of z is turned in its plane alone (nnU-Net)."""

_SHARED: dict[str, Any] = {
    "turns": 0.0,
    "turn_axes": ("z",),
    "elastic": 0.0,
    "elastic_mm": 6.0,
    "elastic_points": 6,
    "noise_variance": (0.0, 0.1),
    "blur_sigma": (0.5, 1.0),
    "brightness": 0.15,
    "brightness_range": (0.75, 1.25),
    "contrast": 0.15,
    "contrast_range": (0.75, 1.25),
    "low_resolution_range": (0.5, 1.0),
    "gamma_range": (0.7, 1.5),
    "shift": 0.0,
    "shift_range": (-20.0, 20.0),
    "cut_out": 0.0,
    "cut_out_size": (0.1, 0.3),
    "cut_out_boxes": 3,
}
PRESETS: dict[str, dict[str, Any]] = {
    # Isensee et al. 2021, supplement 4, with the probabilities and ranges of nnU-Net 2
    "nnunet": _SHARED
    | {
        "rotation": 0.2,
        "rotation_degrees": (30.0, 30.0, 30.0),
        "scale": 0.2,
        "scale_range": (0.7, 1.4),
        "mirror_axes": ("z", "y", "x"),
        "noise": 0.1,
        "blur": 0.2,
        "low_resolution": 0.25,
        "gamma": 0.3,
        "gamma_inverted": 0.1,
    },
    # for trainings of minutes: smaller turns, more often, and no mirroring
    "gentle": _SHARED
    | {
        "rotation": 0.3,
        "rotation_degrees": (15.0, 15.0, 15.0),
        "scale": 0.3,
        "scale_range": (0.8, 1.25),
        "mirror_axes": (),
        "noise": 0.15,
        "blur": 0.15,
        "low_resolution": 0.15,
        "gamma": 0.15,
        "gamma_inverted": 0.05,
    },
}
FLAT_DEGREES = {"nnunet": (180.0, 0.0, 0.0), "gentle": (15.0, 0.0, 0.0)}
PROBABILITIES = (
    "rotation", "scale", "turns", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution",
    "gamma", "gamma_inverted", "shift", "cut_out",
)  # fmt: skip


def _given(name: str, meaning: str, ge: float | None = None, le: float | None = None) -> Any:
    """A field that the preset fills in, with what the presets say of it."""
    nnunet, gentle = (_shown(PRESETS[preset][name]) for preset in ("nnunet", "gentle"))
    values = nnunet if nnunet == gentle else f"nnunet {nnunet}; gentle {gentle}"
    return Field(None, description=f"{meaning} ({values})", ge=ge, le=le)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


class AugmentConfig(BaseModel):
    """`[augment]`: probability and range of each random transform; what is left out comes from the preset."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    preset: Preset = Field(
        "default",
        description="nnunet: nnU-Net's set; gentle: smaller turns and no mirroring, for trainings of "
        "minutes; none: nothing; default: gentle on a CPU, nnunet elsewhere",
    )
    in_plane: bool | None = Field(
        None, description="turn, zoom and bend in the plane y, x alone; planned for flat patches"
    )
    rotation: float | None = _given("rotation", PROBABILITY, ge=0, le=1)
    rotation_degrees: tuple[float, float, float] | None = _given(
        "rotation_degrees", "largest angle about z, y, x"
    )
    scale: float | None = _given("scale", PROBABILITY, ge=0, le=1)
    scale_range: Range | None = _given("scale_range", "smallest and largest zoom")
    mirror_axes: tuple[Axis, ...] | None = _given(
        "mirror_axes", "axes that flip in half of the samples; left and right labels swap"
    )
    turns: float | None = _given(
        "turns", f"{PROBABILITY} of turns by 90, 180, 270 degrees", ge=0, le=1
    )
    turn_axes: tuple[Axis, ...] | None = _given("turn_axes", "axes that turns go about")
    elastic: float | None = _given("elastic", f"{PROBABILITY} of bending", ge=0, le=1)
    elastic_mm: float | None = _given(
        "elastic_mm", "largest displacement; less where the scan would fold", ge=0
    )
    elastic_points: int | None = _given(
        "elastic_points", "control points along the patch's longest side", ge=2, le=64
    )
    noise: float | None = _given("noise", f"{PROBABILITY} of Gaussian noise", ge=0, le=1)
    noise_variance: Range | None = _given("noise_variance", "of the normalised image")
    blur: float | None = _given("blur", f"{PROBABILITY} of a Gaussian blur", ge=0, le=1)
    blur_sigma: Range | None = _given("blur_sigma", "voxels")
    brightness: float | None = _given("brightness", PROBABILITY, ge=0, le=1)
    brightness_range: Range | None = _given("brightness_range", "factor of the values")
    contrast: float | None = _given("contrast", PROBABILITY, ge=0, le=1)
    contrast_range: Range | None = _given("contrast_range", "factor of the distance to the mean")
    low_resolution: float | None = _given("low_resolution", PROBABILITY, ge=0, le=1)
    low_resolution_range: Range | None = _given(
        "low_resolution_range", "share of the voxels an axis keeps"
    )
    gamma: float | None = _given("gamma", PROBABILITY, ge=0, le=1)
    gamma_inverted: float | None = _given(
        "gamma_inverted", f"{PROBABILITY}, on the inverted image", ge=0, le=1
    )
    gamma_range: Range | None = _given("gamma_range", "exponent")
    shift: float | None = _given(
        "shift", f"{PROBABILITY} of a constant added to the image", ge=0, le=1
    )
    shift_range: Range | None = _given(
        "shift_range", "HU; hundredths of a deviation where each scan has a scale of its own"
    )
    cut_out: float | None = _given(
        "cut_out", f"{PROBABILITY} of boxes filled with the mean", ge=0, le=1
    )
    cut_out_size: Range | None = _given("cut_out_size", "share of the patch, per axis")
    cut_out_boxes: int | None = _given("cut_out_boxes", "largest number of boxes", ge=1, le=16)
    extra: dict[str, dict[str, Any]] = Field(
        {},
        description="further transforms, in this order: extra.rings = { probability = 0.2, strength = 0.1 }",
    )

    @field_validator("extra")
    @classmethod
    def _probable(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, options in value.items():
            share = options.get(PROBABILITY)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ValueError(f"'{name}' needs a {PROBABILITY} from 0 to 1")
        return value

    @field_validator(
        "scale_range", "noise_variance", "blur_sigma", "brightness_range", "contrast_range",
        "low_resolution_range", "gamma_range", "shift_range", "cut_out_size",
    )  # fmt: skip
    @classmethod
    def _ordered(cls, value: Range | None) -> Range | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"the smaller number comes first, not {value[0]}, {value[1]}")
        return value

    @field_validator("scale_range", "blur_sigma", "low_resolution_range", "gamma_range")
    @classmethod
    def _positive(cls, value: Range | None) -> Range | None:
        if value is not None and value[0] <= 0:
            raise ValueError(f"must be positive, not {value[0]}")
        return value

    @field_validator("noise_variance", "brightness_range", "contrast_range", "cut_out_size")
    @classmethod
    def _not_negative(cls, value: Range | None) -> Range | None:
        if value is not None and value[0] < 0:
            raise ValueError(f"must not be negative, not {value[0]}")
        return value

    @field_validator("low_resolution_range", "cut_out_size")
    @classmethod
    def _share(cls, value: Range | None) -> Range | None:
        if value is not None and value[1] > 1:
            raise ValueError(f"a share is 1 at most, not {value[1]}")
        return value

    @property
    def complete(self) -> bool:
        """Whether nothing is left to the preset."""
        return all(getattr(self, name) is not None for name in type(self).model_fields)

    @property
    def idle(self) -> bool:
        """Whether nothing can happen; of a resolved configuration."""
        extra = any(options[PROBABILITY] for options in self.extra.values())
        return not (self.mirror_axes or extra or any(getattr(self, name) for name in PROBABILITIES))

    def resolved(self, patch_zyx: Zyx, *, cpu: bool = False) -> AugmentConfig:
        """The same with nothing left out.

        Args:
            patch_zyx: flat patches turn in their plane alone.
            cpu: which preset `default` is.
        """
        if self.preset == "none":
            off: dict[str, Any] = dict.fromkeys(PROBABILITIES, 0.0) | {
                "mirror_axes": (),
                "extra": {},
            }
            given = {name: getattr(self, name) for name in type(self).model_fields}
            rest = {k: v for k, v in PRESETS["nnunet"].items() if given[k] is None}
            return self.model_copy(update={"in_plane": bool(self.in_plane)} | rest | off)
        if self.complete:
            return self
        name = ("gentle" if cpu else "nnunet") if self.preset == "default" else self.preset
        values, in_plane = dict(PRESETS[name]), self.in_plane
        if in_plane is None:
            flat = max(patch_zyx) / patch_zyx[0] > FLAT
            asked = self.rotation_degrees is not None and any(self.rotation_degrees[1:])
            in_plane = flat and not asked
        if in_plane:
            values["rotation_degrees"] = FLAT_DEGREES[name]
        missing = {k: v for k, v in values.items() if getattr(self, k) is None}
        return self.model_copy(update={"preset": name, "in_plane": in_plane} | missing)
