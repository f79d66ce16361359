"""What is said before a training begins."""

from __future__ import annotations

from collections.abc import Sequence

import lightning
from rich.console import Console

from kan_md.backbones.build import discontinuity, idle_hyperparameters, upstream_names
from kan_md.backbones.readout import count_parameters
from kan_md.backbones.readout_report import describe_readouts, readout_lines
from kan_md.backbones.transfer import Transfer, is_readout
from kan_md.config.schema import TrainConfig
from kan_md.config.without_effect import settings_without_effect
from kan_md.data.statistics import types_of
from kan_md.model.checkpoint import Checkpoint, load_checkpoint
from kan_md.model.readout_exchange import Exchange
from kan_md.train.learning import learning_of
from kan_md.train.preparation import PreparedData
from kan_md.train.structures import Note, grouped, note_lines


def describe(
    console: Console, config: TrainConfig, data: PreparedData, module: lightning.LightningModule
) -> None:
    """Say what is trained on what, and what may be wrong with it.

    Args:
        console: where to.
        config: what to do.
        data: with what.
        module: the model.
    """
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
    console.print(f"  form {module.form}", highlight=False, soft_wrap=True)
    data.notes[:] = grouped([*data.notes, *_own_notes(config, data, module)])
    for line in note_lines(data.notes):
        console.print(line, highlight=False, soft_wrap=True)


def _own_notes(
    config: TrainConfig, data: PreparedData, module: lightning.LightningModule
) -> list[Note]:
    """Settings without effect, types that nothing trains, and what another model gives."""
    transfer, exchanged = module.transfer, module.exchanged
    notes: list[Note] = []
    if idle := settings_without_effect(config):
        notes.append(("settings", f"without effect here: {', '.join(idle)}"))
    model = config.model
    jump = discontinuity(model.backbone, upstream_names(model.backbone, model.hyperparameters))
    if jump is not None:
        notes.append(("warning", jump))
    untrained = data.statistics["untrained_types"]
    if untrained:
        names = ", ".join(untrained)
        text = f"no training structure has {names}: {'its' if len(untrained) == 1 else 'their'} "
        text += "weights stay random; add structures or change model.type_names"
        notes.append(("warning", text))
    if transfer is not None:
        source = load_checkpoint(config.training.init_from, wanted="source")
        notes += _transfer_notes(config, data, source, transfer, exchanged)
        notes += learning_of(config).source_notes(config, data.frames["train"], source)
    return notes


def _transfer_notes(
    config: TrainConfig,
    data: PreparedData,
    source: Checkpoint,
    transfer: Transfer,
    exchanged: Sequence[Exchange],
) -> list[Note]:
    """What of another model is in this one, and what is not."""
    heading = "init_from"
    lines = [f"weights of {config.training.init_from}"]
    for one in exchanged:
        start = "as zero, beside the map there"
        if one.fit is not None:
            start = (
                f"as the function there, by least squares: R² {one.fit.r_squared:.4f} of "
                f"{one.fit.num_samples:,} rows"
            )
        lines.append(f"{one.place} starts {start}")
    fresh = [
        name
        for name in transfer.fresh_functions
        if not (exchanged and is_readout(name, config.model.backbone))
    ]
    if fresh:
        lines.append(f"fresh, being others there: {', '.join(fresh)}")
    new = [name for name in data.type_names if name not in source.type_names]
    if new:
        lines.append(
            f"{', '.join(new)}: not there, start from the average of {', '.join(source.type_names)}"
        )
    if transfer.dropped_functions:
        lines.append(f"left behind: {', '.join(transfer.dropped_functions)}")
    if source.dtype != config.model.dtype:
        lines.append(f"{source.dtype} there, {config.model.dtype} here")
    present = set(types_of(data.frames["train"]))
    absent = [name for name in source.type_names if name not in present]
    if absent:
        lines.append(f"without data here, as they were there: {', '.join(absent)}")
    return [(heading, line) for line in lines]
