"""What is left out of LAMMPS' neighbour lists: excluded atoms and bonded neighbours."""

import numpy as np
import pytest
from ase import Atoms
from engine import ZERO_STEPS, data_file, system
from structures import ELEMENTS, structures

pytestmark = pytest.mark.lammps

NAMES = " ".join(ELEMENTS)
SHIFTS = {"per_type_energy_shifts": {"Cu": -3.5, "Au": 2.25}}
STYLES = ("allegro", "nequip", "mace")
RANKS = [1, pytest.param(2, marks=pytest.mark.mpi)]
OUT = "group out id 5 6"


@pytest.fixture(scope="module")
def atoms():
    return structures()["triclinic"]


@pytest.mark.parametrize("ranks", RANKS)
def test_an_atom_without_any_pair_is_not_there(engine, alloy_model, atoms, tmp_path, ranks):
    """As fix gcmc tries a deletion: excluded from the group all, reference energy and all."""
    endings = [
        ["delete_atoms group out compress no"],
        ["neigh_modify exclude group out all"],
        ["neigh_modify exclude group all out"],
        ["run 0", "neigh_modify exclude group out all"],
        ["neigh_modify exclude group out all", "run 0", "neigh_modify exclude none"],
        [],
    ]
    jobs = []
    for style in STYLES:
        model = alloy_model(style, **SHIFTS)
        start = system(atoms, ELEMENTS, style, model, folder=tmp_path)
        jobs += [{"commands": [*start, OUT, *lines, *ZERO_STEPS]} for lines in endings]
    results = iter(engine.run(jobs, ranks=ranks))
    for style in STYLES:
        deleted, *excluded, again, whole = [next(results) for _ in endings]
        for result in excluded:
            assert result.error == "", style
            assert result.energy == pytest.approx(deleted.energy, abs=1e-8), style
            rest = ~np.isin(result.atoms["id"], [5, 6])
            np.testing.assert_allclose(result.forces[rest], deleted.forces, atol=1e-8)
            np.testing.assert_allclose(result.forces[~rest], 0.0, atol=0.0)
        assert abs(whole.energy - deleted.energy) > 1.0, style
        assert again.energy == pytest.approx(whole.energy, abs=1e-8), style


def test_excluded_pairs_of_a_group_leave_the_atoms_there(engine, alloy_model, tmp_path):
    """Two atoms out of each other's sight have the energies that each has alone."""
    pair = Atoms("CuAu", [(1, 1, 1), (3, 1, 1)], cell=[20, 20, 20], pbc=True)
    model = alloy_model("allegro", **SHIFTS)
    start = system(pair, ELEMENTS, "allegro", model, folder=tmp_path)
    (result,) = engine.run([{"commands": [*start, "neigh_modify exclude type 1 2", *ZERO_STEPS]}])
    assert result.energy == pytest.approx(-3.5 + 2.25, abs=1e-9)


def test_gas_has_the_ideal_density_whatever_the_reference_energy(engine, alloy_model, tmp_path):
    """fix gcmc with mu at E0 + kT ln(Λ³ rho): exp of the rest times the volume atoms."""
    mean = []
    for shift in (0.0, -1.0):
        model = alloy_model("allegro", per_type_energy_shifts={"Cu": shift, "Au": 0.0})
        commands = [
            "units metal",
            "atom_modify map array",
            "region all block 0 60 0 60 0 60",
            "create_box 2 all",
            "mass 1 63.546",
            "mass 2 196.96657",
            "pair_style allegro",
            f"pair_coeff * * {model} {NAMES}",
            f"fix g all gcmc 1 50 0 1 2949 1000.0 {shift - 1.4905} 0.0",
            "variable n equal count(all)",
            "fix av all ave/time 1 30 45 v_n",
            "thermo_modify lost ignore",
            "run 45",
            "variable mean equal f_av",
        ]
        job = {"commands": commands, "variables": ["mean"], "thermo": False, "gather": False}
        (result,) = engine.run([job])
        assert result.error == ""
        mean.append(result.values["mean"])
    assert mean[0] == mean[1]
    assert 12 < mean[0] < 30


def bonded(atoms, style, model, folder, special=""):
    """A structure in which neighbours in the list of atoms are bonded in pairs."""
    text = data_file(atoms, ELEMENTS).replace(
        "2 atom types\n",
        f"2 atom types\n{len(atoms) // 2} bonds\n1 bond types\n"
        "1 extra bond per atom\n2 extra special per atom\n",
        1,
    )
    head, rows = text.split("\nAtoms\n\n")
    rows = "\n".join(f"{row.split()[0]} 1 {' '.join(row.split()[1:])}" for row in rows.splitlines())
    bonds = "\n".join(f"{n + 1} 1 {2 * n + 1} {2 * n + 2}" for n in range(len(atoms) // 2))
    path = folder / "bonded.data"
    path.write_text(f"{head}\nAtoms\n\n{rows}\n\nBonds\n\n{bonds}\n")
    return [
        "units metal",
        "atom_style bond",
        "atom_modify map array",
        "bond_style zero",
        *([special] if special else []),
        f"read_data {path}",
        "bond_coeff * 2.5",
        f"pair_style {style}",
        f"pair_coeff * * {model} {NAMES}",
        *ZERO_STEPS,
    ]


@pytest.mark.parametrize("ranks", RANKS)
def test_messages_need_bonded_neighbours(engine, alloy_model, tmp_path, ranks):
    atoms, jobs = structures()["triclinic"], []
    for style in ("nequip", "mace"):
        model = alloy_model(style)
        plain = system(atoms, ELEMENTS, style, model, folder=tmp_path)
        jobs += [
            {"commands": bonded(atoms, style, model, tmp_path)},
            {"commands": bonded(atoms, style, model, tmp_path, "special_bonds lj/coul 1 1 1")},
            {"commands": [*plain, *ZERO_STEPS]},
        ]
    results = engine.run(jobs, ranks=ranks)
    for refused, seen, expected in (results[:3], results[3:]):
        assert "special_bonds with weights of 0" in refused.error
        assert "use special_bonds lj/coul 1 1 1" in refused.error
        assert seen.error == ""
        assert seen.energy == pytest.approx(expected.energy, abs=1e-9)


@pytest.mark.mpi
@pytest.mark.parametrize("kind", ["multi", "multi/old"])
def test_neighbour_lists_by_size_are_refused_for_a_halo(engine, alloy_model, atoms, tmp_path, kind):
    model = alloy_model("nequip")
    lines = system(atoms, ELEMENTS, "nequip", model, folder=tmp_path)
    (result,) = engine.run([{"commands": [*lines, f"neighbor 1.0 {kind}", "run 0"]}], ranks=2)
    assert "neighbor style must be bin or nsq" in result.error
    assert "set neighbor SKIN bin" in result.error


@pytest.mark.mpi
def test_lists_of_one_group_are_refused_for_a_halo(engine, alloy_model, atoms, tmp_path):
    """LAMMPS would end with words of its own, in a state that no `clear` survives."""
    lines = system(
        atoms,
        ELEMENTS,
        "mace",
        alloy_model("mace"),
        folder=tmp_path,
        before=["atom_modify first low"],
    )
    lines += ["group low id 1:16", "neigh_modify include low", "run 0"]
    refused, after = engine.run(
        [{"commands": lines}, {"commands": [*lines[:-2], "run 0"]}], ranks=2
    )
    assert (
        "needs the neighbours of all ghosts, got neigh_modify include; remove it" in refused.error
    )
    assert after.error == ""


@pytest.mark.mpi
@pytest.mark.parametrize("style", STYLES)
def test_bonds_that_come_in_a_run_are_seen(engine, alloy_model, tmp_path, style):
    """Messages would depend on the ranks from that step on; a local model loses what is bonded."""
    row = Atoms("CuAu" * 4, [(2.5 * k + 1, 6, 6) for k in range(8)], cell=[20, 12, 12], pbc=True)
    model = alloy_model(style)
    results = []
    for special in ("special_bonds lj/coul 0 0 0", "special_bonds lj/coul 1 1 1"):
        lines = bonded(row, style, model, tmp_path, special)
        lines = [line.replace("bonded.data", f"{style}.data") for line in lines]
        text = (tmp_path / "bonded.data").read_text()
        head = (
            text.partition("\nBonds\n")[0]
            .replace("4 bonds\n", "")
            .replace(
                "1 extra bond per atom\n2 extra special", "3 extra bond per atom\n6 extra special"
            )
        )
        (tmp_path / f"{style}.data").write_text(head)
        bonds = ["fix 1 all nve", "fix 2 all bond/create 2 1 2 2.7 1", "run 1", "run 4"]
        job = {"commands": [*lines, *bonds], "thermo": False, "gather": False}
        results += engine.run([job], ranks=2)
    lost, kept = results
    assert kept.error == ""
    assert "special_bonds takes" not in kept.output
    if style == "allegro":
        assert lost.error == ""
        assert lost.output.count("special_bonds takes bonded neighbours out") == 1
    else:
        assert "special_bonds with weights of 0 and bonds in the data" in lost.error
