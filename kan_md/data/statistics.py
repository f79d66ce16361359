"""Numbers of the training set that models are normalised with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from nequip.data import AtomicDataDict

from kan_md.data.dataset import FramesDataset, edge_lengths
from kan_md.data.outliers import force_outliers
from kan_md.data.references import ReferenceEnergies, fit_references
from kan_md.errors import user_error
from kan_md.tasks.targets import ENERGY, FORCES


def type_counts(dataset: FramesDataset) -> np.ndarray:
    """Atoms of each type, [num_structures, num_types]."""
    types = len(dataset.type_names)
    return np.array(
        [np.bincount(_types(data), minlength=types) for data in dataset.data_list], dtype=float
    )


def reference_energies(
    dataset: FramesDataset, isolated: Mapping[str, float] | None = None
) -> ReferenceEnergies:
    """Reference energies of the types, see :func:`kan_md.data.references.fit_references`.

    Args:
        dataset: training set.
        isolated: energies of isolated atoms by type, eV.
    """
    energies = np.array(
        [
            data[ENERGY.field].item() if ENERGY.field in data else np.nan
            for data in dataset.data_list
        ]
    )
    return fit_references(type_counts(dataset), energies, dataset.type_names, isolated=isolated)


@dataclass(frozen=True)
class EnergyScale:
    """Size of what a network's output is multiplied with.

    Attributes:
        value: root mean square of the force components without outliers, eV/Å; without any
            forces that of the energies' residuals, eV.
        plain: the same with outliers.
        outliers: indices of structures that were left out.
        of: what it is the size of.
    """

    value: float
    plain: float
    outliers: list[int]
    of: Literal["forces", "energies"] = "forces"


def energy_scale(
    frames: Sequence[Atoms], residuals: np.ndarray, *, used: bool = True
) -> EnergyScale:
    """Size of the forces, or where there are none of the energies.

    Args:
        frames: training set.
        residuals: [num_structures], energies per atom without reference energies, eV; NaN where
            there is none.
        used: whether a model is to have it; without, zero forces are no hindrance.

    Raises:
        KanMdError: all forces are zero.
    """
    forces = [FORCES.label(atoms) for atoms in frames]
    if all(label is None for label in forces):
        lengths = np.sqrt([len(atoms) for atoms in frames])
        rms = _rms(residuals * lengths)  # N atoms that vary on their own: their sum by sqrt(N)
        value = rms if rms > 1e-6 else 1.0
        return EnergyScale(value, value, [], "energies")
    outliers = force_outliers(frames).tolist()
    labels = [np.empty(0) if label is None else label.ravel() for label in forces]
    plain = _rms(np.concatenate(labels))
    kept = [label for index, label in enumerate(labels) if index not in set(outliers)]
    value = _rms(np.concatenate(kept))
    if value < 1e-6 and used:
        raise user_error(
            "forces of the training set are zero",
            found=f"RMS {value:.1e} eV/Å",
            allowed=None,
            remedy="give structures away from equilibrium or a number as "
            "model.per_type_energy_scales",
        )
    return EnergyScale(value, plain, outliers)


def _rms(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(np.square(known)))) if known.size else 0.0


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
