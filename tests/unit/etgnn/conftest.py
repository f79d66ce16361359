"""Small random crystals and untrained ETGNNs. Symmetries hold for any weights."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from kan_md.backbones import build_model

sys.path.insert(0, str(Path(__file__).parent))

from etgnn_support import R_MAX, TENSORS, TINY, TYPES


@pytest.fixture(scope="session")
def crystal() -> Atoms:
    """A rattled rock-salt cell with three species, 8 atoms, smaller than the cutoff sphere."""
    rng = np.random.default_rng(3)
    atoms = bulk("MgO", "rocksalt", a=4.3, cubic=True)
    atoms.symbols[[2, 4]] = ["Na", "Na"]
    atoms.set_cell(atoms.cell[:] + rng.normal(0, 0.1, (3, 3)), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.15, atoms.positions.shape)
    return atoms


@pytest.fixture(scope="session")
def build() -> Callable:
    """``build(tensors=..., readout=..., **hyperparameters)``: a tiny float64 ETGNN."""

    def make(**keywords) -> torch.nn.Module:
        arguments = {"seed": 5, "model_dtype": "float64", "type_names": TYPES, "r_max": R_MAX}
        return build_model("etgnn", **(arguments | TINY | keywords)).eval()

    return make


@pytest.fixture(scope="session")
def all_tensors_model(build) -> torch.nn.Module:
    """One model of all :data:`TENSORS`."""
    return build(tensors=TENSORS)
