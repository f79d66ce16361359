"""The training configuration file: a short YAML, checked before anything runs."""

from kan_md.config.load import load_config, parse_config
from kan_md.config.schema import TrainConfig

__all__ = ["TrainConfig", "load_config", "parse_config"]
