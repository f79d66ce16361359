"""A model of many elements as a model of a few: the same energies, the weights that these need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from ase.data import chemical_symbols
from e3nn.o3 import Linear, TensorProduct

from kan_md.backbones.build import build_model
from kan_md.backbones.weights import load_weights
from kan_md.errors import user_error
from kan_md.kan.per_type import PerTypeKAN
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.random_structures import random_structures
from kan_md.model.reference import ReferenceFrame, evaluate, make_reference_frames

_NUM_CHECKED = 3
_NUM_ATOMS = 12
_TOLERANCE = 1e-9
"""Largest difference from the whole model's energies and forces that is rounding, eV and eV/Å,
relative to their size where that is above 1."""


def parse_elements(given: Sequence[str] | str | None) -> list[str] | None:
    """Element symbols separated by spaces or commas; None where there are none.

    Raises:
        KanMdError: one is no element.
    """
    text = given if isinstance(given, str) else " ".join(given or ())
    names = list(dict.fromkeys(text.replace(",", " ").split()))
    strange = [name for name in names if name not in chemical_symbols[1:]]
    if strange:
        raise user_error(
            "elements must be symbols",
            found=", ".join(strange),
            allowed=None,
            remedy="write e.g. --elements Si O",
        )
    return names or None


def restrict(checkpoint: Checkpoint, elements: Sequence[str]) -> Checkpoint:
    """Keep the weights, tables and reference energies of some elements.

    Energies and forces of structures of these elements are held against the whole model's.

    Args:
        checkpoint: of a potential.
        elements: names of its types that are to stay.

    Raises:
        KanMdError: the model does not know an element, or a part of it cannot be cut down.
    """
    unknown = [name for name in elements if name not in checkpoint.type_names]
    if unknown:
        raise user_error(
            "elements that the model does not know",
            found=", ".join(unknown),
            allowed=", ".join(checkpoint.type_names),
            remedy="correct --elements",
        )
    chosen = [n for n, name in enumerate(checkpoint.type_names) if name in elements]
    if len(chosen) == len(checkpoint.type_names):
        return checkpoint
    names = [checkpoint.type_names[n] for n in chosen]
    arguments = _restricted_arguments(checkpoint.arguments, checkpoint.type_names, chosen)
    small = replace(
        checkpoint,
        config={**checkpoint.config, "model": arguments},
        type_names=names,
        statistics=_restricted_statistics(checkpoint, chosen),
        reference_frames=[],
    )
    whole = checkpoint.build("float64")
    part = build_model(small.backbone, **arguments | {"model_dtype": "float64"}).eval()
    _copy(part, whole, chosen, len(checkpoint.type_names))
    _check(part, whole, names)
    small.state_dict = part.state_dict()
    final = small.build()
    small.state_dict = final.state_dict()  # in the model's dtype
    small.reference_frames = _frames(checkpoint, chosen) or make_reference_frames(
        final, random_structures(names, _NUM_CHECKED, rng=np.random.default_rng(0))
    )
    return small


def _restricted_arguments(
    arguments: Mapping[str, object], type_names: Sequence[str], chosen: Sequence[int]
) -> dict[str, object]:
    """Arguments of the builder: mappings by type and lists by type lose entries."""
    names = [type_names[n] for n in chosen]

    def cut(value: object) -> object:
        if isinstance(value, Mapping):
            by_type = value and set(value) <= set(type_names)
            return {k: cut(v) for k, v in value.items() if not by_type or k in names}
        if isinstance(value, (list, tuple)) and len(value) == len(type_names) > 1:
            is_by_type = list(value) == list(type_names) or isinstance(value[0], (list, tuple))
            if is_by_type:
                return [cut(value[n]) for n in chosen]
        return value

    found = {name: cut(value) for name, value in arguments.items()}
    pair = found.get("pair_potential")
    if isinstance(pair, Mapping) and "chemical_species" in pair:
        species = arguments["pair_potential"]["chemical_species"]
        found["pair_potential"] = {**pair, "chemical_species": [species[n] for n in chosen]}
    return found


def _restricted_statistics(checkpoint: Checkpoint, chosen: Sequence[int]) -> dict:
    names = [checkpoint.type_names[n] for n in chosen]
    found, count = dict(checkpoint.statistics), len(checkpoint.type_names)
    if "untrained_types" in found:
        found["untrained_types"] = [n for n in found["untrained_types"] if n in names]
    if "min_distances" in found:
        distances = torch.as_tensor(found["min_distances"]).view(count, count)
        kept = distances[chosen][:, chosen].flatten()
        is_tensor = isinstance(found["min_distances"], torch.Tensor)
        found["min_distances"] = kept if is_tensor else kept.tolist()
    return found


def _copy(
    part: torch.nn.Module, whole: torch.nn.Module, chosen: Sequence[int], num_types: int
) -> None:
    """Give the small model the weights of the large one that its types need."""
    state, sizes = whole.state_dict(), {n: v.shape for n, v in part.state_dict().items()}
    modules, index = dict(whole.named_modules()), torch.tensor(chosen)
    for path, module in part.named_modules():
        old = modules[path]
        if isinstance(module, (Linear, TensorProduct)) and module.weight_numel:
            name = f"{path}.weight"
            if name in state and state[name].numel():
                state[name] = weight_by_paths(
                    module, old, state[name], lambda piece, axis: piece.index_select(axis, index)
                )
    for path, module in whole.named_modules():
        if isinstance(module, PerTypeKAN):
            state = _functions_of_types(f"{path}.kans.", state, chosen)
    kept = {
        name: _select(name, value, sizes[name], chosen, num_types)
        for name, value in state.items()
        if name in sizes
    }
    load_weights(part, kept)


def _functions_of_types(
    prefix: str, state: Mapping[str, torch.Tensor], chosen: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Give the functions that stay the numbers of the types that stay."""
    place = {str(old): str(new) for new, old in enumerate(chosen)}
    kept = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            kept[name] = value
        elif number in place:
            kept[f"{prefix}{place[number]}.{rest}"] = value
    return kept


def weight_by_paths(
    new: torch.nn.Module,
    old: torch.nn.Module,
    weight: torch.Tensor,
    resized: Callable[[torch.Tensor, int], torch.Tensor],
) -> torch.Tensor:
    """Weights of an e3nn map for another number of types, path by path.

    A path of another number of inputs has another normalisation, which is taken out.

    Args:
        new: the map with the wanted sizes.
        old: the map whose weights these are.
        weight: [weight_numel] of ``old``.
        resized: a path's weights with the new size along an axis.

    Returns:
        [weight_numel] of ``new``.
    """
    pieces, start = [], 0
    for mine, theirs in zip(new.instructions, old.instructions, strict=True):
        # Biases are no weights, and so are paths of a product that have none.
        if theirs.i_in == -1 if isinstance(old, Linear) else not theirs.has_weight:
            continue
        size = math.prod(theirs.path_shape)
        piece = weight[start : start + size].view(theirs.path_shape)
        start += size
        for axis, (small, large) in enumerate(zip(mine.path_shape, theirs.path_shape, strict=True)):
            if small != large:
                piece = resized(piece, axis)
        pieces.append((piece * (theirs.path_weight / mine.path_weight)).flatten())
    return torch.cat(pieces)


def _select(
    name: str, value: torch.Tensor, shape: torch.Size, chosen: Sequence[int], num_types: int
) -> torch.Tensor:
    """Cut the axes that count types, or pairs of types."""
    if value.shape == shape:
        return value
    pairs = [one * num_types + other for one, other in product(chosen, chosen)]
    kept = {num_types: list(chosen), num_types**2: pairs}
    if value.dim() == len(shape):
        for axis, (large, small) in enumerate(zip(value.shape, shape, strict=True)):
            indices = kept.get(large)
            if large != small and indices is not None and len(indices) == small:
                value = value.index_select(axis, torch.tensor(indices))
    if value.shape != shape:
        raise user_error(
            "a part of the model that cannot be cut down to a few elements",
            found=name,
            allowed=None,
            remedy="leave --elements out",
        )
    return value


def _check(part: torch.nn.Module, whole: torch.nn.Module, names: Sequence[str]) -> None:
    """Hold the small model against the large one."""
    for crystal in random_structures(names, _NUM_CHECKED, rng=np.random.default_rng(1)):
        atoms = crystal[:_NUM_ATOMS]  # a cluster: the whole model may need much memory
        atoms.pbc = False
        ours, theirs = evaluate(part, atoms), evaluate(whole, atoms)
        for quantity in ("energy", "forces"):
            size = max(1.0, float(theirs[quantity].abs().max()))
            error = float((ours[quantity] - theirs[quantity]).abs().max())
            if not error <= _TOLERANCE * size:
                raise user_error(
                    f"{quantity} of the model of a few elements differ from the whole model's",
                    found=f"{error:.1e}",
                    allowed=f"{_TOLERANCE * size:.0e}",
                    remedy="leave --elements out",
                )


def _frames(checkpoint: Checkpoint, chosen: Sequence[int]) -> list[ReferenceFrame]:
    """Reference frames that have no other elements."""
    place = {old: new for new, old in enumerate(chosen)}
    return [
        {**frame, "atom_types": torch.tensor([place[t] for t in frame["atom_types"].tolist()])}
        for frame in checkpoint.reference_frames
        if set(frame["atom_types"].tolist()) <= place.keys()
    ]
