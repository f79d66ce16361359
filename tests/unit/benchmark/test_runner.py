"""Planning of steps and turns, without LAMMPS."""

import os
import subprocess
import sys

import pytest

from kan_md.benchmark.compare import Conditions, folder_of_runs, setup_commands
from kan_md.benchmark.job import Job, await_turn, give_turn, read_job, write_json
from kan_md.benchmark.runner import Plan
from kan_md.errors import KanMdError


@pytest.mark.parametrize(("steps", "blocks"), [(5000, 10), (7, 3), (3, 3), (10, 1)])
def test_blocks_share_all_steps_evenly(steps, blocks):
    sizes = Plan(steps=steps, blocks=blocks, warmup=0).block_sizes(1.0)
    assert sum(sizes) == steps
    assert len(sizes) == blocks
    assert max(sizes) - min(sizes) <= 1


def test_a_slow_model_runs_fewer_steps_but_some_in_every_block():
    plan = Plan(steps=5000, blocks=5, warmup=100, seconds=10.0)
    assert sum(plan.block_sizes(0.1)) == 100
    assert plan.block_sizes(100.0) == [2] * 5
    assert sum(plan.block_sizes(1e-4)) == 5000
    assert plan.warmup_left(4, 1e-3) == 96
    assert plan.warmup_left(4, 1.0) == 2
    assert plan.warmup_left(4, 100.0) == 0


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"ranks": 0}, {"temperature": -1.0}, {"steps": 5, "blocks": 6}]
)
def test_impossible_conditions_are_refused(wrong):
    with pytest.raises(KanMdError, match=next(iter(wrong))):
        Conditions(**wrong)


def test_the_input_is_nvt_at_the_given_temperature():
    conditions = Conditions(temperature=450, timestep=0.5, tether=2.0)
    lines = setup_commands(
        ["pair_style x"], "a.data", conditions=conditions, seed=7, periodicity=(True, True, False)
    )
    assert "fix integrate all nvt temp 450 450 0.05" in lines
    assert "timestep 0.0005" in lines
    assert "boundary p p m" in lines
    assert "fix tether all spring/self 2" in lines
    assert "velocity all create 450 7 mom yes rot no dist gaussian" in lines


def test_a_job_survives_its_file(tmp_path):
    job = Job(label="a", setup=["units metal"], r_max=5.0, options={"x": "y"})
    write_json(tmp_path / "job.json", job)
    assert read_job(tmp_path) == job
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_turns_carry_their_number_of_steps(tmp_path):
    give_turn(tmp_path, 0, 12)
    give_turn(tmp_path, 1, "stop")
    assert await_turn(tmp_path, 0, parent=os.getpid()) == 12
    assert await_turn(tmp_path, 1, parent=os.getpid()) is None


def test_a_worker_ends_when_its_benchmark_is_gone(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with pytest.raises(SystemExit, match="has ended"):
        await_turn(tmp_path, 0, parent=dead.pid)


def test_temporary_folder_stays_only_for_the_log_of_a_failed_run():
    with folder_of_runs(None) as folder:
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(KanMdError), folder_of_runs(None) as folder:
        raise KanMdError("the run stopped; see its log")
    assert folder.is_dir()
    folder.rmdir()
