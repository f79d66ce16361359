"""What a finished run leaves: model.pth of the best epoch, its errors, the learning curve."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch

from kan_md.backbones.readout import count_parameters
from kan_md.backbones.readout_report import describe_readouts
from kan_md.config.schema import TrainConfig, TrainingConfig
from kan_md.data.batches import Share
from kan_md.errors import user_error
from kan_md.files import write_text
from kan_md.model.checkpoint import Checkpoint, save_checkpoint
from kan_md.train.budget import Budget
from kan_md.train.checkpoints import BEST, FOLDER, read_best
from kan_md.train.divergence import check_best
from kan_md.train.figure import plot_learning_curves
from kan_md.train.folder import CURVE_FILE, LOG_FILE, MODEL_FILE, RESULT_FILE
from kan_md.train.loaders import evaluation_loader, train_loader
from kan_md.train.log import read_log
from kan_md.train.module import MODEL_KEY
from kan_md.train.part_times import PartTimes
from kan_md.train.preparation import PreparedData
from kan_md.train.resume import evaluated_weights, put_weights


def load_best(
    module: lightning.LightningModule, folder: Path, score: torch.Tensor | None
) -> dict[str, int]:
    """Put the best epoch's weights into the module, averaged ones where there are.

    Args:
        module: of the model.
        folder: of the run.
        score: validation loss of that epoch.

    Returns:
        ``epoch`` and ``step``, from 0.

    Raises:
        KanMdError: the file is missing or damaged, or the training diverged.
    """
    content = read_best(folder)
    if content is None:
        raise user_error(
            f"best epoch of the run, {folder / FOLDER / BEST}",
            found="a file that is missing or damaged",
            allowed=None,
            remedy="go on with --resume and more training.epochs, so that there is a new one",
        )
    weights = evaluated_weights(content["state_dict"], module)
    check_best(score, content["state_dict"])
    put_weights(module, weights)
    return {"epoch": content["epoch"], "step": content["global_step"]}


def final_errors(
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    data: PreparedData,
    training: TrainingConfig,
    share: Share | None = None,
) -> dict[str, dict[str, float | None]]:
    """Errors of the module's weights on every part, by part and name; None without labels."""
    loaders = [evaluation_loader(data, part, training, share) for part in data.datasets]
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


def summarize(
    config: TrainConfig,
    data: PreparedData,
    model: torch.nn.Module,
    budget: Budget,
    *,
    form: str,
    epochs: int,
    best: Mapping[str, int],
    errors: Mapping[str, Mapping[str, float | None]],
    times: PartTimes,
) -> dict[str, Any]:
    """What metrics.json and model.pth say of the run."""
    return {
        "backbone": config.model.backbone,
        "readout": config.readout.kind,
        "parameters": count_parameters(model),
        "readouts": describe_readouts(model, config.model.backbone),
        "form": form,
        "structures": {part: len(frames) for part, frames in data.frames.items()},
        "epochs": epochs,
        "best_epoch": best["epoch"] + 1,
        "seconds": round(budget.seconds, 1),
        "wall_seconds": round(budget.clock.seconds, 1),
        "parts": {
            name: round(seconds, 2)
            for name, seconds in times.parts(budget.clock.of_this_process).items()
        },
        "seed": config.training.seed,
        "references": data.statistics.get("reference_sources", {}),
        "notes": [": ".join(note) for note in data.notes],
        "errors": errors,
        "versions": {name: version(name) for name in ("kan-md", "torch", "nequip")},
        "date": time.strftime("%Y-%m-%d"),
    }


def write_results(
    config: TrainConfig,
    data: PreparedData,
    arguments: Mapping[str, Any],
    module: lightning.LightningModule,
    summary: dict[str, Any],
    folder: Path,
    *,
    figure: Path | None = None,
) -> Path:
    """Write model.pth, the learning curve and, last, metrics.json.

    Args:
        config: what was done.
        data: with what.
        arguments: of the model.
        module: with the weights to keep.
        summary: see :func:`summarize`.
        folder: where to.
        figure: the learning curve, if not ``learning_curve.png`` in the folder.

    Returns:
        Path of model.pth.
    """
    model = module.evaluation_model[MODEL_KEY].cpu().eval()
    frames = data.frames["train"]
    step = max(1, len(frames) // config.training.reference_frames)
    chosen = frames[::step][: config.training.reference_frames]
    checkpoint = Checkpoint(
        backbone=config.model.backbone,
        config={"model": dict(arguments), "training": config.training.model_dump(mode="json")},
        type_names=data.type_names,
        r_max=config.model.r_max,
        state_dict=model.state_dict(),
        statistics=data.statistics,
        reference_frames=config.task.reference_frames(model, chosen),
        training_summary=summary,
    )
    path = save_checkpoint(checkpoint, folder / MODEL_FILE)
    rows = read_log(folder / LOG_FILE)
    if rows:
        plot_learning_curves(
            rows,
            data.targets,
            folder / CURVE_FILE if figure is None else figure,
            steps_per_epoch=len(train_loader(data, config.training)),
            best_epoch=summary["best_epoch"],
            averaged=config.training.ema is not None,
        )
    write_text(folder / RESULT_FILE, json.dumps(summary, indent=2) + "\n")
    return path
