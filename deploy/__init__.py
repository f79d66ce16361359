"""The deploy step: turns a trained ``model.pth`` into a file that LAMMPS runs."""

from kan_md_deploy.pipeline import deploy
from kan_md_deploy.runtime import DeployedModel, load_deployed
from kan_md_deploy.tensor_runtime import DeployedTensorModel, load_deployed_tensors

__all__ = [
    "DeployedModel",
    "DeployedTensorModel",
    "deploy",
    "load_deployed",
    "load_deployed_tensors",
]
