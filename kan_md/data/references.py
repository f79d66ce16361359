"""Reference energies of the types: isolated atoms where there are, least squares elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kan_md.data.outliers import far_from_the_others

ISOLATED = "isolated atom"
LEAST_SQUARES = "least squares"
EQUAL_SHARES = "equal shares"
NO_DATA = "no data"
Source = Literal["isolated atom", "least squares", "equal shares", "no data"]

UNCERTAINTY = 1.0
"""eV; what the compositions determine with a larger standard error counts as not determined."""

_RANK_TOLERANCE = 1e-8


@dataclass(frozen=True)
class ReferenceEnergies:
    """Energies that the types have in a model before it has learned anything.

    Attributes:
        energies: by type, eV.
        sources: by type, where they come from; ``equal shares`` where the compositions do not
            determine the type's energy, ``no data`` (and 0 eV) for a type that does not occur.
        outliers: indices of structures that were left out of the fit.
        residuals: [num_structures], what is left of the energies per atom, eV; NaN without energy.
    """

    energies: dict[str, float]
    sources: dict[str, Source]
    outliers: list[int]
    residuals: np.ndarray


def fit_references(
    counts: np.ndarray,
    energies: np.ndarray,
    type_names: Sequence[str],
    *,
    isolated: Mapping[str, float] | None = None,
) -> ReferenceEnergies:
    """Find e_t with E ≈ Σ_t n_t·e_t over the structures.

    Types with an isolated atom have its energy, the others that of least squares. Along what the
    compositions do not tell apart, or not to :data:`UNCERTAINTY`, the solution is taken that comes
    nearest to equal shares: the same energy for every atom. Rows count per atom, so that the error
    per atom is what is minimised. Structures far from all others are left out, see
    :func:`kan_md.data.outliers.far_from_the_others`.

    Args:
        counts: [num_structures, num_types], atoms of each type.
        energies: [num_structures], eV; NaN where there is none.
        type_names: of the columns.
        isolated: energies of isolated atoms by type, eV.
    """
    isolated = {name: value for name, value in (isolated or {}).items() if name in type_names}
    free = np.array([name not in isolated for name in type_names], dtype=bool)
    shares = counts / counts.sum(axis=1, keepdims=True)  # [num_structures, num_types]
    fixed = np.array([isolated.get(name, 0.0) for name in type_names], dtype=float)
    per_atom = energies / counts.sum(axis=1) - shares @ fixed
    used = np.isfinite(per_atom)
    solution, determined = np.zeros(len(type_names)), np.zeros(len(type_names), dtype=bool)
    outliers: set[int] = set()
    for _ in range(10):
        rows = used & ~np.isin(np.arange(len(energies)), list(outliers))
        solution[free], determined[free] = _solve(shares[np.ix_(rows, free)], per_atom[rows])
        residuals = per_atom - shares @ solution
        found = set(far_from_the_others(residuals).tolist())
        if found <= outliers:
            break
        outliers |= found
    occurs = shares[used].any(axis=0)
    sources: dict[str, Source] = {}
    for index, name in enumerate(type_names):
        if name in isolated:
            sources[name] = ISOLATED
        elif not occurs[index]:
            sources[name] = NO_DATA
        else:
            sources[name] = LEAST_SQUARES if determined[index] else EQUAL_SHARES
    return ReferenceEnergies(
        dict(zip(type_names, (fixed + solution).tolist(), strict=True)),
        sources,
        sorted(outliers),
        residuals,
    )


def _solve(shares: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the free types, and whether the structures determine each of them."""
    occurs = shares.any(axis=0)
    solution, determined = np.zeros(shares.shape[1]), np.zeros(shares.shape[1], dtype=bool)
    if not occurs.any():
        return solution, determined
    shares = shares[:, occurs]
    columns, triangle = np.linalg.qr(shares)
    left, singular, right = np.linalg.svd(triangle)  # of the shares: columns @ left is their left
    open_rows = (0, len(right) - len(singular))
    singular = np.pad(singular, open_rows)
    projected = np.pad(left.T @ (columns.T @ energies), open_rows)
    kept = singular > _RANK_TOLERANCE * singular[0]
    freedom = len(energies) - int(kept.sum())
    noise = energies @ energies - projected[kept] @ projected[kept]
    error = np.sqrt(max(0.0, noise) / freedom) if freedom > 0 else 0.0
    certain = kept & (error <= UNCERTAINTY * singular)
    certain[0] = True  # the mean is the mean
    found = right[certain].T @ (projected[certain] / singular[certain])
    null = right[~certain].T  # [num_types, num_open]
    # A type is determined if nothing along its axis was left open.
    sure = np.linalg.norm(null, axis=1) < 1e-6
    if not sure.all():
        # Along what is open, make the undetermined ones as equal as can be: to one value x.
        design = np.column_stack([null[~sure], -np.ones((~sure).sum())])
        found = found + null @ np.linalg.lstsq(design, -found[~sure], rcond=None)[0][:-1]
    solution[occurs], determined[occurs] = found, sure
    return solution, determined


def reference_lines(
    energies: Mapping[str, float], sources: Mapping[str, str], *, unit: str = "eV"
) -> list[str]:
    """Say what the reference energies are, where they come from, and what that means."""
    groups: dict[str, list[str]] = {}
    for name in energies:
        groups.setdefault(sources[name], []).append(f"{name} {energies[name]:.3f}")
    texts = [f"{', '.join(group)} {unit} ({source})" for source, group in groups.items()]
    lines = ["; ".join(texts)]
    by = {
        source: [name for name in energies if sources[name] == source]
        for source in (LEAST_SQUARES, EQUAL_SHARES, NO_DATA)
    }
    if by[EQUAL_SHARES]:
        lines += [
            f"the compositions do not determine {', '.join(by[EQUAL_SHARES])}: isolated atoms, "
            "other compositions",
            "and fix gcmc have no meaning without frames of config_type=IsolatedAtom",
        ]
    elif by[LEAST_SQUARES]:
        lines.append(
            "averages here, not free atoms: fix gcmc needs frames of config_type=IsolatedAtom"
        )
    if by[NO_DATA]:
        lines.append(f"no structure with an energy holds {', '.join(by[NO_DATA])}")
    return lines
