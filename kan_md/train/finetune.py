"""Starting from another model: what the configuration says is what the model is, or an error."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from nequip.nn import PerTypeScaleShift
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.arguments import STATISTICS, TRAINABILITY, find_differences
from kan_md.backbones.build import build_model
from kan_md.backbones.readout import parse_readout
from kan_md.backbones.transfer import (
    Transfer,
    is_readout,
    readout_arguments,
    transfer_weights,
)
from kan_md.errors import user_error
from kan_md.kan.per_type import PerTypeKAN
from kan_md.model.checkpoint import Checkpoint, load_checkpoint
from kan_md.model.extend import extend
from kan_md.model.graph import atom_types_of
from kan_md.model.readout_exchange import Exchange, exchange_readouts
from kan_md.model.reference import evaluate, frame_atoms
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.targets import ENERGY

_NUM_COMPARED = 32
"""Structures whose labels are held against the source's predictions."""

_NUM_FITTED = 32
"""Structures whose features a readout is fitted to."""

_SMALL_GAP = 0.1
"""eV/atom; models that are fine-tuned are off by less on labels of the same reference."""


def load_source(path: object, type_names: Sequence[str]) -> Checkpoint:
    """The model that a training starts from, with the types that it is to have.

    Args:
        path: model.pth of it.
        type_names: of the model to train; those that it does not have start from an average.
    """
    return extend(load_checkpoint(path, wanted="source"), type_names)


def take_weights(
    model: GraphModel,
    arguments: Mapping[str, Any],
    path: str,
    *,
    backbone: str,
    given: Collection[str] = (),
    fresh_readout: bool = False,
) -> Transfer:
    """Copy the weights of another model, those of its readouts where they are the same.

    Args:
        model: to copy into, as :func:`kan_md.backbones.build.build_model` made it.
        arguments: of that function.
        path: model.pth of the other one.
        backbone: of ``model``.
        given: names of arguments that stay as in ``arguments``, of those that describe data. The
            reference energies do, where there are types that the source does not have.
        fresh_readout: leave the output readouts fresh.

    Raises:
        KanMdError: the source is of another backbone, of other types, or another potential.
    """
    source = load_checkpoint(path, wanted="source")
    check_source(source, path, backbone=backbone, type_names=model.type_names)
    if len(source.type_names) < len(model.type_names):
        source, given = load_source(path, model.type_names), {*given, "per_type_energy_shifts"}
    theirs = source.arguments
    besides = {"seed", "model_dtype", "type_names", "readout"} | STATISTICS | TRAINABILITY
    besides |= readout_arguments(backbone, parse_readout(arguments["readout"]))
    differences = find_differences(backbone, arguments, theirs, besides=besides)
    if differences:
        raise user_error(
            f"section model is not that of training.init_from {path}",
            found="; ".join(map(str, differences)),
            allowed=None,
            remedy="write its values into section model (`kan-md inspect` lists them), or leave "
            "training.init_from out",
        )
    known = {name: theirs[name] for name in given if theirs.get(name) is not None}
    own = _entries_that_change(model, {**arguments, **known}, backbone) if given else ()
    old = source.build()
    transfer = transfer_weights(model, old, backbone=backbone, fresh_readout=fresh_readout, own=own)
    if not (given or transfer.fresh_functions or transfer.dropped_functions):
        _check_same_function(model, old, source, path)
    return transfer


def start_readouts(
    model: GraphModel,
    transfer: Transfer,
    path: str,
    frames: Sequence[Atoms],
    *,
    backbone: str,
    seed: int,
) -> list[Exchange]:
    """Let KAN readouts that are others than those of the source start as its functions.

    Args:
        model: with the weights of the source; changed in place.
        transfer: what of it is fresh.
        path: model.pth of the source.
        frames: training structures.
        backbone: of both.
        seed: decides which rows the fits are judged by.

    Returns:
        What was fitted; nothing where the readouts are no plain KANs of one layer, or the same.
    """
    if not any(is_readout(name, backbone) for name in transfer.fresh_functions):
        return []
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    old = load_source(path, model.type_names).build(dtype)
    if any(isinstance(module, PerTypeKAN) for module in old.modules()):
        return []
    chosen = frames[:: max(1, len(frames) // _NUM_FITTED)]
    generator = torch.Generator().manual_seed(seed)
    return exchange_readouts(model, old, chosen, backbone=backbone, generator=generator)


def check_source(
    source: Checkpoint, path: object, *, backbone: str, type_names: Sequence[str]
) -> None:
    """Refuse a model of another backbone, or of types that are not those it has and new ones.

    Args:
        source: the model to start from.
        path: of it.
        backbone: of the model to train.
        type_names: likewise; those of a potential that are new come last.

    Raises:
        KanMdError: it is one.
    """
    if source.backbone != backbone:
        raise user_error(
            f"backbone of training.init_from {path}",
            found=source.backbone,
            allowed=backbone,
            remedy="set model.backbone to it, or take another file",
        )
    theirs, ours = source.type_names, type_names
    may_have_more = task_of_checkpoint(source).is_differentiated
    if list(theirs) == list(ours[: len(theirs)] if may_have_more else ours):
        return
    extra = ", ".join(name for name in ours if name not in theirs)
    dropped = ", ".join(name for name in theirs if name not in ours)
    found = [f"{extra}, unknown there"] if extra and not may_have_more else []
    found += [f"no {dropped}, which is there"] if dropped else []
    raise user_error(
        f"model.type_names with training.init_from {path}",
        found="; ".join(found) or f"another order, {', '.join(ours)}",
        allowed=", ".join(theirs) + (", then new ones" if may_have_more else ""),
        remedy="leave model.type_names out to take the types of that model"
        + (f", and take structures with {extra} out" if extra and not may_have_more else ""),
    )


def _entries_that_change(
    model: GraphModel, arguments: Mapping[str, Any], backbone: str
) -> set[str]:
    """Names in the state of a fresh model that are others with these arguments."""
    other = build_model(backbone, **arguments).state_dict()
    return {
        name
        for name, value in model.state_dict().items()
        if name not in other or not torch.equal(value, other[name])
    }


def _check_same_function(model: GraphModel, old: GraphModel, source: Checkpoint, path: str) -> None:
    """Hold the new model against the old one: with all weights taken over they are one potential.

    Raises:
        KanMdError: they are not, whatever their arguments say.
    """
    if not task_of_checkpoint(source).is_differentiated:
        return
    exact = all(p.dtype == torch.float64 for m in (model, old) for p in m.parameters())
    for frame in source.reference_frames[:1]:
        atoms = frame_atoms(frame, source.type_names)
        theirs, ours = (evaluate(m, atoms)["atomic_energy"] for m in (old, model))
        largest, off = float(theirs.abs().max()), float((ours - theirs).abs().max())
        if not off <= (1e-8 * (1.0 + largest) if exact else 1e-3 + 1e-6 * largest):
            raise user_error(
                f"section model makes another potential of the weights of {path}",
                found=f"energies that differ by {off:.2g} eV/atom",
                allowed=None,
                remedy="make that model again with this version of kan-md, or start without it",
            )


@dataclass(frozen=True)
class ReferenceGap:
    """How far labels lie from what a model predicts, if each type's energy may be moved.

    Attributes:
        rms: of the difference, eV/atom.
        remainder: of what a constant per type leaves, eV/atom.
        constants: eV by type, labels minus predictions.
        shifts: reference energies of the model moved by them, eV by type.
    """

    rms: float
    remainder: float
    constants: dict[str, float]
    shifts: dict[str, float]

    @property
    def is_of_another_reference(self) -> bool:
        """Whether the labels differ by constants, as those of another method or code do."""
        return self.rms > _SMALL_GAP and self.remainder < 0.5 * self.rms


def find_reference_gap(
    source: Checkpoint, frames: Sequence[Atoms], given: Mapping[str, float] | float | None = None
) -> ReferenceGap | None:
    """Hold energy labels against a model that is to be trained on.

    Args:
        source: the model; a potential.
        frames: structures with labels; those of its types are looked at.
        given: reference energies that stand in the place of the model's.

    Returns:
        None where nothing has a label.
    """
    known = set(source.type_names)
    chosen = [atoms for atoms in frames if _has_energy(atoms) and set(atoms.symbols) <= known]
    chosen = chosen[:: max(1, len(chosen) // _NUM_COMPARED)][:_NUM_COMPARED]
    if not chosen:
        return None
    model, names = source.build(), source.type_names
    current = _shifts(model, len(names))
    shifts = current if given is None else _per_type(given, names)
    counts = np.array(
        [np.bincount(atom_types_of(a, names).numpy(), minlength=len(names)) for a in chosen], float
    )
    predicted = np.array([float(evaluate(model, atoms)["energy"]) for atoms in chosen])
    labels = np.array([float(ENERGY.label(atoms).item()) for atoms in chosen])
    atoms = counts.sum(axis=1)
    off = (labels - predicted - counts @ (shifts - current)) / atoms
    share = counts / atoms[:, None]
    constants = np.linalg.lstsq(share, off, rcond=1e-6)[0]
    return ReferenceGap(
        rms=float(np.sqrt(np.mean(off**2))),
        remainder=float(np.sqrt(np.mean((off - share @ constants) ** 2))),
        constants={names[i]: float(constants[i]) for i in np.flatnonzero(counts.any(axis=0))},
        shifts=dict(zip(names, (shifts + constants).tolist(), strict=True)),
    )


def _has_energy(atoms: Atoms) -> bool:
    label = ENERGY.label(atoms)
    return label is not None and bool(np.isfinite(label).all())


def _shifts(model: GraphModel, number: int) -> np.ndarray:
    """Reference energies that a model adds, eV."""
    (module,) = (m for m in model.modules() if isinstance(m, PerTypeScaleShift))
    shifts = module.shifts.detach().to("cpu", torch.float64).numpy().reshape(-1)
    return np.broadcast_to(shifts, number).copy()


def _per_type(values: Mapping[str, float] | float, names: Sequence[str]) -> np.ndarray:
    if isinstance(values, Mapping):
        return np.array([float(values[name]) for name in names])
    return np.full(len(names), float(values))
