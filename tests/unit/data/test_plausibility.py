"""Units and signs that people mix up are noticed by the labels alone, and right ones are not."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.data.plausibility import doubts

GPA = 160.21766  # in 1 eV/Å³, CODATA


def changed(frames, change):
    """Frames whose labels went through a function of labels and number of atoms."""
    out = []
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **change(dict(atoms.calc.results), len(atoms)))
        out.append(copy)
    return out


@pytest.fixture(scope="module")
def crystals():
    """Copper by EMT: rattled cells of several sizes and volumes, and two cells rattled in place."""
    frames = []
    for index in range(24):
        atoms = bulk("Cu", cubic=True).repeat((1 + index % 3, 1, 1))
        atoms.set_cell(atoms.cell * (0.97 + 0.01 * (index % 7)), scale_atoms=True)
        frames.append(atoms)
    frames += [bulk("Cu", cubic=True, a=3.7) for _ in range(12)]
    for index, atoms in enumerate(frames):
        atoms.rattle(0.06, seed=index)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
    return changed(frames, lambda labels, _: {k: labels[k] for k in ("energy", "forces", "stress")})


def test_labels_that_fit_together_are_not_doubted(crystals):
    assert list(doubts(crystals)) == []


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda old, n: old | {"energy": old["energy"] / n - 3}, "energies", "are they per atom"),
        (lambda old, n: old | {"stress": old["stress"] * GPA}, "stresses", "in GPa or kbar"),
        (lambda old, n: old | {"stress": -old["stress"]}, "stresses", "is the sign wrong"),
        (lambda old, n: old | {"forces": -old["forces"]}, "forces", "are they gradients"),
        (lambda old, n: old | {"forces": old["forces"] / 51.422}, "forces", "their work is 0.02"),
    ],
)  # fmt: skip
def test_mixed_up_labels_are_named(crystals, change, kind, said):
    found = {kind: text for kind, text, _ in doubts(changed(crystals, change))}
    assert said in found[f"doubtful {kind}"]


def test_pairs_across_the_boundary_of_a_cell_count_as_near(crystals):
    wrapped = [atoms.copy() for atoms in crystals]
    for copy, atoms in zip(wrapped, crystals, strict=True):
        copy.wrap()
        copy.calc = SinglePointCalculator(copy, **atoms.calc.results)
    assert list(doubts(wrapped)) == []
    flipped = changed(wrapped, lambda old, n: old | {"forces": -old["forces"]})
    assert [kind for kind, *_ in doubts(flipped)] == ["doubtful forces"]


def test_few_structures_and_missing_labels_say_nothing(crystals):
    assert list(doubts([])) == []
    few = changed(crystals[:4], lambda old, n: {"energy": 1.0})
    assert list(doubts(few)) == []
    bare = changed(crystals, lambda old, n: {"forces": np.full_like(old["forces"], np.nan)})
    assert list(doubts(bare)) == []
