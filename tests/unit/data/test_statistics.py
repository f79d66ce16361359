"""Splits lose and double nothing; statistics are those of the definition."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kan_md.data.dataset import FramesDataset, make_loader
from kan_md.data.splitting import split_indices
from kan_md.data.statistics import edge_statistics, energy_scale, reference_energies, types_of
from kan_md.errors import KanMdError
from kan_md.tasks.targets import POTENTIAL_TARGETS


@pytest.mark.parametrize("method", ["random", "block"])
@pytest.mark.parametrize(
    ("number", "sizes", "expected"),
    [
        (240, {"train": 0.8, "val": 0.1, "test": 0.1}, (192, 24, 24)),
        (10, {"train": 7, "val": 2, "test": 0}, (7, 2, 0)),
        (17, {"train": 0.5, "val": 3, "test": 0.1}, (8, 3, 1)),
        (214, {"train": 0.8, "val": 0.1, "test": 0.1}, (171, 22, 21)),  # nothing is lost
        (213, {"train": 0.8, "val": 0.2, "test": None}, (170, 43, 0)),
        (14, {"train": 12, "val": 1, "test": 1}, (12, 1, 1)),  # 1 is a structure, 1.0 are all
        (14, {"train": 1.0, "val": None, "test": None}, (14, 0, 0)),
        (100, {"train": 0.5, "val": None, "test": None}, (50, 25, 25)),
        (100, {"train": None, "val": 0.2, "test": 0.0}, (80, 20, 0)),
        (100, {"train": None, "val": None, "test": None}, (80, 10, 10)),
        (100, {"train": None, "val": 10, "test": None}, (80, 10, 10)),
        (12, {"train": 10, "val": None, "test": None}, (10, 1, 1)),
        (11, {"train": 10, "val": None, "test": None}, (10, 1, 0)),
        (3, {"train": 0.9, "val": 0.05, "test": 0.05}, (1, 1, 1)),
        (999, {"train": 0.3, "val": 0.1, "test": 0.1}, (299, 100, 100)),  # half is not asked for
    ],
)
def test_parts_are_disjoint_and_of_the_size_asked_for(method, number, sizes, expected):
    parts = split_indices(number, sizes, method=method)
    assert tuple(len(parts[name]) for name in sizes) == expected
    together = np.concatenate(list(parts.values()))
    assert len(set(together)) == len(together)
    assert together.max() < number


def test_block_split_keeps_trajectories_apart():
    parts = split_indices(100, {"train": 0.8, "val": 0.1, "test": 0.1}, method="block")
    origin = np.empty(100, dtype=object)
    for name, indices in parts.items():
        origin[indices] = name
    changes = sum(origin[:-1] != origin[1:])
    assert changes == 29  # ten blocks of train, val, test; a random split has about 35
    assert (np.diff(parts["val"]) == 10).all()


def test_random_split_depends_on_the_seed_alone():
    sizes = {"train": 0.8, "val": 0.2}
    first, again, other = (split_indices(50, sizes, seed=seed)["val"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_split_that_asks_for_too_much_is_refused():
    with pytest.raises(KanMdError, match="train 8, val 3"):
        split_indices(10, {"train": 8, "val": 3})


def frame(symbols, energy, spacing=2.5):
    atoms = Atoms(symbols, [(spacing * i, 0, 0) for i in range(len(Atoms(symbols)))])
    forces = np.full((len(atoms), 3), 0.5)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def dataset(frames, r_max=3.0):
    return FramesDataset(frames, r_max, type_names=types_of(frames), targets=POTENTIAL_TARGETS)


def test_reference_energies_solve_the_compositions():
    frames = [frame("Cu2Au", 2 * -1.5 - 3.0), frame("CuAu2", -1.5 - 6.0), frame("Cu3", -4.5)]
    found = reference_energies(dataset(frames))
    assert found.energies == pytest.approx({"Cu": -1.5, "Au": -3.0})
    assert set(found.sources.values()) == {"least squares"}


def test_single_stoichiometry_still_reproduces_the_energy():
    found = reference_energies(dataset([frame("CuAu2", -7.0), frame("CuAu2", -7.2)]))
    assert found.energies["Cu"] + 2 * found.energies["Au"] == pytest.approx(-7.1)
    assert found.energies["Cu"] == pytest.approx(found.energies["Au"])  # nothing tells them apart
    assert set(found.sources.values()) == {"equal shares"}


def test_the_energy_scale_is_the_rms_of_the_forces_and_not_zero():
    assert energy_scale([frame("Cu2", 0.0)], np.zeros(1)).value == pytest.approx(0.5)
    still = frame("Cu2", 0.0)
    still.calc.results["forces"] = np.zeros((2, 3))
    with pytest.raises(KanMdError, match="are zero"):
        energy_scale([still], np.zeros(1))
    assert energy_scale([still], np.zeros(1), used=False).value == 0.0  # another number is given


def test_neighbours_of_fcc_silver():
    atoms = bulk("Ag", "fcc", a=4.09)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.ones((1, 3)))
    found = edge_statistics(dataset([atoms], r_max=3.5))
    assert found["avg_num_neighbors"] == 12
    assert found["min_distances"] == [pytest.approx(4.09 / np.sqrt(2))]


def test_closest_distances_are_per_pair_of_types():
    found = edge_statistics(dataset([frame("CuAu", 0.0, 2.2), frame("Au2", 0.0, 2.7)]))
    # Cu-Cu never seen, Cu-Au, Au-Cu, Au-Au.
    assert found["min_distances"] == pytest.approx([0.0, 2.2, 2.2, 2.7])


def test_cutoff_without_neighbours_is_refused():
    with pytest.raises(KanMdError, match=r"increase model\.r_max"):
        edge_statistics(dataset([frame("Cu2", 0.0, 5.0)]))


def test_loader_continues_behind_the_batches_it_delivered():
    frames = dataset([frame("Cu2", float(index)) for index in range(7)])
    loader = make_loader(frames, 2, shuffle_seed=3)
    whole = [batch["total_energy"] for batch in loader]
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    state = loader.state_dict()
    resumed = make_loader(frames, 2, shuffle_seed=3)
    resumed.load_state_dict(state)
    rest = [batch["total_energy"] for batch in resumed]
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(one, other) for one, other in zip(rest, whole[2:], strict=True))
    assert len(list(resumed)) == len(whole)  # the epoch after is a whole one
