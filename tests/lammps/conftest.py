"""The engine that runs LAMMPS, and models of the elements of its structures."""

import pytest
from engine import Engine
from structures import ELEMENTS


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
