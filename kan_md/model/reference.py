"""Frames with the eager model's own numbers, kept in model.pth to check compiled files against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypedDict

import ase
import torch
from nequip.data import AtomicDataDict
from nequip.nn.graph_model import GraphModel

from kan_md.model.cells import completed_cell
from kan_md.model.graph import atom_types_of, periodic_edges, refuse_close_atoms


class ReferenceFrame(TypedDict):
    """A structure and what the model says of it; plain float64 and int64 tensors.

    Keys:
        positions: [num_atoms, 3], Å.
        cell: [3, 3], Å, vectors as rows; zero where there is none.
        pbc: [3], bool.
        atom_types: [num_atoms].
        energy: [1], eV.
        atomic_energy: [num_atoms, 1], eV.
        forces: [num_atoms, 3], eV/Å.
        virial: [3, 3], eV, -dE/d(strain).
    """

    positions: torch.Tensor
    cell: torch.Tensor
    pbc: torch.Tensor
    atom_types: torch.Tensor
    energy: torch.Tensor
    atomic_energy: torch.Tensor
    forces: torch.Tensor
    virial: torch.Tensor


def model_input(
    atoms: ase.Atoms, r_max: float, type_names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """A structure as nequip models take it: positions, cell, types and neighbour list."""
    edges = periodic_edges(atoms, r_max)
    refuse_close_atoms(atoms, edges.edge_vectors.square().sum(1), edges.edge_index)
    data = {
        AtomicDataDict.POSITIONS_KEY: torch.from_numpy(atoms.get_positions()),
        AtomicDataDict.ATOM_TYPE_KEY: atom_types_of(atoms, type_names),
        AtomicDataDict.EDGE_INDEX_KEY: edges.edge_index,
    }
    if atoms.pbc.any():
        # As the shifts of the pairs are counted; no pair crosses a vector that was made up.
        cell = completed_cell(atoms)
        data[AtomicDataDict.CELL_KEY] = torch.from_numpy(cell).view(1, 3, 3)
        data[AtomicDataDict.EDGE_CELL_SHIFT_KEY] = edges.edge_cell_shift
    return data


def cutoff_of(model: GraphModel, known: float | None = None) -> float:
    """r_max of a model, Å, which it walks through its modules to say, unless it is known."""
    return float(model.metadata["r_max"]) if known is None else known


def evaluate(model: GraphModel, atoms: ase.Atoms, *, r_max: float | None = None) -> ReferenceFrame:
    """Energy, forces and virial of one structure by the eager model.

    The route is positions and strain, not edge vectors, so that it is independent of the route
    that deployed files take.

    Args:
        model: a potential, on any device.
        atoms: the structure.
        r_max: the model's cutoff, Å, where it is known.
    """
    device = next(chain(model.parameters(), model.buffers())).device
    data = model_input(atoms, cutoff_of(model, r_max), model.type_names)
    out = model({name: tensor.to(device) for name, tensor in data.items()})

    def value(key: str, *shape: int) -> torch.Tensor:
        return out[key].detach().to("cpu", torch.float64).reshape(shape).clone()

    return ReferenceFrame(
        positions=data[AtomicDataDict.POSITIONS_KEY].detach().clone(),
        cell=torch.from_numpy(atoms.cell.array.copy()),
        pbc=torch.from_numpy(atoms.pbc.copy()),
        atom_types=data[AtomicDataDict.ATOM_TYPE_KEY],
        energy=value(AtomicDataDict.TOTAL_ENERGY_KEY, 1),
        atomic_energy=value(AtomicDataDict.PER_ATOM_ENERGY_KEY, -1, 1),
        forces=value(AtomicDataDict.FORCE_KEY, -1, 3),
        virial=value(AtomicDataDict.VIRIAL_KEY, 3, 3),
    )


def make_reference_frames(
    model: GraphModel, atoms_list: Iterable[ase.Atoms]
) -> list[ReferenceFrame]:
    """Evaluate ``model`` in eval mode on each structure; its mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        return [evaluate(model, atoms) for atoms in atoms_list]
    finally:
        model.train(was_training)


def frame_atoms(frame: ReferenceFrame, type_names: Sequence[str]) -> ase.Atoms:
    """The structure of a reference frame; symbols are the type names, which must be elements."""
    return ase.Atoms(
        symbols=[type_names[index] for index in frame["atom_types"].tolist()],
        positions=frame["positions"].numpy(),
        cell=frame["cell"].numpy(),
        pbc=frame["pbc"].numpy(),
    )
