"""Reading LAMMPS' own words; the excerpts are from logs of LAMMPS 22 Jul 2025."""

import pytest

from kan_md.benchmark.log import last_error, last_line, read_breakdown

LOG = """\
Loop time of 0.5 on 2 procs for 10 steps with 71 atoms

MPI task timing breakdown:
Section |  min time  |  avg time  |  max time  |%varavg| %total
---------------------------------------------------------------
Pair    | 0.4        | 0.4        | 0.4        |   0.0 | 80.00

run 300
Loop time of 0.0192589 on 2 procs for 300 steps with 71 atoms

Performance: 1345.874 ns/day, 0.018 hours/ns, 15577.240 timesteps/s, 1.106 Matom-step/s
90.0% CPU use with 2 MPI tasks x 1 OpenMP threads

MPI task timing breakdown:
Section |  min time  |  avg time  |  max time  |%varavg| %total
---------------------------------------------------------------
Pair    | 0.014359   | 0.014387   | 0.014415   |   0.0 | 74.70
Neigh   | 0          | 0          | 0          |   0.0 |  0.00
Comm    | 0.0039636  | 0.0040346  | 0.0041057  |   0.1 | 20.95
Output  | 2.5476e-05 | 2.668e-05  | 2.7884e-05 |   0.0 |  0.14
Modify  | 0.00052094 | 0.00055579 | 0.00059064 |   0.0 |  2.89
Other   |            | 0.0002549  |            |       |  1.32

Nlocal:           35.5 ave          38 max          33 min
"""


def test_the_last_run_of_a_log_is_read():
    found = read_breakdown(LOG)
    assert (found.loop_time, found.steps) == (0.0192589, 300)
    assert found.phases["Pair"] == 0.014387
    assert sum(found.phases.values()) == pytest.approx(found.loop_time, rel=1e-4)


def test_processor_time_is_of_all_ranks():
    """LAMMPS gives the mean over ranks as a share of the loop time."""
    assert read_breakdown(LOG).cpu_time == pytest.approx(2 * 0.90 * 0.0192589)


def test_processor_time_of_threads_counts_once():
    """Two threads of one rank: the loop's line says 2 procs, the use is of both threads."""
    log = LOG.replace("90.0% CPU use with 2 MPI tasks x 1", "180.0% CPU use with 1 MPI tasks x 2")
    assert read_breakdown(log).cpu_time == pytest.approx(1.80 * 0.0192589)


def test_a_log_without_a_finished_run_is_refused():
    with pytest.raises(ValueError, match="Loop time"):
        read_breakdown("run 300\nSetting up Verlet run ...\n")


def test_the_last_error_is_found_and_nothing_else():
    text = (
        "WARNING: no ERROR here\nERROR: first (src/a.cpp:1)\nERROR on proc 1: second (src/b.cpp)\n"
    )
    assert last_error(text) == "ERROR on proc 1: second (src/b.cpp)"
    assert last_error("all is well") is None


def test_the_last_line_is_not_a_blank_one():
    assert last_line("a\nb\n\n  \n") == "b"
    assert last_line("\n") == ""
