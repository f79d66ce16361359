"""The ASE calculator: derivatives of one energy, on crystals, clusters and single atoms."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError

import kan_md.calculator as calculator_module
from kan_md import KANCalculator
from kan_md.errors import KanMdError
from kan_md.model.checkpoint import load_checkpoint
from kan_md.model.reference import evaluate

VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


@pytest.fixture(scope="module", params=["trained", "deployed"])
def path(request, tiny_checkpoint, deployed):
    """An Allegro-KAN of copper and gold, as model.pth and compiled."""
    make = tiny_checkpoint if request.param == "trained" else deployed
    return make("allegro", type_names=("Cu", "Au"), r_max=3.5)


@pytest.fixture
def crystal(alloy_frames, path):
    atoms = alloy_frames[0].copy()
    atoms.calc = KANCalculator(path)
    return atoms


def test_forces_are_minus_the_energy_gradient(crystal):
    step = 1e-4
    forces = crystal.get_forces()
    for atom, axis in ((0, 0), (3, 2)):
        energies = []
        for sign in (1, -1):
            crystal.positions[atom, axis] += sign * step
            energies.append(crystal.get_potential_energy())
            crystal.positions[atom, axis] -= sign * step
        assert forces[atom, axis] == pytest.approx(
            -(energies[0] - energies[1]) / (2 * step), abs=1e-6
        )


def test_stress_is_the_strain_derivative(crystal):
    step = 1e-5
    stress, cell = crystal.get_stress(), crystal.cell[:].copy()
    for value, (row, column) in zip(stress, VOIGT, strict=True):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[row, column] += sign * step / 2
            strain[column, row] += sign * step / 2
            crystal.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(crystal.get_potential_energy())
            crystal.set_cell(cell, scale_atoms=True)
        numeric = (energies[0] - energies[1]) / (2 * step) / crystal.get_volume()
        assert value == pytest.approx(numeric, abs=1e-7)


def test_energies_of_atoms_add_up(crystal):
    assert crystal.get_potential_energies().sum() == pytest.approx(crystal.get_potential_energy())
    assert crystal.calc.results["free_energy"] == crystal.get_potential_energy()


def test_cluster_without_cell_is_the_cluster_in_a_large_cell(path):
    free = Atoms("CuAuCu", [(0, 0, 0), (2.5, 0, 0), (0, 2.6, 0.3)])
    boxed = free.copy()
    boxed.set_cell([30, 30, 30])
    boxed.pbc = True
    results = []
    for atoms in (free, boxed):
        atoms.calc = KANCalculator(path)
        results.append((atoms.get_potential_energy(), atoms.get_forces()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-10)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-10)
    with pytest.raises(PropertyNotImplementedError, match="volume"):
        free.get_stress()


def test_atom_without_neighbours_has_its_reference_energy(path):
    atoms = Atoms("Au", [(0, 0, 0)], calculator=KANCalculator(path))
    assert atoms.get_potential_energy() == pytest.approx(-2.0, abs=1e-10)
    np.testing.assert_array_equal(atoms.get_forces(), np.zeros((1, 3)))


def test_unknown_element_is_said(path):
    atoms = molecule("H2O")
    atoms.calc = KANCalculator(path)
    with pytest.raises(KanMdError, match=r"got H, O; allowed: Cu, Au"):
        atoms.get_potential_energy()


def test_trained_and_deployed_agree(tiny_checkpoint, deployed, alloy_frames):
    keywords = {"type_names": ("Cu", "Au"), "r_max": 3.5}
    results = []
    for file in (tiny_checkpoint("allegro", **keywords), deployed("allegro", **keywords)):
        atoms = alloy_frames[1].copy()
        atoms.calc = KANCalculator(file)
        results.append((atoms.get_potential_energies(), atoms.get_forces(), atoms.get_stress()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


@pytest.mark.parametrize(
    ("content", "found"), [(None, "not found"), (b"hello", "no whole|not a whole|whole")]
)
def test_unusable_file_is_one_line(tmp_path, content, found):
    path = tmp_path / "model.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KanMdError, match=found) as error:
        KANCalculator(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_compiled_model_is_upstreams_own(tiny_checkpoint, alloy_frames, backbone, dtype, tolerance):
    """Tolerances are those of the docstring; upstream's modules are evaluated in float64."""
    path = tiny_checkpoint(backbone, type_names=("Cu", "Au"), r_max=3.5)
    upstream = load_checkpoint(path).build("float64")
    calculator = KANCalculator(path, dtype=dtype)
    assert calculator.form == "compiled", calculator.reason
    assert "of the largest one" in calculator.reason
    for frame in alloy_frames:
        expected = evaluate(upstream, frame)
        atoms = frame.copy()
        atoms.calc = calculator
        alone = np.where(atoms.symbols == "Cu", -1.0, -2.0)
        binding = expected["atomic_energy"].numpy().ravel() - alone
        forces = expected["forces"].numpy()
        np.testing.assert_allclose(
            atoms.get_potential_energies() - alone, binding, atol=tolerance * abs(binding).max()
        )
        np.testing.assert_allclose(
            atoms.get_forces(), forces, atol=tolerance * np.linalg.norm(forces, axis=1).max()
        )
        stress = -expected["virial"].numpy()[tuple(zip(*VOIGT, strict=True))]
        np.testing.assert_allclose(
            atoms.get_stress() * atoms.get_volume(), stress, atol=tolerance * abs(stress).max()
        )


def test_exact_form_evaluates_the_networks(tiny_checkpoint, alloy_frames):
    path = tiny_checkpoint("allegro", type_names=("Cu", "Au"), r_max=3.5)
    calculator = KANCalculator(path, form="exact")
    assert (calculator.form, calculator.reason) == ("exact", "as asked for")
    atoms = alloy_frames[0].copy()
    atoms.calc = calculator
    expected = evaluate(load_checkpoint(path).build("float64"), atoms)["forces"].numpy()
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-12 * abs(expected).max())


def test_model_that_cannot_be_compiled_is_evaluated_as_it_is(tiny_checkpoint, alloy_frames):
    names = ("Cu", "Au", "Ag", "Pd", "Pt")  # more than tables are made for
    path = tiny_checkpoint("allegro", type_names=names, r_max=3.5)
    with pytest.warns(UserWarning, match="takes the exact form, which is slower: .* up to 4"):
        calculator = KANCalculator(path)
    assert calculator.form == "exact"
    assert "got 5; allowed: up to 4" in calculator.reason
    atoms = alloy_frames[0].copy()
    atoms.calc = calculator
    expected = evaluate(load_checkpoint(path).build("float64"), atoms)["forces"].numpy()
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-12 * abs(expected).max())


def test_operators_that_do_not_work_are_an_error_and_not_a_slower_form(
    tiny_checkpoint, monkeypatch
):
    """As in LAMMPS, which refuses a KAN_MD_CPU that was not built."""
    path = tiny_checkpoint("allegro", type_names=("Cu", "Au"), r_max=3.5)

    def refuse():
        raise KanMdError("KAN_MD_CPU must be a level of this processor")

    monkeypatch.setattr(calculator_module, "is_built", lambda: True)
    monkeypatch.setattr(calculator_module, "load", refuse)
    with pytest.raises(KanMdError, match="KAN_MD_CPU must be"):
        KANCalculator(path)
    assert KANCalculator(path, form="exact").form == "exact"


def test_unknown_form_is_said(tiny_checkpoint):
    path = tiny_checkpoint("allegro", type_names=("Cu", "Au"), r_max=3.5)
    with pytest.raises(KanMdError, match="got 'fast'; allowed: compiled, exact"):
        KANCalculator(path, form="fast")


def test_calculator_keeps_its_neighbours(crystal):
    forces = crystal.get_forces()
    for _ in range(3):
        crystal.rattle(0.01, seed=1)
        crystal.get_forces()
    assert crystal.calc.model.edges.num_made == 1
    assert not np.allclose(crystal.get_forces(), forces)


@pytest.mark.parametrize("form", ["compiled", "exact"])
@pytest.mark.parametrize("backbone", ["allegro", "nequip", "mace"])
def test_atoms_on_one_another_have_no_forces(tiny_checkpoint, backbone, form):
    """Directions are not defined; a compiled model gave NaN, or forces of rounding nearby."""
    path = tiny_checkpoint(backbone, type_names=("Cu", "Au"), r_max=3.5)
    atoms = Atoms("CuAu", [(0, 0, 0), (2.5, 0, 0)], calculator=KANCalculator(path, form=form))
    expected = atoms.get_forces()
    for distance in (0.0, 1e-9, 0.009):
        atoms.positions[1, 0] = distance
        with pytest.raises(KanMdError, match="atoms of AuCu must not sit on one another"):
            atoms.get_forces()
    atoms.positions[1, 0] = 2.5
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-12)


def test_forces_that_are_not_finite_are_refused(crystal, monkeypatch):
    found = crystal.calc.model.predict(crystal)
    found["forces"][3, 1] = np.inf
    monkeypatch.setattr(crystal.calc.model, "predict", lambda atoms: found)
    with pytest.raises(KanMdError, match="largest force inf"):
        crystal.get_forces()


@pytest.mark.parametrize(
    "of", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["copy", "pickle"]
)
def test_copies_of_a_calculator_have_its_results_and_go_their_own_way(crystal, of):
    forces = crystal.get_forces()
    calculator = of(crystal.calc)
    np.testing.assert_array_equal(calculator.results["forces"], forces)
    other = crystal.copy()
    other.calc = calculator
    assert other.get_forces() is not forces
    np.testing.assert_array_equal(other.get_forces(), forces)
    other.rattle(0.1)
    assert not np.allclose(other.get_forces(), forces)
    np.testing.assert_array_equal(crystal.calc.results["forces"], forces)
    assert (calculator.form, calculator.reason) == (crystal.calc.form, crystal.calc.reason)


def test_a_pickled_calculator_is_of_the_same_file(tiny_checkpoint, tmp_path):
    keywords = {"type_names": ("Cu", "Au"), "r_max": 3.5}
    path = tmp_path / "model.pth"
    path.write_bytes(tiny_checkpoint("allegro", **keywords).read_bytes())
    pickled = pickle.dumps(KANCalculator(path, form="exact", dtype="float32"))
    assert pickle.loads(pickled).form == "exact"
    path.write_bytes(tiny_checkpoint("nequip", **keywords).read_bytes())
    with pytest.raises(KanMdError, match="got another content than it had; keep the file"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(KanMdError, match="not found"):
        pickle.loads(pickled)


def test_making_a_calculator_warns_of_nothing(tiny_checkpoint):
    path = tiny_checkpoint(
        "mace",
        type_names=("Cu", "Au"),
        r_max=3.5,
        num_interactions=1,
        hidden_irreps="4x0e",
        readout={"kind": "kan"},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert KANCalculator(path).form == "compiled"
