"""The frames of a public set by part, the same ones as kan-md trains on, and files of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from kan_md.config.load import parse_config
from kan_md.files import write_text
from kan_md.train.learning import learning_of
from kan_md.train.structures import read_parts
from results.experiments.data_sets import DataSet
from results.experiments.search import READOUTS, configuration


def read_set(one: DataSet, folder: Path) -> dict[str, list[Atoms]]:
    """Frames with energies (eV) and forces (eV/Å) by part: train, val, test.

    Raises:
        KanMdError: a file is missing.
    """
    config = parse_config(configuration(READOUTS[0], one, 1, folder))
    learning = learning_of(config)
    return read_parts(
        config.data,
        config.task.targets,
        sort_out=lambda parts: learning.sort_out(parts, config.data, config.model.r_max),
    ).frames


def write_for_fitpod(frames: Sequence[Atoms], path: Path) -> None:
    """Write the extended XYZ that LAMMPS' ``fitpod`` reads: these keys, in this order."""
    lines = []
    for atoms in frames:
        cell = " ".join(f"{value:.10g}" for value in atoms.cell.array.ravel())
        energy = atoms.get_potential_energy()
        lines += [
            str(len(atoms)),
            f'Lattice="{cell}" energy={energy:.10f} stress="0 0 0 0 0 0 0 0 0" '
            'Properties=species:S:1:pos:R:3:forces:R:3 pbc="T T T"',
        ]
        for symbol, place, force in zip(
            atoms.get_chemical_symbols(), atoms.positions, atoms.get_forces(), strict=True
        ):
            lines.append(f"{symbol} " + " ".join(f"{value:.10f}" for value in (*place, *force)))
    write_text(path, "\n".join([*lines, ""]), make_folder=True)
