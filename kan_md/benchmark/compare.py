"""``compare``: times models side by side in LAMMPS and condenses the result."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import ase

from kan_md.benchmark import statistics
from kan_md.benchmark.job import Block, Job
from kan_md.benchmark.machine import describe_machine
from kan_md.benchmark.models import Entry
from kan_md.benchmark.runner import Plan, Progress, Result, run_interleaved
from kan_md.benchmark.statistics import Row
from kan_md.benchmark.structures import elements_of, write_data
from kan_md.errors import KanMdError, user_error
from kan_md.files import written_whole

KELVIN_DAMPING = 100  # time steps, LAMMPS' advice for fix nvt


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How every model is run.

    Attributes:
        steps: timed steps of each run.
        seconds: limit of the timed part of a run, see :class:`kan_md.benchmark.runner.Plan`.
        blocks: turns that the steps are cut into; 1 runs the models one after the other.
        repeats: independent runs (own process, own velocities) of each model.
        warmup: steps before, not counted.
        ranks: MPI ranks.
        threads: OpenMP threads per rank.
        temperature: K, NVT.
        timestep: fs.
        seed: of the velocities; repeat k uses seed + k.
        thermo: steps between lines of thermodynamic output.
        skin: Å, neighbour list skin.
        tether: eV/Å², spring that holds each atom at its place, for models with random weights;
            None for free atoms.
    """

    steps: int = 5000
    seconds: float | None = None
    blocks: int = 10
    repeats: int = 1
    warmup: int = 100
    ranks: int = 1
    threads: int = 1
    temperature: float = 300.0
    timestep: float = 1.0
    seed: int = 1
    thermo: int = 100
    skin: float = 1.0
    tether: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "blocks", "repeats", "ranks", "threads", "thermo", "seed"):
            if getattr(self, name) < 1:
                raise user_error(
                    f"{name} must be at least 1",
                    found=getattr(self, name),
                    allowed=None,
                    remedy=f"set --{name}",
                )
        for name in ("temperature", "timestep"):
            if not 0 < getattr(self, name) < float("inf"):
                raise user_error(
                    f"{name} must be > 0 and finite",
                    found=getattr(self, name),
                    allowed=None,
                    remedy=f"set --{name}",
                )
        for name in ("warmup", "skin"):
            if getattr(self, name) < 0:
                raise user_error(
                    f"{name} must not be negative",
                    found=getattr(self, name),
                    allowed=None,
                    remedy=f"set --{name}",
                )
        if self.blocks > self.steps:
            raise user_error(
                "blocks must not be more than steps",
                found=f"{self.blocks} blocks, {self.steps} steps",
                allowed=None,
                remedy="set --blocks or --steps",
            )

    @property
    def plan(self) -> Plan:
        """Steps and turns for the runner."""
        return Plan(steps=self.steps, blocks=self.blocks, warmup=self.warmup, seconds=self.seconds)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a comparison found.

    Attributes:
        title: of table and figure.
        rows: one per model, in the order given.
        control: label of the row that ratios refer to, or None.
        structure: one line about the structure.
        conditions: how it was run.
        machine: where it was run, see :func:`kan_md.benchmark.machine.describe_machine`.
        command: command line that made it.
        date: UTC.
    """

    title: str
    rows: list[Row]
    control: str | None
    structure: str
    conditions: Conditions
    machine: dict
    command: str
    date: str

    def to_json(self) -> str:
        """All numbers with full precision."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what :meth:`to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, source: Mapping) -> Report:
        """Read what ``dataclasses.asdict`` and JSON make of a report."""
        data = dict(source)
        data["rows"] = [Row(**{**row, "passes": tuple(row["passes"])}) for row in data["rows"]]
        data["conditions"] = Conditions(**data["conditions"])
        return cls(**data)


def compare(
    entries: Sequence[Entry],
    atoms: ase.Atoms,
    *,
    conditions: Conditions,
    control: Entry | None = None,
    folder: Path | None = None,
    title: str = "",
    progress: Progress | None = None,
) -> Report:
    """Run models side by side in LAMMPS: NVT, same structure, same velocities, in turn.

    Args:
        entries: the models, with unique labels.
        atoms: the structure.
        conditions: steps, temperature, ranks and so on.
        control: the row that ratios refer to.
        folder: keeps inputs and logs; a temporary folder where None, which stays after a failed
            run, as the message names its log.
        title: of table and figure.
        progress: told after each block.

    Returns:
        The report; writes nothing outside `folder`.

    Raises:
        KanMdError: a model does not fit the structure, or a run failed.
    """
    elements = {
        entry.label: elements_of(atoms, entry.type_names, label=entry.label) for entry in entries
    }
    with folder_of_runs(folder) as folder:
        for names in {tuple(names) for names in elements.values()}:
            write_data(folder / _data_name(names), atoms, names)
        structure = folder / "structure.xyz"
        with written_whole(structure) as part:
            atoms.write(part)
        results: list[list[Result]] = [[] for _ in entries]
        for repeat in range(conditions.repeats):
            jobs = [
                Job(
                    label=entry.label,
                    setup=setup_commands(
                        entry.pair_commands(elements[entry.label]),
                        str((folder / _data_name(elements[entry.label])).resolve()),
                        conditions=conditions,
                        seed=conditions.seed + repeat,
                        periodicity=atoms.pbc,
                    ),
                    r_max=entry.r_max,
                    options={**entry.options, "structure": str(structure.resolve())},
                )
                for entry in entries
            ]
            place = folder / f"repeat-{repeat}" if conditions.repeats > 1 else folder
            found = run_interleaved(
                jobs,
                place,
                plan=conditions.plan,
                ranks=conditions.ranks,
                threads=conditions.threads,
                programs=[entry.program for entry in entries],
                progress=progress,
            )
            for result, mine in zip(found, results, strict=True):
                mine.append(result)
    reference = None if control is None else _blocks(results[entries.index(control)])
    return Report(
        title=title or _title(atoms, conditions),
        rows=[
            _row(entry, found, conditions, reference)
            for entry, found in zip(entries, results, strict=True)
        ],
        control=None if control is None else control.label,
        structure=describe(atoms),
        conditions=conditions,
        machine=describe_machine(),
        command=command_line(),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )


@contextmanager
def folder_of_runs(given: Path | None) -> Iterator[Path]:
    """The folder that is given, or one that is removed unless a run fails in it."""
    folder = Path(tempfile.mkdtemp(prefix="kan-md-")) if given is None else given
    folder.mkdir(parents=True, exist_ok=True)
    keep = given is not None
    try:
        yield folder
    except KanMdError:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder)


def _title(atoms: ase.Atoms, conditions: Conditions) -> str:
    title = f"{atoms.get_chemical_formula()}, {len(atoms)} atoms"
    if conditions.ranks * conditions.threads == 1:
        return title
    return f"{title}, {conditions.ranks} rank(s) x {conditions.threads} thread(s)"


def setup_commands(
    pair_commands: Sequence[str],
    data_file: str,
    *,
    conditions: Conditions,
    seed: int,
    periodicity: Sequence[bool] = (True, True, True),
) -> list[str]:
    """LAMMPS input of a run, up to the integrator (metal units: Å, eV, ps)."""
    timestep = conditions.timestep * 1e-3  # ps
    temperature = f"{conditions.temperature:g}"
    tether = (
        [] if conditions.tether is None else [f"fix tether all spring/self {conditions.tether:g}"]
    )
    return [
        "units metal",
        f"boundary {' '.join('p' if periodic else 'm' for periodic in periodicity)}",
        "atom_style atomic",
        "atom_modify map yes",
        "newton on",
        f'read_data "{data_file}"',
        *pair_commands,
        f"neighbor {conditions.skin:g} bin",
        f"velocity all create {temperature} {seed} mom yes rot no dist gaussian",
        *tether,
        f"fix integrate all nvt temp {temperature} {temperature} {KELVIN_DAMPING * timestep:g}",
        f"timestep {timestep:g}",
        f"thermo {conditions.thermo}",
    ]


def command_line() -> str:
    """The command that this process was started with, without the path of the interpreter."""
    words = sys.orig_argv
    if "-m" in words[1:3]:
        return shlex.join(["python", *words[words.index("-m") :]])
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe(atoms: ase.Atoms) -> str:
    """One line about a structure."""
    lengths = " x ".join(f"{length:.2f}" for length in atoms.cell.lengths())
    periodic = "".join("p" if p else "f" for p in atoms.pbc)
    return f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, {lengths} Å, boundary {periodic}"


def _data_name(elements: Sequence[str]) -> str:
    return f"structure-{'-'.join(elements)}.data"


def _blocks(results: Sequence[Result]) -> list[Block]:
    return [block for result in results for block in result.blocks]


def _row(
    entry: Entry,
    results: Sequence[Result],
    conditions: Conditions,
    control: list[Block] | None,
) -> Row:
    blocks = _blocks(results)
    outcomes = [outcome for result in results for outcome in result.outcomes]
    steps = sum(block.steps for block in blocks)
    times = statistics.condense(blocks)
    peak_rss, device = statistics.memory_rows(outcomes)
    manifest = entry.manifest
    row = Row(
        label=entry.label,
        readout=entry.readout,
        backbone=manifest.backbone if manifest else entry.pair_style,
        dtype=entry.dtype,
        backend=entry.backend,
        passes=tuple(manifest.passes) if manifest else (),
        num_atoms=outcomes[0].num_atoms,
        edges_per_atom=outcomes[0].edges_per_atom,
        steps=steps,
        ms_per_step=times.median,
        ms_error=times.error,
        ms_p95=times.p95,
        ms_mean=times.mean,
        us_per_atom_step=times.median * 1e3 / outcomes[0].num_atoms,
        ns_per_day=statistics.ns_per_day(times.mean, timestep=conditions.timestep),
        cpu_ms_per_step=statistics.MS * sum(block.cpu_time for block in blocks) / steps,
        phases=statistics.phase_shares(blocks),
        peak_rss_mib=peak_rss,
        device_mib=device,
        temperature=outcomes[0].temperature,
    )
    if control is None:
        return row
    ratio, error = statistics.ratio_to(blocks, control)
    return replace(row, ratio=ratio, ratio_error=error)
