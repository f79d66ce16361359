"""Files of upstream's nequip-compile run in the same pair styles, with upstream's numbers."""

import json
import re

import numpy as np
import pytest
from engine import start_line, system
from structures import ELEMENTS, dimer, rattled, structures
from upstream import PAIR_CUTOFFS, aotinductor_package, build, compile_torchscript

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.benchmark.models import deployed_entry
from kan_md.model.reference import evaluate

pytestmark = pytest.mark.lammps

PRESSURE = [
    "compute eatom all pe/atom pair",
    "compute kansum all reduce sum c_eatom",
    "compute kanpress all pressure NULL pair",
    "thermo_style custom step pe vol c_kansum c_kanpress[*]",
    "run 0",
]
# Cutoffs by pair are part of one of the two, so that LAMMPS must read them from the file.
CHANGES = {"allegro": {"per_edge_type_cutoff": PAIR_CUTOFFS}, "nequip": {}}
# Of calculations with all electrons, in eV; the models' own part is a few eV.
LARGE = {"per_type_energy_shifts": {"Cu": -45054.0, "Au": -518277.0}}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    return {
        style: compile_torchscript(folder / f"{style}.nequip.pth", style, **changes)
        for style, changes in CHANGES.items()
    }


@pytest.fixture(scope="module")
def packaged():
    return {style: aotinductor_package(style, **LARGE) for style in CHANGES}


@pytest.fixture(scope="module")
def upstream_says():
    """Energies, forces and virial by upstream's eager model, each of which is built once."""
    built = {}

    def say(style, atoms, **changes):
        key = json.dumps([style, changes], sort_keys=True)
        with nequip_settings():
            if key not in built:
                built[key] = build(style, **changes)
            return evaluate(built[key], atoms)

    return say


def run(engine, folder, cases, files, *, lines=PRESSURE, before=(), **options):
    jobs = [
        {
            "commands": [
                *system(atoms, ELEMENTS, style, files[style], folder=folder, before=before),
                *lines,
            ],
            "computes": ["kanpress"] if lines is PRESSURE else [],
        }
        for style, atoms in cases
    ]
    return engine.run(jobs, **options)


def check(result, atoms, expected, *, loose=1.0):
    assert result.error == ""
    energy = 1e-8 * loose
    assert abs(result.energy - expected["energy"].item()) <= energy * len(atoms)
    np.testing.assert_allclose(result.atoms["eatom"], expected["atomic_energy"], atol=energy)
    np.testing.assert_allclose(result.forces, expected["forces"], atol=1e-7 * loose)
    scale = max(float(expected["virial"].abs().max()), 1e-6)
    np.testing.assert_allclose(result.virial, expected["virial"], atol=1e-6 * loose * scale)


@pytest.mark.parametrize(
    ("ranks", "before"),
    [
        pytest.param(1, [], id="one rank"),
        pytest.param(2, [], id="two ranks", marks=pytest.mark.mpi),
        pytest.param(2, ["newton off"], id="two ranks, newton off", marks=pytest.mark.mpi),
        pytest.param(4, ["processors 2 2 1"], id="four ranks", marks=pytest.mark.mpi),
    ],
)
def test_torchscript_file_has_upstreams_numbers(
    engine, scripted, upstream_says, tmp_path, ranks, before
):
    """Allegro on any number of ranks, one of them empty; NequIP on one."""
    chosen = structures()
    names = list(chosen) if ranks == 1 else ["triclinic", "slab", "cluster in a corner"]
    styles = CHANGES if ranks == 1 else ("allegro",)
    cases = [(style, chosen[name]) for style in styles for name in names]
    results = run(engine, tmp_path, cases, scripted, before=before, ranks=ranks)
    for (style, atoms), result in zip(cases, results, strict=True):
        check(result, atoms, upstream_says(style, atoms, **CHANGES[style]))
        assert "of nequip-compile" in result.output
        assert deployed_entry(str(scripted[style])).pair_style == style
    if ranks > 1:
        assert 0 in result.owned_by_rank


def test_atoms_on_one_another_stop_the_run(engine, scripted, packaged, tmp_path):
    atoms = rattled((2, 2, 1))
    atoms += atoms[2:3]
    for files in (scripted, packaged):
        for result in run(engine, tmp_path, [(style, atoms) for style in CHANGES], files):
            assert re.search("atom IDs 3 and 17 at a distance of 0 Å at step 0", result.error)


def test_cutoffs_by_pair_are_those_of_the_file(engine, scripted, tmp_path):
    """In the dimer of copper and gold only gold sees the other between 3.6 and 4 Å."""
    (result,) = run(engine, tmp_path, [("allegro", dimer(3.8))], scripted)
    assert start_line(result.output)[3] == 1


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_aotinductor_file_has_upstreams_numbers(engine, packaged, upstream_says, tmp_path, ranks):
    chosen = structures()
    names = ("triclinic", "own images", "cluster in a corner", "single atom", "dimer")
    styles = CHANGES if ranks == 1 else ("allegro",)
    cases = [(style, chosen[name]) for style in styles for name in names]
    results = run(engine, tmp_path, cases, packaged, ranks=ranks)
    for (style, atoms), result in zip(cases, results, strict=True):
        # See compile_aotinductor about Allegro.
        loose = 100.0 if style == "allegro" else 1.0
        check(result, atoms, upstream_says(style, atoms, **LARGE), loose=loose)


def test_the_style_of_a_file_does_not_depend_on_reference_energies(engine, tmp_path):
    """A change relative to the total energy would hide in them, above all in float32."""
    shifts = {"small": {}, "large": LARGE}
    files = {
        (style, size): compile_torchscript(
            tmp_path / f"{style}-{size}.nequip.pth", style, model_dtype="float32", **change
        )
        for style in CHANGES
        for size, change in shifts.items()
    }
    tried = [(style, size, used) for style, size in files for used in CHANGES]
    jobs = [
        system(rattled((2, 2, 2)), ELEMENTS, used, files[style, size], folder=tmp_path)
        for style, size, used in tried
    ]
    results = engine.run([{"commands": [*commands, "run 0"]} for commands in jobs])
    forces = {}
    for (style, size, used), result in zip(tried, results, strict=True):
        if used == style:
            assert result.error == ""
            forces[style, size] = result.forces
        else:
            assert f"{style} model; use pair_style {style}" in result.error
    for style in CHANGES:
        np.testing.assert_allclose(forces[style, "large"], forces[style, "small"], atol=1e-4)


def test_what_upstream_files_cannot_do_is_said(engine, scripted, packaged, tmp_path):
    """Which style a file is for is found out by trying: it does not say itself."""
    atoms = rattled((2, 1, 1))
    swapped = {"allegro": scripted["nequip"], "nequip": scripted["allegro"]}
    results = run(engine, tmp_path, [("allegro", atoms), ("nequip", atoms)], swapped)
    assert "this is a nequip model; use pair_style nequip" in results[0].error
    assert "this is an allegro model; use pair_style allegro" in results[1].error
    stress = ["compute s all stress/atom NULL pair", "compute m all reduce max c_s[1]",
              "thermo_style custom pe c_m", "run 0"]  # fmt: skip
    for files in (scripted, packaged):
        (result,) = run(engine, tmp_path, [("allegro", atoms)], files, lines=stress)
        assert re.search("per-atom virial needs a file of kan-md deploy", result.error)


@pytest.mark.mpi
def test_message_passing_of_upstream_on_two_ranks_names_the_remedy(engine, scripted, tmp_path):
    (result,) = run(engine, tmp_path, [("nequip", rattled((2, 2, 2)))], scripted, ranks=2)
    assert "file of nequip-compile runs on one rank, got 2 ranks; allowed: 1" in result.error
    assert "kan-md deploy" in result.error
