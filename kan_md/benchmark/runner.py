"""Starts LAMMPS processes and lets them take turns."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from kan_md.benchmark.job import (
    INPUT_FILE,
    JOB_FILE,
    LOG_FILE,
    Block,
    Job,
    Outcome,
    block_file,
    go_file,
    read_block,
    read_outcome,
    write_json,
)
from kan_md.benchmark.log import last_error
from kan_md.errors import KanMdError

LAMMPS_WORKER = "kan_md.benchmark.worker"
_POLL = 0.005  # s
_PATIENCE = 30.0  # s, for a process to end by itself
_OUTPUT = "output.txt"

Progress = Callable[[str, int], None]
"""Called with (label, steps done so far) after each block."""


class Process:
    """One LAMMPS run (on one or several ranks) that waits for its turn between blocks."""

    def __init__(self, job: Job, folder: Path, *, ranks: int, threads: int, program: str) -> None:
        self.job = job
        self.folder = folder
        self.ranks = ranks
        self.blocks: list[Block] = []
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder)
        write_json(folder / JOB_FILE, job)
        (folder / INPUT_FILE).write_text("\n".join([*job.setup, f"run {sum(job.blocks)}", ""]))
        self._output = (folder / _OUTPUT).open("w")
        self._child = subprocess.Popen(
            [
                *_launcher(ranks),
                *(sys.executable, "-m", program, str(folder.resolve()), str(os.getpid())),
            ],
            cwd=folder,
            env=_environment(threads),
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

    def run_block(self, number: int) -> Block:
        """Let block `number` run (0: set-up and warm-up) and wait for its end.

        Raises:
            KanMdError: the process ended; the message carries LAMMPS' own error line.
        """
        go_file(self.folder, number).touch()
        while (block := read_block(self.folder, number)) is None:
            if self._child.poll() is not None:
                # The answer may have been written just before the end.
                if block_file(self.folder, number).is_file():
                    continue
                raise self._failure()
            time.sleep(_POLL)
        if number > 0:
            self.blocks.append(block)
        return block

    def outcomes(self) -> list[Outcome]:
        """Wait for the end of the process and read what every rank says.

        Raises:
            KanMdError: the process failed after its last block.
        """
        if self._child.wait() != 0:
            raise self._failure()
        return [read_outcome(self.folder, rank) for rank in range(self.ranks)]

    def close(self) -> None:
        """End the process if it still runs."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._output.close()

    def _failure(self) -> KanMdError:
        log = self.folder / LOG_FILE
        logged = log.read_text(errors="replace") if log.exists() else ""
        printed = (self.folder / _OUTPUT).read_text(errors="replace")
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        reason = last_error(logged) or last_error(printed) or (lines[-1] if lines else "no output")
        return KanMdError(
            f"the run of {self.job.label} stopped with status {self._child.returncode}, "
            f"got: {reason}; see {log} and {self.folder / _OUTPUT}"
        )


def run_interleaved(
    jobs: Sequence[Job],
    folder: Path,
    *,
    ranks: int,
    threads: int,
    programs: Sequence[str | None] | None = None,
    progress: Progress | None = None,
) -> list[tuple[list[Block], list[Outcome]]]:
    """Run jobs side by side: one process each, block by block in turn (A B A B …).

    Only one process computes at any time. With a single block per job the processes run one after
    the other, so that only one of them is in memory.

    Args:
        jobs: with equal numbers of blocks.
        folder: gets one sub-folder per job.
        ranks: MPI ranks of each process.
        threads: OpenMP threads of each rank.
        programs: module to run per job, None for the LAMMPS worker.
        progress: told after each block.

    Returns:
        Per job its blocks and what each rank says at the end.

    Raises:
        KanMdError: a run failed.
    """
    programs = [program or LAMMPS_WORKER for program in programs or [None] * len(jobs)]
    folders = [folder / f"{number}-{_slug(job.label)}" for number, job in enumerate(jobs)]
    rounds = len(jobs[0].blocks)
    assert all(len(job.blocks) == rounds for job in jobs), "jobs take turns block by block"
    report = progress or (lambda label, steps: None)

    if rounds == 1:
        results = []
        for job, place, program in zip(jobs, folders, programs, strict=True):
            with Process(job, place, ranks=ranks, threads=threads, program=program) as process:
                process.run_block(0)
                process.run_block(1)
                report(job.label, sum(job.blocks))
                results.append((process.blocks, process.outcomes()))
        return results

    with ExitStack() as stack:
        processes = []
        for job, place, program in zip(jobs, folders, programs, strict=True):
            process = stack.enter_context(
                Process(job, place, ranks=ranks, threads=threads, program=program)
            )
            process.run_block(0)
            processes.append(process)
        for number in range(1, rounds + 1):
            for process in processes:
                process.run_block(number)
                report(process.job.label, sum(block.steps for block in process.blocks))
        return [(process.blocks, process.outcomes()) for process in processes]


def _launcher(ranks: int) -> list[str]:
    if ranks == 1:
        return []
    from kan_md.lammps.run import mpiexec

    return [*mpiexec(ranks)]


def _environment(threads: int) -> dict[str, str]:
    from kan_md.lammps.run import lammps_environment

    count = str(threads)
    return {
        **os.environ,
        **lammps_environment(),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
    }


def _clean(folder: Path) -> None:
    """Remove the answers of an earlier run, which the protocol would take for new ones."""
    for pattern in ("go-*", "block-*.json", "outcome-*.json", LOG_FILE):
        for path in folder.glob(pattern):
            path.unlink()


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label).strip("-").lower() or "model"
