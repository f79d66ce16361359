"""The infrared example: the current that LAMMPS logs is the sum of charges times velocities."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from kan_md.backbones import build_model
from kan_md.benchmark.models import baseline_entry
from kan_md.cli.main import main
from kan_md.evaluate.infrared import read_current
from kan_md.lammps.run import run_lammps
from kan_md.model.checkpoint import Checkpoint, save_checkpoint
from kan_md.tasks.tensor import TensorTask
from kan_md_deploy import deploy, load_deployed

pytestmark = pytest.mark.lammps

INPUT = files("kan_md_lammps_inputs") / "sio2_infrared.in"
STEPS, EVERY = 80, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Born-charge model of Si and O with random weights around +3.6 and -1.8 e."""
    names = ["Si", "O"]
    arguments = {
        "seed": 5,
        "model_dtype": "float64",
        "type_names": names,
        "r_max": 3.0,
        "triplet_r_max": 2.2,
        "num_layers": 1,
        "num_features": 8,
        "num_triplet_features": 4,
        "num_radial": 4,
        "num_angular": 3,
        "avg_num_neighbors": 10.0,
        "type_shifts": {"bec": [3.6, -1.8]},
        "tensors": [{"name": "bec"}],
    }
    network = build_model("etgnn", **arguments).eval()
    crystal = bulk("SiO", "zincblende", a=4.4, cubic=True)
    crystal.rattle(0.05, seed=1)
    path = save_checkpoint(
        Checkpoint(
            backbone="etgnn",
            config={"model": arguments},
            type_names=names,
            r_max=3.0,
            state_dict=network.state_dict(),
            reference_frames=TensorTask.of_arguments(arguments).reference_frames(
                network, [crystal]
            ),
        ),
        tmp_path_factory.mktemp("born") / "model.pth",
    )
    return deploy(path)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Path:
    """Folder of a short run; the last configuration is in final.data."""
    folder = tmp_path_factory.mktemp("infrared")
    text = INPUT.read_text() + "\nwrite_dump all custom final.dump id type x y z vx vy vz &\n"
    text += "  modify sort id format float %.17g\nprint 'box $(lx:%.17g) $(ly:%.17g) $(lz:%.17g)'\n"
    (folder / "short.in").write_text(text)
    potentials = Path(baseline_entry("eam").pair_coeff.strip('"')).parent
    variables = {
        "model": model,
        "potential": potentials / "SiO.1990.vashishta",
        "equilibrate": 20,
        "steps": STEPS,
        "every": EVERY,
    }
    arguments = ["-in", "short.in", "-log", "log.lammps"]
    for key, value in variables.items():
        arguments += ["-var", key, str(value)]
    done = run_lammps(arguments, cwd=folder, threads=1)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_current_is_the_sum_of_charges_times_velocities(run, model):
    current = read_current(run / "current.dat")
    assert len(current.values) == STEPS // EVERY + 1
    assert current.step == pytest.approx(EVERY * 1e-3)
    rows = np.loadtxt(run / "final.dump", skiprows=9)
    box = next(line for line in (run / "log.lammps").read_text().splitlines() if "box " in line[:4])
    symbols = ["Si" if kind == 1 else "O" for kind in rows[:, 1]]
    atoms = Atoms(symbols, rows[:, 2:5], cell=[float(x) for x in box.split()[1:4]], pbc=True)
    charges = load_deployed(model).predict(atoms)["bec"].reshape(-1, 3, 3)
    expected = np.einsum("aij,aj->i", charges, rows[:, 5:8])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(current.values[-1], expected, rtol=0, atol=1e-7)
    # bec[3*i + j]: the field's axis first. The other order is another current.
    wrong = np.einsum("aji,aj->i", charges, rows[:, 5:8])
    assert np.abs(wrong - expected).max() > 1e-4


def test_current_becomes_a_spectrum(run, capsys, tmp_path):
    figure = tmp_path / "infrared.png"
    with pytest.raises(SystemExit) as status:
        main(["infrared", str(run / "current.dat"), "-o", str(figure)])
    assert status.value.code == 0
    assert "peaks at" in capsys.readouterr().out
    spectrum = np.loadtxt(figure.with_suffix(".csv"), delimiter=",", skiprows=1)
    assert (spectrum[:, 1] >= 0).all()
    assert figure.stat().st_size > 1000
