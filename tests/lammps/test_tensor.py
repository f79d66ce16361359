"""compute kanmd/tensor and fix kanmd/efield, next to a pair style that knows nothing of them."""

import re

import numpy as np
import pytest
from engine import system
from structures import ELEMENTS, rattled, structures

from kan_md.backbones import build_model
from kan_md.model.checkpoint import Checkpoint, save_checkpoint
from kan_md.tasks.tensor import TensorTask
from kan_md_deploy import deploy, load_deployed

pytestmark = pytest.mark.lammps

# A pair style with a shorter cutoff than the model: the compute must find its own neighbours.
PAIR = ["pair_style lj/cut 3.0", "pair_coeff * * 0.05 2.2"]
# Nothing but the field acts, so that nothing else can spoil the conservation of energy.
FREE = ["pair_style zero 3.0", "pair_coeff * *"]
THERMO = "thermo_style custom step pe etotal temp press vol pxx pyy pzz pxy pxz pyz"
FIELD = np.array([0.05, -0.02, 0.03])  # V/Å


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A float64 ETGNN with random weights; ghosts reach beyond two cutoffs (three legs)."""
    folder = tmp_path_factory.mktemp("tensor")
    arguments = {
        "seed": 3,
        "model_dtype": "float64",
        "type_names": list(ELEMENTS),
        "r_max": 4.0,
        "triplet_r_max": 3.1,
        "num_layers": 2,
        "num_features": 8,
        "num_triplet_features": 6,
        "num_radial": 4,
        "num_angular": 3,
        "avg_num_neighbors": 18.0,
        "type_shifts": {"bec": [1.5, -1.5]},
        "tensors": [
            {"name": "bec"},
            {"name": "charges", "rank": 0, "acoustic_sum_rule": True},
            {"name": "susceptibility", "per": "structure", "symmetry": "symmetric"},
            {"name": "count", "rank": 0, "per": "structure", "reduction": "sum"},
        ],
    }
    network = build_model("etgnn", **arguments).eval()
    return save_checkpoint(
        Checkpoint(
            backbone="etgnn",
            config={"model": arguments},
            type_names=list(ELEMENTS),
            r_max=4.0,
            state_dict=network.state_dict(),
            reference_frames=TensorTask.of_arguments(arguments).reference_frames(
                network, [rattled((2, 2, 2))]
            ),
        ),
        folder / "model.pth",
    )


@pytest.fixture(scope="module")
def model(trained):
    """The plain file."""
    return deploy(trained, passes="none")


def dump_job(atoms, model, folder, *, name="all", extra=(), steps=0):
    """Job that dumps the Born charges and charges of every atom at its last step."""
    dump = folder / f"{name.replace(' ', '_')}.dump"
    lines = [
        *system(atoms, ELEMENTS, "", model, folder=folder, pair=PAIR),
        f"compute z all kanmd/tensor {model} bec {' '.join(ELEMENTS)}",
        f"compute q all kanmd/tensor {model} charges {' '.join(ELEMENTS)}",
        *extra,
        f"dump d all custom {max(1, steps)} {dump} id c_z[*] c_q",
        "dump_modify d sort id format float %.17g",
        f"run {steps}",
    ]
    return dump, {"commands": lines}


def read_dump(path):
    """[atoms, 10], the last frame."""
    text = path.read_text().split("ITEM: ATOMS")[-1].splitlines()[1:]
    return np.array([line.split()[1:] for line in text], dtype=float)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_lammps_gives_what_python_gives(engine, model, tmp_path, ranks):
    python = load_deployed(model)
    chosen = structures()
    names = ["orthogonal", "triclinic", "own images", "slab", "single atom", "dimer"]
    # The sum over a structure is defined without a cell, a crystal's mean is not.
    made = {n: dump_job(chosen[n], model, tmp_path, name=n) for n in names}
    results = engine.run([job for _, job in made.values()], ranks=ranks)
    for name, (dump, _), result in zip(made, made.values(), results, strict=True):
        assert result.error == "", name
        python.task = TensorTask(tuple(s for s in python.task.specs if s.per == "atom"))
        expected = python.predict(chosen[name])
        found = read_dump(dump)
        np.testing.assert_allclose(found[:, :9], expected["bec"], atol=1e-10, err_msg=name)
        np.testing.assert_allclose(found[:, 9:], expected["charges"], atol=1e-10, err_msg=name)
        assert abs(found.sum(0)).max() < 1e-10, name  # acoustic sum rule over all ranks


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        pytest.param({"bound": 1e-9}, 1e-8, id="float64"),
        pytest.param({"dtype": "float32"}, 2e-5, id="float32"),
        pytest.param({"dtype": "float32", "operators": "portable"}, 2e-5, id="portable"),
    ],
)
def test_optimised_files_give_what_the_plain_file_gives(
    engine, trained, model, tmp_path, options, tolerance
):
    optimised = deploy(trained, tmp_path / "optimised.pth", **options)
    collapse = load_deployed(optimised).manifest.passes["kan_collapse"]
    assert ("operator" in collapse) == ("operators" not in options)
    atoms = structures()["triclinic"]
    field = " ".join(map(str, FIELD))
    made = {
        name: dump_job(
            atoms, file, tmp_path, name=name, extra=[f"fix e all kanmd/efield {file} {field}"]
        )
        for name, file in (("plain", model), ("optimised", optimised))
    }
    plain, other = engine.run([job for _, job in made.values()])
    assert plain.error == other.error == ""
    expected, found = (read_dump(dump) for dump, _ in made.values())
    scale = abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=tolerance * scale)
    np.testing.assert_allclose(other.forces, plain.forces, atol=3 * tolerance * scale)


def test_structure_tensors_are_scalars_and_vectors(engine, model, tmp_path):
    atoms = rattled((2, 2, 2))
    commands = [
        *system(atoms, ELEMENTS, "", model, folder=tmp_path, pair=PAIR),
        f"compute s all kanmd/tensor {model} susceptibility {' '.join(ELEMENTS)}",
        f"compute n all kanmd/tensor {model} count {' '.join(ELEMENTS)}",
        *(f"variable s{k} equal c_s[{k}]" for k in range(1, 10)),
        "variable n equal c_n",
        f"{THERMO} c_s[1] c_n",
        "run 0",
    ]
    job = {"commands": commands, "variables": [*(f"s{k}" for k in range(1, 10)), "n"]}
    (result,) = engine.run([job])
    assert result.error == ""
    expected = load_deployed(model).predict(atoms)
    found = [result.values[f"s{k}"] for k in range(1, 10)]
    np.testing.assert_allclose(found, expected["susceptibility"], atol=1e-10)
    np.testing.assert_allclose(result.values["n"], expected["count"][0], atol=1e-10)


@pytest.mark.mpi
def test_one_two_and_four_ranks_agree_along_a_trajectory(engine, model, tmp_path):
    """Forces of the field included; atoms change ranks, lists are rebuilt on the way."""
    atoms = rattled((2, 2, 2))
    extra = [
        "neighbor 0.3 bin",
        "neigh_modify every 1 delay 0 check yes",
        "velocity all create 2000 7",
        "fix n all nve",
        f"fix e all kanmd/efield {model} {FIELD[0]} {FIELD[1]} {FIELD[2]} {' '.join(ELEMENTS)}",
        "fix_modify e energy yes",
        "timestep 0.002",
        *(f"variable e{k} equal f_e[{k}]" for k in range(1, 7)),
        "variable e0 equal f_e",
        f"{THERMO} f_e f_e[1]",
    ]
    names = [f"e{k}" for k in range(7)]
    outcomes = []
    for ranks in (1, 2, 4):
        dump, job = dump_job(atoms, model, tmp_path, name=f"r{ranks}", extra=extra, steps=40)
        (result,) = engine.run([job | {"variables": names}], ranks=ranks)
        assert result.error == ""
        outcomes.append((result, read_dump(dump)))
    first, tensors = outcomes[0]
    assert abs(first.values["e1"]) > 1e-4  # the field has moved charge
    for other, other_tensors in outcomes[1:]:
        np.testing.assert_allclose(other.atoms["x"], first.atoms["x"], atol=1e-9)
        np.testing.assert_allclose(other.forces, first.forces, atol=1e-9)
        np.testing.assert_allclose(other_tensors, tensors, atol=1e-9)
        for name in names:
            np.testing.assert_allclose(other.values[name], first.values[name], atol=1e-9)


def test_field_force_is_charge_times_field(engine, model, tmp_path):
    atoms = rattled((2, 2, 2))
    lines = system(atoms, ELEMENTS, "", model, folder=tmp_path, pair=PAIR)
    field = " ".join(map(str, FIELD))
    # Elements may be left out: masses tell them.
    with_field = [*lines, f"fix e all kanmd/efield {model} {field}", "run 0"]
    # The group limits whom the field acts on, not what the model sees.
    on_copper = [*lines, "group cu type 1", f"fix e cu kanmd/efield {model} {field}", "run 0"]
    without, everywhere, copper = engine.run(
        [{"commands": [*lines, "run 0"]}, {"commands": with_field}, {"commands": on_copper}]
    )
    assert without.error == everywhere.error == copper.error == ""
    charges = load_deployed(model).predict(atoms)["bec"].reshape(-1, 3, 3)
    expected = np.einsum("i,nij->nj", FIELD, charges)
    np.testing.assert_allclose(everywhere.forces - without.forces, expected, atol=1e-10)
    is_copper = (atoms.symbols == "Cu")[:, None]
    np.testing.assert_allclose(
        copper.forces - without.forces, np.where(is_copper, expected, 0.0), atol=1e-10
    )


def test_field_energy_is_consistent_with_its_force_to_first_order(engine, model, tmp_path):
    """-P.E changes by -F.d for a small displacement d, and the error falls with its square."""
    atoms = rattled((2, 2, 2))
    charges = load_deployed(model).predict(atoms)["bec"].reshape(-1, 3, 3)
    moved = 4
    jobs = []
    steps = (0.04, 0.02)
    for step in steps:
        jobs.append(
            {
                "commands": [
                    *system(atoms, ELEMENTS, "", model, folder=tmp_path, pair=PAIR),
                    f"fix e all kanmd/efield {model} {' '.join(map(str, FIELD))}",
                    "variable u equal f_e",
                    f"{THERMO} f_e",
                    "run 0",
                    f"group one id {moved + 1}",
                    f"displace_atoms one move {step} {0.5 * step} {-step}",
                    "run 0",
                ],
                "variables": ["u"],
            }
        )
    results = engine.run(jobs)
    errors = []
    for step, result in zip(steps, results, strict=True):
        assert result.error == ""
        work = (FIELD @ charges[moved]) @ (step * np.array([1.0, 0.5, -1.0]))
        assert abs(work) > 1e-5
        errors.append(abs(result.values["u"] + work))
    assert errors[1] < 0.35 * errors[0]  # second order: a quarter


def test_field_energy_completes_the_conserved_energy(engine, model, tmp_path):
    """NVE in a field: without -P.E the energy drifts by the work of the field."""
    atoms = rattled((2, 2, 2))
    jobs = [
        {
            "commands": [
                *system(atoms, ELEMENTS, "", model, folder=tmp_path, pair=FREE),
                "fix n all nve",
                f"fix e all kanmd/efield {model} 0.4 -0.3 0.2",
                f"fix_modify e energy {energy}",
                "timestep 0.0005",
                f"{THERMO} f_e",
                "run 0",
                "variable start equal $(etotal)",
                "run 100",
                "variable drift equal etotal-v_start",
                "run 0 pre no post no",
            ],
            "variables": ["drift"],
        }
        for energy in ("yes", "no")
    ]
    complete, incomplete = engine.run(jobs)
    assert complete.error == incomplete.error == ""
    assert abs(incomplete.values["drift"]) > 0.01
    assert abs(complete.values["drift"]) < 0.02 * abs(incomplete.values["drift"])


def test_polarisation_survives_a_restart(engine, model, tmp_path):
    atoms = rattled((2, 2, 2))
    fixes = [
        "fix n all nve",
        f"fix e all kanmd/efield {model} 0.2 0.1 0.0",
        f"{THERMO} f_e[1]",
        "variable p equal f_e[1]",
    ]
    whole = [*system(atoms, ELEMENTS, "", model, folder=tmp_path, pair=PAIR), *fixes]
    first = [*whole, "run 10", f"write_restart {tmp_path}/half"]
    second = ["units metal", f"read_restart {tmp_path}/half", *PAIR, *fixes, "run 10"]
    jobs = [
        {"commands": [*whole, "run 20"], "variables": ["p"]},
        {"commands": first},
        {"commands": second, "variables": ["p"]},
    ]
    through, half, resumed = engine.run(jobs)
    assert through.error == half.error == resumed.error == ""
    assert abs(through.values["p"]) > 1e-5
    np.testing.assert_allclose(resumed.values["p"], through.values["p"], rtol=1e-9)


def test_null_types_are_invisible(engine, model, tmp_path):
    atoms = rattled((2, 2, 2))
    dump = tmp_path / "null.dump"
    commands = [
        *system(atoms, ELEMENTS, "", model, folder=tmp_path, pair=PAIR),
        f"compute z all kanmd/tensor {model} bec Cu NULL",
        f"dump d all custom 1 {dump} id c_z[*]",
        "dump_modify d sort id format float %.17g",
        "run 0",
    ]
    (result,) = engine.run([{"commands": commands}])
    assert result.error == ""
    is_copper = atoms.symbols == "Cu"
    python = load_deployed(model)
    found = read_dump(dump)
    np.testing.assert_allclose(
        found[is_copper], python.predict(atoms[is_copper])["bec"], atol=1e-10
    )
    assert not found[~is_copper].any()


def test_mistakes_stop_lammps_with_a_remedy(engine, model, alloy_model, tmp_path):
    atoms = rattled((2, 2, 2))
    slab = structures()["slab"]
    usual = system(atoms, ELEMENTS, "", model, folder=tmp_path, pair=PAIR)
    open_box = system(slab, ELEMENTS, "", model, folder=tmp_path, pair=PAIR)
    potential = alloy_model("nequip")
    cases = [
        (usual, f"compute z all kanmd/tensor {model}", r"FILE TENSOR \[ELEMENT ...\], got 4 arg"),
        (usual, f"compute z all kanmd/tensor {model} dipole Cu Au", "got dipole; allowed: bec, "),
        (usual, f"compute z all kanmd/tensor {model} bec Cu", "each of the 2 atom types, got 1"),
        (usual, f"compute z all kanmd/tensor {model} bec Cu Xe", "got Xe; allowed: Cu"),
        (usual, f"compute z all kanmd/tensor {potential} bec Cu Au", "use pair_style nequip"),
        (usual, "compute z all kanmd/tensor no.pth bec Cu Au", "no.pth"),
        (usual, f"fix e all kanmd/efield {model} 0.1 0", "Ex Ey Ez"),
        (usual, f"fix e all kanmd/efield {model} 0.1 0 up", "field component Ez, got up"),
        (usual, f"fix e all kanmd/efield {model} v_none 0 0", "variable none must be an equal"),
        (usual, f"fix e all kanmd/efield {model} 0 0 1 tensor charges", "of rank 2 per atom"),
        (
            open_box,
            f"compute s all kanmd/tensor {model} susceptibility Cu Au",
            "periodic in three directions, got a boundary along z",
        ),
    ]
    results = engine.run([{"commands": [*lines, command, "run 0"]} for lines, command, _ in cases])

    for (_, command, message), result in zip(cases, results, strict=True):
        assert re.search(message, result.error), (command, result.error)
    pair = system(atoms, ELEMENTS, "nequip", model, folder=tmp_path)
    (result,) = engine.run([{"commands": [*pair, "run 0"]}])
    assert "tensor" in result.error


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_atoms_on_one_another_and_endless_fields_stop_the_run(engine, model, tmp_path, ranks):
    atoms = rattled((2, 2, 2))
    twice = atoms + atoms[4:5]
    known = " ".join(ELEMENTS)
    compute = [f"compute z all kanmd/tensor {model} bec {known}",
               "compute m all reduce max c_z[1]", "thermo_style custom c_m"]  # fmt: skip
    apart = r"must not sit on one another, got atom IDs 5 and 33 at a distance of 0 Å at step 0"
    cases = {
        rf"compute z kanmd/tensor: atoms {apart}": (twice, compute),
        rf"compute f_tensor kanmd/tensor: atoms {apart}": (
            twice, [f"fix f all kanmd/efield {model} 0 0 0.1 {known}"],
        ),
        r"fix f kanmd/efield: variable e must be a finite number, got inf at step 0": (
            atoms, ["variable e equal 10^400", f"fix f all kanmd/efield {model} v_e 0 0 {known}"],
        ),
    }  # fmt: skip
    jobs = [
        {
            "commands": [
                *system(each, ELEMENTS, "", model, folder=tmp_path, pair=FREE),
                *lines,
                "run 0",
            ]
        }
        for each, lines in cases.values()
    ]
    for message, result in zip(cases, engine.run(jobs, ranks=ranks), strict=True):
        assert re.search(message, result.error), result.error
