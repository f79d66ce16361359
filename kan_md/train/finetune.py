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
from kan_md.backbones.transfer import Transfer, readout_arguments, transfer_weights
from kan_md.errors import user_error
from kan_md.model.checkpoint import Checkpoint, load_checkpoint
from kan_md.model.graph import atom_types_of
from kan_md.model.reference import evaluate, frame_atoms
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.targets import ENERGY

_NUM_COMPARED = 32
"""Structures whose labels are held against the source's predictions."""

_SMALL_GAP = 0.1
"""eV/atom; models that are fine-tuned are off by less on labels of the same reference."""


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
        given: names of arguments that stay as in ``arguments``, of those that describe data.
        fresh_readout: leave the output readouts fresh.

    Raises:
        KanMdError: the source is of another backbone, of other types, or another potential.
    """
    source = load_checkpoint(path, wanted="source")
    check_source(source, path, backbone=backbone, type_names=model.type_names)
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


def check_source(
    source: Checkpoint, path: object, *, backbone: str, type_names: Sequence[str]
) -> None:
    """Refuse a model of another backbone or of other types.

    Args:
        source: the model to start from.
        path: of it.
        backbone: of the model to train.
        type_names: likewise.

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
    if list(theirs) == list(ours):
        return
    extra = ", ".join(name for name in ours if name not in theirs)
    dropped = ", ".join(name for name in theirs if name not in ours)
    found = [f"{extra}, unknown there"] if extra else []
    found += [f"no {dropped}, which is there"] if dropped else []
    raise user_error(
        f"model.type_names with training.init_from {path}",
        found="; ".join(found) or f"another order, {', '.join(ours)}",
        allowed=", ".join(theirs),
        remedy="leave model.type_names out to take the types of that model"
        + (f", and take structures with {extra} out" if extra else ""),
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
        frames: structures with labels, of its types.
        given: reference energies that stand in the place of the model's.

    Returns:
        None where nothing has a label.
    """
    chosen = [atoms for atoms in frames if _has_energy(atoms)]
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
