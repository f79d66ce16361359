"""Times mace-torch's own forms of a MACE model, float32.

``python mace_torch.py FOLDER PARENT_PID`` is a child program of the benchmark, see
:mod:`kan_md.benchmark.job`. One step is energy and forces of one structure by

- ``calculator``: mace-torch's ASE calculator as its users have it, neighbour list included;
- ``compiled``: the same with ``compile_mode="default"`` (torch.compile);
- ``scripted``: what ``mace_create_lammps_model`` makes (LAMMPS_MACE, scripted), frozen, with a
  neighbour list that is ready: nothing but the model is counted.

The atoms of the first two move at random from step to step, as no calculator computes twice what it
has; the integrator is not counted in any of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch

from kan_md.backbones.mace import import_mace
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.benchmark.job import (
    Block,
    Outcome,
    await_turn,
    block_file,
    outcome_file,
    read_job,
    write_json,
)
from kan_md.benchmark.worker import peak_rss

DISPLACEMENT = 0.05
"""Å, about the thermal displacement in diamond at 300 K."""

_NOT_MACE = ("backbone", "readout", "per_type_energy_scales", "per_type_energy_shifts")


def main(folder: Path, parent: int) -> None:
    """Run the job of a folder.

    Args:
        folder: holds ``job.json`` with the options ``structure`` (file), ``form``, and either
            ``config`` (JSON, as for ``kan-md init``) or ``file`` (of mace-torch).
        parent: process id of the benchmark.
    """
    options = read_job(folder).options
    atoms = ase.io.read(options["structure"])
    number = 0
    while (steps := await_turn(folder, number, parent=parent)) is not None:
        if number == 0:
            model, inputs = prepare(atoms, options)
            num_edges = inputs["edge_index"].shape[1]
            step = FORMS[options["form"]](model, atoms, inputs)
        start = time.process_time()
        times = [step() for _ in range(steps)]
        block = Block(
            steps=steps,
            loop_time=sum(times),
            step_times=times,
            phases={"Pair": sum(times)},
            cpu_time=time.process_time() - start,
        )
        write_json(block_file(folder, number), block)
        number += 1
    outcome = Outcome(
        rank=0,
        ranks=1,
        num_atoms=len(atoms),
        edges_per_atom=num_edges / len(atoms),
        temperature=0.0,
        peak_rss=peak_rss(),
    )
    write_json(outcome_file(folder, 0), outcome)


def prepare(
    atoms: ase.Atoms, options: Mapping[str, str]
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model, float32, and the structure as it takes it; ``options`` as for :func:`main`."""
    if "file" in options:
        import_mace()
        model = torch.load(options["file"], weights_only=False).float().eval()
        numbers = model.atomic_numbers.tolist()
        return model, make_inputs(atoms, float(model.r_max), numbers)
    config = json.loads(options["config"])
    inputs = make_inputs(atoms, config["r_max"], sorted(set(atoms.numbers.tolist())))
    return make_model(atoms, config, num_edges=inputs["edge_index"].shape[1]), inputs


def scripted_step(
    model: torch.nn.Module, atoms: ase.Atoms, inputs: Mapping[str, torch.Tensor]
) -> Callable[[], float]:
    """Seconds of one call of the scripted model, as pair_style mace asks for it."""
    compiled, local = script(model), torch.ones(len(atoms))

    def step() -> float:
        data = dict(inputs)  # the model adds to it
        data["positions"] = data["positions"].clone()
        start = time.perf_counter()
        compiled(data, local, False)
        return time.perf_counter() - start

    return step


def calculator_step(
    model: torch.nn.Module,
    atoms: ase.Atoms,
    inputs: Mapping[str, torch.Tensor],
    *,
    compile_mode: str | None = None,
) -> Callable[[], float]:
    """Seconds of one new set of positions by the ASE calculator."""
    from mace.calculators import MACECalculator

    moving, sites, rng = atoms.copy(), atoms.positions.copy(), np.random.default_rng(1)
    moving.calc = MACECalculator(
        models=model, device="cpu", default_dtype="float32", compile_mode=compile_mode
    )

    def step() -> float:
        moving.positions = sites + rng.normal(0.0, DISPLACEMENT, sites.shape)
        start = time.perf_counter()
        moving.get_forces()
        return time.perf_counter() - start

    return step


FORMS = {
    "calculator": calculator_step,
    "compiled": partial(calculator_step, compile_mode="default"),
    "scripted": scripted_step,
}


def make_model(atoms: ase.Atoms, config: dict, *, num_edges: int) -> torch.nn.Module:
    """Build mace-torch's ScaleShiftMACE, float32, with fresh weights.

    Args:
        atoms: gives the elements.
        config: hyperparameters by the names that ``kan-md init`` takes.
        num_edges: of the structure; decides the mean number of neighbours.
    """
    from e3nn import o3

    modules = import_mace()
    numbers = sorted(set(atoms.numbers.tolist()))
    given = {key: value for key, value in config.items() if key not in _NOT_MACE}
    arguments = {
        "num_bessel": 8,
        "num_polynomial_cutoff": 5,
        "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
        "num_elements": len(numbers),
        "atomic_energies": torch.zeros(len(numbers)).numpy(),
        "avg_num_neighbors": num_edges / len(atoms),
        "atomic_numbers": numbers,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [64, 64, 64],
        "atomic_inter_scale": 1e-3,
        "atomic_inter_shift": 0.0,
        **given,
        "hidden_irreps": o3.Irreps(config["hidden_irreps"]),
        "MLP_irreps": o3.Irreps(config["MLP_irreps"]),
    }
    with nequip_settings():
        torch.set_default_dtype(torch.float32)
        return modules.ScaleShiftMACE(**arguments).eval()


def script(model: torch.nn.Module) -> torch.jit.ScriptModule:
    """Compile as ``mace_create_lammps_model`` does, then freeze."""
    from e3nn.util.jit import compile as compile_irreps
    from mace.calculators.lammps_mace import LAMMPS_MACE

    return torch.jit.freeze(compile_irreps(LAMMPS_MACE(model)).eval())


def make_inputs(atoms: ase.Atoms, r_max: float, numbers: list[int]) -> dict[str, torch.Tensor]:
    """The structure as mace-torch's own data pipeline gives it to a model, float32.

    Args:
        atoms: the structure.
        r_max: cutoff, Å.
        numbers: atomic numbers that the model knows, ascending.
    """
    import_mace()
    from mace.data import AtomicData, config_from_atoms
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable(numbers)
    with nequip_settings():
        torch.set_default_dtype(torch.float32)
        data = AtomicData.from_config(config_from_atoms(atoms), z_table=table, cutoff=r_max)
        (batch,) = torch_geometric.dataloader.DataLoader([data], batch_size=1)
    names = (
        "positions",
        "node_attrs",
        "edge_index",
        "shifts",
        "unit_shifts",
        "cell",
        "batch",
        "ptr",
    )
    return {name: batch[name] for name in names}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
