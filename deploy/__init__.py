"""The deploy step: turns a trained ``model.pth`` into a file that LAMMPS runs."""

from kan_md_deploy.pipeline import Deployment, deploy, deploy_model
from kan_md_deploy.runtime import DeployedModel, load_deployed

__all__ = ["DeployedModel", "Deployment", "deploy", "deploy_model", "load_deployed"]
