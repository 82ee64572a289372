"""RunConfig: what a run is made of. TOML in, resolved TOML out, every key checked.

What is left out is chosen by the planner; the resolved file written to the run folder leaves nothing out.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ctseg.config.augment import AugmentConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.specs import Label, Task, TaskKind

Zyx = tuple[int, int, int]
Overlap = float | tuple[float, float, float]
LENGTHS = ("steps", "epochs", "time")
"""The fields of `[train]` that say how long it takes; one of them counts."""
DEFAULT_FOLDS = 5


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class LabelConfig(Section):
    """One label of a task.

    Attributes:
        name: e.g. `liver`.
        values: values in label files that belong to it.
        value: written for it in predictions.
        colour: red, green, blue in 0..255.
    """

    name: str
    values: tuple[int, ...]
    value: int
    colour: tuple[int, int, int] | None = None


class TaskConfig(Section):
    """`[task]`: what is to be predicted; found in the data set where it is missing.

    Attributes:
        kind: exclusive classes (softmax), channels that may overlap (a sigmoid each) or regression.
        labels: for classes with the background first; none leaves them to the data set.
        ignore: value in label files that counts in neither loss nor metrics.
        mirror_pairs: names that change places when left and right do.
        stacked: label files hold one binary map a channel.
    """

    kind: TaskKind = "classes"
    labels: tuple[LabelConfig, ...] = ()
    ignore: int | None = None
    mirror_pairs: tuple[tuple[str, str], ...] = ()
    stacked: bool = False

    @classmethod
    def of(cls, task: Task) -> TaskConfig:
        return cls.model_validate(dataclasses.asdict(task))

    def task(self) -> Task:
        labels = tuple(Label(i.name, i.values, i.value, i.colour) for i in self.labels)
        return Task(self.kind, labels, self.ignore, self.mirror_pairs, self.stacked)


class DataConfig(Section):
    """`[data]`: where the cases are and which of them train."""

    path: str = Field("", description="data set folder or file")
    also: tuple[str, ...] = Field(
        (), description="further data sets, joined by the names of labels"
    )
    reader: str | None = Field(None, description="layout; recognised where it is not given")
    options: dict[str, Any] = Field({}, description="options of the reader, e.g. raw = '/volume'")
    fold: int = Field(0, ge=0, description="which fold validates")
    folds: int = Field(
        DEFAULT_FOLDS, ge=2, description="number of folds where the data set brings no splits"
    )
    train: tuple[str, ...] = Field((), description="case ids that train; overrides the fold")
    val: tuple[str, ...] = Field((), description="case ids that validate; overrides the fold")
    val_slices: str = Field(
        "", description="START:STOP along z that validates where the data set is one volume"
    )

    grid_tolerance: float = Field(
        1e-3,
        gt=0,
        lt=0.5,
        description="share of a voxel by which labels and further images may lie beside the first image",
    )
    prepare: Literal["auto", "store", "lazy"] = Field(
        "auto",
        description="store: preprocess to disk once; lazy: read patches from the files as they are; "
        "auto: lazy where that is possible and the store would be large",
    )

    @field_validator("val_slices")
    @classmethod
    def _slices(cls, value: str) -> str:
        if value and not re.fullmatch(r"\d*:\d*", value):
            raise ValueError("must be START:STOP, e.g. '100:' or '0:50'")
        return value


class PreprocessConfig(Section):
    """`[preprocess]`: the ordered, typed steps from source grid to network grid; planned where there are none."""

    version: Literal[1] = 1
    steps: tuple[dict[str, Any], ...] = ()
    spacing_xyz: tuple[float, float, float] | None = Field(
        None, description="target spacing in mm for the planned steps; 0 keeps an axis"
    )
    grid: str = Field(
        "",
        description="channel onto whose grid the others are brought if they have their own; empty: the first",
    )


class ModelConfig(Section):
    """`[model]`: the network and its options.

    Attributes:
        architecture: see `ctseg architectures list`.
        options: of the network, see `ctseg architectures show NAME`.
        init: model that training begins with: a weight file, and on the command line also a zoo name or a run.
    """

    architecture: str = "unet3d"
    options: dict[str, Any] = {}
    init: str = ""


class LossConfig(Section):
    """`[loss]`: the loss and its options.

    Attributes:
        options: of the loss.
    """

    name: str = Field(
        "",
        description="empty: dice_ce for classes, bce_dice for channels, smooth_l1 for regression",
    )
    options: dict[str, Any] = {}


def _shares(value: Any) -> Any:
    """Check an overlap: a share from 0 to under 1, or three of them."""
    shares = value if isinstance(value, list | tuple) else [value]
    if len(shares) not in (1, 3) or not all(
        isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share < 1
        for share in shares
    ):
        raise ValueError("must be a share from 0 to under 1, or three of them [z, y, x]")
    return tuple(map(float, shares)) if len(shares) == 3 else float(shares[0])


class TrainConfig(Section):
    """`[train]`: how long, how fast and on what.

    Attributes:
        batch_size: patches a step; planned.
        patch_zyx: voxels; planned.
        momentum: of sgd and muon.
        freeze: parameters that stay as they are: patterns of their names, e.g. `encoder.*`.
        clip_grad: largest norm of all gradients together; inf for no limit.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: of the network; auto is bf16 where the device multiplies it.
    """

    steps: int | None = Field(None, ge=1, description="optimizer steps; set by epochs or time")
    epochs: int | None = Field(None, ge=1, description="epochs of steps_per_epoch")
    time: str | None = Field(None, description="budget, e.g. '20m', '1h30m': sets the steps")
    steps_per_epoch: int | None = Field(None, ge=1, description="steps between validations")
    batch_size: int | None = Field(None, ge=1)
    patch_zyx: Zyx | None = None
    foreground: float = Field(0.5, ge=0, le=1, description="share of patches centred on a label")
    positive_negative: tuple[float, float] | None = Field(
        None, description="weights of patches centred on a label and on background; for foreground"
    )
    label_probabilities: dict[str, float] = Field(
        {}, description="of the centre's label, by name or value: {'0' = 0.2, 'tumour' = 0.8}"
    )
    min_foreground: float = Field(
        0.0, ge=0, lt=1, description="patches with no larger share of labelled voxels are redrawn"
    )
    slack: float = Field(0.01, ge=0, le=1, description="share of such patches that are kept")
    optimizer: str = Field("muon", description="muon, or any timm optimizer")
    lr: float | None = Field(
        None, gt=0, description="0.008 for muon, 0.01 for sgd, 0.002 for others"
    )
    weight_decay: float | None = Field(None, ge=0, description="3e-5 for sgd, 0.01 for others")
    momentum: float | None = Field(None, ge=0, lt=1, description="0.99 for sgd, 0.95 for muon")
    init_lr_scale: float = Field(
        0.3,
        gt=0,
        le=1,
        description="share of the learning rate for weights that model.init brought",
    )
    freeze: tuple[str, ...] = ()
    schedule: str = Field("poly", description="poly, cosine, tanh, step, multistep or constant")
    warmup: float = Field(0.02, ge=0, lt=1, description="share of the steps that warms up")
    clip_grad: float | None = Field(12.0, gt=0)
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0: off")
    patience: int | None = Field(None, ge=1, description="epochs without improvement before a stop")
    log_every: int | None = Field(
        None, ge=1, description="steps between lines of loss and learning rate in log.jsonl; validations alone "
        "where it is left out",
    )  # fmt: skip
    trackers: tuple[str, ...] = Field(
        (),
        description="services that get the numbers of the run: wandb, mlflow, or those of plugins",
    )
    val_overlap: Overlap | None = Field(
        None,
        description="overlap of tiles in validations, a share or [z, y, x]; that of [predict] if left out",
    )
    checkpoint_every: float = Field(120.0, ge=0, description="seconds between resume points")
    workers: int | None = Field(
        None, ge=0, le=256,
        description="threads that read the patches of coming steps; left out: none where the CPU trains or "
        "the prepared scans lie on the device, else 2",
    )  # fmt: skip
    cache: Literal["auto", "device", "ram", "disk"] = Field(
        "auto", description="where the prepared scans lie; auto: the fastest place that holds them"
    )
    preset: Literal["fast", "default", "accurate"] = Field(
        "default", description="size of the plan: fast, default, or accurate, which keeps the spacing of the data"
    )  # fmt: skip
    memory: str | None = Field(
        None, description="memory of the device to plan for, e.g. '24G'; what is free if left out"
    )
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    @field_validator("val_overlap", mode="before")
    @classmethod
    def _val_overlap(cls, value: Any) -> Any:
        return None if value is None else _shares(value)

    @field_validator("clip_grad")
    @classmethod
    def _limit(cls, value: float | None) -> float | None:
        return None if value == math.inf else value

    @field_validator("positive_negative")
    @classmethod
    def _weights(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and (min(value) < 0 or sum(value) <= 0):
            raise ValueError("the weights must not be negative, and not both 0")
        return value

    @field_validator("label_probabilities")
    @classmethod
    def _probabilities(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (min(value.values()) < 0 or sum(value.values()) <= 0):
            raise ValueError("probabilities must not be negative, and not all 0")
        return value

    @field_validator("time")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration(value)
        return value


class FirstStageConfig(Section):
    """`[first_stage]`: a network at low resolution, trained first, that finds where the run's own network looks.

    Attributes:
        options: of its network; planned.
        patch_zyx: voxels of its grid; planned.
        batch_size: patches a step; planned.
    """

    use: Literal["off", "auto", "on"] = Field(
        "off",
        description="auto: where a patch sees little of a scan, labels fill a small part of it, and there is time",
    )
    share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="its part of the time; of steps or epochs it makes so many more",
    )
    margin_mm: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="kept around what it finds; half a patch if left out",
    )
    spacing_xyz: tuple[float, float, float] | None = Field(
        None,
        description="target spacing in mm; so coarse that a patch sees a quarter of a scan if left out",
    )
    preprocess: tuple[dict[str, Any], ...] = Field(
        (), description="its steps; those of the run at the coarser spacing if left out"
    )
    options: dict[str, Any] = {}
    patch_zyx: Zyx | None = None
    batch_size: int | None = Field(None, ge=1)


class PredictConfig(Section):
    """`[predict]`: the tiles.

    Attributes:
        tile_zyx: voxels of the network's grid; the patch.
        overlap: share of a tile that neighbours share; or one for each axis, [z, y, x].
        blend: weights where tiles overlap; `nnunet` is a Gaussian whose centre is the voxel n // 2, as nnU-Net's;
            `monai_gaussian` and `monai_constant` place tiles as MONAI's SlidingWindowInferer.
        padding: what lies around a scan smaller than a tile: its reflection, or zeros after preprocessing (nnU-Net).
        average: what the members of an ensemble average.
        postprocess: rules that clean the label maps up, in their order; none leaves them as they are.
    """

    tile_zyx: Zyx | None = None
    overlap: Overlap = 0.5
    blend: Literal["gaussian", "nnunet", "constant", "monai_gaussian", "monai_constant"] = (
        "gaussian"
    )
    padding: Literal["reflect", "zeros"] = "reflect"
    average: Literal["probabilities", "logits"] = "probabilities"
    mirror_axes: tuple[Literal["z", "y", "x"], ...] | None = Field(
        None, description="axes that --tta mirrors; unless given those of the augmentation"
    )
    postprocess: tuple[PostprocessRule, ...] = ()

    @field_validator("overlap", mode="before")
    @classmethod
    def _overlap(cls, value: Any) -> Any:
        return _shares(value)


class RunConfig(Section):
    """A whole run.

    Attributes:
        version: of the run file.
        seed: of weights, patches and augmentation.
    """

    version: Literal[1] = 1
    seed: int = Field(0, ge=0, lt=2**63)
    task: TaskConfig | None = None
    data: DataConfig = DataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    augment: AugmentConfig = AugmentConfig()
    first_stage: FirstStageConfig = FirstStageConfig()
    predict: PredictConfig = PredictConfig()


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `20m`, `1h30m` or a plain number of seconds, which stands alone."""
    number, given = r"(\d+(?:\.\d+)?)", text.strip()
    if re.fullmatch(number, given):
        given += "s"
    match = re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}s)?", given)
    if not given or not match:
        raise ValueError(f"'{text}' is no duration; write 90s, 20m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError(f"'{text}' is no time at all")
    return total
