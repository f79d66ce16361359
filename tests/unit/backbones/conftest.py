"""Tiny float64 models of every backbone, each built once."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms

from kan_md.backbones import build_model

R_MAX = 4.0
TYPES = ["Cu", "Au"]
REFERENCE_ENERGIES = {"Cu": -1.25, "Au": -3.5}
HYPERPARAMETERS = {
    "allegro": {
        "l_max": 2,
        "num_layers": 2,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "scalar_embed_mlp_hidden_layers_width": 8,
        "allegro_mlp_hidden_layers_width": 8,
    },
    "nequip": {"l_max": 1, "num_layers": 2, "num_features": 6, "radial_mlp_width": 8},
    "mace": {
        "hidden_irreps": "6x0e + 6x1o",
        "max_ell": 2,
        "correlation": 2,
        "radial_MLP": [8],
        "num_bessel": 4,
    },
}


@pytest.fixture(scope="session")
def tiny_model() -> Callable:
    """``tiny_model(backbone, readout={...}, **hyperparameters)``; equal calls share one model."""
    built = {}

    def build(backbone: str, readout: object = "kan", **hyperparameters):
        key = json.dumps([backbone, readout, hyperparameters], sort_keys=True)
        if key not in built:
            arguments = {
                "seed": 7,
                "model_dtype": "float64",
                "type_names": TYPES,
                "r_max": R_MAX,
                "avg_num_neighbors": 12.0,
                "per_type_energy_shifts": REFERENCE_ENERGIES,
                **HYPERPARAMETERS[backbone],
                **hyperparameters,
            }
            built[key] = build_model(backbone, readout=readout, **arguments).eval()
        return built[key]

    return build


@pytest.fixture(scope="session")
def triclinic() -> Atoms:
    """Six atoms of two elements in a skewed periodic cell that is smaller than 2 r_max."""
    rng = np.random.default_rng(3)
    cell = np.array([[4.6, 0.0, 0.0], [1.1, 4.2, 0.0], [-0.7, 0.9, 5.0]])
    grid = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.2, 0.3, 0.8]])
    positions = grid @ cell + rng.normal(0.0, 0.1, grid.shape)
    return Atoms("CuAuCuAuCu", positions=positions, cell=cell, pbc=True)


@pytest.fixture(scope="session")
def molecule() -> Atoms:
    """Five atoms in vacuum."""
    positions = [[0, 0, 0], [2.3, 0.1, 0], [0.4, 2.5, 0.2], [-0.3, 0.6, 2.4], [2.1, 2.4, 1.9]]
    return Atoms("CuAuCuCuAu", positions=positions)
