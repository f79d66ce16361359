"""Readouts are linear in their last layer: rows, sums and minima against independent ones."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch

from kan_md.calculator import KANCalculator
from kan_md.cli.main import main
from kan_md.data.dataset import FramesDataset
from kan_md.errors import KanMdError
from kan_md.kan import BASES, KANLayer
from kan_md.kan.roughness import roughness
from kan_md.model.checkpoint import load_checkpoint, save_checkpoint
from kan_md.model.reference import evaluate
from kan_md.solve.memory import MEMORY_KEY
from kan_md.solve.normal import SquareSum, best_solution, solve, weighted
from kan_md.solve.refit import refit
from kan_md.solve.rows import RowMaker
from kan_md.solve.uncertainty import Uncertainty
from kan_md.solve.unknowns import Unknowns
from kan_md.tasks.targets import POTENTIAL_TARGETS

TYPES = ("Cu", "Au")
ONE_LAYER = {"num_interactions": 1}
MODELS = {
    "mace of one layer": ("mace", ONE_LAYER),
    "mace of one layer, KANs per element": ("mace", ONE_LAYER | {"readout": {"per_type": True}}),
    "mace of one layer, projected": ("mace", ONE_LAYER | {"readout": {"projection": 3}}),
    "mace of one layer, mlp": ("mace", ONE_LAYER | {"readout": {"kind": "mlp"}}),
    "mace of one layer, linear": ("mace", ONE_LAYER | {"readout": {"kind": "linear"}}),
    "mace, linear beside KAN": ("mace", {"readout": {"num_basis": 3}}),
    "nequip, two layers of a KAN": ("nequip", {"readout": {"hidden": [3], "num_basis": 4}}),
    "allegro": ("allegro", {"readout": {"num_basis": 3}}),
    "allegro, mlp": ("allegro", {"readout": {"kind": "mlp", "hidden": [6]}}),
}


def load(tiny_checkpoint, name):
    backbone, keywords = MODELS[name]
    return load_checkpoint(tiny_checkpoint(backbone, type_names=TYPES, **keywords))


def prepared(checkpoint):
    model = checkpoint.build("float64").requires_grad_(False)
    return model, Unknowns(model, checkpoint.backbone)


def graph(checkpoint, atoms):
    dataset = FramesDataset(
        [atoms], checkpoint.r_max, type_names=TYPES, targets=list(POTENTIAL_TARGETS)
    )
    data = dataset.collate([dataset[0]])
    for target in POTENTIAL_TARGETS:
        data.pop(target.field)
    return data


@pytest.mark.parametrize("name", MODELS)
def test_rows_times_any_values_are_what_the_model_says_with_these(
    name, tiny_checkpoint, alloy_frames
):
    checkpoint, atoms = load(tiny_checkpoint, name), alloy_frames[0]
    model, unknowns = prepared(checkpoint)
    start = unknowns.vector()
    rows = RowMaker(model, unknowns, checkpoint.backbone)(graph(checkpoint, atoms))
    assert torch.equal(unknowns.vector(), start)
    other = start + torch.randn(len(start), generator=torch.Generator().manual_seed(3)).double()
    unknowns.put(other)
    said = evaluate(model, atoms)
    c = torch.cat([other, torch.ones(1).double()])
    torch.testing.assert_close(rows.energy @ c, said["energy"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rows.atoms @ c, said["atomic_energy"][:, 0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((rows.forces @ c).view(-1, 3), said["forces"], rtol=1e-8, atol=1e-9)
    stress = -0.5 * (said["virial"] + said["virial"].T) / atoms.get_volume()
    torch.testing.assert_close((rows.stress @ c).view(3, 3), stress, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mace of one layer")])
def test_both_ways_to_the_rows_agree(name, tiny_checkpoint, alloy_frames):
    checkpoint = load(tiny_checkpoint, name)
    model, unknowns = prepared(checkpoint)
    data = graph(checkpoint, alloy_frames[1])
    local, probed = (
        RowMaker(model, unknowns, "mace", local=local)(data) for local in (True, False)
    )
    for key, value in vars(local).items():
        torch.testing.assert_close(value, getattr(probed, key), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("basis", BASES)
def test_roughness_is_the_integral_of_the_squared_curvature(basis):
    layer = KANLayer(2, 1, basis=basis, num_basis=8, grid_range=(-1.0, 3.0)).double()
    c = layer.coefficients[0, 0].detach()
    step, zero = float(layer.grid_step[0]), float(layer.grid_zero[0])

    def curvature(s, h=1e-3):
        z = torch.tensor([[s - h], [s], [s + h]], dtype=torch.float64) - zero
        one = torch.ones(1, dtype=torch.float64)
        below, middle, above = (layer.basis_functions(z, one, zero * one)[:, 0] @ c).tolist()
        return (below - 2.0 * middle + above) / h**2

    margin = 2e-3  # the differences stay within the grid
    pieces = [
        scipy.integrate.quad(lambda s: curvature(s) ** 2, k + margin, k + 1 - margin)[0]
        for k in range(layer.steps)
    ]
    assert step > 0
    assert float(c @ roughness(layer) @ c) == pytest.approx(sum(pieces), rel=2e-2)


def test_the_minimum_is_that_of_scipy():
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(40, 7)), rng.normal(size=40)
    start, ridge = rng.normal(size=6), 0.3
    total = SquareSum.empty(6)
    total.add(torch.from_numpy(rows), torch.from_numpy(labels))
    c = solve(
        total, torch.from_numpy(start), torch.zeros(6, 6).double(), ridge=ridge, smoothness=0.0
    )
    diagonal = (rows[:, :6] ** 2).sum(0)
    weight = np.sqrt(ridge * (diagonal + 1e-6 * diagonal.mean()))
    design = np.vstack([rows[:, :6], np.diag(weight)])
    target = np.concatenate([labels - rows[:, 6], weight * start])
    np.testing.assert_allclose(c.numpy(), scipy.linalg.lstsq(design, target)[0], rtol=1e-9)
    expected = np.sqrt(np.mean((rows[:, :6] @ c.numpy() + rows[:, 6] - labels) ** 2))
    assert total.rms(c) == pytest.approx(expected, rel=1e-9)


def test_labels_that_are_not_there_count_nowhere():
    total, part = SquareSum.empty(2), SquareSum.empty(2)
    rows, labels = torch.randn(5, 3).double(), torch.randn(5).double()
    labels[2] = torch.nan
    keep = [0, 1, 3, 4]
    total.add(rows, labels)
    part.add(rows[keep], labels[keep])
    torch.testing.assert_close(total.matrix, part.matrix)
    torch.testing.assert_close(total.vector, part.vector)
    assert (total.constant, total.count) == (pytest.approx(part.constant), 4)
    assert weighted({"energy": SquareSum.empty(2), "forces": total}, {"energy": 1.0}).constant == 0


def test_of_solutions_that_are_as_good_the_one_nearest_to_the_start_is_taken():
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(200, 3, generator=rng).double()
    x[:, 1] = x[:, 0] + 1e-5 * x[:, 1]  # two columns that are nearly one
    truth, noise = torch.tensor([1.0, 1.0, 0.5]).double(), 0.1 * torch.randn(200, generator=rng)
    rows = torch.cat([x, torch.zeros(200, 1).double()], dim=1)
    fit, judge = SquareSum.empty(3), SquareSum.empty(3)
    fit.add(rows[:100], (x @ truth + noise)[:100])
    judge.add(rows[100:], (x @ truth + noise)[100:])
    start = torch.zeros(3).double()
    found = best_solution(fit, judge, start, torch.zeros(3, 3).double())
    free = solve(fit, start, torch.zeros(3, 3).double(), ridge=0.0, smoothness=0.0)
    assert free.norm() > 50.0
    assert found.c.norm() < 2.0
    assert judge.rms(found.c) < 1.01 * judge.rms(free)


@pytest.fixture(scope="module")
def silver_like(tiny_checkpoint, alloy_frames):
    """A one-layer MACE, and structures labelled by the same one with another readout."""
    checkpoint = load(tiny_checkpoint, "mace of one layer")
    model, unknowns = prepared(checkpoint)
    truth = unknowns.vector() + 0.1 * torch.randn(
        unknowns.size, generator=torch.Generator().manual_seed(5)
    )
    unknowns.put(truth)
    frames = []
    for seed in range(12):
        atoms = alloy_frames[seed % len(alloy_frames)].copy()
        atoms.rattle(0.05, seed=seed)
        said = evaluate(model, atoms)
        virial = said["virial"].numpy()
        atoms.info["energy"] = float(said["energy"])
        atoms.arrays["forces"] = said["forces"].numpy()
        atoms.info["stress"] = -(virial + virial.T) / 2 / atoms.get_volume()
        frames.append(atoms)
    return checkpoint, frames


@pytest.fixture(scope="module")
def silver_file(silver_like, tmp_path_factory):
    from kan_md.data.reading import read_frames

    path = tmp_path_factory.mktemp("solve") / "data.xyz"
    ase.io.write(path, silver_like[1], format="extxyz")
    return path, read_frames(path)


def test_a_readout_that_can_be_exact_becomes_exact(silver_like, silver_file):
    checkpoint, frames = silver_like[0], silver_file[1]
    before = {name: value.clone() for name, value in checkpoint.state_dict.items()}
    weights = {"energy": 1.0, "forces": 1.0, "stress": 1.0}
    found = refit(checkpoint, frames[:9], frames[9:], weights=weights)
    for part in ("fit", "judge"):
        for name, error in found.errors[part]["after"].items():
            assert error < 1e-3 * found.errors[part]["before"][name]
    said = evaluate(found.checkpoint.build(), frames[10])
    np.testing.assert_allclose(said["forces"], frames[10].get_forces(), atol=1e-4)
    reference = found.checkpoint.reference_frames[0]
    assert not torch.equal(reference["energy"], checkpoint.reference_frames[0]["energy"])
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.state_dict.items())


def test_new_structures_forget_nothing(silver_like, silver_file, tmp_path):
    """Two solves, the second with the sums of the first one's file, see what one of all sees."""
    checkpoint, frames = silver_like[0], silver_file[1]
    weights = {"energy": 1.0, "forces": 1.0, "stress": 0.1}
    first = refit(checkpoint, frames[:2], frames[10:], weights=weights)
    path = save_checkpoint(first.checkpoint, tmp_path / "first.pth")
    second = refit(load_checkpoint(path), frames[2:5], frames[10:], weights=weights)
    whole = refit(checkpoint, frames[:5], frames[10:], weights=weights)
    assert second.counts == {"fit": 3, "judge": 2, "prior": 2}
    sums = [found.checkpoint.statistics[MEMORY_KEY]["sums"] for found in (second, whole)]
    for name in weights:
        torch.testing.assert_close(sums[0][name]["matrix"], sums[1][name]["matrix"])
        torch.testing.assert_close(sums[0][name]["vector"], sums[1][name]["vector"])
        assert sums[0][name]["count"] == sums[1][name]["count"]
    alone = refit(load_checkpoint(path), frames[2:3], frames[11:], weights=weights, prior=0.0)
    assert alone.counts["prior"] == 0


def test_sums_of_another_backbone_are_not_taken(silver_like, silver_file):
    checkpoint, frames = silver_like[0], silver_file[1]
    weights = {"energy": 1.0, "forces": 1.0, "stress": 0.0}
    changed = refit(checkpoint, frames[:2], frames[11:], weights=weights).checkpoint
    name = next(name for name in changed.state_dict if "conv_tp_weights" in name)
    changed.state_dict[name] = changed.state_dict[name] + 0.1
    assert refit(changed, frames[3:4], frames[11:], weights=weights).counts["prior"] == 0


def test_what_does_worse_on_the_judges_is_not_taken(silver_like, silver_file):
    checkpoint, frames = silver_like[0], silver_file[1]
    model = checkpoint.build("float64")
    own = [atoms.copy() for atoms in frames[9:]]
    for atoms in own:  # judges that the readouts of now are exact for
        said = evaluate(model, atoms)
        atoms.info["energy"], atoms.arrays["forces"] = float(said["energy"]), said["forces"].numpy()
    from ase.calculators.singlepoint import SinglePointCalculator

    for atoms in own:
        atoms.calc = SinglePointCalculator(
            atoms, energy=atoms.info["energy"], forces=atoms.arrays.pop("forces")
        )
    weights = {"energy": 1.0, "forces": 1.0, "stress": 0.0}
    found = refit(checkpoint, frames[:2], own, weights=weights)
    assert found.solution is None
    assert found.errors["judge"]["before"] == found.errors["judge"]["after"]


def test_the_command_writes_a_model_that_evaluates_as_it_says(
    silver_like, silver_file, tmp_path, capsys
):
    model = save_checkpoint(silver_like[0], tmp_path / "model.pth")
    output = tmp_path / "refitted.pth"
    with pytest.raises(SystemExit) as end:
        main(["refit", str(model), str(silver_file[0]), "-o", str(output), "--json"])
    assert end.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["structures"] == {"fit": 10, "judge": 2, "prior": 0}
    assert said["rmse"]["judge"]["after"]["forces"] < said["rmse"]["judge"]["before"]["forces"]
    with pytest.raises(SystemExit):
        main(["evaluate", str(output), str(silver_file[0]), "--json"])
    assert json.loads(capsys.readouterr().out)["errors"]["forces_rmse"] < 1e-3
    with pytest.raises(SystemExit):
        main(["refit", str(output), str(silver_file[0]), "-o", str(tmp_path / "again.pth")])
    shown = capsys.readouterr().out
    assert "structures of before" in shown
    assert "forces (meV/Å)" in shown


def test_a_set_without_labels_is_refused(silver_like, silver_file):
    bare = [atoms.copy() for atoms in silver_file[1][:3]]
    with pytest.raises(KanMdError, match="no labels that are learned"):
        refit(silver_like[0], bare, silver_file[1][9:])
    with pytest.raises(KanMdError, match="judge by have no labels"):
        refit(silver_like[0], silver_file[1][:3], bare)


@pytest.fixture(scope="module")
def uncertain(silver_like, silver_file):
    """A refit that cannot be exact: labels of another function, few structures."""
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = []
    for atoms in silver_file[1]:
        atoms = atoms.copy()
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    weights = {"energy": 1.0, "forces": 1.0, "stress": 0.0}
    return refit(silver_like[0], frames[:6], frames[9:], weights=weights).checkpoint, frames


def test_variances_are_as_large_as_the_errors_on_the_judges(uncertain):
    checkpoint, frames = uncertain
    sure, model = Uncertainty(checkpoint), checkpoint.build()
    sums = np.zeros((2, 2))
    for atoms in frames[9:]:
        said, spread = evaluate(model, atoms), sure(atoms)
        error = (float(said["energy"]) - atoms.get_potential_energy()) / len(atoms)
        squares = np.square(said["forces"].numpy() - atoms.get_forces()).sum()
        sums += [
            [error**2, squares],
            [spread["energy_std"] ** 2, (spread["forces_std"] ** 2).sum()],
        ]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-4)


def test_variance_is_that_of_the_inverse_matrix_and_grows_away_from_the_data(uncertain):
    checkpoint, frames = uncertain
    memory = checkpoint.statistics[MEMORY_KEY]
    model, unknowns = prepared(checkpoint)
    atoms = frames[0]
    rows = RowMaker(model, unknowns, "mace", local=False)(graph(checkpoint, atoms))
    d = rows.energy[0, :-1].numpy() / len(atoms)
    inverse = np.linalg.inv(memory["precision"].numpy())
    expected = np.sqrt(memory["alpha2"]["energy"] * d @ inverse @ d)
    sure = Uncertainty(checkpoint)
    found = sure(atoms)
    assert found["energy_std"] == pytest.approx(expected, rel=1e-6)
    squeezed, turned = atoms.copy(), atoms.copy()
    squeezed.set_cell(0.85 * atoms.cell[:], scale_atoms=True)
    assert sure(squeezed)["energy_std"] > 3.0 * found["energy_std"]
    turned.rotate(50.0, (1, 2, 3), rotate_cell=True)
    np.testing.assert_allclose(sure(turned)["forces_std"], found["forces_std"], rtol=1e-6)


def test_a_calculator_has_the_standard_deviations(uncertain, tmp_path):
    checkpoint, frames = uncertain
    path = save_checkpoint(checkpoint, tmp_path / "model.pth")
    atoms = frames[0].copy()
    atoms.calc = KANCalculator(path, form="exact", uncertainty=True)
    atoms.get_forces()
    expected = Uncertainty(checkpoint)(atoms)
    assert atoms.calc.results["energy_std"] == pytest.approx(expected["energy_std"], rel=1e-9)
    np.testing.assert_allclose(atoms.calc.results["forces_std"], expected["forces_std"], rtol=1e-9)
    assert "energy_std" not in KANCalculator(path, form="exact").results


def test_models_without_normal_equations_or_with_other_weights_are_refused(uncertain, silver_like):
    with pytest.raises(KanMdError, match=r"without normal equations.*run `kan-md refit"):
        Uncertainty(silver_like[0])
    changed = replace(uncertain[0], state_dict=dict(uncertain[0].state_dict))
    name = next(name for name in changed.state_dict if "conv_tp_weights" in name)
    changed.state_dict[name] = changed.state_dict[name] + 0.1
    with pytest.raises(KanMdError, match="those of other weights"):
        Uncertainty(changed)
