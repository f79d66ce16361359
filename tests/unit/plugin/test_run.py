"""The environment in which LAMMPS runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kan_md.lammps import run
from kan_md.lammps.run import PATIENT_RANKS, lammps_environment


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(run, "num_cores", lambda: 2)
    for name in PATIENT_RANKS:
        monkeypatch.delenv(name, raising=False)


def test_ranks_poll_while_each_has_a_core():
    assert not PATIENT_RANKS.keys() & lammps_environment(ranks=2).keys()


def test_more_ranks_than_cores_do_not_poll():
    assert PATIENT_RANKS.items() <= lammps_environment(ranks=3).items()


def test_files_of_classical_potentials_are_found(monkeypatch):
    monkeypatch.delenv("LAMMPS_POTENTIALS", raising=False)
    assert (Path(lammps_environment()["LAMMPS_POTENTIALS"]) / "Ag_u3.eam").is_file()
    monkeypatch.setenv("LAMMPS_POTENTIALS", "/mine")
    assert lammps_environment()["LAMMPS_POTENTIALS"] == "/mine"


def test_what_the_user_set_stays(monkeypatch):
    (name, *_) = PATIENT_RANKS
    monkeypatch.setenv(name, "0")
    assert lammps_environment(ranks=3)[name] == "0"
