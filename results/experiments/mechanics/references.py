"""Published numbers of silver, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from ase.collections import dcdft

_DELTA = dcdft.data["Ag"]
"""Reference data of the comparison of codes, as ASE holds them."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A row of published numbers.

    Attributes:
        label: in tables.
        values: by the names of the properties; surfaces as ``surface_111``; those that no source
            at hand has are left out.
        source: of each.
    """

    label: str
    values: dict[str, float]
    source: str


PBE = Reference(
    label="PBE (all electrons)",
    values={"a": (4 * _DELTA["wien2k_volume"]) ** (1 / 3), "bulk_modulus": _DELTA["wien2k_B"]},
    source="WIEN2k's equation of state in the comparison of codes (Lejaeghere et al., Science "
    "2016;351:aad3000), from ase.collections.dcdft",
)
EXPERIMENT = Reference(
    label="experiment",
    values={
        "a": (4 * _DELTA["exp_volume"]) ** (1 / 3),
        "bulk_modulus": _DELTA["exp_B"],
        "c11": 131.5,
        "c12": 97.3,
        "c44": 51.1,
        "vacancy": 1.11,
        "surface_mean": 1.246,
        "melting": 1234.93,
    },
    source="lattice constant and bulk modulus at 0 K without zero-point motion, from "
    "ase.collections.dcdft; elastic constants at 0 K, Neighbours and Alers, Phys. Rev. "
    "1958;111:707; vacancy, Ehrhart, Landolt-Börnstein III/25 (1991); surface of no direction, "
    "from the surface tension of the melt, Tyson and Miller, Surf. Sci. 1977;62:267; melting, "
    "fixed point of ITS-90",
)
EAM = Reference(
    label="Ag_u3, as published",
    values={
        "a": 4.09,
        "bulk_modulus": 104.0,
        "c11": 129.0,
        "c12": 91.0,
        "c44": 57.0,
        "vacancy": 0.97,
        "surface_111": 0.620,
        "surface_100": 0.705,
        "surface_110": 0.770,
        "melting": 1170.0,
    },
    source="Foiles, Baskes, Daw, Phys. Rev. B 1986;33:7983; melting by free energies, Foiles and "
    "Adams, Phys. Rev. B 1989;40:5909",
)
ROUNDED = 0.01
"""Share to which the published numbers of Ag_u3 are given, and are to come out of our functions."""
PBE_COMPRESSION = (_DELTA["wien2k_volume"], _DELTA["wien2k_B"], _DELTA["wien2k_Bp"])
"""Å³/atom, GPa and its slope with pressure: Birch and Murnaghan's equation of PBE."""
