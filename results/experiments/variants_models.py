"""Options of allegro's, nequip's and mace-torch's own builders, and models that have them.

A variant is a set of changes to a small model of two elements. :func:`make` calls upstream's
builder, moves every weight a little, so that none is a zero or one that hides a mistake, and writes
the file that upstream's own training would have left.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from e3nn.o3 import Irreps
from nequip.data import AtomicDataDict
from nequip.data.ase import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.utils import torch_default_dtype

from kan_md.backbones.mace import import_mace
from kan_md.backbones.nequip_settings import nequip_settings

ELEMENTS = ("Si", "O")
R_MAX = 4.0
SHIFTS = {"Si": -2.8, "O": -1.5}
_NOISE = 0.1
"""Of every weight, times its array's root mean square, or alone where that is zero."""


@dataclass(frozen=True)
class Variant:
    """A model that differs from the small one of its backbone.

    Attributes:
        backbone: ``allegro``, ``nequip`` or ``mace``.
        group: heading in the table.
        name: what is different, in words.
        changes: arguments of upstream's builder; ``_target_`` is another builder, ``kind`` another
            class of mace-torch, and what is None in ``without`` is left out.
        without: arguments of the small model that are not given.
        head: of several, the one that is converted.
        is_common: whether published models or upstream's examples are of this kind.
    """

    backbone: str
    group: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    head: str | None = None
    is_common: bool = False

    @property
    def title(self) -> str:
        """Backbone and name, which no other variant has."""
        return f"{self.backbone}: {self.name}"


@dataclass(frozen=True)
class Said:
    """What a model says of a structure.

    Attributes:
        energy: eV.
        forces: [num_atoms, 3], eV/Å.
        virial: [3, 3], eV, -dE/d(strain); None where the structure has no volume.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None


@dataclass(frozen=True)
class Made:
    """A model of upstream's, float64.

    Attributes:
        file: as upstream's training writes it.
        says: by upstream's own code.
    """

    file: Path
    says: Callable[[ase.Atoms], Said]


_COMMON = {
    "seed": 3,
    "model_dtype": "float64",
    "type_names": list(ELEMENTS),
    "r_max": R_MAX,
    "avg_num_neighbors": 18.0,
    "per_type_energy_scales": 1.3,
    "per_type_energy_shifts": SHIFTS,
}
SMALL: dict[str, dict[str, Any]] = {
    "allegro": {
        **_COMMON,
        "_target_": "allegro.model.AllegroModel",
        "l_max": 1,
        "num_layers": 2,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "radial_chemical_embed": {
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": 6,
        },
        "scalar_embed_mlp_hidden_layers_width": 8,
        "allegro_mlp_hidden_layers_width": 8,
        "readout_mlp_hidden_layers_width": 8,
    },
    "nequip": {
        **_COMMON,
        "_target_": "nequip.model.NequIPGNNModel",
        "num_layers": 3,
        "l_max": 1,
        "parity": True,
        "num_features": 4,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 8,
    },
    "mace": {
        "kind": "ScaleShiftMACE",
        "r_max": R_MAX,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": "4x0e + 4x1o",
        "MLP_irreps": "5x0e",
        "atomic_energies": [SHIFTS["O"], SHIFTS["Si"]],
        "avg_num_neighbors": 18.0,
        "atomic_numbers": [8, 14],
        "correlation": 2,
        "gate": "silu",
        "radial_MLP": [8],
        "atomic_inter_scale": 0.75,
        "atomic_inter_shift": 0.125,
    },
}
_SCALED = ("atomic_inter_scale", "atomic_inter_shift")


def make(variant: Variant, folder: Path) -> Made:
    """Build a variant with upstream's code and write its file.

    Raises:
        Exception: whatever upstream raises where it does not build the model.
    """
    arguments = {**SMALL[variant.backbone], **copy.deepcopy(dict(variant.changes))}
    arguments = {key: value for key, value in arguments.items() if key not in variant.without}
    if variant.backbone == "mace":
        return _make_mace(arguments, folder / "model.model", head=variant.head)
    return _make_nequip(arguments, folder / "best.ckpt")


@torch.no_grad()
def move_weights(model: torch.nn.Module) -> None:
    """Add noise to every parameter, the same in every run."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        size = float(parameter.double().square().mean().sqrt()) or 1.0
        parameter.add_((_NOISE * size * noise).to(parameter.dtype))


def _make_nequip(arguments: dict[str, Any], path: Path) -> Made:
    given = copy.deepcopy(arguments)
    target = importlib.import_module("hydra.utils").get_method(arguments.pop("_target_"))
    with nequip_settings():
        model = target(**arguments)
    move_weights(model)
    model.eval()
    state = {f"model.sole_model.{name}": value for name, value in model.state_dict().items()}
    saved = {
        "pytorch-lightning_version": "2.6",
        "hyper_parameters": {
            "model": given,
            "info_dict": {"versions": {}, "training_module": {"_target_": "nequip.train.X"}},
        },
        "state_dict": state,
    }
    torch.save(saved, path)
    return Made(path, lambda atoms: _nequip_says(model, atoms))


def _nequip_says(model: torch.nn.Module, atoms: ase.Atoms) -> Said:
    """By nequip's own neighbour list and data, as its calculator does it."""
    types = ChemicalSpeciesToAtomTypeMapper(model_type_names=list(model.type_names))
    neighbours = NeighborListTransform(r_max=float(model.metadata["r_max"]))
    with torch_default_dtype(torch.float64):
        data = {**from_ase(atoms), AtomicDataDict.TOTAL_CHARGE_KEY: torch.tensor([1])}
        out = model(neighbours(types(data)))
    virial = None
    if atoms.cell.rank == 3:
        virial = out[AtomicDataDict.VIRIAL_KEY].detach().numpy().reshape(3, 3)
    return Said(
        energy=float(out[AtomicDataDict.TOTAL_ENERGY_KEY].detach()),
        forces=out[AtomicDataDict.FORCE_KEY].detach().numpy(),
        virial=virial,
    )


def _make_mace(arguments: dict[str, Any], path: Path, *, head: str | None) -> Made:
    modules = import_mace()
    kind = arguments.pop("kind")
    if kind == "MACE":
        arguments = {key: value for key, value in arguments.items() if key not in _SCALED}
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if arguments.get(key) is not None:
            arguments[key] = Irreps(arguments[key])
    for key in ("interaction_cls", "interaction_cls_first"):
        arguments[key] = modules.interaction_classes[arguments[key]]
    if "readout_cls" in arguments:
        arguments["readout_cls"] = modules.readout_classes[arguments["readout_cls"]]
    arguments["gate"] = modules.gate_dict[arguments["gate"]]
    arguments["atomic_energies"] = np.array(arguments["atomic_energies"])
    with nequip_settings():
        torch.manual_seed(3)
        model = getattr(modules, kind)(**arguments)
        move_weights(model)
        torch.save(model.eval(), path)
    return Made(path, lambda atoms: _mace_says(model, atoms, head=head))


def _mace_says(model: torch.nn.Module, atoms: ase.Atoms, *, head: str | None) -> Said:
    """By mace-torch's own calculator."""
    from mace.calculators import MACECalculator

    atoms = atoms.copy()
    with nequip_settings():  # the calculator changes the default dtype
        atoms.calc = MACECalculator(
            models=[model], device="cpu", default_dtype="float64", head=head or "Default"
        )
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        virial = None
        if atoms.cell.rank == 3:
            virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
    return Said(float(energy), forces, virial)
