"""What all processes of a run have to decide alike; with one process nothing is sent."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy


def of_first(trainer: Trainer, *values: float) -> list[float]:
    """Numbers that the first process has, such as what its clock says."""
    if trainer.world_size == 1:
        return list(values)
    sent = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    torch.distributed.broadcast(sent, 0)
    return sent.tolist()


def any_of(trainer: Trainer, flag: bool) -> bool:
    """Whether it is so in one process."""
    if trainer.world_size == 1:
        return flag
    return trainer.strategy.reduce_boolean_decision(flag, all=False)


def of_all(trainer: Trainer, values: torch.Tensor) -> torch.Tensor:
    """Sum over the processes; no gradient goes through it."""
    if trainer.world_size == 1:
        return values
    summed = values.detach().clone()
    torch.distributed.all_reduce(summed)
    return summed


class WholeBatchStrategy(DDPStrategy):
    """Lightning's DDP with one exchange behind the gradient, as nequip's ``SimpleDDPStrategy``.

    Parameters without a gradient in one process, or in all, are those of the whole batch, too: the
    ones that no process has a gradient of stay without, as they would with one process.
    """

    def configure_ddp(self) -> None:
        """Begin with the same weights everywhere; nothing wraps the model."""
        with torch.no_grad():
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                torch.distributed.broadcast(tensor, 0)

    def post_backward(self, closure_loss: torch.Tensor) -> None:
        """Average the gradients over the processes."""
        assert isinstance(self.model, LightningModule)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        by_dtype: dict[torch.dtype, list[torch.nn.Parameter]] = {}
        for parameter in trained:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
        for parameters in by_dtype.values():
            _average(parameters)


def _average(parameters: list[torch.nn.Parameter]) -> None:
    """Average gradients in one exchange, with how many processes have each."""
    first = parameters[0]
    has = torch.tensor([p.grad is not None for p in parameters]).to(first)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([*(grad.reshape(-1) for grad in grads), has])
    torch.distributed.all_reduce(flat)
    *averages, number = flat.split([*(p.numel() for p in parameters), len(parameters)])
    number_of_processes = torch.distributed.get_world_size()
    for parameter, average, having in zip(parameters, averages, number.tolist(), strict=True):
        if having:
            parameter.grad = average.view_as(parameter) / number_of_processes
