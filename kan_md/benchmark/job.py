"""What the parent asks of one LAMMPS process and what comes back, as JSON files in one folder.

A run is cut into blocks so that several models can be timed in turn (A B A B …) while each of them
follows one unbroken trajectory. The parent lets block k start by creating the file ``go-k`` with
the number of steps in it, or ``stop``; every rank polls for it, so a waiting process uses no CPU
worth measuring, and rank 0 answers with ``block-k.json``. Block 0 begins with the set-up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kan_md.files import write_text


@dataclass(frozen=True, kw_only=True)
class Job:
    """One LAMMPS process.

    Attributes:
        label: name of the model in tables.
        setup: LAMMPS commands from ``units`` to the integrator.
        r_max: Å, cutoff within which edges are counted; None leaves that to the pair style.
        options: for programs other than the LAMMPS worker, by name.
    """

    label: str
    setup: list[str]
    r_max: float | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one block took.

    Attributes:
        steps: number of steps.
        loop_time: s, LAMMPS' own loop time.
        step_times: s, [steps], differences of LAMMPS' loop clock between ends of steps.
        phases: s, LAMMPS' timing breakdown by section (mean over ranks).
        cpu_time: s, processor time of all threads of all ranks, also of those that wait.
    """

    steps: int
    loop_time: float
    step_times: list[float]
    phases: dict[str, float]
    cpu_time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one rank says at the end.

    Attributes:
        rank: MPI rank.
        ranks: number of them.
        num_atoms: atoms of the whole system.
        edges_per_atom: mean number of neighbours within the cutoff at the end of the run.
        temperature: K, at the end of the run.
        peak_rss: bytes, largest resident set of the process.
        device: bytes by name, device memory as the pair style and the driver tell it; empty on CPU.
        lammps_version: date of LAMMPS as a number.
    """

    rank: int
    ranks: int
    num_atoms: int
    edges_per_atom: float
    temperature: float
    peak_rss: int
    device: dict[str, int] = field(default_factory=dict)
    lammps_version: int = 0


POLL = 0.005  # s
STOP = "stop"
JOB_FILE = "job.json"
LOG_FILE = "log.lammps"
INPUT_FILE = "in.lammps"


def go_file(folder: Path, block: int) -> Path:
    """File whose appearance starts a block."""
    return folder / f"go-{block}"


def give_turn(folder: Path, block: int, what: int | str) -> None:
    """Let a block start: `what` is its number of steps, or ``stop``."""
    path = go_file(folder, block)
    write_text(path, str(what), durable=False)  # for a reader that waits, not for later


def await_turn(folder: Path, block: int, *, parent: int) -> int | None:
    """Sleep until a block may start; end when the process that would say so is gone.

    Returns:
        The number of steps, None for the end.
    """
    path = go_file(folder, block)
    while not path.exists():
        try:
            os.kill(parent, 0)  # signal 0 only asks whether the process is there
        except ProcessLookupError:
            sys.exit("the benchmark that started this run has ended")
        time.sleep(POLL)
    text = path.read_text()
    return None if text == STOP else int(text)


def block_file(folder: Path, block: int) -> Path:
    """File with the result of a block."""
    return folder / f"block-{block}.json"


def outcome_file(folder: Path, rank: int) -> Path:
    """File with the last words of a rank."""
    return folder / f"outcome-{rank}.json"


def write_json(path: Path, value: Any) -> None:
    """Write a dataclass or plain value so that a reader sees all of it or nothing."""
    data = asdict(value) if hasattr(value, "__dataclass_fields__") else value
    write_text(path, json.dumps(data), durable=False)


def read_job(folder: Path) -> Job:
    """Read the job of a folder."""
    return Job(**json.loads((folder / JOB_FILE).read_text()))


def read_block(folder: Path, block: int) -> Block | None:
    """Read the result of a block, None while it is not there."""
    path = block_file(folder, block)
    return Block(**json.loads(path.read_text())) if path.is_file() else None


def read_outcome(folder: Path, rank: int) -> Outcome:
    """Read the last words of a rank."""
    return Outcome(**json.loads(outcome_file(folder, rank).read_text()))
