"""Interatomic potentials whose output block is a Kolmogorov-Arnold network.

    kan_md.train(kan_md.load_config("config.yaml"), "run")    # run/model.pth
    kan_md.deploy("run/model.pth")                            # run/model.deployed.pth, for LAMMPS
    kan_md.load("run/model.deployed.pth").predict(atoms)      # also of model.pth
    atoms.calc = kan_md.KANCalculator("run/model.pth")        # or TensorCalculator

Defaults are those of the command line.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kan_md.calculator import KANCalculator, TensorCalculator
    from kan_md.config import load_config
    from kan_md.evaluate.models import load_model as load
    from kan_md.train.run import train
    from kan_md_deploy import deploy

__version__ = metadata.version("kan-md")
__all__ = [
    "KANCalculator",
    "TensorCalculator",
    "__version__",
    "deploy",
    "load",
    "load_config",
    "train",
]

_HOMES = {
    "KANCalculator": ("kan_md.calculator", "KANCalculator"),
    "TensorCalculator": ("kan_md.calculator", "TensorCalculator"),
    "deploy": ("kan_md_deploy", "deploy"),
    "load": ("kan_md.evaluate.models", "load_model"),
    "load_config": ("kan_md.config", "load_config"),
    "train": ("kan_md.train", None),  # the package, which is called like the function in it
}


def __getattr__(name: str) -> object:
    """Import what is asked for on first use, so that ``import kan_md`` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kan_md' has no attribute {name!r}")
    from kan_md.waiting import let_threads_of_torch_wait

    let_threads_of_torch_wait()  # before the next line loads torch
    home, own_name = _HOMES[name]
    module = import_module(home)
    return module if own_name is None else getattr(module, own_name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
