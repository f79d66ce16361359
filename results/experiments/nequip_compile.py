"""Runs upstream's nequip-compile on the model of a model.pth.

``python nequip_compile.py MODEL STRUCTURE OUTPUT`` (OUTPUT ends in .nequip.pt2) makes the file that
users of nequip have today: the same weights, compiled by AOTInductor for the CPU and LAMMPS.
nequip-compile itself does all of it; only its loader, which takes checkpoints of nequip-train, is
given the model of a model.pth. The file is for as many threads as this process has.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ase
import ase.io
import torch
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.nn.graph_model import GraphModel
from nequip.scripts import compile as nequip_compile

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.model.checkpoint import load_checkpoint

TARGETS = {"allegro": "pair_allegro", "nequip": "pair_nequip"}
"""What upstream's documentation says for LAMMPS, by backbone."""


def run_nequip_compile(model: GraphModel, atoms: ase.Atoms, output: Path, *, backbone: str) -> None:
    """Let nequip-compile write a file for LAMMPS on a CPU.

    Args:
        model: what it would load from a checkpoint, built within ``nequip_settings``.
        atoms: structure of realistic shape, as it would take from the training data.
        output: file to write.
        backbone: ``allegro`` or ``nequip``.
    """
    types = ChemicalSpeciesToAtomTypeMapper(list(model.type_names))
    neighbours = NeighborListTransform(r_max=float(model.metadata["r_max"]))
    data = AtomicDataDict.batched_from_list([neighbours(types(from_ase(atoms)))])
    nequip_compile.load_saved_model = lambda *_, **__: (model, data)
    options = ["--mode", "aotinductor", "--device", "cpu", "--target", TARGETS[backbone]]
    nequip_compile.main(["the model", str(output), *options])


def main(model: Path, structure: Path, output: Path) -> None:
    """Compile a file.

    Args:
        model: a model.pth of Allegro or NequIP.
        structure: in any format of ASE.
        output: file to write.
    """
    checkpoint = load_checkpoint(model)
    with nequip_settings():
        run_nequip_compile(
            checkpoint.build().eval(),
            ase.io.read(structure),
            output,
            backbone=checkpoint.backbone,
        )
    print(torch.get_num_threads())  # noqa: T201 - the program's output


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
