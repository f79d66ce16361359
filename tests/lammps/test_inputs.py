"""The ready inputs: each runs with a deployed model, and tells the truth of a known potential."""

import re
from importlib.resources import files

import numpy as np
import pytest

from kan_md.benchmark.models import baseline_entry
from kan_md.lammps.run import run_lammps

pytestmark = pytest.mark.lammps

INPUTS = files("kan_md_lammps_inputs")
SHORT = {
    "nvt_benchmark.in": {"steps": 3, "warmup": 2},
    "nve.in": {"steps": 4, "every": 2},
    "npt.in": {"steps": 100},
    "heat_flux.in": {"equilibrate": 2, "steps": 8, "sample": 2, "length": 4},
    "hybrid_zbl.in": {"steps": 3},
    "minimize.in": {"iterations": 3},
    "relax_box.in": {"iterations": 3},
    "slab.in": {"steps": 3},
    "dimer.in": {"points": 5, "r_max": 4.0},
    "restart.in": {"steps": 4},
    "melting.in": {"across": 3, "along": 6, "prepare": 4, "steps": 20, "every": 10, "save": 10},
}
OWN_TESTS = ("sio2_infrared",)  # inputs that need a model of another kind


def run(name, folder, *, check=True, **variables):
    arguments = ["-in", str(INPUTS / name), "-log", "none"]
    for key, value in variables.items():
        arguments += ["-var", key, str(value)]
    done = run_lammps(arguments, cwd=folder, threads=1)
    if check:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def run_eam(name, folder, **variables):
    """With LAMMPS' own silver potential instead of a model: quick, and known to be right."""
    file = baseline_entry("eam").pair_coeff.strip('"')
    return run(name, folder, style="eam", model=file, elements="", element="", **variables)


def numbers(pattern, text):
    found = re.search(pattern.replace("#", r"(-?[\d.]+(?:e[+-]\d+)?)"), text)
    assert found, text[-2000:]
    return [float(group) for group in found.groups()]


def test_every_input_is_tested():
    names = {f.name for f in INPUTS.iterdir() if f.name.endswith(".in")}
    assert {name for name in names if not name.startswith(OWN_TESTS)} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_input_runs_with_a_deployed_model(name, deployed, tmp_path):
    output = run(name, tmp_path, model=deployed("allegro"), style="allegro", **SHORT[name])
    assert "ERROR" not in output
    assert "Total wall time" in output


@pytest.mark.parametrize("name", SHORT)
def test_input_is_plain_text_with_a_purpose_and_an_example(name):
    text = (INPUTS / name).read_text()
    assert text.isascii()
    assert re.match(r"# \S.*[.:?]", text)
    assert f"kan-md lmp -in {name} -var model" in text


def test_a_structure_can_be_given(tmp_path):
    from kan_md.benchmark.structures import silver, write_data

    write_data(tmp_path / "my.data", silver((2, 2, 2), vacancies=0), ["Ag"])
    output = run_eam("nvt_benchmark.in", tmp_path, structure="my.data", steps=5, warmup=2)
    assert "for 5 steps with 32 atoms" in output


def test_nve_conserves_energy(tmp_path):
    (drift,) = numbers("energy drift: # eV/atom/ps", run_eam("nve.in", tmp_path, steps=2000))
    assert abs(drift) < 1e-5


def test_minimum_is_one(tmp_path):
    energy, force = numbers(
        "energy: # eV, largest force component: # eV", run_eam("minimize.in", tmp_path)
    )
    assert force < 1e-4
    # 71 atoms, -2.85 eV each (Foiles 1986), and the vacancy costs about one eV
    assert energy == pytest.approx(-2.85 * 71 + 1.0, abs=0.3)
    assert "71 atoms" in (tmp_path / "minimized.data").read_text()


def test_relaxed_pressure_is_minus_the_slope_of_the_energy(tmp_path):
    output = run_eam("relax_box.in", tmp_path)
    energy, volume, pressure = numbers(r"relaxed: # eV, # Ang\^3/atom, # bar", output)
    assert energy / 32 == pytest.approx(-2.85, abs=0.01)
    assert volume == pytest.approx(4.09**3 / 4, rel=1e-3)
    assert abs(pressure) < 1.0
    virial, slope = numbers("pressure: # bar from the virial, # bar from -dE/dV", output)
    assert virial == pytest.approx(slope, rel=2e-3)


def test_restart_continues_on_the_same_trajectory(tmp_path):
    direct, restarted = numbers(
        "final energy: # eV directly, # eV after the restart",
        run_eam("restart.in", tmp_path, steps=50),
    )
    assert restarted == direct


def test_dimer_curve_has_forces_that_are_its_slope(tmp_path):
    run_eam("dimer.in", tmp_path, points=400, r_max=5.5)
    r, energy, force = np.loadtxt(tmp_path / "dimer.dat").T
    slope = np.gradient(energy, r)
    np.testing.assert_allclose(force[2:-2], -slope[2:-2], atol=2e-3 * np.abs(force).max())
    assert energy[-1] == pytest.approx(0.0, abs=1e-3)


def test_slab_keeps_its_bottom_and_its_vacuum(tmp_path):
    output = run_eam("slab.in", tmp_path, steps=50)
    (held,) = numbers(r"(?s)# atoms in group fixed", output)
    assert held == 36  # two layers of 18


def test_heat_flux_gives_a_conductivity(tmp_path):
    output = run_eam("heat_flux.in", tmp_path, equilibrate=200, steps=400, sample=2, length=50)
    (kappa,) = numbers(r"thermal conductivity: # W/\(m K\)", output)
    assert np.isfinite(kappa)
    correlation = (tmp_path / "heat_flux.correlation").read_text().splitlines()
    first = next(line.split() for line in correlation if line[0] != "#" and len(line.split()) == 6)
    assert all(float(value) > 0 for value in first[3:])  # <J(0) J(0)> is a mean square


def test_zbl_acts_between_close_atoms_only(tmp_path):
    output = run_eam("hybrid_zbl.in", tmp_path, steps=300)
    energies = [
        float(line.split()[-1])
        for line in output.splitlines()
        if re.fullmatch(r"\s*\d+( +\S+){5}\s*", line)
    ]
    assert energies[0] == 0.0  # a crystal at rest is not touched
    assert energies[-1] > 0.0
