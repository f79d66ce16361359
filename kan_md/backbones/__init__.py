"""Adapters of the backbones: upstream's models with readouts exchanged."""

from kan_md.backbones.build import build_model, num_layers_of, sites_of
from kan_md.backbones.readout import ReadoutConfig, count_parameters, make_readout

__all__ = [
    "ReadoutConfig",
    "build_model",
    "count_parameters",
    "make_readout",
    "num_layers_of",
    "sites_of",
]
