"""What conversions from other programs share: the comparison, the readout's fit, the result."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
import torch

from kan_md.backbones.readout import ReadoutConfig, parse_readout
from kan_md.backbones.readout_fit import ReadoutFit
from kan_md.backbones.readout_report import describe_readouts
from kan_md.errors import KanMdError, user_error
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.random_structures import random_structures
from kan_md.model.reference import evaluate, make_reference_frames

ENERGY_TOLERANCE = 1e-6
"""Largest difference from upstream's energy of a structure that a conversion may have, eV."""
FORCE_TOLERANCE = 1e-6
"""The same for forces, eV/Å."""

NUM_SAMPLES = 8
"""Structures to compare on where none are given."""
ROWS_PER_WEIGHT = 4
"""Rows of features to fit each weight of a readout to."""
_NUM_REFERENCE_FRAMES = 3
_NUM_CRYSTALS = 2
_REPEATS = (1, 1, 2)
_CLUSTER_SIZE = 24

Upstream = Callable[[ase.Atoms], tuple[torch.Tensor, torch.Tensor]]
"""Energy [1], eV, and forces [num_atoms, 3], eV/Å, of a structure by upstream's own model."""


@dataclass(frozen=True)
class Conversion:
    """A converted model and how far it is from the original.

    Attributes:
        checkpoint: what goes into model.pth.
        energy_error: largest |E - E_upstream| of a structure with upstream's readouts, eV.
        force_error: largest |F - F_upstream| with upstream's readouts, eV/Å.
        fit: how well the KAN took over the last readout (of readout units); None without one.
        readout_energy_error: root mean square error per atom that the KAN adds, eV; None without.
        num_structures: structures that were compared.
        compared_with: whose model it was compared with.
        weights: which of the weights in the file were taken, where there are several.
        note: what is to be said, if anything.
    """

    checkpoint: Checkpoint
    energy_error: float
    force_error: float
    fit: ReadoutFit | None
    readout_energy_error: float | None
    num_structures: int
    compared_with: str
    weights: str = ""
    note: str = ""


def made_up_structures(type_names: Sequence[str], *, rng: np.random.Generator) -> list[ase.Atoms]:
    """Structures to compare on: a few crystals, and clusters that have all elements together.

    Crystals are small: atoms of a long cutoff have a hundred neighbours each, and every one of them
    costs a model of many channels milliseconds.

    Args:
        type_names: element symbols.
        rng: source of everything random.
    """
    crystals = random_structures(type_names, _NUM_CRYSTALS, rng=rng, repeats=_REPEATS)
    large = random_structures(type_names, NUM_SAMPLES - _NUM_CRYSTALS, rng=rng)
    symbols = itertools.cycle(type_names)
    clusters = []
    for crystal in large:
        cluster = ase.Atoms(positions=crystal.positions[:_CLUSTER_SIZE])
        cluster.symbols[:] = list(itertools.islice(symbols, len(cluster)))
        clusters.append(cluster)
    return crystals + clusters


def wanted_readout(
    own: Mapping | str, wanted: ReadoutConfig | Mapping | str | None
) -> ReadoutConfig:
    """The readout of a converted model: the file's own, or a KAN.

    Args:
        own: readout of the file's model.
        wanted: what was asked for; ``None`` keeps ``own``.

    Raises:
        KanMdError: it is another one.
    """
    kept = parse_readout(own)
    config = kept if wanted is None else parse_readout(wanted)
    if config.kind not in ("kan", kept.kind) or (config.kind != "kan" and config != kept):
        if config == ReadoutConfig(kind=kept.kind):
            return kept  # named by its kind alone
        raise _other_readout(config, kept)
    return config


def _other_readout(config: ReadoutConfig, kept: ReadoutConfig) -> KanMdError:
    found = f"{config.kind} {list(config.hidden)}" if config.hidden else config.kind
    return user_error(
        "readout of a converted model",
        found=found,
        allowed=f"{kept.kind}, as upstream's, or kan",
        remedy="leave it out to keep upstream's readouts",
    )


def compare(
    model: torch.nn.Module, upstream: Upstream, frames: Iterable[ase.Atoms], *, whose: str
) -> tuple[float, float]:
    """Largest differences of energy (eV per structure) and force (eV/Å).

    Args:
        model: the converted model, float64.
        upstream: the original.
        frames: structures.
        whose: name of the original, for the message.

    Raises:
        KanMdError: they are above the tolerances.
    """
    energies, forces = [], []
    for atoms in frames:
        ours, (energy, force) = evaluate(model, atoms), upstream(atoms)
        energies.append(float((ours["energy"] - energy.detach()).abs().max()))
        forces.append(float((ours["forces"] - force.detach()).abs().max()))
    if not all(e <= ENERGY_TOLERANCE for e in energies) or not all(
        f <= FORCE_TOLERANCE for f in forces
    ):
        raise user_error(
            f"energies and forces of the converted model differ from {whose}'s",
            found=f"{max(energies):.2e} eV, {max(forces):.2e} eV/Å",
            allowed=f"up to {ENERGY_TOLERANCE:.0e} eV, {FORCE_TOLERANCE:.0e} eV/Å",
            remedy="this variant cannot be converted",
        )
    return max(energies), max(forces)


def make_checkpoint(
    path: Path,
    backbone: str,
    model: torch.nn.Module,
    arguments: Mapping[str, object],
    frames: Sequence[ase.Atoms],
    **summary: object,
) -> Checkpoint:
    """What goes into model.pth.

    Args:
        path: of the original.
        backbone: architecture.
        model: the converted model, float64.
        arguments: that build it, with the dtype that it is to have.
        frames: structures to keep for judging deployed files.
        **summary: of the conversion.
    """
    checkpoint = Checkpoint(
        backbone=backbone,
        config={"model": dict(arguments)},
        type_names=list(arguments["type_names"]),
        r_max=float(arguments["r_max"]),
        state_dict=model.state_dict(),
        training_summary={
            "converted_from": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **summary,
            "readouts": describe_readouts(model, backbone),
        },
    )
    final = checkpoint.build()
    checkpoint.state_dict = final.state_dict()  # rounded to the model's dtype
    checkpoint.reference_frames = make_reference_frames(final, frames[:_NUM_REFERENCE_FRAMES])
    return checkpoint


def energy_change(
    changed: torch.nn.Module, model: torch.nn.Module, frames: Sequence[ase.Atoms]
) -> float:
    """Root mean square difference of energies per atom, eV."""
    errors = [
        float((evaluate(changed, atoms)["energy"] - evaluate(model, atoms)["energy"]) / len(atoms))
        for atoms in frames
    ]
    return float(np.sqrt(np.mean(np.square(errors))))
