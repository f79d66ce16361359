"""Fit KAN grids to the activations of a training batch, between two optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from nequip.train import EMALightningModule

from kan_md.errors import user_error
from kan_md.kan.grids import GridFit, blended_range, fit_layer, follow_inputs, move_grid
from kan_md.kan.layer import KANLayer
from kan_md.train.agreement import of_first

_NEARLY = 0.9
"""Of the rows that are looked at: of a few more than that every second one would be taken."""


class GridFitCallback(Callback):
    """Move the grids of all KAN layers to the inputs they see: at a few early steps, then follow.

    The inputs of the batch that is trained at each of ``steps`` decide, as they are before that
    step; the grids move when it is done. A batch without inputs for one of the layers, such as
    isolated atoms have them for functions of edges, leaves the fit to the next batch. At step 0,
    where the functions are still random numbers, the best least-squares refit is taken; later only
    grids move on which the functions can be kept to ``tolerance`` (see
    :func:`kan_md.kan.grids.fit_layer`). With ``every`` they also follow their inputs, see
    :func:`kan_md.kan.grids.follow_inputs`: at the first step of every so many epochs, until a share
    of the budget is used up, and at the later ``steps``.

    An exponential moving average (nequip's ``EMALightningModule``) follows onto the new grids with
    functions of its own. The optimiser forgets its mean gradient of refitted coefficients, which
    belongs to the old basis, but not how large gradients are: without that every coefficient would
    go one learning rate far at the next step, all in one direction, which is eV per atom. Of
    several processes the first decides for all.

    Args:
        steps: values of ``trainer.global_step`` at which to fit.
        blend: see :func:`kan_md.kan.grids.blended_range`.
        quantile: see :func:`kan_md.kan.grids.blended_range`.
        tolerance: largest relative change of a function after step 0; unless grids follow.
        every: epochs from one look at the grids to the next; None: grids do not follow.
        until: share of the budget after which grids that follow stay.
        progress: says which share is used up; where ``None`` grids follow to the end.
        max_samples: rows of a layer's inputs to look at, taken at equal distances.

    Raises:
        KanMdError: an argument outside its range; on training, inputs that are not finite, or a
            compiled model, whose layers cannot be watched.

    Attributes:
        fits: result of each fit, by step and name of the layer.
    """

    def __init__(
        self,
        steps: Sequence[int] = (0, 100, 300),
        *,
        blend: float = 0.5,
        quantile: float = 0.01,
        tolerance: float = 1e-6,
        every: int | None = None,
        until: float = 1.0,
        progress: Callable[[Trainer], float] | None = None,
        max_samples: int = 2048,
    ) -> None:
        if list(steps) != sorted(set(steps)) or any(step < 0 for step in steps):
            raise user_error(
                "steps of the grid fit",
                found=list(steps),
                allowed="increasing integers from 0",
                remedy="set steps",
            )
        if max_samples < 2:
            raise user_error(
                "max_samples of the grid fit",
                found=max_samples,
                allowed="integers from 2",
                remedy="set max_samples",
            )
        if every is not None and every < 1:
            raise user_error(
                "every of the grid fit",
                found=every,
                allowed="integers from 1",
                remedy="set every",
            )
        blended_range(torch.zeros(1, 1), blend=blend, quantile=quantile)  # checks both
        self.steps = tuple(steps)
        self.blend = blend
        self.quantile = quantile
        self.tolerance = tolerance
        self.every = every
        self.until = until
        self.progress = progress
        self.max_samples = max_samples
        self.fits: dict[int, dict[str, GridFit]] = {}
        self._done: set[int] = set()
        self._due: set[int] = set()
        self._inputs: dict[str, list[torch.Tensor]] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def state_dict(self) -> dict[str, Any]:
        """Steps that are done, so that a resumed run does not repeat them, and those put off."""
        return {"done": sorted(self._done), "due": sorted(self._due)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self._done = set(state_dict["done"])
        self._due = set(state_dict.get("due", ()))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Watch the inputs of the KAN layers if this is a step to fit at."""
        step, epoch = trainer.global_step, trainer.current_epoch
        is_fit = step in set(self.steps) - self._done
        if self.every is not None and step > 0:
            looks = batch_idx == 0 and epoch > 0 and epoch % self.every == 0
            is_fit = (is_fit or looks) and self._follows_still(trainer)
        if is_fit:
            self._due.add(step)
        if not self._due:
            return
        for name, layer in _kan_layers(pl_module).items():
            self._inputs[name] = []
            self._hooks.append(layer.register_forward_pre_hook(self._recorder(name)))
        if hasattr(pl_module, "evaluate_layers"):
            # A model that is watched in the step is evaluated as upstream does it, many times as
            # slow as its fast form.
            whole = _whole_batch(trainer, batch, batch_idx)
            pl_module.evaluate_layers(whole, most_edges=round(_NEARLY * self.max_samples))
            self._unhook()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Fit the grids to what was seen in this batch."""
        self._unhook()
        inputs, self._inputs = self._inputs, {}
        if not inputs:
            return
        layers = _kan_layers(pl_module)
        if not _all_have_inputs(trainer, inputs):
            return
        before = {name: _grid(layer) for name, layer in layers.items()}
        follows = self.every is not None and 0 not in self._due
        samples = {name: _thin(torch.cat(rows), self.max_samples) for name, rows in inputs.items()}
        fits = {
            name: follow_inputs(layer, samples[name])
            if follows
            else fit_layer(
                layer,
                samples[name],
                blend=self.blend,
                quantile=self.quantile,
                tolerance=math.inf if 0 in self._due else self.tolerance,
            )
            for name, layer in layers.items()
        }
        self.fits[max(self._due)] = fits
        self._done |= self._due & set(self.steps)
        self._due = set()
        _share(trainer, layers)
        if isinstance(pl_module, EMALightningModule):
            _move_average(pl_module, layers, before, samples if follows else {})
        for name, layer in layers.items():
            for optimizer in trainer.optimizers:
                _move_moments(optimizer, layer.coefficients, fits[name].moved)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop watching; the step was not completed."""
        self._unhook()
        self._inputs = {}

    def _follows_still(self, trainer: Trainer) -> bool:
        """Whether the budget is not yet so far used that grids stay where they are."""
        if self.progress is None:
            return True
        (used,) = of_first(trainer, self.progress(trainer))
        return used <= self.until

    def _recorder(self, name: str):
        def record(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            x = args[0].detach()
            rows = x.reshape(-1, x.shape[-1])
            # Where all inputs are zero f(0) = 0 whatever the grid: an isolated atom, or one of
            # another type than the functions'.
            if module.zero_preserving:
                rows = rows[rows.any(dim=1)]
            self._inputs[name].append(_thin(rows, self.max_samples).clone())

        return record

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


Grid = tuple[torch.Tensor, torch.Tensor]


def _whole_batch(trainer: Trainer, batch: Any, batch_idx: int) -> Any:
    """What all processes do in this step, in the order that one process would have it in."""
    if trainer.world_size == 1:
        return batch
    loader = trainer.train_dataloader
    whole = loader.collate_fn(loader.dataset.__getitems__(loader.batch_sampler.whole()[batch_idx]))
    return trainer.strategy.batch_to_device(whole)


def _all_have_inputs(trainer: Trainer, inputs: dict[str, list[torch.Tensor]]) -> bool:
    """Whether every layer got rows in this batch, in all of several processes.

    Raises:
        KanMdError: a layer was not called.
    """
    for name, batches in inputs.items():
        if not batches:
            raise user_error(
                f"KAN layer {name} was not seen in a training step",
                found="a compiled model",
                allowed=None,
                remedy="train it in eager mode or leave out the grid fit",
            )
    mine = all(any(len(rows) for rows in batches) for batches in inputs.values())
    return trainer.strategy.reduce_boolean_decision(mine, all=True)


def _kan_layers(module: torch.nn.Module) -> dict[str, KANLayer]:
    return {name: m for name, m in module.named_modules() if isinstance(m, KANLayer)}


def _grid(layer: KANLayer) -> Grid:
    return layer.grid_step.clone(), layer.grid_zero.clone()


def _set_grid(layer: KANLayer, grid: Grid) -> None:
    layer.grid_step.copy_(grid[0])
    layer.grid_zero.copy_(grid[1])


def _thin(x: torch.Tensor, rows: int) -> torch.Tensor:
    return x[:: max(1, math.ceil(x.shape[0] / rows))]


@torch.no_grad()
def _share(trainer: Trainer, layers: dict[str, KANLayer]) -> None:
    """Give every process the grids and coefficients of the first one."""
    mine = [(*_grid(layer), layer.coefficients.detach()) for layer in layers.values()]
    for layer, (step, zero, coefficients) in zip(
        layers.values(), trainer.strategy.broadcast(mine, src=0), strict=True
    ):
        _set_grid(layer, (step, zero))
        layer.coefficients.copy_(coefficients)


@torch.no_grad()
def _move_moments(
    optimizer: torch.optim.Optimizer, coefficients: torch.nn.Parameter, moved: torch.Tensor
) -> None:
    """Carry Adam's moments over to new grids; of other optimisers nothing is kept.

    A new function stands where any of the old ones may have stood: it has the largest of their mean
    squares, so that its first steps are rather small than large.
    """
    state = optimizer.state.get(coefficients, {})
    if not state or not bool(moved.any()):
        return
    if "exp_avg_sq" not in state or "Q" in state:  # SOAP's squares are those in another basis
        optimizer.state.pop(coefficients)
        return
    state["exp_avg"][:, moved] = 0.0
    squares = state["exp_avg_sq"]
    squares[:, moved] = squares[:, moved].amax(dim=-1, keepdim=True).expand_as(squares[:, moved])


def _move_average(
    pl_module: EMALightningModule,
    layers: dict[str, KANLayer],
    before: dict[str, Grid],
    samples: dict[str, torch.Tensor],
) -> None:
    """Put the averaged coefficients, still those of the old grids, onto the new ones.

    Their functions are kept at ``samples`` of each layer, or on its whole grid without any.
    """
    after = {name: _grid(layer) for name, layer in layers.items()}
    pl_module.ema.swap_parameters(pl_module.model)
    for name, layer in layers.items():
        _set_grid(layer, before[name])
        move_grid(layer, *after[name], x=samples.get(name))
    pl_module.ema.swap_parameters(pl_module.model)
