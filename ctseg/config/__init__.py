"""The run file: its sections, the checks of its keys, and how it is read and written."""

from ctseg.config.augment import AugmentConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.config.run import (
    LENGTHS,
    DataConfig,
    FirstStageConfig,
    LabelConfig,
    LossConfig,
    ModelConfig,
    PredictConfig,
    PreprocessConfig,
    RunConfig,
    Section,
    TaskConfig,
    TrainConfig,
    parse_duration,
)
from ctseg.config.run_file import dump_config, load_config, override, parse_config, with_length

__all__ = [
    "LENGTHS",
    "AugmentConfig",
    "DataConfig",
    "FirstStageConfig",
    "LabelConfig",
    "LossConfig",
    "ModelConfig",
    "PostprocessRule",
    "PredictConfig",
    "PreprocessConfig",
    "RunConfig",
    "Section",
    "TaskConfig",
    "TrainConfig",
    "dump_config",
    "load_config",
    "override",
    "parse_config",
    "parse_duration",
    "with_length",
]
