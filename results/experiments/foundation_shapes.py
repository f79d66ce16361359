"""Shapes of models that were trained on the whole periodic table, or on organic molecules.

The hyperparameters are those that the authors publish; what they do not say is upstream's default.
The weights cannot be had here, so that the models are made fresh by upstream's builders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ase.data import chemical_symbols

OF_MATERIALS = tuple(chemical_symbols[1:84]) + tuple(chemical_symbols[89:95])
"""The 89 elements of the Materials Project: H to Bi and Ac to Pu."""
OF_MOLECULES = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")


@dataclass(frozen=True)
class Shape:
    """A published architecture.

    Attributes:
        name: of the models that have it.
        backbone: ``mace``, ``nequip`` or ``allegro``.
        elements: that it knows.
        chosen: the two of them that runs are made with.
        arguments: of upstream's builder.
        published: number of parameters that the authors give, None where they give none.
    """

    name: str
    backbone: Literal["mace", "nequip", "allegro"]
    elements: tuple[str, ...]
    chosen: tuple[str, str]
    arguments: Mapping[str, Any]
    published: int | None = None

    @property
    def key(self) -> str:
        """Name for files."""
        return "".join(c if c.isalnum() else "-" for c in self.name).lower()


_MACE = {
    "max_ell": 3,
    "correlation": 3,
    "num_interactions": 2,
    "num_polynomial_cutoff": 5,
    "hidden_irreps": "128x0e + 128x1o",
    "MLP_irreps": "16x0e",
    "radial_MLP": [64, 64, 64],
}
_RESIDUAL = dict.fromkeys(
    ("interaction_cls", "interaction_cls_first"), "RealAgnosticResidualInteractionBlock"
)
_DENSITY = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
}
_ON_MATERIALS = {"r_max": 6.0, "num_bessel": 10, "avg_num_neighbors": 8.0}
"""Sums over neighbours are divided by the root of their published number, which keeps messages of
fresh weights as large as trained ones'."""
_AGNESI = {"distance_transform": "Agnesi"}
_ZBL = {"pair_repulsion": True}


def shapes() -> list[Shape]:
    """All of them, in the order of the page."""
    materials = ("MACE-MP-0 medium", "with Agnesi", "with ZBL", "with Agnesi and ZBL")
    added = ({}, _AGNESI, _ZBL, _AGNESI | _ZBL)
    of_mace = [
        _mace(
            name if changes == {} else f"MACE-MP-0 medium {name}",
            OF_MATERIALS,
            ("Si", "O"),
            {**_RESIDUAL, **_ON_MATERIALS, **changes},
            published=4_688_656 if changes == {} else None,
        )
        for name, changes in zip(materials, added, strict=True)
    ]
    of_mace += [
        _mace(
            "MACE-MPA-0 medium",
            OF_MATERIALS,
            ("Si", "O"),
            {**_DENSITY, **_ON_MATERIALS, **_AGNESI, **_ZBL},
            published=9_063_204,
        ),
        _mace(
            "MACE-OFF23 medium",
            OF_MOLECULES,
            ("C", "H"),
            {**_RESIDUAL, "r_max": 5.0, "num_bessel": 8, "avg_num_neighbors": 6.0},
        ),
    ]
    return [*of_mace, _nequip_oam_l(), _allegro_oam_l()]


def _mace(
    name: str,
    elements: tuple[str, ...],
    chosen: tuple[str, str],
    changes: Mapping[str, Any],
    *,
    published: int | None = None,
) -> Shape:
    numbers = sorted(chemical_symbols.index(element) for element in elements)
    arguments = {
        **_MACE,
        "num_elements": len(numbers),
        "atomic_numbers": numbers,
        "atomic_energies": [_reference(number) for number in numbers],
        **changes,
    }
    return Shape(name, "mace", elements, chosen, arguments, published)


def _nequip_oam_l() -> Shape:
    elements = OF_MATERIALS
    arguments = {
        **_of_nequip(elements),
        "r_max": 6.0,
        "l_max": 3,
        "num_layers": 6,
        "num_features": [128, 64, 32, 32],
        "parity": False,
        "type_embed_num_features": 48,
        "num_bessels": 8,
        "polynomial_cutoff_p": 5,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 128,
        "pair_potential": {
            "_target_": "nequip.nn.pair_potential.ZBL",
            "units": "metal",
            "chemical_species": list(elements),
        },
    }
    return Shape("NequIP-OAM-L", "nequip", elements, ("Si", "O"), arguments, 9_600_000)


def _allegro_oam_l() -> Shape:
    width = {"depth": 2, "width": 1024}
    elements = OF_MATERIALS
    arguments = {
        **_of_nequip(elements),
        "r_max": 7.0,
        "l_max": 3,
        "num_layers": 4,
        "num_scalar_features": 64,
        "num_tensor_features": 64,
        "parity": False,
        "tp_path_channel_coupling": True,
        **{f"allegro_mlp_hidden_layers_{key}": value for key, value in width.items()},
        "scalar_embed_mlp_hidden_layers_width": 64,
        "readout_mlp_hidden_layers_width": 64,
        "radial_chemical_embed": {
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": 12,
            "polynomial_cutoff_p": 8,
        },
    }
    return Shape("Allegro-OAM-L", "allegro", elements, ("Si", "O"), arguments, 9_700_000)


def _of_nequip(elements: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type_names": list(elements),
        "avg_num_neighbors": 60.0,  # which these divide by the root of
        "per_type_energy_shifts": {e: _reference(chemical_symbols.index(e)) for e in elements},
    }


def _reference(number: int) -> float:
    """Made up; of the size of an atom's energy in plane-wave calculations, eV."""
    return -0.1 * (number % 18) - 0.5
