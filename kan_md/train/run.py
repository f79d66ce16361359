"""Training a model from a configuration."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from ase import Atoms
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from rich.console import Console

from kan_md.backbones.build import idle_hyperparameters
from kan_md.backbones.etgnn.spec import parse_tensors
from kan_md.backbones.readout import count_parameters
from kan_md.backbones.readout_report import describe_readouts, readout_lines
from kan_md.backbones.scope import nequip_scope
from kan_md.config.schema import TrainConfig
from kan_md.data.dataset import make_loader
from kan_md.errors import user_error
from kan_md.files import is_writable, write_text
from kan_md.model.checkpoint import Checkpoint, save_checkpoint
from kan_md.model.reference import make_reference_frames
from kan_md.model.tensors import is_tensor_backbone, make_tensor_frames
from kan_md.ops import operators_in_layers
from kan_md.train.budget import Budget
from kan_md.train.divergence import StopAtDivergence, check_best
from kan_md.train.figure import plot_learning_curves
from kan_md.train.grid_callback import GridFitCallback
from kan_md.train.interrupt import Interruption
from kan_md.train.metrics import (
    MONITOR,
    error_manager,
    loss_manager,
    monitor_manager,
    stage_coefficients,
)
from kan_md.train.module import MODEL_KEY, AveragedModule, PlainModule
from kan_md.train.parts import note_lines
from kan_md.train.preparation import PreparedData, model_arguments, prepare_data
from kan_md.train.record import EpochLog, ProgressDisplay, read_log

MODEL_FILE = "model.pth"
RESULT_FILE = "metrics.json"
"""Written last: its presence says that the run is finished."""

_OPTIMIZERS = {
    "adamw": "torch.optim.AdamW",
    "adam": "torch.optim.Adam",
    "radam": "torch.optim.RAdam",
    "sgd": "torch.optim.SGD",
}


def train(
    config: TrainConfig,
    output_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a model and write it.

    The folder gets ``model.pth`` (weights of the best validation score; averaged ones if
    ``training.ema``), ``log.csv``, ``learning_curve.png``, ``metrics.json``, ``config.yaml`` and
    ``checkpoints/`` to resume from.

    Args:
        config: what to do.
        output_dir: folder; made if missing.
        resume: continue an interrupted run, or a finished one whose budget was raised.
        overwrite: replace a run that is there.
        console: where progress is shown; nowhere if None.

    Returns:
        Path of ``model.pth``.

    Raises:
        TrainingInterrupted: a signal came; the state is saved.
        KanMdError: the configuration, the data or the folder is not usable.
    """
    console = console or Console(quiet=True)
    folder = Path(output_dir)
    last = folder / "checkpoints" / "last.ckpt"
    _check_folder(folder, last, resume=resume, overwrite=overwrite)
    device = _choose_device(config.training.device)
    data = prepare_data(config)
    if resume:
        _check_same_model(config, folder)
    given, config = config, data.config
    with nequip_scope(), _quiet_lightning(), operators_in_layers() as with_operators:
        module = _make_module(config, data)
        _describe(console, config, data, module)
        if config.readout.kind == "kan" and device == "cpu" and not with_operators:
            console.print("KAN layers in plain torch; faster after: kan-md build", highlight=False)
        _make_folder(folder, keep=resume)
        _write_config(given, folder)
        budget = _make_budget(config)
        interruption = Interruption(last)
        trainer = _make_trainer(config, folder, device, budget, interruption, console)
        with interruption.listening():
            trainer.fit(
                module,
                make_loader(
                    data.datasets["train"],
                    config.training.batch_size,
                    shuffle_seed=config.training.seed,
                ),
                make_loader(data.datasets["val"], config.training.val_batch_size),
                ckpt_path=last if resume else None,
                weights_only=False,
            )
        best = _load_best(trainer, module, folder)
        errors = _final_errors(trainer, module, data, config)
        model = module.evaluation_model[MODEL_KEY].cpu().eval()
        summary = _summary(config, data, model, budget, best, errors, trainer)
        return _write_results(config, data, model, summary, folder)


def _check_folder(folder: Path, last: Path, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise user_error(
            "a run is continued or replaced",
            found="--resume with --overwrite",
            allowed="one of them",
            remedy="leave one out",
        )
    if resume and not last.is_file():
        raise user_error(
            "nothing to resume", found=f"no {last}", allowed=None, remedy="start without --resume"
        )
    if folder.exists() and not folder.is_dir():
        raise user_error(
            "output folder", found=f"the file {folder}", allowed=None, remedy="change --output"
        )
    if not resume and not overwrite and (last.exists() or (folder / MODEL_FILE).exists()):
        finished = (folder / RESULT_FILE).exists()
        raise user_error(
            f"output folder {folder}",
            found=f"{'a finished' if finished else 'an unfinished'} run",
            allowed=None,
            remedy="give --overwrite, another --output" + ("" if finished else ", or --resume"),
        )
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not is_writable(parent):
        raise user_error(
            f"output folder {folder}",
            found="a place that cannot be written",
            allowed=None,
            remedy="change --output",
        )


def _make_folder(folder: Path, *, keep: bool) -> None:
    """Make the folder; a run that is replaced is removed only now that the new one can start."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not keep:
        old = [folder / name for name in (MODEL_FILE, "log.csv", "learning_curve.png")]
        for path in [*old, *checkpoints.glob("*.ckpt")]:
            path.unlink(missing_ok=True)
    (folder / RESULT_FILE).unlink(missing_ok=True)


def _choose_device(device: str) -> str:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise user_error(
            "no CUDA device here",
            found="training.device: cuda",
            allowed="auto, cpu",
            remedy="set training.device",
        )
    return "cuda" if available and device != "cpu" else "cpu"


def _check_same_model(config: TrainConfig, folder: Path) -> None:
    """A resumed run goes on with the same data, model and readout."""
    before = yaml.safe_load((folder / "config.yaml").read_text())
    now = config.model_dump(mode="json")
    for section in ("data", "model", "readout", "targets"):
        for key in now[section] if isinstance(now[section], dict) else [None]:
            old = before[section] if key is None else before[section].get(key)
            new = now[section] if key is None else now[section][key]
            if old != new:
                raise user_error(
                    f"{section}{'' if key is None else f'.{key}'} of a resumed run",
                    found=new,
                    allowed=old,
                    remedy="put it back, or start a new run",
                )


def _make_module(config: TrainConfig, data: PreparedData) -> lightning.LightningModule:
    """Make nequip's Lightning module with the model, the losses and the optimiser."""
    training = config.training
    arguments: dict[str, Any] = {
        "model": {
            "backbone": config.model.backbone,
            "arguments": model_arguments(config, data),
            "init_from": None if training.init_from is None else str(training.init_from),
            "fresh_readout": training.fresh_readout,
            "freeze": training.freeze,
        },
        "num_datasets": {"train": 1, "val": 1, "test": len(data.datasets), "predict": 0},
        "optimizer": {
            "_target_": _OPTIMIZERS[training.optimizer.name],
            "lr": training.optimizer.lr,
            "weight_decay": training.optimizer.weight_decay,
            "param_groups": {"_target_": "kan_md.train.module.trainable_parameters"},
        },
        "loss": loss_manager(training.loss, config, data.targets),
        "train_metrics": error_manager(data.targets, data.shown),
        "val_metrics": monitor_manager(config, data.targets, data.shown),
        "test_metrics": error_manager(data.targets, data.shown),
        "regularization": training.regularization.model_dump(),
    }
    if training.schedule.name == "plateau":
        arguments["lr_scheduler"] = {
            "scheduler": {
                "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
                "factor": training.schedule.factor,
                "patience": training.schedule.patience,
            },
            "monitor": MONITOR,
            "interval": "epoch",
        }
    if training.ema is None:
        return PlainModule(**arguments)
    return AveragedModule(ema_decay=training.ema, **arguments)


def _make_budget(config: TrainConfig) -> Budget:
    training = config.training
    return Budget(
        training.schedule,
        training.optimizer.lr,
        epochs=training.epochs,
        max_time=training.max_time,
        stages=[
            (stage.start, stage_coefficients(stage.loss, config), stage.lr)
            for stage in training.stages
        ],
    )


def _make_trainer(
    config: TrainConfig,
    folder: Path,
    device: str,
    budget: Budget,
    interruption: Interruption,
    console: Console,
) -> lightning.Trainer:
    training = config.training
    checkpoints = {
        "dirpath": folder / "checkpoints",
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    callbacks = [
        budget,
        EpochLog(folder / "log.csv", budget),
        ProgressDisplay(console, budget),
        StopAtDivergence(console),
        ModelCheckpoint(filename="best", monitor=MONITOR, mode="min", **checkpoints),
        ModelCheckpoint(filename="last", **checkpoints),
        interruption,
    ]
    if config.readout.kind == "kan" and config.readout.fit_grid is not None:
        fit = config.readout.fit_grid
        callbacks.insert(0, GridFitCallback(fit.steps, blend=fit.blend))
    if training.early_stop is not None:
        stop = training.early_stop
        callbacks.append(
            EarlyStopping(
                MONITOR, patience=stop.patience, min_delta=stop.min_delta, check_finite=True
            )
        )
    return lightning.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_epochs=training.epochs or -1,
        gradient_clip_val=training.gradient_clip,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
        default_root_dir=folder,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
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


def _describe(
    console: Console, config: TrainConfig, data: PreparedData, module: lightning.LightningModule
) -> None:
    sizes = ", ".join(f"{len(frames)} {part}" for part, frames in data.frames.items() if frames)
    console.print(
        f"{config.model.backbone}, {config.readout.kind} readout, "
        f"{count_parameters(module.model):,} trainable parameters; {sizes} structures of "
        f"{', '.join(data.type_names)}; "
        f"{data.statistics['avg_num_neighbors']:.1f} neighbours within {config.model.r_max:g} Å",
        highlight=False,
    )
    built = describe_readouts(module.model, config.model.backbone)
    given = config.model.hyperparameters
    idle = idle_hyperparameters(config.model.backbone, config.readout.architecture, given)
    for line in readout_lines(built, idle=idle):
        console.print(f"  {line}", highlight=False)
    for line in note_lines(data.notes):
        console.print(line, highlight=False, soft_wrap=True)


def _load_best(
    trainer: lightning.Trainer, module: lightning.LightningModule, folder: Path
) -> dict[str, Any]:
    """Put the best epoch's weights into the module."""
    content = torch.load(
        folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=False
    )
    (chooser,) = [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor == MONITOR
    ]
    check_best(chooser.best_model_score, content["state_dict"])
    module.load_state_dict(content["state_dict"])
    return {"epoch": content["epoch"], "step": content["global_step"]}


def _final_errors(
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    data: PreparedData,
    config: TrainConfig,
) -> dict[str, dict[str, float | None]]:
    """Errors of the best weights on every part; None where a part has no labels."""
    loaders = [
        make_loader(dataset, config.training.val_batch_size) for dataset in data.datasets.values()
    ]
    results = trainer.test(module, loaders, verbose=False)
    errors: dict[str, dict[str, float | None]] = {}
    for index, (part, result) in enumerate(zip(data.datasets, results, strict=True)):
        prefix = f"test{index}_epoch/"
        errors[part] = {
            key.removeprefix(prefix).split("/dataloader_idx")[0]: value
            for key, value in result.items()
            if key.startswith(prefix)
        }
        for target in data.targets:
            if target.name not in data.labelled[part]:  # no labels, no error
                own = [name for name in errors[part] if name.startswith(f"{target.name}_")]
                errors[part] |= dict.fromkeys(own)
    return errors


def _summary(
    config: TrainConfig,
    data: PreparedData,
    model: torch.nn.Module,
    budget: Budget,
    best: dict[str, Any],
    errors: dict[str, dict[str, float | None]],
    trainer: lightning.Trainer,
) -> dict[str, Any]:
    return {
        "backbone": config.model.backbone,
        "readout": config.readout.kind,
        "parameters": count_parameters(model),
        "readouts": describe_readouts(model, config.model.backbone),
        "structures": {part: len(frames) for part, frames in data.frames.items()},
        "epochs": trainer.current_epoch,
        "best_epoch": best["epoch"] + 1,
        "seconds": round(budget.seconds, 1),
        "seed": config.training.seed,
        "references": data.statistics.get("reference_sources", {}),
        "notes": [": ".join(note) for note in data.notes],
        "errors": errors,
        "versions": {name: version(name) for name in ("kan-md", "torch", "nequip")},
        "date": time.strftime("%Y-%m-%d"),
    }


def _write_results(
    config: TrainConfig,
    data: PreparedData,
    model: torch.nn.Module,
    summary: dict[str, Any],
    folder: Path,
) -> Path:
    frames = data.frames["train"]
    step = max(1, len(frames) // config.training.reference_frames)
    chosen = frames[::step][: config.training.reference_frames]
    checkpoint = Checkpoint(
        backbone=config.model.backbone,
        config={
            "model": model_arguments(config, data),
            "training": config.training.model_dump(mode="json"),
        },
        type_names=data.type_names,
        r_max=config.model.r_max,
        state_dict=model.state_dict(),
        statistics=data.statistics,
        reference_frames=_reference_frames(config, model, chosen),
        training_summary=summary,
    )
    path = save_checkpoint(checkpoint, folder / MODEL_FILE)
    rows = read_log(folder / "log.csv")
    if rows:
        plot_learning_curves(rows, data.targets, folder / "learning_curve.png")
    write_text(folder / RESULT_FILE, json.dumps(summary, indent=2) + "\n")
    return path


def _reference_frames(
    config: TrainConfig, model: torch.nn.Module, frames: Sequence[Atoms]
) -> list[dict]:
    if is_tensor_backbone(config.model.backbone):
        specs = parse_tensors([spec.model_dump(exclude={"weight"}) for spec in config.targets])
        return make_tensor_frames(model, specs, frames)
    return make_reference_frames(model, frames)


def _write_config(config: TrainConfig, folder: Path) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_text(folder / "config.yaml", text)
