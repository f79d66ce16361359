"""Atomic numbers and masses of the atom types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ase.data import atomic_masses, atomic_numbers

from kan_md.errors import user_error


@dataclass(frozen=True)
class Elements:
    """The chemistry behind type names.

    Attributes:
        atomic_numbers: [num_types].
        masses: [num_types], u; standard atomic weights.
    """

    atomic_numbers: tuple[int, ...]
    masses: tuple[float, ...]


def elements_of(type_names: Sequence[str], explicit: Mapping[str, int] | None = None) -> Elements:
    """Find the element of each type by its name.

    Args:
        type_names: names of the types.
        explicit: atomic numbers of types whose names are not element symbols, by name.

    Raises:
        KanMdError: a name is not an element and has no explicit atomic number.
    """
    numbers = []
    for name in type_names:
        number = (explicit or {}).get(name, atomic_numbers.get(name, 0))
        if not 0 < number < len(atomic_masses):
            raise user_error(
                "type name must be an element symbol, or have an atomic number of its own",
                found=repr(name),
                allowed=None,
                remedy=f"rename the type or set model.atomic_numbers, e.g. {{{name}: 1}}",
            )
        numbers.append(number)
    return Elements(tuple(numbers), tuple(float(atomic_masses[number]) for number in numbers))
