"""Training: the two stages of the method, and the parts they are made of.

:func:`train` runs a whole configuration. Its steps are plain functions
(:mod:`mabm.train.extraction`, :mod:`mabm.train.steps`) that can be reordered or used in your own
loop. The extra ``train`` installs the packages that training needs.
"""

try:
    import tqdm as _tqdm  # noqa: F401 - fails first if the extra is not installed
except ImportError as error:
    raise ImportError('training needs tqdm and more: pip install "mabm[train]"') from error

from mabm.data.sets import CONFIGS
from mabm.train.config import (
    AugmentationConfig,
    BatchConfig,
    ClusteringConfig,
    Config,
    ContrastConfig,
    DataConfig,
    ModelConfig,
    RunConfig,
    StageConfig,
)
from mabm.train.config_files import load_config, to_toml
from mabm.train.errors import RunInUseError, TrainingError, TrainingStopped
from mabm.train.extraction import extract_features
from mabm.train.learner import Learner
from mabm.train.scoring import evaluate_encoder, evaluate_weights
from mabm.train.steps import (
    build_memory,
    cluster_modalities,
    cluster_together,
    contrast_across,
    contrast_within,
)
from mabm.train.trainer import TrainResult, train

__all__ = [
    "CONFIGS",
    "AugmentationConfig",
    "BatchConfig",
    "ClusteringConfig",
    "Config",
    "ContrastConfig",
    "DataConfig",
    "Learner",
    "ModelConfig",
    "RunConfig",
    "RunInUseError",
    "StageConfig",
    "TrainResult",
    "TrainingError",
    "TrainingStopped",
    "build_memory",
    "cluster_modalities",
    "cluster_together",
    "contrast_across",
    "contrast_within",
    "evaluate_encoder",
    "evaluate_weights",
    "extract_features",
    "load_config",
    "to_toml",
    "train",
]


def __dir__() -> list[str]:
    return __all__
