"""What all processes of a run have to decide alike; with one process nothing is sent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from kan_md.train.part_times import EXCHANGE


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


def stop_is_wanted(trainer: Trainer, flag: bool) -> bool:
    """Whether one of the processes wanted to stop when the gradient of this step was exchanged."""
    strategy = trainer.strategy
    return strategy.stops if isinstance(strategy, WholeBatchStrategy) else flag


class WholeBatchStrategy(DDPStrategy):
    """Lightning's DDP with one exchange behind the gradient, as nequip's ``SimpleDDPStrategy``.

    Parameters without a gradient in one process, or in all, are those of the whole batch, too: the
    ones that no process has a gradient of stay without, as they would with one process.

    Args:
        wants_to_stop: whether this process wants to end the run; goes with the gradient.

    Attributes:
        stops: whether one of the processes wanted it in the last step.
    """

    def __init__(self, wants_to_stop: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._wants_to_stop = wants_to_stop
        self.stops = False

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
        wanted = self._wants_to_stop()
        with self.model.trainer.profiler.profile(EXCHANGE):
            self.stops = any([_average(parameters, wanted) for parameters in by_dtype.values()])


def _average(parameters: list[torch.nn.Parameter], flag: bool) -> bool:
    """Average gradients in one exchange, with how many processes have each and the flag.

    Returns:
        Whether the flag is set in one of the processes.
    """
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    also = torch.tensor([*(p.grad is not None for p in parameters), flag]).to(grads[0])
    flat = torch.cat([*(grad.reshape(-1) for grad in grads), also])
    torch.distributed.all_reduce(flat)
    gradient, also = flat.split([len(flat) - len(also), len(also)])
    gradient /= torch.distributed.get_world_size()
    *having, flags = also.tolist()
    averages = gradient.split([p.numel() for p in parameters])
    for parameter, average, number in zip(parameters, averages, having, strict=True):
        if number:
            parameter.grad = average.view_as(parameter)
    return flags > 0
