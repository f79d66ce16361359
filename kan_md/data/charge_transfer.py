"""A model crystal with tensors in closed form: charge that moves with the bonds.

Every bond between a cation a and an anion b within a cutoff carries the charge

    Q_ab = q s(r_ab) (1 + β n_a + γ n_b),   n_a = Σ_b' s(r_ab'),   s(r) = exp(-(r - r0)/λ) u(r)

from a to b, so that the dipole is μ = Σ_ab Q_ab (r_a - r_b). Born charges are its derivative,
Z_ij = ∂μ_i/∂r_j of each atom: they change with distances and angles, have an antisymmetric part (n
makes them three-body), and their sum over atoms vanishes exactly, because only differences of
positions enter. Bonds also have a polarisability, whose sum per volume is the electronic
susceptibility, a symmetric tensor of the whole crystal.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from kan_md.backbones.etgnn.basis import envelope
from kan_md.errors import user_error
from kan_md.model.graph import periodic_edges

CATION, ANION, LATTICE = "Zn", "S", 5.41
CUTOFF = 4.2
"""Å; the first shell and what strongly displaced atoms bring near."""
CHARGE, BOND_LENGTH, DECAY = 0.8, 2.34, 2.0
CATION_FEEDBACK, ANION_FEEDBACK = -0.05, -0.03
POLARISABILITY, ANISOTROPY = 4.0, 0.5
"""Å³ per bond at its ideal length, and the share of it that is along the bond only."""


def make_charge_transfer(
    num_frames: int, seed: int, *, displacement: float = 0.12, strain: float = 0.02
) -> list[Atoms]:
    """Rattled and strained zinc-blende cells with 16 atoms and their tensors.

    Args:
        num_frames: number of structures.
        seed: of displacements and strains.
        displacement: standard deviation of each coordinate, Å.
        strain: standard deviation of each component.

    Returns:
        Structures with ``arrays["bec"]`` [num_atoms, 9], e, ``bec[3*i+j]`` = dμ_i/dr_j, and
        ``info["susceptibility"]`` [9], dimensionless.

    Raises:
        KanMdError: a number is out of range.
    """
    if num_frames < 1:
        raise user_error(
            "number of frames must be >= 1", found=num_frames, allowed=None, remedy="set --frames"
        )
    if seed < 0:
        raise user_error("seed must be >= 0", found=seed, allowed=None, remedy="set --seed")
    random = np.random.default_rng(seed)
    ideal = bulk(CATION + ANION, "zincblende", a=LATTICE, cubic=True).repeat((2, 1, 1))
    frames = []
    for _ in range(num_frames):
        atoms = ideal.copy()
        atoms.set_cell(
            atoms.cell[:] @ (np.eye(3) + random.normal(0, strain, (3, 3))), scale_atoms=True
        )
        atoms.positions += random.normal(0, displacement, atoms.positions.shape)
        frames.append(label_charge_transfer(atoms))
    return frames


def label_charge_transfer(atoms: Atoms) -> Atoms:
    """Write the model's tensors into a structure of :data:`CATION` and :data:`ANION`."""
    atoms.arrays["bec"] = born_charges(atoms)
    atoms.info["susceptibility"] = susceptibility(atoms)
    return atoms


def born_charges(atoms: Atoms) -> np.ndarray:
    """∂μ_i/∂r_j of every atom, [num_atoms, 9], e, column 3*i + j."""
    moved = torch.zeros(len(atoms), 3, dtype=torch.float64, requires_grad=True)
    dipole = _dipole(atoms, moved)
    rows = [torch.autograd.grad(dipole[i], moved, retain_graph=True)[0] for i in range(3)]
    return torch.stack(rows, dim=1).reshape(-1, 9).numpy()  # [num_atoms, i, j] flattened


def dipole_change(atoms: Atoms, displacements: np.ndarray) -> np.ndarray:
    """Exact change of μ [3], e Å, when atoms move by ``displacements`` [num_atoms, 3], Å.

    Bonds are those of the structure before.
    """
    with torch.no_grad():
        moved = torch.from_numpy(np.asarray(displacements, dtype=float))
        return (_dipole(atoms, moved) - _dipole(atoms, torch.zeros_like(moved))).numpy()


def _bonds(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cation, anion and vector from cation to anion of each bond."""
    edges = periodic_edges(atoms, CUTOFF)
    centre, neighbour = edges.edge_index
    is_cation = torch.from_numpy(atoms.symbols == CATION)
    chosen = is_cation[centre] & ~is_cation[neighbour]
    return centre[chosen], neighbour[chosen], edges.edge_vectors[chosen]


def _strength(vectors: torch.Tensor) -> torch.Tensor:
    """s(r) of bonds."""
    length = vectors.norm(dim=-1)
    return torch.exp(-(length - BOND_LENGTH) / DECAY) * envelope(length / CUTOFF)


def _dipole(atoms: Atoms, moved: torch.Tensor) -> torch.Tensor:
    cation, anion, vectors = _bonds(atoms)
    vectors = vectors + moved[anion] - moved[cation]
    strength = _strength(vectors)
    bonds_of = torch.zeros(len(atoms), dtype=torch.float64)
    near_cation = bonds_of.index_add(0, cation, strength)[cation]
    near_anion = bonds_of.index_add(0, anion, strength)[anion]
    charge = CHARGE * strength
    charge = charge * (1 + CATION_FEEDBACK * near_cation + ANION_FEEDBACK * near_anion)
    return -(charge.unsqueeze(-1) * vectors).sum(0)


def susceptibility(atoms: Atoms) -> np.ndarray:
    """4π/V Σ_bonds s(r) α ((1 - κ) δ + κ e⊗e), [9], dimensionless."""
    _, _, vectors = _bonds(atoms)
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    dyads = unit.unsqueeze(-1) * unit.unsqueeze(-2)
    bond = (1 - ANISOTROPY) * torch.eye(3, dtype=torch.float64) + ANISOTROPY * dyads
    total = (_strength(vectors) * POLARISABILITY).view(-1, 1, 1) * bond
    return (4 * np.pi / atoms.get_volume() * total.sum(0)).flatten().numpy()
