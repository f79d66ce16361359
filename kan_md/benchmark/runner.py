"""Starts LAMMPS processes and lets them take turns."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from kan_md import children
from kan_md.benchmark.job import (
    INPUT_FILE,
    JOB_FILE,
    LOG_FILE,
    POLL,
    STOP,
    Block,
    Job,
    Outcome,
    block_file,
    give_turn,
    read_block,
    read_outcome,
    write_json,
)
from kan_md.benchmark.log import last_error, last_line
from kan_md.errors import KanMdError
from kan_md.files import write_text
from kan_md.lammps.run import lammps_environment, mpiexec

LAMMPS_WORKER = Path(__file__).with_name("worker.py")
_PROBE = 4  # steps: a compiled model specialises itself in the first two or three calls
_OUTPUT = "output.txt"

Progress = Callable[[str, int, int], None]
"""Called with (label, steps done so far, steps of the run) after each block."""


def python_command(program: Path, *arguments: object) -> list[str]:
    """Command that runs a Python file, whose folder stays off the path of imports."""
    return [sys.executable, "-P", str(program.resolve()), *map(str, arguments)]


class Process:
    """One LAMMPS run (on one or several ranks) that waits for its turn between blocks."""

    def __init__(self, job: Job, folder: Path, *, ranks: int, threads: int, program: Path) -> None:
        self.job = job
        self.folder = folder
        self.ranks = ranks
        self._number = 0
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder)
        write_json(folder / JOB_FILE, job)
        self._output = (folder / _OUTPUT).open("w")
        self._child = children.start(
            [
                *(mpiexec(ranks) if ranks > 1 else []),
                *python_command(program, folder.resolve(), os.getpid()),
            ],
            cwd=folder,
            env=lammps_environment(threads=threads, ranks=ranks),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # mpiexec passes a Ctrl-C on; as a group of its own it is ended by close() instead.
            start_new_session=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run_block(self, steps: int) -> Block:
        """Let the next block run and wait for its end; the first one begins with the set-up.

        Raises:
            KanMdError: the process ended; the message carries LAMMPS' own error line.
        """
        give_turn(self.folder, self._number, steps)
        while (block := read_block(self.folder, self._number)) is None:
            if self._child.poll() is not None:
                # The answer may have been written just before the end.
                if block_file(self.folder, self._number).is_file():
                    continue
                raise self._failure()
            time.sleep(POLL)
        self._number += 1
        return block

    def outcomes(self) -> list[Outcome]:
        """End the run and read what every rank says.

        Raises:
            KanMdError: the process failed after its last block.
        """
        give_turn(self.folder, self._number, STOP)
        if self._child.wait() != 0:
            raise self._failure()
        return [read_outcome(self.folder, rank) for rank in range(self.ranks)]

    def close(self) -> None:
        """End the process if it still runs."""
        children.end(self._child, group=True)
        self._output.close()

    def _failure(self) -> KanMdError:
        log = self.folder / LOG_FILE
        logged = log.read_text(errors="replace") if log.exists() else ""
        printed = (self.folder / _OUTPUT).read_text(errors="replace")
        reason = last_error(logged) or last_error(printed) or last_line(printed) or "no output"
        return KanMdError(
            f"the run of {self.job.label} stopped with status {self._child.returncode}, "
            f"got: {reason}; see {log} and {self.folder / _OUTPUT}"
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many steps are run, and in what turns.

    Attributes:
        steps: timed steps of each job.
        blocks: turns that they are cut into.
        warmup: steps before, not counted.
        seconds: limit of the timed part of a job, so that slow models run fewer steps; None: no
            limit. The warm-up then takes at most a fifth of it.
    """

    steps: int
    blocks: int
    warmup: int
    seconds: float | None = None

    def block_sizes(self, step_time: float) -> list[int]:
        """Timed steps of each block for a model that needs `step_time` s; at least 2."""
        total = self.steps
        if self.seconds is not None:
            total = min(total, max(2 * self.blocks, int(self.seconds / step_time)))
        share, rest = divmod(total, self.blocks)
        return [share + (number < rest) for number in range(self.blocks)]

    def warmup_left(self, done: int, step_time: float) -> int:
        """Warm-up steps still to run when `done` have shown that a step takes `step_time` s."""
        left = max(0, self.warmup - done)
        return left if self.seconds is None else min(left, int(0.2 * self.seconds / step_time))


@dataclass(frozen=True)
class Result:
    """Timed blocks of a job, and what each rank says at the end."""

    blocks: list[Block]
    outcomes: list[Outcome]


def run_interleaved(
    jobs: Sequence[Job],
    folder: Path,
    *,
    plan: Plan,
    ranks: int = 1,
    threads: int = 1,
    programs: Sequence[Path | None] | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Run jobs side by side: one process each, block by block in turn (A B A B …).

    Only one process computes at any time. With a single block per job the processes run one after
    the other, so that only one of them is in memory.

    Args:
        jobs: with different labels.
        folder: gets one sub-folder per job.
        plan: steps and blocks.
        ranks: MPI ranks of each process.
        threads: OpenMP threads of each rank.
        programs: Python file to run per job, None for the LAMMPS worker.
        progress: told after each block.

    Returns:
        One result per job.

    Raises:
        KanMdError: a run failed.
    """
    programs = [program or LAMMPS_WORKER for program in programs or [None] * len(jobs)]
    report = progress or (lambda label, done, total: None)
    tasks = [
        (job, folder / f"{number}-{_slug(job.label)}", program)
        for number, (job, program) in enumerate(zip(jobs, programs, strict=True))
    ]
    groups = [[task] for task in tasks] if plan.blocks == 1 else [tasks]
    results = []
    for group in groups:
        with ExitStack() as stack:
            runs = []
            for job, place, program in group:
                process = stack.enter_context(
                    Process(job, place, ranks=ranks, threads=threads, program=program)
                )
                # For the user: the same run by hand, with `kan-md lmp -in`.
                write_text(place / INPUT_FILE, "\n".join([*job.setup, f"run {plan.steps}", ""]))
                sizes = _warm_up(process, plan)
                report(job.label, 0, sum(sizes))
                runs.append((process, sizes, []))
            for number in range(plan.blocks):
                for process, sizes, blocks in runs:
                    blocks.append(process.run_block(sizes[number]))
                    report(process.job.label, sum(b.steps for b in blocks), sum(sizes))
            results += [Result(blocks, process.outcomes()) for process, _, blocks in runs]
    return results


def _warm_up(process: Process, plan: Plan) -> list[int]:
    """Run the steps that are not counted; returns the sizes of the timed blocks."""
    probe = min(plan.warmup, _PROBE)
    times = process.run_block(probe).step_times
    left = plan.warmup_left(probe, times[-1]) if times else 0
    if left > 0:
        times = process.run_block(left).step_times
    return plan.block_sizes(median(times) if times else 1.0)


def _clean(folder: Path) -> None:
    """Remove the answers of an earlier run, which the protocol would take for new ones."""
    for pattern in ("go-*", "block-*.json", "outcome-*.json", LOG_FILE):
        for path in folder.glob(pattern):
            path.unlink()


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label).strip("-").lower() or "model"
