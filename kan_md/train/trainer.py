"""Lightning's parts of a training: module, budget, trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from kan_md.config.schema import TrainConfig
from kan_md.errors import user_error
from kan_md.train.agreement import WholeBatchStrategy
from kan_md.train.budget import Budget
from kan_md.train.checkpoints import BEST, FOLDER, LAST, CheckpointFiles
from kan_md.train.clock import Clock, Reserve
from kan_md.train.finetune import start_readouts
from kan_md.train.grid_callback import GridFitCallback
from kan_md.train.interrupt import Interruption
from kan_md.train.loaders import evaluation_loader
from kan_md.train.loggers import make_loggers
from kan_md.train.metrics import (
    MONITOR,
    error_manager,
    loss_manager,
    monitor_manager,
    stage_coefficients,
)
from kan_md.train.module import MODEL_KEY, AveragedModule, PlainModule
from kan_md.train.part_times import PartTimes
from kan_md.train.preparation import PreparedData, given_statistics
from kan_md.train.processes import Processes

_OPTIMIZERS = {
    # Fused: the same arithmetic in one call for all parameters.
    "adamw": {"_target_": "torch.optim.AdamW", "fused": True},
    "adam": {"_target_": "torch.optim.Adam", "fused": True},
    "radam": {"_target_": "torch.optim.RAdam"},
    "sgd": {"_target_": "torch.optim.SGD", "fused": True},
    # The betas and the frequency that its authors recommend.
    "soap": {
        "_target_": "pytorch_optimizer.SOAP",
        "betas": (0.95, 0.95),
        "precondition_frequency": 10,
    },
}

_WRITING = 1.0
"""s; model.pth, learning curve, tables and the end of the process on an idle machine."""

_WRITING_BY_START_UP = 0.5
"""The same as a share of the start-up, which tells how fast the machine is at such things."""


def choose_device(device: str) -> str:
    """Device to train on: ``cpu`` or ``cuda``.

    Raises:
        KanMdError: it is not there.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise user_error(
            "no CUDA device here",
            found="training.device: cuda",
            allowed="auto, cpu",
            remedy="set training.device",
        )
    return "cuda" if available and device != "cpu" else "cpu"


def accelerator_of(device: str) -> str:
    """Lightning's name of a device."""
    return "gpu" if device == "cuda" else "cpu"


def make_module(
    config: TrainConfig, data: PreparedData, arguments: Mapping[str, Any], *, fresh: bool
) -> lightning.LightningModule:
    """Make nequip's Lightning module with the model, the losses and the optimiser.

    Args:
        config: what to train, and how.
        data: on what.
        arguments: of the model.
        fresh: whether the run begins, so that ``training.init_from`` counts.
    """
    training = config.training
    init_from = training.init_from if fresh else None
    options: dict[str, Any] = {
        "model": {
            "backbone": config.model.backbone,
            "arguments": arguments,
            "init_from": None if init_from is None else str(init_from),
            "given": sorted(given_statistics(config)),
            "fresh_readout": training.fresh_readout,
            "freeze": training.freeze,
        },
        "num_datasets": {"train": 1, "val": 1, "test": len(data.datasets), "predict": 0},
        "optimizer": {
            **_OPTIMIZERS[training.optimizer.name],
            "lr": training.optimizer.lr,
            "weight_decay": training.optimizer.weight_decay,
            "param_groups": {"_target_": "kan_md.train.module.trainable_parameters"},
        },
        "loss": loss_manager(training.loss, config, data.targets),
        "train_metrics": error_manager(data.targets, data.shown),
        "val_metrics": monitor_manager(config, data.targets, data.shown),
        "test_metrics": error_manager(data.targets, data.shown),
        "regularization": training.regularization.model_dump(),
        "form": training.form,
    }
    if training.ema is None:
        module = PlainModule(**options)
    else:
        module = AveragedModule(ema_decay=training.ema, **options)
    if init_from is not None and config.readout.kind == "kan" and not training.fresh_readout:
        module.exchanged = start_readouts(
            *(module.model[MODEL_KEY], module.transfer, str(init_from), data.frames["train"]),
            backbone=config.model.backbone,
            seed=training.seed,
        )
        module.restart_average()
    return module


def make_budget(
    config: TrainConfig, data: PreparedData, files: CheckpointFiles, clock: Clock
) -> Budget:
    """What the training may take, and who says when it ends.

    Args:
        config: with epochs, time, schedule and stages.
        data: whose evaluation at the end takes time.
        files: whose writing does.
        clock: of the process.
    """
    training = config.training
    atoms = {part: sum(map(len, frames)) for part, frames in data.frames.items()}
    example = evaluation_loader(data, "val", training)
    writing = max(_WRITING, _WRITING_BY_START_UP * clock.of_this_process)
    return Budget(
        training.schedule,
        training.optimizer.lr,
        epochs=training.epochs,
        max_time=training.max_time,
        base=stage_coefficients(training.loss, config),
        stages=[
            (stage.start, stage_coefficients(stage.loss, config), stage.lr)
            for stage in training.stages
        ],
        clock=clock,
        reserve=Reserve(atoms, example, files, writing=writing),
    )


def check_time(budget: Budget) -> None:
    """Refuse a time in which nothing can be trained.

    Raises:
        KanMdError: start-up and writing alone take longer.
    """
    if budget.seconds_left <= 0:
        needed = budget.clock.seconds + budget.reserve.seconds
        raise user_error(
            "training.max_time",
            found=f"{budget.max_time:g} s",
            allowed=f"> {needed:.0f} s, which start-up, data and writing take",
            remedy="set training.max_time",
        )


def make_trainer(
    config: TrainConfig,
    folder: Path,
    device: str,
    callbacks: Sequence[Callback],
    files: CheckpointFiles,
    times: PartTimes,
    processes: Processes,
) -> lightning.Trainer:
    """Make Lightning's trainer.

    Args:
        config: what to do.
        folder: of the run.
        device: see :func:`choose_device`.
        callbacks: besides those that the configuration asks for and those that keep the best and
            the last epoch.
        files: write these.
        times: measure these.
        processes: train together; the first one has loggers.
    """
    training = config.training
    checkpoints = {
        "dirpath": folder / FOLDER,
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    every = [
        *callbacks,
        ModelCheckpoint(filename=Path(BEST).stem, monitor=MONITOR, mode="min", **checkpoints),
        ModelCheckpoint(filename=Path(LAST).stem, **checkpoints),
    ]
    (interruption,) = (callback for callback in callbacks if isinstance(callback, Interruption))
    strategy = WholeBatchStrategy(lambda: interruption.requested) if processes.of > 1 else "auto"
    if config.readout.kind == "kan" and config.readout.fit_grid is not None:
        fit = config.readout.fit_grid
        (budget,) = (callback for callback in callbacks if isinstance(callback, Budget))
        follow = {"every": fit.every, "until": fit.until, "progress": budget.progress}
        every.insert(0, GridFitCallback(fit.steps, blend=fit.blend, **follow))
    if training.early_stop is not None:
        stop = training.early_stop
        every.append(
            EarlyStopping(
                MONITOR, patience=stop.patience, min_delta=stop.min_delta, check_finite=True
            )
        )
    return lightning.Trainer(
        accelerator=accelerator_of(device),
        devices=processes.devices,
        num_nodes=processes.nodes,
        strategy=strategy,
        use_distributed_sampler=False,  # the loaders know their share
        max_epochs=training.epochs or -1,
        gradient_clip_val=training.gradient_clip,
        callbacks=every,
        plugins=[files, processes.environment],
        profiler=times,
        logger=make_loggers(training.loggers, folder) if processes.is_first else False,
        log_every_n_steps=1,  # nothing is logged by steps; more than there are would be warned of
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
        default_root_dir=folder,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says about itself on every start."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Neighbour lists are made beforehand: loader workers would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`.*")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message=".*logging on epoch level in distributed.*")
        warnings.filterwarnings("ignore", message="GPU available but not used.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
