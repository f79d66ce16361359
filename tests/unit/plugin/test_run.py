"""The environment in which LAMMPS runs, and what the command line makes of its arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kan_md import waiting
from kan_md.cli.lmp import take_ranks
from kan_md.cli.main import main
from kan_md.errors import KanMdError
from kan_md.lammps import run
from kan_md.lammps.ranks import launcher, without_other_launchers
from kan_md.lammps.run import lammps_environment
from kan_md.waiting import PATIENT_RANKS, PATIENT_THREADS

running_threads = waiting._running_threads
MPI_VARIABLES = ("PMI_", "PMIX_", "OMPI_", "SLURM_", "MPI_LOCAL")


@pytest.fixture(autouse=True)
def two_free_cores(monkeypatch):
    monkeypatch.setattr(waiting, "num_cores", lambda: 2)
    monkeypatch.setattr(waiting, "_running_threads", lambda: 1)
    for name in list(os.environ):
        if name in (PATIENT_RANKS | PATIENT_THREADS) or name.startswith(MPI_VARIABLES):
            monkeypatch.delenv(name)


def test_ranks_and_threads_poll_while_each_has_a_core():
    assert not PATIENT_RANKS.keys() & lammps_environment(ranks=2, threads=1).keys()
    assert not PATIENT_THREADS.keys() & lammps_environment(threads=2).keys()


def test_more_ranks_than_cores_do_not_poll():
    assert PATIENT_RANKS.items() <= lammps_environment(ranks=3, threads=1).items()


def test_more_threads_than_cores_sleep_while_they_wait():
    environment = lammps_environment(threads=3)
    assert PATIENT_THREADS.items() <= environment.items()
    assert not PATIENT_RANKS.keys() & environment.keys()


def test_threads_of_all_ranks_count(monkeypatch):
    both = PATIENT_RANKS | PATIENT_THREADS
    assert both.items() <= lammps_environment(ranks=2, threads=2).items()
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert both.items() <= lammps_environment(ranks=2).items()


def test_a_core_that_others_use_is_not_free(monkeypatch):
    monkeypatch.setattr(waiting.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(waiting, "_running_threads", lambda: 2)  # this process and a busy one
    assert PATIENT_THREADS.items() <= lammps_environment(threads=2).items()
    assert PATIENT_RANKS.items() <= lammps_environment(ranks=2, threads=1).items()
    assert not PATIENT_THREADS.keys() & lammps_environment(threads=1).keys()
    monkeypatch.setattr(waiting.os, "cpu_count", lambda: 64)  # of which this process may use two
    assert not PATIENT_THREADS.keys() & lammps_environment(threads=2).keys()


def test_ranks_that_start_beside_this_one_are_not_others(monkeypatch):
    monkeypatch.setattr(waiting.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(waiting, "_running_threads", lambda: 2)
    for name in ("PMI_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.setenv(name, "2")
    assert not PATIENT_RANKS.keys() & lammps_environment(threads=1).keys()
    monkeypatch.setattr(waiting, "_running_threads", lambda: 3)
    assert PATIENT_RANKS.items() <= lammps_environment(threads=1).items()


def test_programs_that_compute_are_counted():
    code = "while True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    try:
        end = time.monotonic() + 30
        while running_threads() < 4 and time.monotonic() < end:
            time.sleep(0.05)
        assert running_threads() >= 4  # this process too
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_files_of_classical_potentials_are_found(monkeypatch):
    monkeypatch.delenv("LAMMPS_POTENTIALS", raising=False)
    assert (Path(lammps_environment()["LAMMPS_POTENTIALS"]) / "Ag_u3.eam").is_file()
    monkeypatch.setenv("LAMMPS_POTENTIALS", "/mine")
    assert lammps_environment()["LAMMPS_POTENTIALS"] == "/mine"


def test_what_the_user_set_stays(monkeypatch):
    (name, *_) = PATIENT_RANKS
    monkeypatch.setenv(name, "0")
    assert lammps_environment(ranks=3)[name] == "0"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_how_the_user_lets_threads_wait_stays(name, monkeypatch):
    monkeypatch.setenv(name, "200")
    environment = lammps_environment(threads=3)
    assert environment[name] == "200"
    assert not (PATIENT_THREADS.keys() - {name}) & environment.keys()


@pytest.mark.parametrize(
    ("given", "rest", "ranks"),
    [
        ("-in a.in", "-in a.in", None),
        ("-n 2 -in a.in", "-in a.in", 2),
        ("-in a.in -n 2", "-in a.in", 2),
        ("-in a.in -np 3 -log none", "-in a.in -log none", 3),
        ("-nocite -nb -in a -n 1", "-nocite -nb -in a", 1),
        ("-var n 2 -var np 4", "-var n 2 -var np 4", None),
        ("-n 2 -np 2 -partition 2x1", "-partition 2x1", 2),
    ],
)
def test_number_of_ranks_is_taken_from_anywhere(given, rest, ranks):
    assert take_ranks(given.split()) == (rest.split(), ranks)


@pytest.mark.parametrize("given", ["-n 0", "-np -1", "-n", "-np -in a.in", "-n 2.5", "-n ²"])
def test_ranks_that_are_no_number_are_refused(given):
    with pytest.raises(KanMdError, match="allowed: 1 or more MPI ranks"):
        take_ranks(given.split())


def test_two_numbers_of_ranks_are_refused(capsys):
    with pytest.raises(KanMdError, match="got -n 2 and -n 4"):
        take_ranks(["-n", "4", "-in", "a.in", "-np", "2"])
    with pytest.raises(SystemExit):
        main(["lmp", "--ranks", "3", "-n", "2"])
    assert "got --ranks 3 and -n 2" in capsys.readouterr().err


@pytest.fixture
def become(monkeypatch):
    """Runs ``kan-md lmp`` up to where it becomes another program; returns command and status."""
    seen = []

    def execve(path, command, environment):
        seen.append((command, environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)

    def call(*arguments):
        seen.clear()
        with pytest.raises(SystemExit) as end:
            main(["lmp", *arguments])
        return (*seen[0], end.value.code) if seen else (None, None, end.value.code)

    # In this process the settings for a new program would stay.
    monkeypatch.setattr(run.signal, "signal", lambda number, handler: None)
    return call


def test_lmp_becomes_lammps_or_its_launcher(become):
    command, environment, _ = become("-in", "a.in", "-nocite")
    assert Path(command[0]).name == "lmp"
    assert command[1:] == ["-in", "a.in", "-nocite"]
    command, environment, _ = become("-in", "a.in", "-np", "2", "--threads", "3")
    assert Path(command[0]).name == "mpiexec"
    assert command[1:3] == ["-n", "2"]
    assert command[4:] == ["-in", "a.in"]
    assert environment["OMP_NUM_THREADS"] == "3"


LAUNCHERS = {
    "mpiexec": {"PMI_FD": "7", "PMI_RANK": "{rank}", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"},
    "srun --mpi=pmi2": {
        "PMI_FD": "7",
        "PMI_RANK": "{rank}",
        "PMI_SIZE": "2",
        "SLURM_PROCID": "{rank}",
        "SLURM_STEP_NUM_TASKS": "2",
    },
}
STRANGERS = {
    "srun": {"SLURM_PROCID": "{rank}", "SLURM_STEP_NUM_TASKS": "2", "PMIX_NAMESPACE": "slurm.1"},
    "Open MPI's mpiexec": {
        "OMPI_COMM_WORLD_RANK": "{rank}",
        "OMPI_COMM_WORLD_SIZE": "2",
        "PMIX_RANK": "{rank}",
    },
}


def start_under(variables, monkeypatch, rank=0):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(rank=rank))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_rank_of_a_launcher_becomes_lammps_with_the_launchers_variables(
    name, become, monkeypatch
):
    start_under(LAUNCHERS[name], monkeypatch, rank=1)
    command, environment, _ = become("-in", "a.in")
    assert Path(command[0]).name == "lmp"
    assert environment["PMI_FD"] == "7"
    assert environment["PMI_RANK"] == "1"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ranks_beside_those_of_a_launcher_are_one_line_for_all(name, become, monkeypatch, capsys):
    for rank, lines in ((0, 1), (1, 0)):
        start_under(LAUNCHERS[name], monkeypatch, rank=rank)
        command, _, status = become("-n", "2", "-in", "a.in")
        said = capsys.readouterr().err.splitlines()
        assert (command, status, len(said)) == (None, 2, lines)
        assert all("got both: 2 and the 2 of mpiexec" in line for line in said)


@pytest.mark.parametrize("name", STRANGERS)
def test_ranks_of_another_mpi_are_refused_before_each_runs_alone(name, become, monkeypatch, capsys):
    start_under(STRANGERS[name], monkeypatch)
    command, _, status = become("-in", "a.in")
    assert (command, status) == (None, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"got 2 processes of {name}" in line
    assert "run: kan-md lmp -n 2" in line
    assert ("srun --mpi=pmi2" in line) == (name == "srun")


def test_a_single_task_of_another_mpi_is_no_rank(become, monkeypatch):
    """An interactive shell, or the script of a job."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("PMIX_NAMESPACE", "slurm.1")
    assert launcher() is None
    command, environment, _ = become("-n", "2", "-in", "a.in")
    assert Path(command[0]).name == "mpiexec"
    assert "PMIX_NAMESPACE" not in environment


def test_ranks_of_a_machine_are_counted_from_slurms_list():
    found = launcher(
        {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    )
    assert (found.rank, found.size, found.local_size) == (5, 8, 4)
    assert without_other_launchers({"PMIX_RANK": "1", "PMI_RANK": "1"}) == {"PMI_RANK": "1"}


def test_signals_that_python_ignores_do_not_stay_ignored(monkeypatch):
    """`kan-md lmp ... | head` must end as `lmp ... | head` does."""
    settings = {}
    monkeypatch.setattr(run.signal, "signal", settings.__setitem__)
    monkeypatch.setattr(os, "execve", lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    with pytest.raises(SystemExit):
        run.become_lammps(["-h"])
    assert settings[signal.SIGPIPE] == settings[signal.SIGXFSZ] == signal.SIG_DFL
