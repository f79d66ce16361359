"""nequip's Lightning modules, building a kan-md model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from nequip.data import AtomicDataDict
from nequip.nn import ForceStressOutput
from nequip.nn.graph_model import GraphModel
from nequip.train import EMALightningModule, MetricsManager, NequIPLightningModule

from kan_md.backbones.build import build_model, functions_are_on_edges
from kan_md.backbones.transfer import Transfer, freeze_all_but_readouts, freeze_radial_functions
from kan_md.data.dataset import WHOLE_PREFIX
from kan_md.forms.choice import Form, Wanted
from kan_md.forms.kept import parameters_held
from kan_md.forms.replaced_module import with_module_replaced
from kan_md.kan.regularize import regularization
from kan_md.model.readout_exchange import Exchange
from kan_md.train.agreement import of_all
from kan_md.train.finetune import take_weights
from kan_md.train.losses import Errors, TargetError
from kan_md.train.metrics import MONITOR
from kan_md.train.some_centres import with_some_centres

MODEL_KEY = "sole_model"
"""Name that nequip's modules give to their one model."""


class _KanModel:
    """What both modules below add to nequip's.

    ``model`` are the arguments of :func:`build_for_training`; ``regularization`` has the weights of
    :func:`kan_md.kan.regularize.regularization`; ``form`` says how the model is evaluated.

    Attributes:
        transfer: what was taken over from another model, if any.
        exchanged: readouts that start as that model's functions.
        form: what evaluates the model in training, validation and test; it owns nothing.
        values_of_epoch: losses and errors of the last epoch, by nequip's names.
    """

    def __init__(
        self,
        *,
        regularization: Mapping[str, float] | None = None,
        form: Wanted = "auto",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.form = Form(self.model[MODEL_KEY], form)
        self._on_edges = functions_are_on_edges(kwargs["model"]["backbone"])
        self.exchanged: list[Exchange] = []
        self.values_of_epoch: dict[str, Any] = {}
        self.penalties = dict(regularization or {})
        self._sums_of_step: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for metric in self.loss.values():
            metric.dist_sync_on_step = False  # training_step does what that is for

    def _build_model(self, model_config: Mapping[str, Any]) -> GraphModel:
        model, self.transfer = build_for_training(**model_config)
        return model

    def forward(self, inputs: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """Evaluate a batch; forces are derivatives, in validation too."""
        with torch.enable_grad():
            return self.form(inputs)

    @torch.no_grad()
    def evaluate_layers(self, batch: AtomicDataDict.Type, *, most_edges: int) -> None:
        """Call every module of the model once, so that who watches them sees their inputs.

        Forces are left out: they cost the most and show nothing new.

        Args:
            batch: of the training set.
            most_edges: about as many are enough where networks act on edges.
        """
        if self._on_edges:
            batch = with_some_centres(batch, most_edges)
        model = self.model[MODEL_KEY]
        if isinstance(model.model, ForceStressOutput):
            model = with_module_replaced(model, "model", model.model.func)
        model(batch.copy())

    def log_dict(self, values: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """While training, keep all and give Lightning what decides on checkpoints.

        Lightning takes milliseconds for each value, and loggers get theirs elsewhere
        (:mod:`kan_md.train.log`).
        """
        if self.trainer.state.fn != TrainerFn.FITTING:
            super().log_dict(values, *args, **kwargs)
            return
        self.values_of_epoch |= values
        watched = {name: values[name] for name in values if name == MONITOR}
        if watched:
            super().log_dict(watched, *args, **kwargs, logger=False)

    def training_step(
        self, batch: AtomicDataDict.Type, batch_idx: int, dataloader_idx: int = 0
    ) -> torch.Tensor:
        """Loss of a batch, with the penalties on KAN layers.

        In place of nequip's, which asks each term and each error for its number in every step and
        logs it: that waits for the device and takes longer than a small model. Sums are kept, and
        asked for at the end of the epoch.
        """
        target = self.process_target(batch, batch_idx, dataloader_idx)
        errors = Errors(self(batch), target)
        loss = self._loss_of(errors)
        _add_errors(self.train_metrics, errors)
        if any(self.penalties.values()):
            loss = loss + regularization(self.model, loss, **self.penalties)
        return loss

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate by the parameters alone: upstream's forces leave a way to the positions."""
        loss.backward(*args, inputs=trainable_parameters(self.model), **kwargs)

    def on_train_start(self) -> None:
        """Sums of a checkpoint within an epoch are those of all processes: they count once."""
        if self.trainer.global_rank > 0:
            for metric in self._sums():
                metric.reset()

    def on_train_epoch_end(self) -> None:
        """Compute the errors of the epoch, of all processes together."""
        self.gather_sums()
        super().on_train_epoch_end()

    def on_validation_epoch_end(self) -> None:
        """Likewise."""
        self._gather(*self.val_metrics)
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        """Likewise."""
        self._gather(*self.test_metrics)
        super().on_test_epoch_end()

    def gather_sums(self) -> None:
        """Give every process the sums of all, for the end of an epoch or a checkpoint within."""
        self._gather(self.loss, self.train_metrics)

    def _gather(self, *managers: MetricsManager) -> None:
        """Add the sums of all processes in one exchange."""
        metrics = [metric for manager in managers for metric in manager.values()]
        sums = torch.stack([torch.stack([metric.total, metric.count]) for metric in metrics])
        for metric, (total, count) in zip(metrics, of_all(self.trainer, sums), strict=True):
            metric.total, metric.count = total, count

    def _sums(self) -> list[TargetError]:
        return [*self.loss.values(), *self.train_metrics.values()]

    def validation_step(
        self, batch: AtomicDataDict.Type, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add the errors of a batch."""
        self._add_errors_of(batch, self.val_metrics[dataloader_idx], batch_idx, dataloader_idx)

    def test_step(
        self, batch: AtomicDataDict.Type, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add the errors of a batch."""
        self._add_errors_of(batch, self.test_metrics[dataloader_idx], batch_idx, dataloader_idx)

    def _add_errors_of(
        self, batch: AtomicDataDict.Type, metrics: MetricsManager, *batch_and_loader: int
    ) -> None:
        target = self.process_target(batch, *batch_and_loader)
        with parameters_held(self.model):  # products of weights are made once per validation
            _add_errors(metrics, Errors(self(batch), target))

    def _loss_of(self, errors: Errors) -> torch.Tensor:
        """Weighted sum of the terms, each a mean over what is labelled in the batch.

        Of several processes' batches together; a process has the part that its own structures are
        of it, times the number of processes, over which gradients are averaged.
        """
        sums = {name: metric.sums(errors) for name, metric in self.loss.items()}
        self._sums_of_step = {name: (total.detach(), n) for name, (total, n) in sums.items()}
        for name, (total, count) in self._sums_of_step.items():
            self.loss[name].add(total, count)
        loss = 0.0
        for name, (total, count) in sums.items():
            coefficient = self.loss.entries[name].coeff
            if coefficient is not None:
                whole = errors.target.get(WHOLE_PREFIX + self.loss[name].field, count)
                loss = loss + coefficient * self.trainer.world_size * total / whole.clamp(min=1)
        return loss

    def terms_of_step(self) -> dict[str, torch.Tensor]:
        """Terms of the loss of the last step, without their weights, by name.

        Every process has to ask, or none.
        """
        sums = torch.stack([torch.stack(one) for one in self._sums_of_step.values()])
        totals, counts = of_all(self.trainer, sums).unbind(1)
        return dict(zip(self._sums_of_step, totals / counts.clamp(min=1), strict=True))


def _add_errors(metrics: MetricsManager, errors: Errors) -> None:
    with torch.no_grad():
        for metric in metrics.values():
            metric.add(*metric.sums(errors))


class PlainModule(_KanModel, NequIPLightningModule):
    """Keeps the weights of the last step."""

    def restart_average(self) -> None:
        """There is none."""


class AveragedModule(_KanModel, EMALightningModule):
    """Keeps a running average of the weights, which validation and model.pth use."""

    @torch.no_grad()
    def restart_average(self) -> None:
        """Let the average begin with the weights as they are."""
        for average, weight in zip(self.ema.ema_weights, self.model.parameters(), strict=True):
            average.copy_(weight)


def build_for_training(
    backbone: str,
    arguments: Mapping[str, Any],
    *,
    init_from: str | None = None,
    given: Collection[str] = (),
    fresh_readout: bool = False,
    freeze: str = "none",
) -> tuple[GraphModel, Transfer | None]:
    """Build a model with fresh weights or another model's.

    Args:
        backbone: see :func:`kan_md.backbones.build.build_model`.
        arguments: of that function.
        init_from: model.pth whose weights are taken over.
        given: names of arguments that describe the data (reference energies, ...) and are to be
            as they are in ``arguments``, whatever the other model has.
        fresh_readout: do not take over its readout.
        freeze: ``backbone`` leaves only the readout trainable, ``radial`` all but the functions of
            distances.

    Raises:
        KanMdError: the other model is another one than ``arguments`` describe.
    """
    model, transfer = build_model(backbone, **arguments), None
    if init_from is not None:
        transfer = take_weights(
            model,
            arguments,
            init_from,
            backbone=backbone,
            given=given,
            fresh_readout=fresh_readout,
        )
    if freeze == "backbone":
        freeze_all_but_readouts(model, backbone=backbone)
    if freeze == "radial":
        freeze_radial_functions(model, backbone=backbone)
    return model, transfer


def trainable_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Parameters that are not frozen; nequip's modules call this for the optimiser."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
