"""The functions that a KAN readout has learned, over the arguments that they meet.

A readout of one KAN layer is E_i = Σ_k F_k(ρ_ik) in MACE and NequIP, where ρ_i are the scalars of
an atom: the place of the embedding function of EAM (Daw and Baskes, Phys. Rev. B 1984;29:6443), of
Finnis and Sinclair's square root (Philos. Mag. A 1984;50:45) and of the F(ρ) of the atomic cluster
expansion (Drautz, Phys. Rev. B 2019;99:014104). In Allegro the scalars are those of an edge, and
E_i sums the functions over its edges.

A line in ρ is what a linear readout gives, too, and for an atom a constant is what a reference
energy gives. So they are taken out by least squares over the arguments, and what is left is what
the KAN adds. By themselves they mean nothing: other terms can take them over.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import ase
import numpy as np
import torch
from nequip.data import AtomicDataDict

from kan_md.backbones.build import sites_of
from kan_md.backbones.readout import ProjectedKAN
from kan_md.errors import user_error
from kan_md.kan.layer import KANLayer
from kan_md.kan.network import KAN
from kan_md.kan.per_type import PerTypeKAN
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.graph import atom_types_of
from kan_md.model.reference import frame_atoms, model_input

_POINTS = 201
_MOST_BINS = 40
_BEYOND = 0.04
"""By how much of their range curves go on beyond the arguments."""
_FEWEST_ROWS = 3
"""With fewer arguments there is no line to take out of a function."""
_QUANTILES = 401
_UNUSED = 1e-3
"""Of the largest spread of a type. A hundredth is much: spreads are of the size of what binds."""
_LINE = 0.01
"""Of the largest contribution of a type: what is less is no more than a line."""
_ROUNDING = 1e-6

Role = Literal["curve", "line", "unused"]


@dataclass(frozen=True)
class LearnedFunction:
    """One argument of a KAN's first layer, with what becomes of it, for one type of atoms.

    Attributes:
        place: which readout, empty where there is one.
        type_name: of the atoms; of an edge its centre.
        number: k of ρ_k, from 0.
        unit: of ``curves`` and ``contribution``: ``eV``, or empty for functions into a hidden
            layer.
        rows: ``atoms`` or ``edges``.
        argument: [num_points], ρ_k.
        curves: [num_outputs, num_points], F_k without its line; one output unless the KAN has
            hidden layers.
        slope: [num_outputs], of the line that was taken out.
        constant: [num_outputs], its value at ρ_k = 0; zero for functions of edges, where many
            constants would be no reference energy.
        contribution: root mean square over the arguments, and outputs, of what is drawn.
        spread: the same with the line, about its mean where a constant is taken out.
        grid: lower and upper end of the function's grid; beyond them it is a line.
        outside: share of the arguments beyond the grid.
        edges: [num_bins + 1], of the histogram.
        counts: [num_bins], arguments.
        quantiles: [401], of the arguments, from the smallest to the largest one.
        values: [num_outputs, 401], F_k at the quantiles with its line.
        mean: over the arguments, of the first output with its line; zero for functions of edges.
        role: ``unused`` where the spread is at most a thousandth of the type's largest, ``line``
            where the contribution is at most a hundredth of it, otherwise ``curve``.
    """

    place: str
    type_name: str
    number: int
    unit: str
    rows: str
    argument: np.ndarray
    curves: np.ndarray
    slope: np.ndarray
    constant: np.ndarray
    contribution: float
    spread: float
    grid: tuple[float, float]
    outside: float
    edges: np.ndarray
    counts: np.ndarray
    quantiles: np.ndarray
    values: np.ndarray
    mean: float
    role: Role

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Readout:
    """A KAN readout: its first layer for all types, or for one (its index ``of_type``)."""

    place: str
    layer: KANLayer
    is_single: bool  # a single layer, whose outputs are energies
    of_type: int | None
    readout: torch.nn.Module


def learned_functions(
    checkpoint: Checkpoint, structures: Sequence[ase.Atoms] = ()
) -> list[LearnedFunction]:
    """Functions of the output block of a potential, those that contribute most first.

    Args:
        checkpoint: with a KAN readout.
        structures: decide the arguments; the reference frames where there are none.

    Raises:
        KanMdError: the model is no potential, its readout is no KAN, or a structure has other
            elements.
    """
    model = checkpoint.build().eval()
    blocks = kan_readouts(model, checkpoint)
    names = checkpoint.type_names
    frames = list(structures) or [frame_atoms(f, names) for f in checkpoint.reference_frames]
    arguments, centres, factors = _collect(model, blocks, frames, checkpoint)
    rows = "edges" if checkpoint.backbone == "allegro" else "atoms"
    found = []
    for block, x, types, factor in zip(blocks, arguments, centres, factors, strict=True):
        wanted = range(len(names)) if block.of_type is None else [block.of_type]
        for number in wanted:
            mine = types == number
            if int(mine.sum()) >= _FEWEST_ROWS:
                scale = float(factor[mine].double().mean()) if block.is_single else 1.0
                found += _of_type(block, x[mine], scale, names[number], rows)
    if not found:
        raise user_error(
            f"too few {rows} to draw functions over",
            found=f"{len(frames)} structures",
            allowed=None,
            remedy="add --data with structures that have neighbours",
        )
    order = {name: place for place, name in enumerate(names)}
    return sorted(_with_roles(found), key=lambda f: (order[f.type_name], -f.contribution))


def _with_roles(functions: list[LearnedFunction]) -> list[LearnedFunction]:
    """Say which are unused or lines, among those of one type whose values have a common unit."""

    def key(function: LearnedFunction) -> tuple[str, str]:
        return function.type_name, function.unit or f"hidden, {function.place}"

    told = []
    for _, group in groupby(sorted(functions, key=key), key=key):
        mine = list(group)
        spread = max(f.spread for f in mine)
        contribution = max(f.contribution for f in mine)
        for f in mine:
            role: Role = "curve"
            if f.spread <= _UNUSED * spread:
                role = "unused"
            elif f.contribution <= max(_LINE * contribution, _ROUNDING * f.spread):
                role = "line"
            told.append(replace(f, role=role))
    return told


def kan_readouts(model: torch.nn.Module, checkpoint: Checkpoint) -> list[Readout]:
    """KANs at the output of a potential.

    Raises:
        KanMdError: there are none.
    """
    slots = sites_of(model, checkpoint.backbone).get("output", [])
    functions = [(slot.place, slot.function) for slot in slots]
    blocks = []
    for place, function in functions:
        if isinstance(function, PerTypeKAN):
            kans = list(enumerate(function.kans))
        elif isinstance(function, (KAN, ProjectedKAN)):
            kans = [(None, function if isinstance(function, KAN) else function[-1])]
        else:
            continue
        place = place if len(functions) > 1 else ""
        blocks += [
            Readout(place, kan.layers[0], len(kan.layers) == 1, of_type, function)
            for of_type, kan in kans
        ]
    if not blocks:
        raise user_error(
            "functions of the output block",
            found=f"{checkpoint.backbone} with readout.kind {checkpoint.readout.kind}"
            f" at {', '.join(checkpoint.readout.sites)}",
            allowed="a potential with a KAN at its output",
            remedy="leave --plot out, or give such a model",
        )
    return blocks


def _collect(
    model: torch.nn.Module,
    blocks: list[Readout],
    frames: Sequence[ase.Atoms],
    checkpoint: Checkpoint,
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Arguments [rows, in], types of centres [rows], and energy per unit of output [rows].

    The last is the derivative of the total energy by the readout's output, which the model's scale
    and, between edges and atoms, its normalisation decide.
    """
    inputs: list[list[torch.Tensor]] = [[] for _ in blocks]
    outputs: dict[int, torch.Tensor] = {}
    hooks = []
    for number, block in enumerate(blocks):
        hooks.append(block.layer.register_forward_pre_hook(
            lambda _, args, n=number: inputs[n].append(args[0].detach())
        ))  # fmt: skip
        hooks.append(block.readout.register_forward_hook(
            lambda module, _, out: outputs.__setitem__(id(module), out)
        ))  # fmt: skip
    centres: list[list[torch.Tensor]] = [[] for _ in blocks]
    factors: list[list[torch.Tensor]] = [[] for _ in blocks]
    try:
        for atoms in frames:
            data = model_input(atoms, checkpoint.r_max, checkpoint.type_names)
            types = atom_types_of(atoms, checkpoint.type_names)
            centre = data[AtomicDataDict.EDGE_INDEX_KEY][0]
            energy = model.model.func(data)[AtomicDataDict.TOTAL_ENERGY_KEY].sum()
            found = [outputs[id(block.readout)] for block in blocks]
            gradients = torch.autograd.grad(energy, found, materialize_grads=True)
            for number, gradient in enumerate(gradients):
                by_edge = checkpoint.backbone == "allegro"
                centres[number].append(types[centre] if by_edge else types)
                factors[number].append(gradient.flatten())
    finally:
        for hook in hooks:
            hook.remove()
    return tuple([torch.cat(parts) for parts in several] for several in (inputs, centres, factors))


@torch.no_grad()
def _of_type(
    block: Readout, x: torch.Tensor, scale: float, type_name: str, rows: str
) -> list[LearnedFunction]:
    """Functions of one first layer over the arguments of one type."""
    layer = copy.deepcopy(block.layer).double()  # what is left of a line is small
    x = x.double()
    values = scale * layer.univariate(x)  # [rows, in, out]
    middle, means = x.mean(0), values.mean(0)
    if rows == "edges":
        middle, means = torch.zeros_like(middle), torch.zeros_like(means)
    variance = (x - middle).square().mean(0)  # [in]
    covariance = ((x - middle).unsqueeze(2) * (values - means)).mean(0)
    slope = torch.where(variance > 0, 1.0 / variance, 0.0).unsqueeze(1) * covariance  # [in, out]
    constant = means - slope * middle.unsqueeze(1)
    left = values - constant - slope * x.unsqueeze(2)
    low, high = x.amin(0), x.amax(0)
    width = (high - low).clamp_min(1e-12)
    places = torch.linspace(-_BEYOND, 1 + _BEYOND, _POINTS, dtype=torch.float64)
    points = low + places.unsqueeze(1) * width  # [points, in]
    drawn = scale * layer.univariate(points)
    drawn = drawn - constant - slope * points.unsqueeze(2)
    ends = _grid_in_arguments(layer)
    ranks = torch.linspace(0, 1, _QUANTILES, dtype=torch.float64)
    quantiles = torch.stack([torch.from_numpy(np.quantile(c.numpy(), ranks)) for c in x.t()], 1)
    whole = scale * layer.univariate(quantiles)  # [quantiles, in, out]
    found = []
    for number in range(layer.in_features):
        mine = x[:, number].numpy()
        counts, edges = np.histogram(mine, _num_bins(len(mine)), range=_range(mine))
        grid = (float(ends[0, number]), float(ends[1, number]))
        found.append(
            LearnedFunction(
                place=block.place,
                type_name=type_name,
                number=number,
                unit="eV" if block.is_single else "",
                rows=rows,
                argument=points[:, number].numpy(),
                curves=drawn[:, number].t().numpy(),
                slope=slope[number].numpy(),
                constant=constant[number].numpy(),
                contribution=float(left[:, number].square().mean().sqrt()),
                spread=float((values - means)[:, number].square().mean().sqrt()),
                grid=grid,
                outside=float(np.mean((mine < grid[0]) | (mine > grid[1]))),
                edges=edges,
                counts=counts,
                quantiles=quantiles[:, number].numpy(),
                values=whole[:, number].t().numpy(),
                mean=float(means[number, 0]),
                role="curve",
            )
        )
    return found


def _num_bins(count: int) -> int:
    return max(4, min(_MOST_BINS, round(count**0.5)))


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _grid_in_arguments(layer: KANLayer) -> torch.Tensor:
    """Ends of the grids in units of the arguments, [2, in]; without end where a gain is 0."""
    ends = torch.stack(layer.grid_ends())
    gain = layer.input_gain
    if gain is None:
        return ends
    ends = torch.where(gain == 0, torch.tensor([[-torch.inf], [torch.inf]]).to(ends), ends / gain)
    return ends.sort(0).values
