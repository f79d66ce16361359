"""Pressure, conservation, restarts, heat flux: what a simulation relies on beyond single points."""

import re

import numpy as np
import pytest
import torch
from engine import PER_ATOM, ZERO_STEPS, system
from structures import ELEMENTS, rattled, structures

STYLES = ("allegro", "nequip", "mace")
RANKS = [1, pytest.param(2, marks=pytest.mark.mpi)]
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 0), (2, 0), (2, 1))  # lower triangle keeps the box's form

pytestmark = pytest.mark.lammps


def run_one(engine, atoms, model, style, folder, lines, **options):
    before = options.pop("before", ())
    job = {
        "commands": [
            *system(atoms, ELEMENTS, style, model, folder=folder, before=before),
            *lines,
        ],
        "computes": options.pop("computes", []),
        "variables": options.pop("variables", []),
    }
    return engine.run([job], **options)[0]


@pytest.mark.parametrize("name", ["orthogonal", "triclinic", "own images"])
def test_pressure_is_minus_energy_by_strain(name, engine, alloy_model, tmp_path):
    atoms, step = structures()[name], 1e-4
    strains = [(row, column, sign) for row, column in VOIGT for sign in (1, -1)]
    jobs = []
    for style in STYLES:
        for row, column, sign in [(0, 0, 0), *strains]:
            strained, strain = atoms.copy(), np.eye(3)
            strain[row, column] += sign * step
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            lines = system(strained, ELEMENTS, style, alloy_model(style), folder=tmp_path)
            jobs.append({"commands": [*lines, *ZERO_STEPS], "computes": ["kanpress"]})
    results = iter(engine.run(jobs))
    for style in STYLES:
        virial = next(results).virial
        for row, column in VOIGT:
            plus, minus = next(results).energy, next(results).energy
            slope = -(plus - minus) / (2 * step)
            scale = np.abs(virial).max()
            assert virial[row, column] == pytest.approx(slope, abs=1e-6 * scale), (style, row)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("deploy", "steps"),
    [
        pytest.param({"operators": "fused", "bound": 1e-9}, 4750, id="fused"),
        pytest.param({"passes": "none"}, 500, id="no passes"),
    ],
)
def test_energy_is_conserved_and_memory_is_flat(
    style, deploy, steps, engine, alloy_model, tmp_path
):
    """10 ps at 300 K; relaxed first, so that random weights do not heat the crystal.

    The file without passes runs 1.5 ps: it is several times slower, and its forces are held to be
    the energy's gradient in tests/conformance.py.
    """
    lines = [
        "minimize 0 1e-3 200 2000",
        "velocity all create 300 4711 mom yes rot no",
        "fix 1 all nve",
        "timestep 0.002",
        "thermo_style custom step etotal",
        "variable e equal etotal",
        "run 250",
        "variable start equal ${e}",
        "!resident before",
        "variable drift equal abs(v_e-v_start)",
        "fix worst all ave/time 5 1 5 v_drift mode scalar ave running",
        f"run {steps}",
        "!resident after",
        "variable last equal v_drift",
        "variable mean equal f_worst",
    ]
    atoms = rattled((2, 1, 1), seed=5)
    names = ["last", "mean"]
    model = alloy_model(style, deploy=deploy)
    result = run_one(engine, atoms, model, style, tmp_path, lines, variables=names)
    assert result.error == ""
    assert result.values["last"] < 1e-4 * len(atoms)
    assert result.values["mean"] < 1e-4 * len(atoms)
    assert result.values["after"] < 1.01 * result.values["before"]


@pytest.mark.parametrize("style", STYLES)
def test_forecast_of_memory_is_the_peak_to_a_third(style, engine, alloy_model, tmp_path):
    atoms = rattled((8, 8, 8), seed=3)
    model = alloy_model(style, deploy={"passes": "none"})  # keeps every intermediate
    result = run_one(engine, atoms, model, style, tmp_path, ["run 2", "!peak taken"])
    assert result.error == ""
    forecast = float(re.search(r"about (\d+) MB per rank", result.output)[1])
    assert forecast == pytest.approx(result.values["taken"] / 2**20, rel=0.35)


def test_restart_continues_bit_for_bit(engine, alloy_model, tmp_path):
    # In a triclinic box read_restart itself rounds positions, by way of fractional coordinates.
    atoms, jobs = structures()["orthogonal"], []
    for style in STYLES:
        model = alloy_model(style)
        start = [
            "velocity all create 300 4711",
            "fix 1 all nve",
            "run 7",
            f"write_restart {tmp_path}/{style}",
            "run 7",
        ]
        again = [
            "units metal",
            "atom_modify map array",
            f"read_restart {tmp_path}/{style}",
            *pair_lines(model, style),
            "fix 1 all nve",
            "run 7",
        ]
        through = [*system(atoms, ELEMENTS, style, model, folder=tmp_path), *start]
        jobs += [{"commands": through}, {"commands": again}]
    results = engine.run(jobs)
    for straight, restarted in zip(results[::2], results[1::2], strict=True):
        assert restarted.error == straight.error == ""
        for key in ("x", "v", "f"):
            np.testing.assert_array_equal(restarted.atoms[key], straight.atoms[key])
        assert restarted.energy == straight.energy


def test_heat_flux_is_that_of_the_atomic_energies(engine, alloy_model, tmp_path):
    """J = sum e_i v_i + sum_ij (r_i - r_j) (dU_i/dr_j . v_j), by autograd over positions."""
    from kan_md_deploy import load_deployed

    atoms = structures()["cluster in a corner"]
    model = alloy_model("allegro")
    lines = [
        "velocity all create 300 4711",
        "compute ke all ke/atom",
        "compute pe all pe/atom",
        "compute stress all centroid/stress/atom NULL virial",
        "compute flux all heat/flux ke pe stress",
        "thermo_style custom step pe c_flux[*]",
        "run 0",
    ]
    result = run_one(engine, atoms, model, "allegro", tmp_path, lines, computes=["flux"])
    assert result.error == ""
    velocities = torch.from_numpy(result.atoms["v"])
    positions = torch.from_numpy(atoms.positions)
    potential = load_deployed(model)
    types = torch.tensor([ELEMENTS.index(symbol) for symbol in atoms.symbols])
    flux = torch.zeros(3, dtype=torch.float64)
    count, step = len(atoms), 1e-5

    def energies(x):
        distance = torch.cdist(x, x) + 1e3 * torch.eye(count)
        index = torch.nonzero(distance < potential.manifest.r_max).T.contiguous()
        vectors = x[index[1]] - x[index[0]]
        return potential(vectors, index, types, torch.tensor([count]))[0][:, 0]

    flux += (energies(positions)[:, None] * velocities).sum(0)
    for j in range(count):
        for axis in range(3):
            moved = torch.zeros_like(positions)
            moved[j, axis] = step
            slope = (energies(positions + moved) - energies(positions - moved)) / (2 * step)
            flux += ((positions - positions[j]) * slope[:, None]).sum(0) * velocities[j, axis]
    masses = torch.from_numpy(atoms.get_masses())
    kinetic = 0.5 * masses * velocities.square().sum(1) * 1.0364269e-4  # u (Å/ps)² in eV
    flux += (kinetic[:, None] * velocities).sum(0)
    # c_flux is not yet divided by the volume
    np.testing.assert_allclose(result.values["flux"][:3], flux.numpy(), rtol=1e-6, atol=1e-7)


def pair_lines(model, style):
    return [f"pair_style {style}", f"pair_coeff * * {model} Cu Au"]


def test_sparse_atom_ids(engine, alloy_model, tmp_path):
    """Deleting atoms leaves gaps in the IDs; the rest is a structure like any other."""
    atoms = structures()["triclinic"]
    kept = [n for n in range(len(atoms)) if n % 5]
    doomed = " ".join(str(n + 1) for n in range(len(atoms)) if n % 5 == 0)
    jobs = []
    for style in STYLES:
        model = alloy_model(style)
        delete = [f"group doomed id {doomed}", "delete_atoms group doomed compress no"]
        lines = system(atoms, ELEMENTS, style, model, folder=tmp_path)
        jobs.append({"commands": [*lines, *delete, *ZERO_STEPS]})
        lines = system(atoms[kept], ELEMENTS, style, model, folder=tmp_path)
        jobs.append({"commands": [*lines, *ZERO_STEPS]})
    results = engine.run(jobs)
    for sparse, dense in zip(results[::2], results[1::2], strict=True):
        assert sparse.error == ""
        assert sparse.atoms["id"].max() > len(kept)
        assert sparse.energy == pytest.approx(dense.energy, abs=1e-10)
        np.testing.assert_allclose(sparse.forces, dense.forces, atol=1e-10)


@pytest.mark.parametrize("ranks", RANKS)
def test_hybrid_styles_add_up(ranks, engine, alloy_model, tmp_path):
    """Model and zbl as an overlay is their sum, virial included."""
    atoms = structures()["triclinic"]
    zbl = ["pair_coeff 1 1 {}29 29", "pair_coeff 1 2 {}29 79", "pair_coeff 2 2 {}79 79"]
    variants = [["pair_style zbl 2.0 3.5", *(line.format("") for line in zbl)]]
    for style in STYLES:
        model = alloy_model(style)
        overlay = [
            f"pair_style hybrid/overlay {style} zbl 2.0 3.5",
            f"pair_coeff * * {style} {model} Cu Au",
            *(line.format("zbl ") for line in zbl),
        ]
        variants += [pair_lines(model, style), overlay]
    jobs = [
        {
            "commands": [
                *system(atoms, ELEMENTS, "", "", folder=tmp_path, pair=pair),
                "compute kanpress all pressure NULL pair",
                "thermo_style custom step pe c_kanpress[*]",
                "run 0",
            ],
            "computes": ["kanpress"],
        }
        for pair in variants
    ]
    repulsion, *results = engine.run(jobs, ranks=ranks)
    for first, both in zip(results[::2], results[1::2], strict=True):
        assert both.error == first.error == repulsion.error == ""
        assert both.energy == pytest.approx(first.energy + repulsion.energy, abs=1e-9)
        np.testing.assert_allclose(both.forces, first.forces + repulsion.forces, atol=1e-9)
        np.testing.assert_allclose(both.virial, first.virial + repulsion.virial, atol=1e-8)


@pytest.mark.parametrize("ranks", RANKS)
def test_a_type_of_another_style_is_invisible(ranks, engine, alloy_model, tmp_path):
    """`NULL` types of a hybrid style: the model sees the other atoms only."""
    atoms = structures()["orthogonal"]
    gold = atoms[[atom.symbol == "Au" for atom in atoms]]
    jobs = []
    for style in STYLES:
        model = alloy_model(style)
        pair = [
            f"pair_style hybrid {style} lj/cut 3.0",
            f"pair_coeff * * {style} {model} NULL Au",
            "pair_coeff 1 * lj/cut 0.0 1.0",
        ]
        jobs.append(
            {"commands": [*system(atoms, ELEMENTS, "", "", folder=tmp_path, pair=pair), "run 0"]}
        )
        jobs.append({"commands": [*system(gold, ELEMENTS, style, model, folder=tmp_path), "run 0"]})
    results = engine.run(jobs, ranks=ranks)
    for mixed, alone in zip(results[::2], results[1::2], strict=True):
        assert mixed.error == alone.error == ""
        assert mixed.energy == pytest.approx(alone.energy, abs=1e-9)


def test_excluded_neighbours_are_out_of_sight(engine, alloy_model, tmp_path):
    """With all pairs excluded every atom is isolated; forces vanish."""
    atoms = structures()["orthogonal"]
    jobs = []
    for style in STYLES:
        lines = system(atoms, ELEMENTS, style, alloy_model(style), folder=tmp_path)
        jobs.append({"commands": [*lines, "neigh_modify exclude group all all", "run 0"]})
    isolated = sum(-1.0 if symbol == "Cu" else -2.0 for symbol in atoms.symbols)
    for result in engine.run(jobs):
        assert result.error == ""
        assert result.energy == pytest.approx(isolated, abs=1e-9)
        assert not result.forces.any()


@pytest.mark.parametrize("style", STYLES)
def test_an_excluded_pair_of_types_leaves_the_other_edges(style, engine, alloy_model, tmp_path):
    """Copper does not see copper: the same as the model on a graph without these edges."""
    from kan_md.model.graph import edge_graph
    from kan_md_deploy import load_deployed

    atoms = structures()["triclinic"]
    model = load_deployed(alloy_model(style))
    vectors, index, types = edge_graph(atoms, model.manifest.r_max, ELEMENTS)[:3]
    kept = (types[index] != 0).any(0)
    assert 0 < kept.sum() < len(kept)
    energy, gradient = model(vectors[kept], index[:, kept], types, torch.tensor([len(atoms)]))
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
    forces.index_add_(0, index[0, kept], gradient).index_add_(0, index[1, kept], -gradient)
    lines = ["neigh_modify exclude type 1 1", "run 0"]
    result = run_one(engine, atoms, alloy_model(style), style, tmp_path, lines)
    assert result.error == ""
    assert result.energy == pytest.approx(float(energy.sum()), abs=1e-8)
    np.testing.assert_allclose(result.forces, forces.numpy(), atol=1e-8)


def test_minimize_and_box_relax_reach_a_minimum(engine, alloy_model, tmp_path):
    atoms = structures()["orthogonal"]
    relax = [
        *PER_ATOM,
        "min_style cg",
        "minimize 0 1e-4 500 5000",
        "fix 1 all box/relax iso 0.0 vmax 0.002",
        "minimize 0 1e-4 200 1000",
    ]
    jobs = [
        {
            "commands": [
                *system(atoms, ELEMENTS, style, alloy_model(style), folder=tmp_path),
                *lines,
            ],
            "computes": ["kanpress"],
        }
        for style in STYLES
        for lines in (ZERO_STEPS, relax)
    ]
    results = engine.run(jobs)
    for before, after in zip(results[::2], results[1::2], strict=True):
        assert after.error == ""
        assert after.energy < before.energy
        assert np.abs(after.forces).max() < 0.5 * np.abs(before.forces).max()
        pressures = [abs(np.trace(result.virial)) for result in (before, after)]
        assert pressures[1] < 0.5 * pressures[0]


@pytest.mark.mpi
def test_balanced_and_tiled_domains_agree(engine, alloy_model, tmp_path):
    atoms = structures()["slab"].repeat((2, 2, 1))

    def job(style, before=(), after=()):
        model = alloy_model(style)
        lines = system(atoms, ELEMENTS, style, model, folder=tmp_path, before=before)
        return {"commands": [*lines, *after, "run 0"]}

    alone = engine.run([job(style) for style in STYLES])
    shifted = [job(style, after=["balance 1.0 shift x 5 1.0"]) for style in STYLES]
    tiled = job("allegro", ["comm_style tiled"], ["balance 1.0 rcb"])
    # In the order of the styles, and Allegro once more.
    for one, two in zip([*alone, alone[0]], engine.run([*shifted, tiled], ranks=2), strict=True):
        assert one.error == two.error == ""
        assert two.energy == pytest.approx(one.energy, abs=1e-8)
