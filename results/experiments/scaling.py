"""Message passing on several ranks: ``python -m results.experiments.scaling --output results``.

What decomposition costs: processor time of all ranks together for a step of NequIP and MACE on
diamond, features of ghosts exchanged or computed again. Writes scaling.md and scaling.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kan_md import children
from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.runner import python_command
from kan_md.benchmark.store import check_folder
from kan_md.benchmark.structures import diamond, write_data
from kan_md.errors import KanMdError, user_error
from kan_md.lammps.run import lammps_environment, mpiexec
from kan_md.waiting import PATIENT_RANKS
from results.experiments.zoo import MACE, NEQUIP, READOUTS, Model, build

RANK = Path(__file__).with_name("scaling_rank.py")
ARCHITECTURES = {"NequIP": NEQUIP, "MACE": MACE}
REPEATS = {512: (4, 4, 4), 4096: (8, 8, 8)}
"""Cubic cells of eight atoms, by number of atoms."""
HALOS = ("exchange", "recompute")
TARGET = 1.15
"""Largest wanted ratio of processor time to that of one rank."""

_START = re.compile(r"layout ([a-z ]+), (\d+) atoms, (\d+) ghosts, (\d+) edges, about (\d+) MB")


def measure(
    file: str, style: str, *, atoms: int, ranks: int, halo: str, folder: Path, blocks: int
) -> dict:
    """Run one case.

    Args:
        file: deployed.
        style: pair style.
        atoms: one of :data:`REPEATS`.
        ranks: MPI ranks, one thread each.
        halo: keyword of the pair style.
        folder: scratch space of this case.
        blocks: of steps; the smallest time counts.

    Returns:
        ``ms`` of processor time per step summed over ranks, and what the style says at its start.

    Raises:
        KanMdError: LAMMPS failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("rank-*.json"):
        old.unlink()
    data, commands = folder / "cell.data", folder / "commands.txt"
    write_data(data, diamond(REPEATS[atoms]), ["C"])
    steps = max(2, 4096 // atoms)
    lines = [
        "units metal",
        "atom_style atomic",
        f"read_data {data}",
        f"pair_style {style} halo {halo}",
        f"pair_coeff * * {file} C",
        "velocity all create 300 4711",
        "neighbor 1.0 bin",
        "fix 1 all nve",
        "timestep 0.0005",
    ]
    commands.write_text("\n".join(lines) + "\n")
    program = python_command(RANK, commands, folder, "--blocks", blocks, "--steps", steps)
    done = children.run(
        [*(mpiexec(ranks) if ranks > 1 else []), *program],
        env=PATIENT_RANKS | lammps_environment(threads=1, ranks=ranks),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    files = [folder / f"rank-{rank}.json" for rank in range(ranks)]
    if done.returncode or not all(file.is_file() for file in files):
        raise user_error(
            f"LAMMPS on {ranks} ranks must end well",
            found=" ".join((done.stderr or done.stdout).split())[-300:],
            allowed=None,
            remedy=f"see {folder}",
        )
    by_rank = [json.loads(file.read_text()) for file in files]
    of_blocks = [sum(seconds) for seconds in zip(*by_rank, strict=True)]
    said = _START.search((folder / "log.lammps").read_text())
    assert said, "the pair style says what it does"
    return {
        "ms": 1e3 * min(of_blocks) / steps,
        "layout": said[1],
        "ghosts": int(said[3]),
        "edges": int(said[4]),
        "megabytes": int(said[5]),
    }


def page(stored: dict) -> str:
    """Text of scaling.md."""
    lines = [
        "# Message passing on several ranks",
        "",
        "NequIP and MACE of the front page (Gaussian KAN, float32) on diamond, a thread per rank: "
        "processor time of all ranks together for one step, neighbour lists and communication "
        "included, and its ratio to one rank's, which is 1 where nothing is computed twice "
        f"(wanted: at most {TARGET}). `exchange`: features of ghosts come from the ranks that own "
        "them; `recompute`: ghosts are computed, num_layers · r_max out. Ranks that wait sleep. "
        f"Smallest of {stored['blocks']} blocks of steps. Ghosts and edges are sums over ranks, "
        "memory is per rank.",
        "",
        "Machine: " + machine_line(stored["machine"]),
        "",
    ]
    heads = ["atoms", "ranks", "halo", "ghosts", "edges", "MB", "CPU ms", "÷ one rank"]
    for name in ARCHITECTURES:
        rows = []
        for key, case in stored["cases"].items():
            which, atoms, ranks, halo = json.loads(key)
            one = stored["cases"].get(json.dumps([which, atoms, 1, HALOS[0]]))
            if which != name or one is None:
                continue
            counts = [str(case[field]) for field in ("ghosts", "edges", "megabytes")]
            ratio = f"{case['ms'] / one['ms']:.2f}"
            said = halo if ranks > 1 else "–"
            rows.append([str(atoms), str(ranks), said, *counts, f"{case['ms']:.1f}", ratio])
        lines += [f"## {name}", "", *markdown_table(heads, rows), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(prog="python -m results.experiments.scaling")
    parser.add_argument("--output", type=Path, required=True, help="folder of the page")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="for models")
    parser.add_argument("--atoms", type=int, nargs="+", default=list(REPEATS), choices=REPEATS)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--halo", nargs="+", default=list(HALOS), choices=HALOS)
    parser.add_argument("--only", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--blocks", type=int, default=7)
    given = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        check_folder(given.output)
        _measure_all(given, console)
    except KanMdError as error:
        console.print(f"error: {error}", markup=False)
        return 2
    return 0


def _measure_all(given: argparse.Namespace, console: Console) -> None:
    stored = {"blocks": given.blocks, "machine": describe_machine(), "cases": {}}
    for name in given.only:
        config = ARCHITECTURES[name] | {"readout": READOUTS["KAN Gaussian"]}
        entry = build(Model(label=name, config=config, element="C"), given.work.resolve())
        for atoms in given.atoms:
            for ranks in given.ranks:
                for halo in given.halo if ranks > 1 else given.halo[:1]:
                    case = measure(
                        entry.pair_coeff,
                        config["backbone"],
                        atoms=atoms,
                        ranks=ranks,
                        halo=halo,
                        folder=given.work.resolve() / f"scaling-{name}-{atoms}-{ranks}-{halo}",
                        blocks=given.blocks,
                    )
                    console.print(f"{name}, {atoms} atoms, {ranks} ranks, {halo}: {case}")
                    stored["cases"][json.dumps([name, atoms, ranks, halo])] = case
    for file, text in (
        ("scaling.json", json.dumps(stored, indent=1)),
        ("scaling.md", page(stored)),
    ):
        save_atomically(given.output / file, lambda path, text=text: path.write_text(text + "\n"))


if __name__ == "__main__":
    sys.exit(main())
