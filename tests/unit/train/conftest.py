"""A model and a set small enough to train in about a second."""

import copy

import ase.io
import pytest

from kan_md.config import parse_config

SMALL = {
    "data": {"split": {"method": "random", "train": 0.7, "val": 0.2, "test": 0.1}},
    "model": {
        "backbone": "allegro",
        "r_max": 3.2,
        "dtype": "float64",
        "l_max": 1,
        "num_layers": 1,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "scalar_embed_mlp_hidden_layers_width": 8,
        "allegro_mlp_hidden_layers_width": 8,
    },
    "readout": {"kind": "kan"},
    "training": {
        "loss": {"energy": 1.0, "forces": 1.0, "stress": 1.0},
        "optimizer": {"lr": 0.01},
        "batch_size": 2,
        "epochs": 3,
    },
}


@pytest.fixture(scope="session")
def alloy_file(tmp_path_factory, alloy_frames):
    """Twelve labelled CuAu cells in a file: the six of the session, twice."""
    path = tmp_path_factory.mktemp("alloy") / "alloy.xyz"
    ase.io.write(path, alloy_frames * 2)
    return path


@pytest.fixture
def small():
    """Content of a small configuration file without data."""
    return copy.deepcopy(SMALL)


@pytest.fixture(scope="session")
def make_config(alloy_file):
    """Factory of small configurations: ``make_config({"training.epochs": 5})``."""

    def make(changes=None):
        content = copy.deepcopy(SMALL)
        content["data"]["train"] = str(alloy_file)
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            place = content
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return parse_config(content)

    return make
