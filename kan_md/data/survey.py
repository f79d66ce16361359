"""What a set of labelled structures holds, and what about it deserves a second look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii

from kan_md.data.identity import repeated
from kan_md.data.isolated import isolated_energies
from kan_md.data.label_report import config_type_of, source_of, structures
from kan_md.data.outliers import far_from_the_others, force_outliers, largest_force
from kan_md.data.plausibility import doubts
from kan_md.data.references import ReferenceEnergies, fit_references
from kan_md.errors import KanMdError
from kan_md.model.graph import periodic_edges
from kan_md.tasks.targets import ENERGY, FORCES, POTENTIAL_TARGETS

SHORT = 0.6
"""Shorter than this share of the sum of the covalent radii, a distance is told."""

NET_FORCE = 0.1
"""eV/Å per atom; larger mean forces are told: labels have none, but for a field or rounding."""

NO_TYPE = "–"
"""What structures without ``config_type`` are listed under."""


@dataclass(frozen=True)
class Distances:
    """Of one structure.

    Attributes:
        closest: smallest distance within the cutoff, Å; NaN without pairs.
        pair: the elements of that pair, ``"C-H"``.
        share: smallest distance in units of the sum of the covalent radii; NaN without pairs.
        alone: number of atoms without any neighbour within the cutoff.
    """

    closest: float
    pair: str
    share: float
    alone: int


def distances_of(atoms: Atoms, lengths: np.ndarray, edge_index: np.ndarray) -> Distances:
    """Summarise the neighbour list of a structure.

    Args:
        atoms: the structure.
        lengths: [num_edges], Å.
        edge_index: [2, num_edges], row 0 the centre.
    """
    alone = len(atoms) - len(np.unique(edge_index[0]))
    if not len(lengths):
        return Distances(np.nan, "", np.nan, alone)
    radii = covalent_radii[atoms.numbers]
    shares = lengths / (radii[edge_index[0]] + radii[edge_index[1]])
    worst = int(np.argmin(shares))
    pair = "-".join(sorted(atoms.symbols[index] for index in edge_index[:, worst]))
    return Distances(float(lengths.min()), pair, float(shares[worst]), alone)


def measure_distances(atoms: Atoms, r_max: float) -> Distances:
    """Find the neighbours of a structure and summarise them."""
    edges = periodic_edges(atoms, r_max)
    lengths = torch.linalg.vector_norm(edges.edge_vectors, dim=1).numpy()
    return distances_of(atoms, lengths, edges.edge_index.numpy())


@dataclass(frozen=True)
class Finding:
    """Something that deserves a second look.

    Attributes:
        kind: one word or two, e.g. ``short distances``.
        text: what it is, on one line.
        sources: the structures.
    """

    kind: str
    text: str
    sources: list[str]


@dataclass(frozen=True)
class Survey:
    """A set of structures and what is noticed about it.

    Attributes:
        frames: the structures without isolated atoms.
        isolated: the isolated atoms.
        distances: of each structure.
        references: fitted to the energies.
        findings: what deserves a second look.
    """

    frames: list[Atoms]
    isolated: list[Atoms]
    distances: list[Distances]
    references: ReferenceEnergies
    findings: list[Finding]

    @property
    def config_types(self) -> list[str]:
        """Of each structure."""
        return [config_type_of(atoms) or NO_TYPE for atoms in self.frames]

    def labelled(self, frames: Iterable[Atoms] | None = None) -> dict[str, int]:
        """Number of structures with each label."""
        frames = self.frames if frames is None else list(frames)
        return {
            target.name: sum(target.label(atoms) is not None for atoms in frames)
            for target in POTENTIAL_TARGETS
        }


def make_survey(
    frames: Sequence[Atoms],
    r_max: float,
    *,
    isolated: Sequence[Atoms] = (),
    distances: Sequence[Distances] | None = None,
) -> Survey:
    """Look at a set.

    Args:
        frames: structures as :func:`kan_md.data.read_frames` gives them, without isolated atoms.
        r_max: cutoff within which neighbours are looked for, Å.
        isolated: isolated atoms.
        distances: of each structure, where they are known already.
    """
    if distances is None:
        distances = [measure_distances(atoms, r_max) for atoms in frames]
    findings: list[Finding] = []
    try:
        references = _references(frames, isolated_energies(isolated))
    except KanMdError as error:
        text = str(error).partition(";")[0]
        findings.append(Finding("isolated atoms", text, [source_of(atoms) for atoms in isolated]))
        references = _references(frames, {})
    findings += [
        *_repeated(frames),
        *_short(frames, distances),
        *_alone(frames, distances, r_max),
        *_forces(frames),
        *_energies(frames, references),
        *(
            Finding(kind, text, [source_of(frames[index]) for index in indices])
            for kind, text, indices in doubts(frames)
        ),
    ]
    return Survey(list(frames), list(isolated), list(distances), references, findings)


def _references(frames: Sequence[Atoms], isolated: Mapping[str, float]) -> ReferenceEnergies:
    elements = sorted({symbol for atoms in frames for symbol in set(atoms.symbols)})
    counts = np.array(
        [[np.count_nonzero(atoms.symbols == element) for element in elements] for atoms in frames],
        dtype=float,
    ).reshape(len(frames), len(elements))
    return fit_references(counts, energies_of(frames), elements, isolated=isolated)


def energies_of(frames: Sequence[Atoms]) -> np.ndarray:
    """[num_structures], eV; NaN where there is none."""
    labels = [ENERGY.label(atoms) for atoms in frames]
    return np.array([np.nan if label is None else label.item() for label in labels])


def _repeated(frames: Sequence[Atoms]) -> list[Finding]:
    groups = repeated(frames)
    if not groups:
        return []
    copies = [frames[index] for group in groups for index in group[1:]]
    energies = energies_of(frames)
    spreads = [float(np.ptp(known)) for group in groups if len(known := _known(energies[group]))]
    widest = max(spreads, default=0.0)
    text = f"{structures(len(copies))} occurring again"
    if widest > 1e-4:
        text += f", with energies up to {widest:.3g} eV apart"
    return [Finding("duplicates", text, [source_of(atoms) for atoms in copies])]


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _short(frames: Sequence[Atoms], distances: Sequence[Distances]) -> list[Finding]:
    found = [index for index, one in enumerate(distances) if one.share < SHORT]
    if not found:
        return []
    found.sort(key=lambda index: distances[index].share)
    worst = distances[found[0]]
    text = (
        f"{structures(len(found))} below {SHORT:g} of the covalent radii, {worst.pair} at "
        f"{worst.closest:.3g} Å"
    )
    return [Finding("short distances", text, [source_of(frames[index]) for index in found])]


def _alone(frames: Sequence[Atoms], distances: Sequence[Distances], r_max: float) -> list[Finding]:
    some = [atoms for atoms, one in zip(frames, distances, strict=True) if one.alone]
    if not some:
        return []
    atoms = sum(one.alone for one in distances)
    text = f"{atoms} in {structures(len(some))} without a neighbour within {r_max:g} Å"
    return [Finding("lonely atoms", text, [source_of(atoms) for atoms in some])]


def _forces(frames: Sequence[Atoms]) -> list[Finding]:
    findings = []
    outliers = sorted(force_outliers(frames), key=lambda index: -largest_force(frames[index]))
    if outliers:
        text = (
            f"{structures(len(outliers))} with up to {largest_force(frames[outliers[0]]):.3g} eV/Å"
        )
        sources = [source_of(frames[index]) for index in outliers]
        findings.append(Finding("force outliers", text, sources))
    forces = [FORCES.label(atoms) for atoms in frames]
    zero = [
        source_of(atoms)
        for atoms, label in zip(frames, forces, strict=True)
        if label is not None and len(atoms) > 1 and not label.any()
    ]
    if zero:
        findings.append(
            Finding(
                "zero forces",
                f"all 0 in {structures(len(zero))}, by symmetry or as placeholders",
                zero,
            )
        )
    net = {
        index: float(np.linalg.norm(label.mean(0)))
        for index, label in enumerate(forces)
        if label is not None and np.isfinite(label).all() and index not in outliers
    }
    odd = sorted((index for index in net if net[index] > NET_FORCE), key=lambda i: -net[i])
    if odd:
        text = f"mean force not 0 in {structures(len(odd))}, up to {net[odd[0]]:.3g} eV/Å"
        findings.append(Finding("net forces", text, [source_of(frames[i]) for i in odd]))
    return findings


def _energies(frames: Sequence[Atoms], references: ReferenceEnergies) -> list[Finding]:
    residuals = references.residuals
    found = far_from_the_others(residuals)
    if not len(found):
        return []
    middle = float(np.median(_known(residuals)))
    order = found[np.argsort(-np.abs(residuals[found] - middle))]
    text = f"{structures(len(found))}, up to {residuals[order[0]] - middle:+.3g} eV/atom off"
    return [Finding("energy outliers", text, [source_of(frames[index]) for index in order])]


def composition_counts(frames: Sequence[Atoms]) -> Counter[str]:
    """Structures by reduced formula."""
    return Counter(atoms.symbols.formula.reduce()[0].format("metal") for atoms in frames)
