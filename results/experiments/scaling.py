"""Message passing on several ranks: ``python -m results.experiments.scaling --output results``.

What decomposition costs: processor time of all ranks together for a step of NequIP and MACE on
diamond, features of ghosts exchanged or computed again. Writes scaling.md, scaling.json and
scaling.png, with a model of many ranks.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from kan_md import children
from kan_md.benchmark.machine import describe_machine, machine_line
from kan_md.benchmark.report import markdown_table, save_atomically
from kan_md.benchmark.runner import python_command
from kan_md.benchmark.store import check_folder
from kan_md.benchmark.structures import diamond, write_data
from kan_md.builds.toolchain import find_compiler
from kan_md.errors import KanMdError, user_error
from kan_md.figures import COLOURS, GREY, log_axis, new_figure, plain_axes, save_figure
from kan_md.lammps.run import lammps_environment, mpiexec
from kan_md.waiting import PATIENT_RANKS
from results.experiments.scaling_model import BANDWIDTH, LATENCY, fit_costs, step_seconds
from results.experiments.zoo import MACE, NEQUIP, READOUTS, Model, build

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANK = Path(__file__).with_name("scaling_rank.py")
SLEEP = Path(__file__).with_name("sleeping_ranks.cpp")
ARCHITECTURES = {"NequIP": NEQUIP, "MACE": MACE}
REPEATS = {512: (4, 4, 4), 4096: (8, 8, 8)}
"""Cubic cells of eight atoms, by number of atoms."""
HALOS = ("exchange", "recompute")
EXCHANGED = {
    "NequIP": (NEQUIP["num_layers"] - 1, 4 * NEQUIP["num_features"] * (NEQUIP["l_max"] + 1) ** 2),
    "MACE": (MACE["num_interactions"] - 1, 4 * (64 + 3 * 64)),
}
"""Exchanges of features in a step, with as many of gradients, and bytes of an atom in one."""
MODELLED = 262144
"""Atoms of the model of many ranks."""
MOST_RANKS = 1024
TARGET = 1.15
"""Largest wanted ratio of processor time to that of one rank."""

_START = re.compile(r"layout ([a-z ]+), (\d+) atoms, (\d+) ghosts, (\d+) edges, about (\d+) MB")


def sleeping_library(folder: Path) -> Path:
    """Compile what lets ranks sleep while they wait.

    Raises:
        KanMdError: there is no compiler, or it failed.
    """
    library = folder / "sleeping_ranks.so"
    folder.mkdir(parents=True, exist_ok=True)
    command = [find_compiler(), "-O2", "-shared", "-fPIC", "-o", str(library), str(SLEEP)]
    done = children.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise user_error(
            f"{SLEEP.name} must compile",
            found=" ".join(done.stdout.split())[-300:],
            allowed=None,
            remedy="name another compiler in the variable CXX",
        )
    return library


def measure(
    file: str,
    style: str,
    *,
    atoms: int,
    ranks: int,
    halo: str,
    folder: Path,
    blocks: int,
    sleep: Path,
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
        sleep: of :func:`sleeping_library`.

    Returns:
        ``ms`` of processor time per step summed over ranks, of all blocks in ``ms_of_blocks``, and
        what the style says at its start.

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
        env=PATIENT_RANKS | lammps_environment(threads=1, ranks=ranks) | {"LD_PRELOAD": str(sleep)},
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
        "ms_of_blocks": [1e3 * seconds / steps for seconds in of_blocks],
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
        "them; `recompute`: ghosts are computed, num_layers · r_max out. Ranks that wait "
        "sleep (sleeping_ranks.cpp). "
        f"Smallest of {stored['blocks']} blocks of steps. Ghosts and edges are sums over ranks, "
        "memory is per rank; sent: features and gradients of all ranks in a step, which follows "
        "from the ghosts and the width of the features.",
        "",
        "![processor time, and a model of many ranks](scaling.png)",
        "",
        f"Right: a model, not a measurement. Time of a step for {MODELLED:,} atoms from processor "
        "time per atom, per ghost and per rank, fitted to the rows below (`exchange`), and a "
        f"network of {1e6 * LATENCY:g} µs per message and {1e-9 * BANDWIDTH:g} GB/s per rank.",
        "",
        "Machine: " + machine_line(stored["machine"]),
        "",
    ]
    heads = ["atoms", "ranks", "halo", "ghosts", "edges", "MB", "sent MB", "CPU ms", "÷ one rank"]
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
            exchanges, row_bytes = EXCHANGED[name]
            sent = 2e-6 * exchanges * row_bytes * case["ghosts"] if said == "exchange" else 0.0
            times = [f"{sent:.1f}", f"{case['ms']:.1f}", ratio]
            rows.append([str(atoms), str(ranks), said, *counts, *times])
        lines += [f"## {name}", "", *markdown_table(heads, rows), ""]
    return "\n".join(lines)


def exchanging_cases(stored: dict, name: str) -> list[tuple[int, int, dict]]:
    """(atoms, ranks, case) of one model by size and number of ranks, without those recomputed."""
    keys = [(json.loads(key), case) for key, case in stored["cases"].items()]
    found = [(key[1], key[2], case) for key, case in keys if (key[0], key[3]) == (name, HALOS[0])]
    return sorted(found, key=lambda entry: entry[:2])


def save_scaling_figure(stored: dict, path: Path) -> None:
    """Processor time over one rank's, blocks as error bars; beside it the model of many ranks."""
    figure = new_figure(9.0, 3.6)
    measured, model = figure.subplots(1, 2)
    for axes in (measured, model):
        plain_axes(axes)
    for colour, name in zip(COLOURS, ARCHITECTURES, strict=False):
        entries = exchanging_cases(stored, name)
        for atoms, line in zip(REPEATS, ("-", "--"), strict=True):
            of_size = [(ranks, case) for size, ranks, case in entries if size == atoms]
            ones = [case["ms"] for ranks, case in of_size if ranks == 1]
            if not ones:
                continue
            ratios = [case["ms"] / ones[0] for _, case in of_size]
            above = [
                sorted(case["ms_of_blocks"])[len(case["ms_of_blocks"]) // 2] / ones[0] - ratio
                for (_, case), ratio in zip(of_size, ratios, strict=True)
            ]
            measured.errorbar(
                [ranks for ranks, _ in of_size],
                ratios,
                yerr=[[0.0] * len(above), above],
                color=colour,
                linestyle=line,
                marker="o",
                markersize=4,
                capsize=2,
                label=f"{name}, {atoms:,} atoms",
            )
        if entries:
            _draw_model(model, entries, name, colour)
    measured.axhline(TARGET, color=GREY, linestyle=":", label=f"wanted: {TARGET}")
    measured.set(xlabel="ranks", ylabel="processor time ÷ one rank's", ylim=(0, None))
    measured.set_title("Measured: smallest of blocks, bar to their median", fontsize=9)
    measured.legend(fontsize=8, frameon=False, loc="lower right")
    model.set(xlabel="ranks", ylabel="time of a step (ms)")
    model.set_title(f"MODEL, not measured: {MODELLED:,} atoms", fontsize=9)
    log_axis(model.xaxis, whole=True)
    log_axis(model.yaxis)
    if model.get_legend_handles_labels()[0]:
        model.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def _draw_model(axes: Axes, entries: list[tuple[int, int, dict]], name: str, colour: str) -> None:
    costs = fit_costs(
        [(atoms, ranks, case["ghosts"], 1e-3 * case["ms"]) for atoms, ranks, case in entries]
    )
    exchanges, row_bytes = EXCHANGED[name]
    cell = diamond((1, 1, 1))
    ranks = [2**k for k in range(MOST_RANKS.bit_length())]
    times = [
        1e3
        * step_seconds(
            costs,
            atoms=MODELLED,
            ranks=count,
            density=len(cell) / cell.get_volume(),
            cutoff=ARCHITECTURES[name]["r_max"],
            exchanges=exchanges,
            row_bytes=row_bytes,
        )
        for count in ranks
    ]
    axes.plot(ranks, times, color=colour, label=name)
    ideal = [times[0] / count for count in ranks]
    axes.plot(ranks, ideal, color=colour, linestyle=":", label=f"{name}, ideal")


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
    sleep = sleeping_library(given.work.resolve())
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
                        sleep=sleep,
                    )
                    console.print(f"{name}, {atoms} atoms, {ranks} ranks, {halo}: {case}")
                    stored["cases"][json.dumps([name, atoms, ranks, halo])] = case
    for file, text in (
        ("scaling.json", json.dumps(stored, indent=1)),
        ("scaling.md", page(stored)),
    ):
        save_atomically(given.output / file, lambda path, text=text: path.write_text(text + "\n"))
    save_scaling_figure(stored, given.output / "scaling.png")


if __name__ == "__main__":
    sys.exit(main())
