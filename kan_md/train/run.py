"""Training a model from a configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from rich.console import Console

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.config.schema import TrainConfig
from kan_md.data.batches import Share
from kan_md.figures import check_figure_name
from kan_md.files import check_writable
from kan_md.ops import operators_in_layers
from kan_md.train.checkpoints import (
    FOLDER,
    LAST,
    CheckpointFiles,
    RunRecord,
    SavedRun,
    read_saved_run,
    told_to_resume,
)
from kan_md.train.clock import Clock
from kan_md.train.continuation import check_continuation, make_record, settle_types
from kan_md.train.description import describe
from kan_md.train.divergence import StopAtDivergence
from kan_md.train.folder import (
    CURVE_FILE,
    LOG_FILE,
    MODEL_FILE,
    RESULT_FILE,
    check_folder,
    clear_folder,
    write_config,
)
from kan_md.train.folder_lock import Claim
from kan_md.train.garbage import without_what_is_there
from kan_md.train.interrupt import Interruption
from kan_md.train.learning import learning_of
from kan_md.train.loaders import check_batches, evaluation_loader, train_loader
from kan_md.train.log import EpochLog, LiveCurve, ProgressDisplay
from kan_md.train.loggers import check_loggers
from kan_md.train.loss_shares import LossShares
from kan_md.train.memory import check_memory
from kan_md.train.part_times import PartTimes, parts_line
from kan_md.train.preparation import PreparedData, model_arguments, prepare_data
from kan_md.train.processes import (
    Processes,
    as_other,
    find_processes,
    leaving_group,
    other_processes,
)
from kan_md.train.refit_at_end import refit_at_end
from kan_md.train.results import final_errors, load_best, summarize, write_results
from kan_md.train.resume import best_chooser
from kan_md.train.trainer import (
    check_time,
    choose_device,
    make_budget,
    make_module,
    make_trainer,
    quiet_lightning,
)
from kan_md.waiting import num_cores

__all__ = ["MODEL_FILE", "RESULT_FILE", "train"]


def train(
    config: TrainConfig,
    output_dir: str | Path = "run",
    *,
    resume: bool = False,
    overwrite: bool = False,
    settings: Sequence[Mapping[str, Any]] = (),
    started: float | None = None,
    figure: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Train a model and write it.

    The folder gets ``model.pth`` (weights of the best validation score; averaged ones if
    ``training.ema``), ``log.csv``, ``learning_curve.png``, ``metrics.json``, ``config.yaml`` and
    ``checkpoints/`` to resume from.

    Args:
        config: what to do.
        output_dir: folder; made if missing.
        resume: continue an interrupted run, or a finished one whose budget was raised. Settings
            that changed take effect, or are refused by name before anything is touched, see
            :mod:`kan_md.train.resumed_settings`.
        overwrite: replace a run that is there.
        settings: of the command line, kept for a resumed run, see
            :mod:`kan_md.config.overrides`.
        started: value of ``time.monotonic()`` from which ``training.max_time`` counts; now where
            ``None``.
        figure: where the learning curve goes, in the format that its ending says; into the folder
            where ``None``.
        console: where progress is shown; nowhere if None.

    Returns:
        Path of ``model.pth``.

    Raises:
        TrainingInterrupted: a signal came; the state is saved.
        KanMdError: the configuration, the data or the folder is not usable.
    """
    processes = find_processes(config.training, choose_device(config.training.device))
    folder = Path(output_dir)
    options = {"resume": resume, "settings": settings, "figure": figure}
    clock = Clock(started)
    console = console or Console(quiet=True)
    if not processes.is_first:
        with leaving_group(), as_other(processes):
            return train_part(config, folder, processes, clock, **options)
    with Claim(folder) as claim:
        check_folder(folder, resume=resume, overwrite=overwrite)
        claim.take()
        if figure is not None:
            check_figure_name(figure, option="--figure")
            if figure.absolute().parent != folder.absolute():
                check_writable(figure, overwrite=resume or overwrite)

        def take_folder() -> None:
            claim.take(make=True)
            check_folder(folder, resume=resume, overwrite=overwrite)  # another may have come first
            clear_folder(folder)

        task = {"config": config, "folder": folder, **options}
        with leaving_group(), other_processes(processes, task):
            return train_part(
                config, folder, processes, clock, console, take_folder=take_folder, **options
            )


def train_part(
    config: TrainConfig,
    folder: Path,
    processes: Processes,
    clock: Clock | None = None,
    console: Console | None = None,
    *,
    resume: bool,
    settings: Sequence[Mapping[str, Any]],
    figure: Path | None,
    take_folder: Callable[[], None] = lambda: None,
) -> Path:
    """Do what one of the processes does; the first one writes and speaks.

    Args:
        config: see :func:`train`.
        folder: of the run.
        processes: this one's place.
        clock: of this process; a new one where ``None``.
        console: of this process; a quiet one where ``None``.
        resume: see :func:`train`.
        settings: likewise.
        figure: likewise.
        take_folder: make room for a new run in the folder; of the first process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.training.threads or _threads(processes, config))
    try:
        return _train(
            *(config, folder, processes, clock or Clock(), console or Console(quiet=True)),
            resume=resume,
            settings=settings,
            figure=figure,
            take_folder=take_folder,
        )
    finally:
        torch.set_num_threads(threads)


def _threads(processes: Processes, config: TrainConfig) -> int:
    """Threads of a process: torch's choice, or its part of the cores."""
    if processes.devices == 1 or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, num_cores() // processes.devices)


def _train(
    config: TrainConfig,
    folder: Path,
    processes: Processes,
    clock: Clock,
    console: Console,
    *,
    resume: bool,
    settings: Sequence[Mapping[str, Any]],
    figure: Path | None,
    take_folder: Callable[[], None],
) -> Path:
    saved = read_saved_run(folder) if resume else None
    going_on = None if saved is None else check_continuation(config, saved, folder)
    device = choose_device(config.training.device)
    check_loggers(config.training.loggers)
    times = PartTimes(start_up=clock.of_this_process)
    with times.part("data and graphs"):
        data = prepare_data(config, resumed=None if saved is None else saved.arguments)
    check_batches(data, config.training)
    settle_types(config, data, saved)
    record = make_record(config, data, settings, saved)
    given, config = config, data.config
    arguments = model_arguments(config, data) if saved is None else saved.arguments
    with nequip_settings(), quiet_lightning(), operators_in_layers() as with_operators:
        module = make_module(config, data, arguments, fresh=saved is None)
        describe(console, config, data, module)
        if processes.is_first:
            check_memory(module, data, config.training, processes, device)
        if config.readout.kind == "kan" and device == "cpu" and not with_operators:
            console.print("KAN layers in plain torch; faster after: kan-md build", highlight=False)
        files = CheckpointFiles(lambda: _keep(given, config, folder))
        budget = make_budget(config, data, files, clock)
        interruption = Interruption(folder / FOLDER / LAST)
        shown: list[Callback] = []
        if processes.is_first:
            log, curve = EpochLog(folder / LOG_FILE, budget), figure or folder / CURVE_FILE
            averaged = config.training.ema is not None
            shown = [
                log,
                LiveCurve(log, curve, data.targets, averaged=averaged),
                ProgressDisplay(console, budget, data.targets, processes=processes.of),
            ]
        callbacks = [
            *([] if config.training.max_time is None else [budget.reserve]),
            budget,
            *shown,
            LossShares(console, key=learning_of(config).weight_key),
            StopAtDivergence(console),
            RunRecord(record),
            interruption,
        ]
        trainer = make_trainer(config, folder, device, callbacks, files, times, processes)
        reason = None
        if going_on is None:
            if processes.is_first:
                check_time(budget)
                take_folder()
                write_config(given, config, folder)
        else:
            content, reason, notes = going_on.go_on(module, data, trainer, budget)
            for note in notes:
                console.print(note, highlight=False, soft_wrap=True)
            files.resume_from(content)
            if reason is not None:
                remedy = "raise training.epochs or training.max_time to go on"
                said = f"nothing left to train, {reason}; {remedy}"
                console.print(said, highlight=False, soft_wrap=True)
                if going_on.is_written:
                    return folder / MODEL_FILE
                for callback in (budget, best_chooser(trainer)):
                    callback.load_state_dict(content["callbacks"][callback.state_key])
        with told_to_resume(folder):
            if reason is None:
                with interruption.listening():
                    _fit(trainer, module, config, data, saved, processes.share)
            best = load_best(module, folder, best_chooser(trainer).best_model_score)
            if config.training.refit:
                with times.part("exact readout"):
                    said = refit_at_end(module, config, data, arguments)
                console.print(said, highlight=False, soft_wrap=True)
            with times.part("errors of the best epoch"):
                errors = final_errors(trainer, module, data, config.training, processes.share)
            if not processes.is_first:
                return folder / MODEL_FILE
            summary = summarize(
                config,
                data,
                module.model,
                budget,
                form=str(module.form),
                epochs=trainer.current_epoch if reason is None else saved.epochs,
                best=best,
                errors=errors,
                times=times,
            )
            console.print(parts_line(summary["parts"]), highlight=False, soft_wrap=True)
            return write_results(config, data, arguments, module, summary, folder, figure=figure)


def _fit(
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    config: TrainConfig,
    data: PreparedData,
    saved: SavedRun | None,
    share: Share,
) -> None:
    training = config.training
    batches = train_loader(data, training, share)
    judged = evaluation_loader(data, "val", training, share)
    checkpoint = None if saved is None else saved.path
    with without_what_is_there():
        trainer.fit(module, batches, judged, ckpt_path=checkpoint, weights_only=False)


def _keep(given: TrainConfig, config: TrainConfig, folder: Path) -> None:
    """Let the folder follow the first checkpoint that this process has written."""
    write_config(given, config, folder)
    (folder / RESULT_FILE).unlink(missing_ok=True)
