"""The settings of omnivl as typed, frozen dataclasses (`settings`), and the strict road from and to JSON (`strict`).

A run is one `RunConfig`: a model and a list of stages. Recipes (`omnivl.presets`) return whole ones; the command line
changes single fields; the same object travels inside every checkpoint as `config.json`.
This room knows nothing of models, data or training: it only holds what they are told.
"""

from omnivl.config.settings import (
    MODELS,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    Reads,
    RunConfig,
    StageConfig,
    TaskConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from omnivl.config.strict import (
    FORMAT_VERSION,
    ConfigError,
    fields_of,
    from_dict,
    override,
    parse,
    read_json,
    to_dict,
    unknown_key,
)

__all__ = [
    "FORMAT_VERSION",
    "MODELS",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "ModelConfig",
    "OptimConfig",
    "Reads",
    "RunConfig",
    "StageConfig",
    "TaskConfig",
    "TextConfig",
    "TrainConfig",
    "VisionConfig",
    "fields_of",
    "from_dict",
    "override",
    "parse",
    "read_json",
    "to_dict",
    "unknown_key",
]
