"""The engine that runs LAMMPS, and what Python says of the same structures."""

import json

import numpy as np
import pytest
import torch
from engine import Engine
from structures import ELEMENTS

STYLES = ("allegro", "nequip", "mace")


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    return Engine(tmp_path_factory.mktemp("lammps"))


@pytest.fixture(scope="session")
def alloy_model(deployed):
    """Factory of deployed float64 CuAu models with random weights, by style."""
    return lambda style, **keywords: deployed(style, type_names=ELEMENTS, **keywords)


@pytest.fixture(scope="session")
def alloy_checkpoint(tiny_checkpoint):
    return lambda style, **keywords: tiny_checkpoint(style, type_names=ELEMENTS, **keywords)


@pytest.fixture(scope="session")
def python_says(alloy_checkpoint, alloy_model):
    """Energies, forces and virials of structures: ``python_says(style, atoms)`` -> two dicts.
    Further keywords are the model's.

    The first is the eager model by positions and strain, the second the TorchScript file by edge
    vectors, with Python's neighbour list.
    """
    from kan_md.model.checkpoint import load_checkpoint
    from kan_md.model.graph import edge_graph
    from kan_md.model.reference import evaluate
    from kan_md_deploy import load_deployed

    loaded = {}

    def say(style, atoms, **keywords):
        key = json.dumps([style, keywords], sort_keys=True)
        if key not in loaded:
            loaded[key] = (
                load_checkpoint(alloy_checkpoint(style, **keywords)).build(),
                load_deployed(alloy_model(style, **keywords)),
            )
        eager, compiled = loaded[key]
        frame = evaluate(eager, atoms)
        first = {key: frame[key].numpy() for key in ("energy", "atomic_energy", "forces", "virial")}
        graph = edge_graph(atoms, compiled.manifest.r_max, ELEMENTS)
        energy, gradient = compiled(*graph, torch.tensor([len(atoms)]))
        vectors, gradient = graph.edge_vectors.detach().numpy(), gradient.numpy()
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, graph.edge_index[0].numpy(), gradient)
        np.add.at(forces, graph.edge_index[1].numpy(), -gradient)
        second = {
            "energy": energy.sum().numpy(),
            "atomic_energy": energy.numpy(),
            "forces": forces,
            "virial": -vectors.T @ gradient,
        }
        return first, second

    return say
