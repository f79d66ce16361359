"""Finding a structure's labels under the names and in the forms that people use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from kan_md.data.label_report import LabelReport, source_of
from kan_md.data.numbers import as_numbers
from kan_md.errors import KanMdError, user_error
from kan_md.model.cells import has_volume
from kan_md.tasks.targets import WEIGHT_KEYS

LABEL_KEYS = {
    "energy": "energy",
    "forces": "forces",
    "stress": "stress",
    "virial": "virial",
    "weight": "config_weight",
}
"""Names of the labels in a file unless told otherwise."""

OTHER_NAMES = {
    "energy": ("ref_energy", "dft_energy", "energy_ref", "energy_dft", "total_energy",
               "potential_energy", "free_energy"),
    "forces": ("ref_forces", "dft_forces", "forces_ref", "forces_dft", "ref_force", "dft_force",
               "force"),
    "stress": ("ref_stress", "dft_stress", "stress_ref", "stress_dft"),
    "virial": ("virials", "ref_virial", "ref_virials", "dft_virial", "dft_virials"),
    "weight": (),
}  # fmt: skip
"""Names of MACE, GAP and others, in small letters, looked for where the one above is absent."""

VIRIAL_WEIGHT_KEYS = ("config_virials_weight", "config_virial_weight")

_NUMBERS = {
    "energy": "a number in eV",
    "forces": "numbers in eV/Å",
    "stress": "numbers in eV/Å³",
    "virial": "numbers in eV",
}


@dataclass(frozen=True)
class LabelSearch:
    """Looking for the labels of one structure.

    Attributes:
        atoms: the structure.
        keys: names of the labels, all of :data:`LABEL_KEYS`.
        places: mappings of names to values, the first one that of ASE's calculator.
        report: gets what is noticed.
    """

    atoms: Atoms
    keys: Mapping[str, str]
    places: Sequence[Mapping]
    report: LabelReport

    def energy(self) -> float | None:
        """Of the structure, eV."""
        numbers = self._find("energy", self.places, sizes=[1])
        return None if numbers is None else float(numbers[0])

    def forces(self) -> np.ndarray | None:
        """[num_atoms, 3], eV/Å; single components may be NaN."""
        places = [self.places[0], self.atoms.arrays, *self.places[1:]]
        numbers = self._find("forces", places, sizes=[3 * len(self.atoms)])
        return None if numbers is None else numbers.reshape(-1, 3)

    def stress(self) -> tuple[np.ndarray | None, Sequence[str]]:
        """ASE's xx, yy, zz, yz, xz, xy, from a stress or a virial; the names of its weight."""
        names = WEIGHT_KEYS["stress"]
        volume = self.atoms.get_volume() if has_volume(self.atoms) else None
        stress = self._find("stress", self.places, sizes=[6, 9])
        # Beside a stress a virial is looked at where there is a volume to compare with.
        virial = None
        if stress is None or volume is not None:
            virial = self._find("virial", self.places, sizes=[6, 9], quiet=stress is not None)
        if stress is not None:
            if virial is not None:
                self._compare(_voigt(stress), _voigt(-virial / volume))
            return _voigt(stress), names
        if virial is None:
            return None, names
        return _voigt(-virial / (volume or 1.0)), (*VIRIAL_WEIGHT_KEYS, *names)

    def _compare(self, stress: np.ndarray, other: np.ndarray) -> None:
        """Count a structure whose virial is not that of its stress."""
        if np.abs(stress - other).max() > 0.02 * np.abs(stress).max() + 1e-4:
            opposite = np.allclose(stress, -other, rtol=0.02, atol=1e-4)
            self.report.contradicting["has the other sign" if opposite else "differs"] += 1

    def keep_weights(self, names_of: Mapping[str, Sequence[str]]) -> None:
        """Put the weights into ``info`` as numbers, those of single labels under the first name."""
        info = self.atoms.info
        if (value := self._first([self.keys["weight"]])) is not None:
            info["config_weight"] = self._weight(self.keys["weight"], value)
        for label, names in names_of.items():
            if (value := self._first(names)) is not None:
                info[WEIGHT_KEYS[label][0]] = self._weight(names[0], value)

    def _first(self, names: Sequence[str]) -> object | None:
        return next((place[name] for name in names for place in self.places if name in place), None)

    def _weight(self, name: str, value: object) -> float:
        try:
            numbers = as_numbers(value)
        except ValueError:
            numbers = np.array([np.nan])
        if numbers.size != 1 or not np.isfinite(numbers[0]) or numbers[0] < 0:
            raise user_error(
                f"{name} of {source_of(self.atoms)}",
                found=_short(value),
                allowed="a number >= 0",
                remedy="correct the file",
            )
        return float(numbers[0])

    def _find(
        self,
        label: str,
        places: Sequence[Mapping],
        *,
        sizes: Sequence[int],
        quiet: bool = False,
    ) -> np.ndarray | None:
        """The label as a flat array, or None where there is none or it is nothing.

        Args:
            label: which.
            places: where to look.
            sizes: numbers that it may have.
            quiet: it is only compared with; nothing of it is told.
        """
        taken, nothing = None, False
        for name, value in self._candidates(label, places):
            guessed = quiet or name != self.keys[label]
            numbers = self._numbers(label, value, sizes, guessed=guessed)
            if numbers is None:
                nothing |= name == self.keys[label]
            elif taken is None:
                taken = name, numbers
            elif quiet:
                break
            elif name.lower() not in (taken[0].lower(), "free_energy") and not np.allclose(
                taken[1], numbers, rtol=1e-6, atol=1e-8, equal_nan=True
            ):
                self.report.doubled[label, taken[0], name] += 1
        if taken is None:
            if nothing and not quiet:
                self.report.drop(label, "NaN or none", self.atoms)
            return None
        if taken[0] != self.keys[label] and not quiet:
            self.report.renamed[label, taken[0]] += 1
        return taken[1]

    def _candidates(self, label: str, places: Sequence[Mapping]) -> Iterator[tuple[str, object]]:
        """Names and values that may be this label, the best one first."""
        wanted = self.keys[label]
        # A name of the user's own goes before what ASE understood by itself.
        order = places if wanted == LABEL_KEYS[label] else [*places[1:], places[0]]
        for place in order:
            if wanted in place:
                yield wanted, place[wanted]
        if wanted != LABEL_KEYS[label]:
            return
        for other in (wanted, *OTHER_NAMES[label]):
            for place in places:
                yield from (
                    (str(name), value)
                    for name, value in place.items()
                    if str(name).lower() == other and name != wanted
                )

    def _numbers(
        self, label: str, value: object, sizes: Sequence[int], *, guessed: bool
    ) -> np.ndarray | None:
        """A candidate as numbers; None where it is nothing, or guessed and of another kind."""
        try:
            numbers = as_numbers(value)
        except ValueError:
            if guessed:
                return None
            raise self._bad(label, _short(value), _NUMBERS[label]) from None
        missing = np.isnan(numbers)
        if missing.all() or (label != "forces" and missing.any()):
            return None
        if numbers.size not in sizes:
            if guessed:
                return None
            raise self._bad(label, f"{numbers.size} numbers", " or ".join(map(str, sizes)))
        if np.isinf(numbers).any():
            raise self._bad(label, "infinity", _NUMBERS[label])
        return numbers

    def _bad(self, label: str, found: str, allowed: str) -> KanMdError:
        return user_error(
            f"{label} of {source_of(self.atoms)}",
            found=found,
            allowed=allowed,
            remedy=f"correct the file, or name another entry by data.keys.{label}",
        )


def _voigt(stress: np.ndarray) -> np.ndarray:
    """Turn 9 numbers into ASE's 6; it is symmetric, so their order makes no difference."""
    if stress.size == 6:
        return stress
    return full_3x3_to_voigt_6_stress(stress.reshape(3, 3))


def _short(value: object) -> str:
    value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
