"""Nothing of a command outlives it: models, refused commands, LAMMPS' own settings."""

import re
from itertools import product

import numpy as np
import pytest
from ase import Atoms
from engine import ZERO_STEPS, start_line, system
from structures import ELEMENTS, structures

pytestmark = pytest.mark.lammps

NAMES = " ".join(ELEMENTS)
LENNARD_JONES = ["pair_style lj/cut 4.0", "pair_coeff * * 0.1 2.3"]
CHAIN_RANKS = ["processors 2 1 1"]


@pytest.fixture(scope="module")
def chain():
    """A row of atoms along x, so long that every hop of a message counts."""
    rng = np.random.default_rng(7)
    count = 24
    positions = rng.normal(5.0, 0.1, (count, 3))
    positions[:, 0] = 2.5 * (np.arange(count) + 0.5) + rng.normal(0.0, 0.1, count)
    return Atoms("CuAu" * (count // 2), positions, cell=[2.5 * count, 12.0, 12.0], pbc=True)


@pytest.fixture(scope="module")
def depths(alloy_model):
    """Number of layers -> NequIP model of that depth; 2 is the default of the tests."""
    return {
        1: alloy_model("nequip", num_layers=1),
        2: alloy_model("nequip"),
        3: _three(alloy_model),
    }


def _three(alloy_model):
    return alloy_model("nequip", num_layers=3)


def pair_lines(style, model):
    return [f"pair_style {style}", f"pair_coeff * * {model} {NAMES}"]


def cutoffs(result):
    """What ``info comm`` said, one number for each time, Å."""
    return [float(value) for value in re.findall(r"Communication cutoff = (\S+)", result.output)]


# ---- a second model in the same pair style ------------------------------------------------------


@pytest.mark.mpi
def test_the_depth_of_the_last_model_counts(engine, chain, depths, tmp_path):
    """Whatever model came before, on one rank and on two."""

    orders = [(1,), (2,), (3,), (2, 3), (3, 2), (1, 3), (3, 1, 2), (2, 1)]

    def job(*layers, ranks=2):
        before = CHAIN_RANKS if ranks == 2 else []
        pair = ["pair_style nequip"]
        lines = system(chain, ELEMENTS, "", "", folder=tmp_path, before=before, pair=pair)
        for count in layers:
            lines += [f"pair_coeff * * {depths[count]} {NAMES}", "run 0"]
        return {"commands": [*lines, *ZERO_STEPS]}

    single = engine.run([job(1, ranks=1), job(2, ranks=1), job(3, ranks=1)])
    energies = [result.energy for result in single]
    assert abs(energies[1] - energies[2]) > 1e-5
    for order, result in zip(orders, engine.run([job(*o) for o in orders], ranks=2), strict=True):
        assert result.error == ""
        right = single[order[-1] - 1]
        assert result.energy == pytest.approx(right.energy, abs=1e-9), order
        np.testing.assert_allclose(result.forces, right.forces, atol=1e-9, err_msg=str(order))


@pytest.mark.mpi
def test_a_new_model_without_a_new_setup_is_refused(engine, chain, depths, tmp_path):
    """`run N pre no` keeps the lists and ghosts of the old one."""
    lines = [
        *system(chain, ELEMENTS, "nequip", depths[2], folder=tmp_path),
        "fix 1 all nve",
        "run 2",
        f"pair_coeff * * {depths[3]} {NAMES}",
        "!refused run 2 pre no",
        "run 0",
    ]
    for ranks in (1, 2):
        result = engine.run([{"commands": lines}], ranks=ranks)[0]
        assert result.error == ""
        assert "run without the keyword pre no" in result.values["refused"][0]


# ---- commands that are refused ------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_a_refused_command_changes_nothing(ranks, engine, alloy_model, tmp_path):
    """The style goes on with the model and the settings that it had."""
    models = {style: alloy_model(style) for style in ("allegro", "nequip", "mace")}
    jobs = []
    for style, other in (("allegro", "mace"), ("nequip", "allegro"), ("mace", "nequip")):
        refused = [
            f"pair_coeff * * {models[other]} {NAMES}",
            f"pair_coeff * * {models[style]} Cu Pb",
            f"pair_coeff * * {models[style]} Cu",
            f"pair_coeff * * {models[style]} NULL NULL",
            f"pair_coeff * * {tmp_path}/missing.pth {NAMES}",
            "pair_coeff * *",
            f"pair_style {style} colour red",
            f"pair_style {style} device nonsense",
            f"pair_style {style} keep",
        ]
        lines = system(structures()["orthogonal"], ELEMENTS, style, models[style], folder=tmp_path)
        jobs.append({"commands": [*lines, *ZERO_STEPS]})
        lines = [*lines, "run 0", *(line for r in refused for line in (f"!refused {r}", "run 0"))]
        jobs.append({"commands": [*lines, *ZERO_STEPS]})
    results = engine.run(jobs, ranks=ranks)
    for before, after in zip(results[::2], results[1::2], strict=True):
        assert before.error == after.error == ""
        assert len(after.values["refused"]) == 9
        assert after.energy == before.energy
        np.testing.assert_array_equal(after.forces, before.forces)
        assert start_line(after.output) == start_line(before.output)


def test_a_style_whose_only_command_was_refused_does_not_run(engine, alloy_model, tmp_path):
    """Not with other settings than those asked for."""
    model = alloy_model("allegro")
    pair = ["!refused pair_style allegro colour red", f"pair_coeff * * {model} {NAMES}"]
    lines = system(structures()["orthogonal"], ELEMENTS, "", "", folder=tmp_path, pair=pair)
    again = ["!refused run 0", *pair_lines("allegro", model), "run 0"]
    never, mended, unmapped = engine.run(
        [
            {"commands": [*lines, "run 0"]},
            {"commands": [*lines, *again]},
            {"commands": [*lines[:-2], "pair_style allegro", f"!refused {pair[1]} Au", "run 0"]},
        ]
    )
    assert "pair_style command must be accepted, got one that was refused" in never.error
    assert mended.error == ""
    assert re.search("pair coeffs are not set", unmapped.error)


# ---- LAMMPS' ghost cutoff, which is also the user's ---------------------------------------------

# r_max 4 Å, 2 layers, skin 2 Å: the halo reaches 10 Å out; LAMMPS' own ghosts 6 Å.
RUNS = {
    "run": ["fix 1 all nve", "run 3"],
    "run twice": ["run 0", "run 0"],
    "changing box": ["fix 1 all npt temp 300 300 0.1 iso 0 0 1", "run 3"],
    "minimize": ["minimize 0 0 3 10"],
    "box/relax": ["fix 1 all box/relax iso 0.0", "minimize 0 0 3 10"],
    "fix balance": ["fix 1 all balance 1 1.0 shift x 5 1.0", "run 3"],
    "respa": ["fix 1 all nve", "run_style respa 2 2 pair 2", "run 3"],
    "dynamical_matrix": ["group one id 1", "dynamical_matrix one regular 1e-3 file /dev/null"],
    "refused": ["run 0", "!refused pair_coeff * * missing.pth Cu Au"],
    "pair_style none": ["run 0", "pair_style none", *LENNARD_JONES],
    "other style": ["run 0", *LENNARD_JONES, "run 0"],
}


@pytest.mark.mpi
def test_the_users_ghost_cutoff_stays(engine, chain, depths, tmp_path):
    """After every command, and in restart files written during a run and after it."""
    jobs = {}
    for user, name in product((0.0, 7.0, 10.0), RUNS):
        folder = tmp_path / f"{user}-{name.replace('/', ' ')}".replace(" ", "-")
        folder.mkdir()
        given = [f"comm_modify cutoff {user}"] if user else []
        before = [*CHAIN_RANKS, *given]
        lines = [
            *system(chain, ELEMENTS, "nequip", depths[2], folder=tmp_path, before=before),
            "neigh_modify every 1 delay 0 check no",
            f"restart 1 {folder}/r.*",
            *RUNS[name],
            "info comm",
            f"write_restart {folder}/end",
            "info comm",
            f"write_data {folder}/end.data",
            "info comm",
        ]
        jobs[user, name, folder] = {"commands": lines, "gather": False, "thermo": False}
    reading = {}
    for (user, name, folder), result in zip(
        jobs, engine.run([*jobs.values()], ranks=2), strict=True
    ):
        assert result.error == "", name
        assert cutoffs(result) == [max(user, 6.0)] * 3, name
        for file in (*folder.glob("r.*"), folder / "end"):
            lines = ["units metal", f"read_restart {file}", *LENNARD_JONES, "neighbor 1.0 bin"]
            lines += ["run 0", "info comm"]
            reading[file] = (max(user, 5.0), {"commands": lines, "gather": False, "thermo": False})
    assert len(reading) > 2 * len(jobs)
    results = engine.run([job for _, job in reading.values()])
    for (file, (right, _)), result in zip(reading.items(), results, strict=True):
        assert result.error == ""
        assert cutoffs(result) == [right], file


@pytest.mark.mpi
def test_the_users_ghost_cutoff_stays_behind_an_error_that_is_caught(
    engine, chain, depths, tmp_path
):
    """In a run and in its setup; LAMMPS goes on, and writes restart files."""
    twin = ["create_atoms 1 single 1.0 1.0 1.0"] * 2
    blast = [f"fix {n} all addforce 1e308 0 0" for n in (2, 3)]
    blast += ["fix 1 all nve", "timestep 1e3", "neigh_modify every 1000 delay 1000 check no"]
    jobs, reading = [], []
    for failing in ([*twin, "!refused run 0"], [*twin, "!refused minimize 0 0 3 9"], blast):
        lines = system(chain, ELEMENTS, "nequip", depths[2], folder=tmp_path, before=CHAIN_RANKS)
        if failing is blast:
            lines += [*blast, "!refused run 9", "info comm"]
        else:
            file = tmp_path / f"restart-{len(jobs)}"
            lines += [*failing, "info comm", "delete_atoms overlap 0.2 all all"]
            lines += [f"write_restart {file}", "info comm"]
            reading.append(["units metal", f"read_restart {file}", *LENNARD_JONES])
        jobs.append({"commands": lines, "gather": False, "thermo": False})
    for lines in reading:
        jobs.append({"commands": [*lines, "run 0", "info comm"], "gather": False, "thermo": False})
    for result in engine.run(jobs, ranks=2):
        assert result.error == ""
        assert set(cutoffs(result)) == {6.0}


@pytest.mark.mpi
def test_a_ghost_cutoff_given_between_runs_is_the_users(engine, chain, depths, tmp_path):
    """The halo's own value included."""
    lines = system(chain, ELEMENTS, "nequip", depths[2], folder=tmp_path, before=CHAIN_RANKS)
    values = (10.0, 8.0, 11.0, 10.0)
    for value in values:
        lines += ["run 0", f"comm_modify cutoff {value}", "run 0", "info comm"]
    result = engine.run([{"commands": [*lines, "pair_style none", "info comm"]}], ranks=2)[0]
    assert result.error == ""
    assert cutoffs(result) == [*values, values[-1]]


@pytest.mark.mpi
def test_hybrid_styles_of_different_depth_add_up(engine, chain, depths, alloy_model, tmp_path):
    """Each has the ghosts that it needs, the one with fewer layers named first or last."""
    mace = alloy_model("mace")

    def job(pair, ranks):
        before = CHAIN_RANKS if ranks == 2 else []
        lines = system(chain, ELEMENTS, "", "", folder=tmp_path, pair=pair, before=before)
        return {"commands": [*lines, *ZERO_STEPS, "info comm", *ZERO_STEPS[-1:], "info comm"]}

    nequip_part = f"pair_coeff * * nequip {depths[3]} {NAMES}"
    mace_part = f"pair_coeff * * mace {mace} {NAMES}"
    twice = [
        f"pair_coeff * * nequip 1 {depths[3]} {NAMES}",
        f"pair_coeff * * nequip 2 {depths[2]} {NAMES}",
    ]
    variants = [
        ["pair_style hybrid/overlay nequip mace", nequip_part, mace_part],
        ["pair_style hybrid/overlay mace nequip", mace_part, nequip_part],
        ["pair_style hybrid/overlay nequip nequip", *twice],
    ]
    pairs = [pair_lines("nequip", depths[3]), pair_lines("mace", mace)]
    pairs.append(pair_lines("nequip", depths[2]))
    three, other, two = engine.run([job(pair, 1) for pair in pairs])
    sums = [(three, other), (three, other), (three, two)]
    results = engine.run([job(pair, 2) for pair in variants], ranks=2)
    for (first, second), both in zip(sums, results, strict=True):
        assert both.error == ""
        assert both.energy == pytest.approx(first.energy + second.energy, abs=1e-9)
        np.testing.assert_allclose(both.forces, first.forces + second.forces, atol=1e-9)
        assert cutoffs(both) == [6.0, 6.0]


@pytest.mark.mpi
@pytest.mark.parametrize("style", ["nequip", "mace"])
def test_ghosts_reach_far_enough_while_the_box_changes(style, engine, alloy_model, tmp_path):
    """Two ranks follow the trajectory of one: LAMMPS sets up its communication in every step."""
    atoms = structures()["orthogonal"].repeat((2, 1, 1))
    lines = [
        *system(atoms, ELEMENTS, style, alloy_model(style), folder=tmp_path),
        "neigh_modify every 1 delay 0 check no",
        "velocity all create 300 4711",
        "fix 1 all npt temp 300 300 0.1 aniso 0 0 0.5",
        "fix 2 all balance 2 1.0 shift x 5 1.0",
        "run 8",
        *ZERO_STEPS,
    ]
    relax = [
        *system(atoms, ELEMENTS, style, alloy_model(style), folder=tmp_path),
        "fix 1 all box/relax aniso 0.0",
        "minimize 0 0 5 20",
        *ZERO_STEPS,
    ]
    jobs = [{"commands": lines}, {"commands": relax}]
    for one, two in zip(engine.run(jobs), engine.run(jobs, ranks=2), strict=True):
        assert one.error == two.error == ""
        assert two.energy == pytest.approx(one.energy, abs=1e-7)
        np.testing.assert_allclose(two.forces, one.forces, atol=1e-6)


@pytest.mark.mpi
def test_a_dynamical_matrix_needs_no_run(engine, chain, depths, tmp_path):
    """A command that evaluates forces by itself has the ghosts of the halo too."""
    matrices = []
    for ranks in (1, 2):
        file = tmp_path / f"matrix-{ranks}"
        lines = system(chain, ELEMENTS, "nequip", depths[3], folder=tmp_path)
        command = f"dynamical_matrix middle regular 1e-3 file {file}"
        job = {"commands": [*lines, "group middle id 12 13", command], "thermo": False}
        assert engine.run([job], ranks=ranks)[0].error == ""
        matrices.append(np.loadtxt(file))
    assert np.abs(matrices[0]).max() > 1e-4
    np.testing.assert_allclose(matrices[1], matrices[0], atol=1e-7)
