"""What conversions from other programs share: the comparison, the readout's fit, the result."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
import torch
from nequip.nn import PerTypeScaleShift
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.build import build_model, sites_of
from kan_md.backbones.readout import ReadoutConfig, parse_readout
from kan_md.backbones.readout_fit import ReadoutFit, check_fittable
from kan_md.backbones.readout_report import describe_readouts
from kan_md.errors import KanMdError, user_error
from kan_md.model.checkpoint import Checkpoint
from kan_md.model.random_structures import random_structures
from kan_md.model.readout_exchange import ROWS_PER_WEIGHT, Exchange, exchange_readouts
from kan_md.model.reference import evaluate, make_reference_frames

ENERGY_TOLERANCE = 1e-6
"""Largest difference from upstream's energy of a structure that a conversion may have, eV."""
FORCE_TOLERANCE = 1e-6
"""The same for forces, eV/Å."""

_NUM_REFERENCE_FRAMES = 3
_NUM_CRYSTALS = 2
_REPEATS = (1, 1, 2)
_LONG = 6.0
"""Å, of a cutoff from which on crystals are one cell and clusters small: upstream's largest models
take megabytes for each pair of neighbours.
"""
_CLUSTER_SIZE = 24
_SMALL_CLUSTER_SIZE = 12

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


def made_up_structures(
    type_names: Sequence[str], r_max: float, *, rng: np.random.Generator
) -> list[ase.Atoms]:
    """Structures to compare on: two crystals, and as many clusters as hold all elements.

    All are small: atoms of a long cutoff have a hundred neighbours each, and every one of them
    costs a model of many channels milliseconds.

    Args:
        type_names: element symbols.
        r_max: cutoff of the model, Å.
        rng: source of everything random.
    """
    repeats, size = _REPEATS, _CLUSTER_SIZE
    if r_max >= _LONG:
        repeats, size = (1, 1, 1), _SMALL_CLUSTER_SIZE
    crystals = random_structures(type_names, _NUM_CRYSTALS, rng=rng, repeats=repeats)
    num_clusters = math.ceil(len(type_names) / size)
    large = random_structures(type_names, num_clusters, rng=rng)
    symbols = itertools.cycle(type_names)
    clusters = []
    for crystal in large:
        cluster = ase.Atoms(positions=crystal.positions[:size])
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


@dataclass(frozen=True)
class Compared:
    """A converted model that has upstream's readouts, and how far it is from the original.

    Attributes:
        path: of the original.
        backbone: architecture.
        model: the converted model, float64.
        arguments: that build it.
        dtype: that the original was trained in.
        copy_weights: gives a model with other readouts the weights of the original.
        frames: structures that were compared.
        energy_error: see :class:`Conversion`, as the following.
        force_error: likewise.
        compared_with: likewise.
        weights: likewise.
        note: likewise.
        made_with: versions of the programs that wrote the original, where the file has them.
    """

    path: Path
    backbone: str
    model: GraphModel
    arguments: Mapping[str, object]
    dtype: str
    copy_weights: Callable[[GraphModel], None]
    frames: Sequence[ase.Atoms]
    energy_error: float
    force_error: float
    compared_with: str
    weights: str = ""
    note: str = ""
    made_with: Mapping[str, str] | None = None


def finish(
    compared: Compared,
    config: ReadoutConfig,
    *,
    structures: Sequence[ase.Atoms],
    elements: Sequence[str],
    model_dtype: str | None,
    rng: np.random.Generator,
) -> Conversion:
    """Put KANs in on request, and make what goes into model.pth.

    The KAN in place of a readout is fitted to it by least squares, on the features of atoms; KANs
    beside readouts that stay start as the zero function.

    Args:
        compared: the model with upstream's readouts.
        config: the readout that it is to have, see :func:`wanted_readout`.
        structures: to fit to, all of them; as many as needed are made up where there are none.
        elements: of structures that are made up.
        model_dtype: dtype to train and deploy in; the original's where ``None``.
        rng: source of everything random.

    Raises:
        KanMdError: the readout cannot be fitted.
    """
    model, arguments = compared.model, dict(compared.arguments)
    fit, change = None, None
    if config.kind == "kan":
        model = build_model(compared.backbone, **arguments | {"readout": config}).eval()
        compared.copy_weights(model)
        done = _take_over(
            model, compared, structures or _endless_structures(elements, rng=rng), rng=rng
        )
        fit = [exchange.fit for exchange in done if exchange.fit is not None][-1]
        if any(exchange.offset for exchange in done):
            arguments["per_type_energy_shifts"] = _shifts_by_type(model)
        change = energy_change(model, compared.model, compared.frames)
    arguments |= {
        "model_dtype": model_dtype or compared.dtype,
        "readout": config.model_dump(mode="json"),
    }
    made_with = {} if compared.made_with is None else {"made_with": dict(compared.made_with)}
    return Conversion(
        checkpoint=_make_checkpoint(
            compared,
            model,
            arguments,
            energy_error=compared.energy_error,
            readout_energy_error=change,
            **made_with,
        ),
        energy_error=compared.energy_error,
        force_error=compared.force_error,
        fit=fit,
        readout_energy_error=change,
        num_structures=len(compared.frames),
        compared_with=compared.compared_with,
        weights=compared.weights,
        note=compared.note,
    )


def _endless_structures(
    type_names: Sequence[str], *, rng: np.random.Generator
) -> Iterator[ase.Atoms]:
    while True:
        yield from random_structures(type_names, 1, rng=rng)


def _take_over(
    model: GraphModel,
    compared: Compared,
    structures: Iterable[ase.Atoms],
    *,
    rng: np.random.Generator,
) -> list[Exchange]:
    """Fit the KANs of a model to the readouts of the model that was compared."""
    for slot in sites_of(model, compared.backbone)["output"]:
        check_fittable(slot.function)
    return exchange_readouts(
        model,
        compared.model,
        structures,
        backbone=compared.backbone,
        generator=torch.Generator().manual_seed(int(rng.integers(2**62))),
        rows_per_weight=math.inf if isinstance(structures, Sequence) else ROWS_PER_WEIGHT,
    )


def _shifts_by_type(model: GraphModel) -> dict[str, float]:
    """Reference energies that a model adds, eV."""
    (module,) = (m for m in model.modules() if isinstance(m, PerTypeScaleShift))
    return dict(zip(model.type_names, module.shifts.flatten().tolist(), strict=True))


def _make_checkpoint(
    compared: Compared,
    model: GraphModel,
    arguments: Mapping[str, object],
    **summary: object,
) -> Checkpoint:
    """What goes into model.pth.

    Args:
        compared: tells of the original.
        model: the converted model, float64, with the readouts that it is to have.
        arguments: that build it, with the dtype that it is to have.
        **summary: of the conversion.
    """
    path = compared.path
    checkpoint = Checkpoint(
        backbone=compared.backbone,
        config={"model": dict(arguments)},
        type_names=list(arguments["type_names"]),
        r_max=float(arguments["r_max"]),
        state_dict=model.state_dict(),
        training_summary={
            "converted_from": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **summary,
            "readouts": describe_readouts(model, compared.backbone),
        },
    )
    if arguments["model_dtype"] != "float64":
        model = checkpoint.build()
        checkpoint.state_dict = model.state_dict()  # rounded to the model's dtype
    frames = compared.frames[:_NUM_REFERENCE_FRAMES]
    checkpoint.reference_frames = make_reference_frames(model, frames)
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
