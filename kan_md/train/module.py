"""nequip's Lightning modules, building a kan-md model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nequip.data import AtomicDataDict
from nequip.nn.graph_model import GraphModel
from nequip.train import EMALightningModule, NequIPLightningModule

from kan_md.backbones.build import build_model
from kan_md.backbones.transfer import freeze_all_but_readouts, transfer_weights
from kan_md.errors import user_error
from kan_md.kan.regularize import regularization
from kan_md.model.checkpoint import load_checkpoint

MODEL_KEY = "sole_model"
"""Name that nequip's modules give to their one model."""


class _KanModel:
    """What both modules below add to nequip's.

    ``model`` is ``{"backbone", "arguments", "init_from", "fresh_readout", "freeze"}``, see
    :func:`build_for_training`; ``regularization`` has weights ``l1`` and ``entropy``.
    """

    def __init__(self, *, regularization: Mapping[str, float] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.penalties = dict(regularization or {})

    def _build_model(self, model_config: Mapping[str, Any]) -> GraphModel:
        return build_for_training(**model_config)

    def training_step(self, batch: AtomicDataDict.Type, batch_idx: int, dataloader_idx: int = 0):
        """Add the penalties on KAN layers to nequip's loss."""
        loss = super().training_step(batch, batch_idx, dataloader_idx)
        if any(self.penalties.values()):
            loss = loss + regularization(self.model, **self.penalties)
        return loss


class PlainModule(_KanModel, NequIPLightningModule):
    """Keeps the weights of the last step."""


class AveragedModule(_KanModel, EMALightningModule):
    """Keeps a running average of the weights, which validation and model.pth use."""


def build_for_training(
    backbone: str,
    arguments: Mapping[str, Any],
    *,
    init_from: str | None = None,
    fresh_readout: bool = False,
    freeze: str = "none",
) -> GraphModel:
    """Build a model with fresh weights or another model's.

    Args:
        backbone: see :func:`kan_md.backbones.build.build_model`.
        arguments: of that function.
        init_from: model.pth whose weights are taken over.
        fresh_readout: do not take over its readout.
        freeze: ``backbone`` leaves only the readout trainable.

    Raises:
        KanMdError: the weights do not fit outside the readout.
    """
    model = build_model(backbone, **arguments)
    if init_from is not None:
        take_weights(model, init_from, backbone=backbone, fresh_readout=fresh_readout)
    if freeze == "backbone":
        freeze_all_but_readouts(model, backbone=backbone)
    return model


def take_weights(model: GraphModel, path: str, *, backbone: str, fresh_readout: bool) -> None:
    """Copy the weights of a model.pth, its readout too where it fits and is not to start fresh.

    Raises:
        KanMdError: backbone or types differ, or weights outside the readout do not fit.
    """
    source = load_checkpoint(path)
    for name, found, allowed in (
        ("backbone", source.backbone, backbone),
        ("type_names", ", ".join(source.type_names), ", ".join(model.type_names)),
    ):
        if found != allowed:
            raise user_error(
                f"{name} of {path}",
                found=found,
                allowed=allowed,
                remedy=f"set model.{name} to that of training.init_from",
            )
    own = {name: weight.shape for name, weight in model.state_dict().items()}
    theirs = {name: weight.shape for name, weight in source.state_dict.items()}
    if own == theirs and not fresh_readout:
        model.load_state_dict(source.state_dict)
    else:
        transfer_weights(model, source.state_dict, backbone=backbone)


def trainable_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Parameters that are not frozen; nequip's modules call this for the optimiser."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
