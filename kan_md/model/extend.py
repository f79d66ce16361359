"""A model with more elements: what belongs to a new one starts from the average over the others.

Nothing of the elements that the model has changes: their energies and forces are held against those
of the model as it was. An average is a place to start from, no knowledge of the new element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from e3nn.o3 import Linear, TensorProduct

from kan_md.backbones.build import build_model
from kan_md.backbones.weights import load_weights
from kan_md.errors import user_error
from kan_md.kan.per_type import PerTypeKAN
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.random_structures import random_structures
from kan_md.model.reference import evaluate
from kan_md.model.restrict import weight_by_paths

_NUM_CHECKED = 2
_NUM_ATOMS = 12
_TOLERANCE = 1e-9
"""Largest change of energies and forces without new elements, eV and eV/Å, relative to their size
where that is above 1."""


def extend(checkpoint: Checkpoint, elements: Sequence[str]) -> Checkpoint:
    """Give a potential elements that it does not have.

    Args:
        checkpoint: of a potential.
        elements: names of the new types, which come after those that are there.

    Returns:
        A checkpoint in whose ``statistics`` the new types are ``untrained_types``.

    Raises:
        KanMdError: a part of the model has no average.
    """
    new = [name for name in elements if name not in checkpoint.type_names]
    if not new:
        return checkpoint
    names = [*checkpoint.type_names, *new]
    arguments = _extended_arguments(checkpoint.arguments, checkpoint.type_names, new)
    old = checkpoint.build("float64")
    model = build_model(checkpoint.backbone, **arguments | {"model_dtype": "float64"}).eval()
    _copy(model, old, _averages(len(checkpoint.type_names), len(new)))
    _check(model, old, checkpoint.type_names)
    larger = replace(
        checkpoint,
        config={**checkpoint.config, "model": arguments},
        type_names=names,
        state_dict=model.state_dict(),
        statistics={"untrained_types": [*checkpoint.untrained_types, *new]},
    )
    larger.state_dict = larger.build().state_dict()  # in the model's dtype
    return larger


def _averages(num_old: int, num_new: int) -> torch.Tensor:
    """What each type is of the old ones, [num_old + num_new, num_old]."""
    average = torch.full((num_new, num_old), 1.0 / num_old, dtype=torch.float64)
    return torch.cat([torch.eye(num_old, dtype=torch.float64), average])


def _extended_arguments(
    arguments: Mapping[str, object], type_names: Sequence[str], new: Sequence[str]
) -> dict[str, object]:
    """Arguments of the builder: mappings by type get entries, numbers their means."""
    found = {name: _with_types(value, type_names, new) for name, value in arguments.items()}
    found["type_names"] = [*type_names, *new]
    if found.get("per_edge_type_cutoff") is not None:
        found["per_edge_type_cutoff"] = _extended_cutoffs(
            arguments["per_edge_type_cutoff"], type_names, new
        )
    pair = found.get("pair_potential")
    if isinstance(pair, Mapping) and "chemical_species" in pair:
        found["pair_potential"] = {**pair, "chemical_species": [*pair["chemical_species"], *new]}
    return found


def _with_types(value: object, type_names: Sequence[str], new: Sequence[str]) -> object:
    is_by_type = isinstance(value, Mapping) and set(value) == set(type_names)
    if not is_by_type or not all(isinstance(number, (int, float)) for number in value.values()):
        return value
    mean = sum(value.values()) / len(value)
    return {**value, **dict.fromkeys(new, mean)}


def _extended_cutoffs(
    given: Mapping[str, object], type_names: Sequence[str], new: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Cutoffs of pairs, Å: those of a new type are means over the others."""
    rows = {
        centre: entry if isinstance(entry, Mapping) else dict.fromkeys(type_names, entry)
        for centre, entry in given.items()
    }
    matrix = torch.tensor(
        [[float(rows[a][b]) for b in type_names] for a in type_names], dtype=torch.float64
    )
    mix = _averages(len(type_names), len(new))
    names = [*type_names, *new]
    values = (mix @ matrix @ mix.t()).tolist()
    return {a: dict(zip(names, row, strict=True)) for a, row in zip(names, values, strict=True)}


def _copy(model: torch.nn.Module, old: torch.nn.Module, mix: torch.Tensor) -> None:
    """Give the larger model the weights of the smaller one.

    Buffers with an axis of types follow from the arguments and stay as they are.
    """
    own, state = model.state_dict(), old.state_dict()
    parameters = {name for name, _ in old.named_parameters()}
    modules = dict(old.named_modules())
    taken: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name in own and value.shape == own[name].shape:
            taken[name] = value
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if isinstance(module, (Linear, TensorProduct)) and name in parameters - taken.keys():
            taken[name] = weight_by_paths(
                module, modules[path], state[name], partial(_along, mix=mix)
            )
        if isinstance(module, PerTypeKAN):
            taken |= _functions_of_new_types(path, state, mix)
    for name in parameters - taken.keys():
        taken[name] = _mixed(name, state[name], own[name].shape, mix)
    load_weights(model, {**own, **taken})


def _functions_of_new_types(
    path: str, state: Mapping[str, torch.Tensor], mix: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Functions of a new type: means of the weights of the others, on their common grids.

    Raises:
        KanMdError: they have grids of their own.
    """
    first = f"{path}.kans.0."
    found = {}
    for name in [n for n in state if n.startswith(first)]:
        rest = name.removeprefix(first)
        values = torch.stack([state[f"{path}.kans.{n}.{rest}"] for n in range(mix.size(1))])
        if "grid" in rest and not all(torch.equal(value, values[0]) for value in values):
            raise user_error(
                "elements that the model does not have, beside readout.per_type",
                found="functions on grids of their own",
                allowed="functions on one grid",
                remedy="leave the structures with these elements out",
            )
        for n in range(mix.size(1), mix.size(0)):
            found[f"{path}.kans.{n}.{rest}"] = values.to(torch.float64).mean(0).to(values.dtype)
    return found


def _mixed(name: str, value: torch.Tensor, shape: torch.Size, mix: torch.Tensor) -> torch.Tensor:
    """A weight whose axes of types, or of pairs of them, get entries."""
    pairs = torch.kron(mix, mix)
    if value.dim() == len(shape):
        for axis, (small, large) in enumerate(zip(value.shape, shape, strict=True)):
            for kind in (mix, pairs):
                if small != large and (large, small) == tuple(kind.shape):
                    value = _along(value, axis, kind)
                    break
    if value.shape != shape:
        raise user_error(
            "a part of the model that has no place for another element",
            found=name,
            allowed=None,
            remedy="leave the structures with new elements out, or train without init_from",
        )
    return value


def _along(value: torch.Tensor, axis: int, mix: torch.Tensor) -> torch.Tensor:
    moved = torch.tensordot(mix.to(value.dtype), value, dims=([1], [axis]))
    return moved.movedim(0, axis)


def _check(model: torch.nn.Module, old: torch.nn.Module, names: Sequence[str]) -> None:
    """Hold structures without new elements against the model as it was."""
    for crystal in random_structures(names, _NUM_CHECKED, rng=np.random.default_rng(1)):
        atoms = crystal[:_NUM_ATOMS]
        atoms.pbc = False
        ours, theirs = evaluate(model, atoms), evaluate(old, atoms)
        for quantity in ("energy", "forces"):
            size = max(1.0, float(theirs[quantity].abs().max()))
            error = float((ours[quantity] - theirs[quantity]).abs().max())
            if not error <= _TOLERANCE * size:
                raise user_error(
                    f"{quantity} of the model change where it gets elements",
                    found=f"{error:.1e}",
                    allowed=f"{_TOLERANCE * size:.0e}",
                    remedy="leave the structures with new elements out",
                )
