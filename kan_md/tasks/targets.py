"""What can be learned: names, shapes, units, and where a structure carries the label."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from nequip.data import AtomicDataDict

from kan_md.errors import user_error

WEIGHT_KEYS = {
    "energy": ("config_energy_weight",),
    "forces": ("config_forces_weight",),
    "stress": ("config_stress_weight",),
}
"""MACE's names of the weights of single labels; ``config_weight`` is that of all of them."""


def label_weight(atoms: Atoms, label: str) -> float:
    """Factor of a label's share in the loss."""
    weight = float(atoms.info.get("config_weight", 1.0))
    for name in WEIGHT_KEYS.get(label, ()):
        weight *= float(atoms.info.get(name, 1.0))
    return weight


@dataclass(frozen=True, kw_only=True)
class Target:
    """One labelled quantity.

    Attributes:
        name: in files, configurations and tables.
        field: key of label and prediction in nequip's dictionary.
        per: ``structure`` or ``atom``.
        shape: of one label, without the axis of structures or atoms.
        unit: of labels and errors.
        extensive: whether errors are divided by the number of atoms.
        named_by_key: whether ``data.keys`` can name it: then reading puts it into ASE's calculator.
            Else it is in ``arrays`` or ``info``, by ``name``.
        components: names of the components that get errors of their own, last index fastest.
    """

    name: str
    field: str
    per: Literal["structure", "atom"]
    shape: tuple[int, ...]
    unit: str
    extensive: bool = False
    named_by_key: bool = False
    components: tuple[str, ...] = ()

    def label(self, atoms: Atoms) -> np.ndarray | None:
        """The label, [1, *shape] or [num_atoms, *shape], or None where there is none.

        A label that is NaN throughout is none, nor is that of a tensor in a frame of weight 0.

        Raises:
            KanMdError: the label has another number of entries.
        """
        if self.named_by_key:
            value = (atoms.calc.results if atoms.calc else {}).get(self.name)
        else:
            value = (atoms.arrays if self.per == "atom" else atoms.info).get(self.name)
        if value is None or (not self.named_by_key and label_weight(atoms, self.name) == 0.0):
            return None
        value = np.asarray(value, dtype=np.float64)
        if np.isnan(value).all():
            return None
        if self.name == "stress" and value.size == 6:
            value = voigt_6_to_full_3x3_stress(value)
        rows = len(atoms) if self.per == "atom" else 1
        if value.size != rows * prod(self.shape):
            raise user_error(
                f"label {self.name} of {atoms.info.get('source', 'a structure')} with "
                f"{len(atoms)} atoms",
                found=f"{value.size} numbers",
                allowed=rows * prod(self.shape),
                remedy="correct the file",
            )
        return value.reshape(rows, *self.shape)


ENERGY = Target(
    name="energy",
    field=AtomicDataDict.TOTAL_ENERGY_KEY,
    per="structure",
    shape=(1,),
    unit="eV",
    extensive=True,
    named_by_key=True,
)
FORCES = Target(
    name="forces",
    field=AtomicDataDict.FORCE_KEY,
    per="atom",
    shape=(3,),
    unit="eV/Å",
    named_by_key=True,
)
STRESS = Target(
    name="stress",
    field=AtomicDataDict.STRESS_KEY,
    per="structure",
    shape=(3, 3),
    unit="eV/Å³",
    named_by_key=True,
)
POTENTIAL_TARGETS = (ENERGY, FORCES, STRESS)
