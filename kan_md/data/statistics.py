"""Numbers of the training set that models are normalised with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from nequip.data import AtomicDataDict

from kan_md.data.dataset import FramesDataset, edge_lengths
from kan_md.data.targets import ENERGY, FORCES
from kan_md.errors import user_error


def reference_energies(dataset: FramesDataset) -> dict[str, float]:
    """Least-squares energy per type: E ≈ Σ_types n_type·e_type over all structures.

    Where the compositions do not determine the energies (a single stoichiometry), the solution of
    smallest norm is taken.

    Returns:
        eV by type name; zero for a type that never occurs.
    """
    counts = np.array(
        [
            np.bincount(_types(data), minlength=len(dataset.type_names))
            for data in dataset.data_list
        ],
        dtype=float,
    )
    energies = np.array([data[ENERGY.field].item() for data in dataset.data_list])
    # Weighted by 1/atoms, so that the error per atom is what is minimised.
    atoms = counts.sum(axis=1)
    solution = np.linalg.lstsq(counts / atoms[:, None], energies / atoms, rcond=1e-8)[0]
    return dict(zip(dataset.type_names, solution.tolist(), strict=True))


def forces_rms(dataset: FramesDataset) -> float:
    """Root mean square of the force components, eV/Å.

    Raises:
        KanMdError: all forces are zero.
    """
    squares = np.concatenate([data[FORCES.field].numpy().ravel() for data in dataset.data_list])
    rms = float(np.sqrt(np.mean(np.square(squares))))
    if rms < 1e-6:
        raise user_error(
            "forces of the training set are zero",
            found=f"RMS {rms:.1e} eV/Å",
            allowed=None,
            remedy="give structures away from equilibrium or a number as "
            "model.per_type_energy_scales",
        )
    return rms


def edge_statistics(dataset: FramesDataset) -> dict[str, object]:
    """Neighbours and distances within the cutoff.

    Returns:
        ``avg_num_neighbors``: edges per atom; ``min_distances``: [num_types²], Å, row-major, centre
        first, 0 where never seen.

    Raises:
        KanMdError: no structure has two atoms within the cutoff.
    """
    types, edges = len(dataset.type_names), 0
    closest = np.full((types, types), np.inf)
    for data in dataset.data_list:
        lengths = edge_lengths(data).numpy()
        kinds = _types(data)[data[AtomicDataDict.EDGE_INDEX_KEY].numpy()]
        np.minimum.at(closest, (kinds[0], kinds[1]), lengths)
        edges += len(lengths)
    if edges == 0:
        raise user_error(
            "no two atoms of the training set are within the cutoff",
            found="0 edges",
            allowed=None,
            remedy="increase model.r_max",
        )
    number = sum(len(_types(data)) for data in dataset.data_list)
    return {
        "avg_num_neighbors": edges / number,
        "min_distances": np.where(np.isfinite(closest), closest, 0.0).ravel().tolist(),
    }


def _types(data: AtomicDataDict.Type) -> np.ndarray:
    return data[AtomicDataDict.ATOM_TYPE_KEY].numpy()


def types_of(frames: Sequence[Atoms]) -> list[str]:
    """Element symbols that occur, by atomic number."""
    symbols = {symbol for atoms in frames for symbol in set(atoms.symbols)}
    return sorted(symbols, key=atomic_numbers.__getitem__)
