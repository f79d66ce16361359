"""What leaving out the functions of a KAN readout that contribute least costs in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ase import Atoms

from kan_md.evaluate.evaluation import Evaluation, evaluate_file
from kan_md.evaluate.functions import LearnedFunction, Readout, kan_readouts
from kan_md.model.checkpoint import Checkpoint, save_checkpoint

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class PrunedErrors:
    """Errors with functions left out.

    Attributes:
        left_out: how many functions.
        of: how many there are.
        smallest_kept: contribution of the least of those kept, line included, in units of the
            largest one; None where none is kept.
        energy_mae: eV/atom, with the mean of what is left out given back to every atom of a type,
            as a reference energy would; None without labels.
        forces_mae: eV/Å; None without labels.
    """

    left_out: int
    of: int
    smallest_kept: float | None
    energy_mae: float | None
    forces_mae: float | None


@dataclass(frozen=True)
class _Argument:
    """One argument of a first layer, of every type that the layer is for."""

    readout: int
    number: int
    size: float
    means: dict[str, float]  # by type, eV
    is_unused: bool  # of every type


def pruned_errors(
    checkpoint: Checkpoint, functions: Sequence[LearnedFunction], frames: Sequence[Atoms]
) -> list[PrunedErrors]:
    """Errors with none, the unused, some and all of the functions left out, least spread first.

    A function that several types share is left out for all of them. The other functions stay as
    they are: a training that goes on from there can take over part of what is lost.

    Args:
        checkpoint: the model.
        functions: of it, over arguments that decide what is least, see
            :func:`kan_md.evaluate.functions.learned_functions`.
        frames: labelled structures.

    Raises:
        KanMdError: the structures have no labels, or do not fit the model.
    """
    arguments = _ranked(checkpoint, functions)
    numbers = {round(share * len(arguments)) for share in _SHARES} | {len(arguments) - 1}
    numbers.add(sum(argument.is_unused for argument in arguments))
    return [_without(checkpoint, arguments, number, frames) for number in sorted(numbers)]


def _ranked(checkpoint: Checkpoint, functions: Sequence[LearnedFunction]) -> list[_Argument]:
    """All arguments, those of least spread over their rows first."""
    readouts = kan_readouts(checkpoint.build(), checkpoint)
    found = []
    for place, readout in enumerate(readouts):
        mine = [f for f in functions if _is_of(f, readout, checkpoint.type_names)]
        largest = max((f.spread for f in mine), default=0.0)
        for number in range(readout.layer.in_features):
            same = [f for f in mine if f.number == number]
            rows = sum(int(f.counts.sum()) for f in same)
            square = sum(f.counts.sum() * f.spread**2 for f in same)
            size = float(np.sqrt(square / rows)) if rows else 0.0
            if not all(other.is_single for other in readouts) and largest > 0:
                size /= largest  # hidden features of two readouts have no unit in common
            means = {f.type_name: f.mean for f in same if readout.is_single}
            is_unused = all(f.role == "unused" for f in same)
            found.append(_Argument(place, number, size, means, is_unused))
    return sorted(found, key=lambda argument: argument.size)


def _is_of(function: LearnedFunction, readout: Readout, names: Sequence[str]) -> bool:
    right_type = readout.of_type is None or names[readout.of_type] == function.type_name
    return function.place == readout.place and right_type


def _without(
    checkpoint: Checkpoint, arguments: list[_Argument], number: int, frames: Sequence[Atoms]
) -> PrunedErrors:
    left_out, kept = arguments[:number], arguments[number:]
    model = checkpoint.build()
    readouts = kan_readouts(model, checkpoint)
    means = dict.fromkeys(checkpoint.type_names, 0.0)
    with torch.no_grad():
        for argument in left_out:
            layer = readouts[argument.readout].layer
            layer.coefficients[:, argument.number] = 0.0
            if layer.base_weight is not None:
                layer.base_weight[:, argument.number] = 0.0
            for name, mean in argument.means.items():
                means[name] += mean
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.pth"
        save_checkpoint(replace(checkpoint, state_dict=model.state_dict()), path)
        found = evaluate_file(path, frames)
    largest = arguments[-1].size
    return PrunedErrors(
        left_out=number,
        of=len(arguments),
        smallest_kept=kept[0].size / largest if kept and largest > 0 else None,
        energy_mae=_energy_mae(found, means),
        forces_mae=found.errors.get("forces_mae"),
    )


def _energy_mae(found: Evaluation, means: dict[str, float]) -> float | None:
    if "energy" not in found.labels:
        return None
    errors = []
    for index in found.counted:
        atoms, label = found.frames[index], found.labels["energy"][index]
        if label is not None:
            given_back = sum(means[symbol] for symbol in atoms.get_chemical_symbols())
            error = found.predictions["energy"][index].item() + given_back - label.item()
            errors.append(abs(error) / len(atoms))
    return float(np.mean(errors)) if errors else None
