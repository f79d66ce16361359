"""Frames of single atoms: they hold the reference energies, and are no structures to learn from."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms

from kan_md.data.label_report import config_type_of, source_of
from kan_md.errors import user_error
from kan_md.model.graph import periodic_edges
from kan_md.tasks.targets import ENERGY

MARKS = {"isolatedatom", "isolatedatoms", "e0", "e0s"}
"""Values of ``config_type`` (without case, spaces, - and _) that mark an isolated atom."""

AGREEMENT = 1e-3
"""eV; isolated atoms of one element whose energies differ by more contradict each other."""


def is_marked(atoms: Atoms) -> bool:
    """Whether a frame is called an isolated atom, as MACE (``IsolatedAtom``) and GAP do."""
    mark = (config_type_of(atoms) or "").lower()
    return "".join(letter for letter in mark if letter not in " -_") in MARKS


def is_isolated_atom(atoms: Atoms, r_max: float) -> bool:
    """Whether a frame holds one atom that is called isolated or has no neighbour within r_max."""
    if len(atoms) != 1:
        return False
    return is_marked(atoms) or not periodic_edges(atoms, r_max).edge_index.shape[1]


def separate_isolated(frames: Sequence[Atoms], r_max: float) -> tuple[list[Atoms], list[Atoms]]:
    """Divide frames into structures and isolated atoms."""
    structures, isolated = [], []
    for atoms in frames:
        (isolated if is_isolated_atom(atoms, r_max) else structures).append(atoms)
    return structures, isolated


def isolated_energies(isolated: Sequence[Atoms]) -> dict[str, float]:
    """Energy of each element's isolated atom, eV; without those that have no energy.

    Raises:
        KanMdError: two isolated atoms of one element have different energies.
    """
    first: dict[str, Atoms] = {}
    energies: dict[str, float] = {}
    for atoms in isolated:
        label = ENERGY.label(atoms)
        if label is None:
            continue
        symbol, energy = atoms.get_chemical_symbols()[0], float(label.item())
        if symbol not in energies:
            first[symbol], energies[symbol] = atoms, energy
        elif abs(energy - energies[symbol]) > AGREEMENT:
            raise user_error(
                f"isolated atoms of {symbol} contradict each other",
                found=f"{energies[symbol]:g} eV ({source_of(first[symbol])}) and "
                f"{energy:g} eV ({source_of(atoms)})",
                allowed=f"one energy within {AGREEMENT:g} eV",
                remedy="remove one of the frames, or give model.per_type_energy_shifts",
            )
    return energies
